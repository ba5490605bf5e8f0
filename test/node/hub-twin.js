// Reads, writes and asks for twins with the vendor's service SDK, and shares one
// with the vendor's device SDK.
//   node hub-twin.js service SERVICE DEVICE_ID MODULE_ID
//   node hub-twin.js query   SERVICE PAGE_SIZE QUERY
//   node hub-twin.js device  SERVICE DEVICE TRANSPORT
// SERVICE and DEVICE are connection strings; TRANSPORT is mqtt, mqtt-ws, amqp or
// amqp-ws. The process must trust the hub's CA (NODE_EXTRA_CA_CERTS). Each verb
// is explained at its function. Prints one JSON object a line.
'use strict';

const { Registry, IoTHubTokenCredentials } = require('azure-iothub');
const { Client: Device } = require('azure-iot-device');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
// The generated layer of the service SDK replaces twins, and no class above it
// does.
const { IotHubGatewayServiceAPIs } = require('azure-iothub/dist/pl/iotHubGatewayServiceAPIs');

const transports = { mqtt: Mqtt, 'mqtt-ws': MqttWs, amqp: Amqp, 'amqp-ws': AmqpWs };

const print = (object) => console.log(JSON.stringify(object));

// attempt prints what an operation gives, or how the SDK reports its failure.
async function attempt(step, operation) {
  try {
    const { responseBody, result } = await operation; // of a Registry, of a Twin
    print({ step, twin: responseBody || result });
    return responseBody || result;
  } catch (err) {
    if (!err.response) throw err;
    print({ step, error: err.name, status: err.response.statusCode });
    return undefined;
  }
}

// service reads, patches and replaces the twins of a device and a module, and
// makes every mistake that the SDK has an error for.
async function service([connectionString, device, module]) {
  const registry = Registry.fromConnectionString(connectionString);
  const first = await attempt('read', registry.getTwin(device));
  await attempt('patch', registry.updateTwin(device, {
    tags: { plant: { hall: 3, row: 'b' } }, properties: { desired: { rate: { on: 1, off: 2 }, list: [1, 'x', { y: true }] } },
  }, first.etag));
  await attempt('stale', registry.updateTwin(device, { tags: { plant: null } }, first.etag));
  // The whole twin, as it was read, goes back with one change.
  const twin = await attempt('remove', registry.updateTwin(device, { properties: { desired: { rate: { off: null } } } }, '*'));
  twin.tags.whole = true;
  await attempt('whole', twin.update({ tags: twin.tags, properties: twin.properties }));
  const credentials = new IoTHubTokenCredentials(connectionString);
  const devices = new IotHubGatewayServiceAPIs(credentials, {
    baseUri: `https://${credentials.getHubName()}`, apiVersion: '2021-04-12',
  }).devices;
  const replaced = await devices.replaceTwin(device, { tags: { only: 1 }, properties: { desired: { speed: 5 } } }, { ifMatch: '"*"' });
  print({ step: 'replace', twin: replaced._response.parsedBody });
  await attempt('module', registry.updateModuleTwin(device, module, { tags: { of: module } }, '*'));
  await attempt('read module', registry.getModuleTwin(device, module));
  await attempt('unknown device', registry.getTwin('nobody'));
  await attempt('unknown module', registry.getModuleTwin(device, 'nothing'));
  await attempt('bad name', registry.updateTwin(device, { tags: { 'a.b': 1 } }, '*'));
  await attempt('too large', registry.updateTwin(device, {
    tags: Object.fromEntries([1, 2, 3].map((n) => [`t${n}`, 'x'.repeat(4000)])),
  }, '*'));
}

// query asks and prints what each page holds; SELECT * as twins, all else as it
// comes.
async function query([connectionString, size, text]) {
  const q = Registry.fromConnectionString(connectionString).createQuery(text, Number(size));
  const asTwins = /^SELECT \* FROM devices($| )/.test(text);
  try {
    while (q.hasMoreResults) {
      const { result, message } = asTwins ? await q.nextAsTwin() : await q.next(q.continuationToken);
      const page = asTwins ? result.map((twin) => ({ deviceId: twin.deviceId, canUpdate: typeof twin.update })) : result;
      print({ page, type: message.headers['x-ms-item-type'] });
    }
  } catch (err) {
    if (!err.response) throw err;
    print({ error: err.name, status: err.response.statusCode, body: err.responseBody });
  }
}

// device has a device report and a service wish, and prints what each learns of
// the other.
async function device([serviceString, deviceString, transport]) {
  const registry = Registry.fromConnectionString(serviceString);
  const client = Device.fromConnectionString(deviceString, transports[transport]);
  const id = /DeviceId=([^;]+)/.exec(deviceString)[1];
  await client.open();
  const twin = await client.getTwin();
  print({ step: 'device reads', properties: twin.properties });
  const report = (patch) => new Promise((resolve, reject) => {
    twin.properties.reported.update(patch, (err) => (err ? reject(err) : resolve()));
  });
  // The SDK gives a new listener what it has already.
  const known = twin.properties.desired.$version;
  const told = new Promise((resolve) => {
    twin.on('properties.desired', (delta) => delta.$version > known && resolve(delta));
  });
  await report({ state: { rate: 7, level: 1.5 } }); // and so the listener's request has arrived before it
  await registry.updateTwin(id, { tags: { secret: 1 }, properties: { desired: { rate: 7, gone: null } } }, '*');
  print({ step: 'device is told', delta: await told });
  await report({ state: { level: null }, transport });
  const { responseBody } = await registry.getTwin(id);
  print({ step: 'service reads', reported: responseBody.properties.reported });
  try {
    await report({ 'a.b': 1 });
    print({ step: 'bad report', error: null });
  } catch (err) {
    print({ step: 'bad report', error: err.name });
  }
  await client.close();
}

const [verb, ...args] = process.argv.slice(2);

({ service, query, device })[verb](args).then(
  () => process.exit(0),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
