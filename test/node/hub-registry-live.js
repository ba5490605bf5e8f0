// A device is disabled, enabled and deleted while it is connected, all with the
// vendor's SDKs.
//   node hub-registry-live.js SERVICE_CONNECTION_STRING DEVICE_ID CA_FILE mqtt|amqp
// Needs NODE_EXTRA_CA_CERTS. Prints one JSON object for each step.
'use strict';

const fs = require('fs');
const { once } = require('events');
const { Registry } = require('azure-iothub');
const { NoRetry } = require('azure-iot-common');
const { Client, Message } = require('azure-iot-device');

const transports = {
  mqtt: () => require('azure-iot-device-mqtt').Mqtt,
  amqp: () => require('azure-iot-device-amqp').Amqp,
};

const print = (step, facts) => console.log(JSON.stringify({ step, ...facts }));

// connect opens a client that wants commands, so that it notices its end.
async function connect(device, ca, Transport) {
  const client = Client.fromConnectionString(device, Transport);
  client.setRetryPolicy(new NoRetry());
  await client.setOptions({ ca });
  const ended = once(client, 'disconnect');
  await client.open();
  client.on('message', () => {});
  await client.sendEvent(new Message('hello'));
  return { client, ended };
}

async function attempt(step, ...args) {
  try {
    const { client } = await connect(...args);
    print(step, { outcome: 'connected' });
    await client.close();
  } catch (err) {
    print(step, { outcome: err.constructor.name });
  }
}

async function main([service, deviceId, caFile, transport]) {
  const registry = Registry.fromConnectionString(service);
  const { responseBody: identity } = await registry.create({ deviceId });
  const host = /HostName=([^;]*)/.exec(service)[1];
  const key = identity.authentication.symmetricKey.primaryKey;
  const device = `HostName=${host};DeviceId=${deviceId};SharedAccessKey=${key}`;
  const how = [device, fs.readFileSync(caFile, 'utf8'), transports[transport]()];

  const first = await connect(...how);
  print('connected', { state: (await registry.get(deviceId)).responseBody.connectionState });
  await registry.update({ deviceId, status: 'disabled' });
  await first.ended;
  print('disabled', { state: (await registry.get(deviceId)).responseBody.connectionState });
  await attempt('connect while disabled', ...how);

  await registry.update({ deviceId, status: 'enabled' });
  const second = await connect(...how);
  print('enabled', { state: (await registry.get(deviceId)).responseBody.connectionState });
  await registry.delete(deviceId);
  await second.ended;
  print('deleted', {});
  await attempt('connect after the end', ...how);
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
