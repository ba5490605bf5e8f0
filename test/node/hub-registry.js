// Walks through the identity registry with the vendor's service SDK.
//   node hub-registry.js CONNECTION_STRING THUMBPRINT
// The hub must be empty. Needs NODE_EXTRA_CA_CERTS. Prints one JSON object for
// each step, with what the SDK made of the answer or the name of its error.
'use strict';

const { promisify } = require('util');
const { Registry } = require('azure-iothub');

// print runs one step; what is not worth a line it leaves out.
async function print(step, promise, pick = (body) => body) {
  try {
    const { responseBody, httpResponse } = await promise;
    console.log(JSON.stringify({ step, header: httpResponse.headers.etag, ...pick(responseBody) }));
    return responseBody;
  } catch (err) {
    console.log(JSON.stringify({ step, error: err.constructor.name, message: err.message }));
    return undefined;
  }
}

const ids = (list) => ({ ids: list.map((d) => d.moduleId || d.deviceId).join(' ') });

async function devices(registry, thumbprint) {
  await print('create', registry.create({ deviceId: 'pump-1' }));
  await print('create again', registry.create({ deviceId: 'pump-1' }));
  await print('create strange', registry.create({ deviceId: 'a#b%c' }));
  await print('create certified', registry.create({
    deviceId: 'certified',
    authentication: { x509Thumbprint: { primaryThumbprint: thumbprint } },
  }));
  await print('create bad', registry.create({ deviceId: 'a/b' }));
  await print('get', registry.get('pump-1'));
  await print('get strange', registry.get('a#b%c'));
  await print('get nothing', registry.get('ghost'));
  await print('list', registry.list(), ids);
  await print('update', registry.update({ deviceId: 'pump-1', status: 'disabled', statusReason: 'in repair' }));
  await print('statistics', registry.getRegistryStatistics());
}

async function modules(registry) {
  await print('add module', registry.addModule({ deviceId: 'pump-1', moduleId: 'filter' }));
  const { responseBody: stale } = await registry.getModule('pump-1', 'filter');
  await print('update module', registry.updateModule({ ...stale, managedBy: 'operator' }));
  await print('update stale module', registry.updateModule({ ...stale, managedBy: 'nobody' }));
  await print('force stale module', registry.updateModule({ ...stale, managedBy: 'force' }, true));
  await print('modules', registry.getModulesOnDevice('pump-1'), ids);
  // With a module and without a callback this SDK refuses itself.
  await print('remove stale module', promisify(registry.removeModule).call(registry, stale));
  await print('remove module', registry.removeModule('pump-1', 'filter'), () => ({}));
  await print('get module', registry.getModule('pump-1', 'filter'));
}

async function bulk(registry) {
  const many = Array.from({ length: 100 }, (_, n) => ({ deviceId: `bulk-${n}` }));
  await print('add', registry.addDevices(many));
  await print('add again', registry.addDevices(many.slice(0, 2)));
  const { responseBody: stale } = await registry.get('bulk-0');
  await print('update', registry.updateDevices([{ ...stale, status: 'disabled' }], false));
  await print('update stale', registry.updateDevices([{ ...stale, status: 'enabled' }], false));
  await print('update by force', registry.updateDevices([{ deviceId: 'bulk-1', status: 'disabled' }], true));
  await print('statistics', registry.getRegistryStatistics());
  await print('remove stale', registry.removeDevices([stale], false));
  await print('remove', registry.removeDevices(many, true));
  await print('delete', registry.delete('pump-1'), () => ({}));
  await print('delete again', registry.delete('pump-1'), () => ({}));
  await print('list', registry.list(), ids);
}

async function main([connectionString, thumbprint]) {
  const registry = Registry.fromConnectionString(connectionString);
  await devices(registry, thumbprint);
  await modules(registry);
  await bulk(registry);
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
