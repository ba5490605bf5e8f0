// Sends a message from each of some devices that prove themselves by certificate,
// with the vendor's device SDK.
//   node hub-certificate.js HOST CA_FILE TRANSPORT [DEVICE_ID CERT_FILE KEY_FILE]...
// TRANSPORT is mqtt, mqttws, amqp, amqpws or http. Prints one JSON object for each
// device, with the outcome.
'use strict';

const fs = require('fs');
const { NoRetry } = require('azure-iot-common');
const { Client, Message } = require('azure-iot-device');

const transports = {
  mqtt: () => require('azure-iot-device-mqtt').Mqtt,
  mqttws: () => require('azure-iot-device-mqtt').MqttWs,
  amqp: () => require('azure-iot-device-amqp').Amqp,
  amqpws: () => require('azure-iot-device-amqp').AmqpWs,
  http: () => require('azure-iot-device-http').Http,
};

const read = (file) => fs.readFileSync(file, 'utf8');

// send returns "accepted" or the name of the SDK's error.
async function send(host, ca, transport, deviceId, cert, key) {
  const client = Client.fromConnectionString(`HostName=${host};DeviceId=${deviceId};x509=true`, transports[transport]());
  client.setRetryPolicy(new NoRetry());
  // Over HTTP the promise of setOptions is kept only with a receive policy.
  await client.setOptions({ ca, cert, key, http: { receivePolicy: { interval: 1 } } });
  try {
    await client.open();
    await client.sendEvent(new Message(transport));
    return 'accepted';
  } catch (err) {
    return err.constructor.name;
  } finally {
    await client.close().catch(() => {}); // it may never have been open
  }
}

async function main([host, caFile, transport, ...devices]) {
  for (let n = 0; n < devices.length; n += 3) {
    const [deviceId, certFile, keyFile] = devices.slice(n, n + 3);
    const outcome = await send(host, read(caFile), transport, deviceId, read(certFile), read(keyFile));
    console.log(JSON.stringify({ deviceId, outcome }));
  }
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
