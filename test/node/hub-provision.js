// Registers a device with the vendor's provisioning SDK, and then connects it to
// the hub that it was assigned to, with the same key, and sends one message.
//   node hub-provision.js HOST ID_SCOPE REGISTRATION_ID KEY PROTOCOL KIND [CERT_FILE]
// PROTOCOL is mqtt, mqtt-ws, amqp, amqp-ws or http. KIND says what KEY is: device
// for the device's own, group for an enrolment group's, from which the device's is
// derived after it was tried with another device's, or x509 for the file with the
// key of CERT_FILE. The process must trust the CA (NODE_EXTRA_CA_CERTS). Prints
// one JSON object for each step; a registration that fails is a step too.
'use strict';

const { createHmac } = require('crypto');
const fs = require('fs');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { X509Security } = require('azure-iot-security-x509');
const { Client, Message } = require('azure-iot-device');

const transports = {
  mqtt: [require('azure-iot-provisioning-device-mqtt').Mqtt, require('azure-iot-device-mqtt').Mqtt],
  'mqtt-ws': [require('azure-iot-provisioning-device-mqtt').MqttWs, require('azure-iot-device-mqtt').MqttWs],
  amqp: [require('azure-iot-provisioning-device-amqp').Amqp, require('azure-iot-device-amqp').Amqp],
  'amqp-ws': [require('azure-iot-provisioning-device-amqp').AmqpWs, require('azure-iot-device-amqp').AmqpWs],
  http: [require('azure-iot-provisioning-device-http').Http, require('azure-iot-device-http').Http],
};

function say(step, result) {
  console.log(JSON.stringify({ step, result }));
}

function derive(groupKey, id) {
  return createHmac('SHA256', Buffer.from(groupKey, 'base64')).update(id, 'utf8').digest('base64');
}

// Registers the device and returns what it is told; undefined when it fails.
async function register(host, scope, security, Transport) {
  const client = ProvisioningDeviceClient.create(host, scope, new Transport(), security);
  client.setProvisioningPayload({ model: 'press' });
  try {
    const state = await client.register();
    say('registered', state);
    return state;
  } catch (err) {
    say('failed', err.message);
    return undefined;
  }
}

// Connects as the device that the registration has made, and sends.
async function send(state, key, x509, id, Transport) {
  const proof = x509 ? 'x509=true' : `SharedAccessKey=${key}`;
  const client = Client.fromConnectionString(`HostName=${state.assignedHub};DeviceId=${state.deviceId};${proof}`, Transport);
  if (x509) {
    await client.setOptions(x509);
  }
  await client.open();
  await client.sendEvent(new Message(JSON.stringify({ registered: id })));
  say('sent', state.deviceId);
  await client.close();
}

async function main([host, scope, id, secret, protocol, kind, certFile]) {
  const [Provisioning, Device] = transports[protocol];
  let key = secret;
  if (kind === 'group') {
    key = derive(secret, id);
    await register(host, scope, new SymmetricKeySecurityClient(id, derive(secret, 'another')), Provisioning);
  }
  const x509 = kind === 'x509' && { cert: fs.readFileSync(certFile, 'utf8'), key: fs.readFileSync(secret, 'utf8') };
  const security = x509 ? new X509Security(id, x509) : new SymmetricKeySecurityClient(id, key);
  const state = await register(host, scope, security, Provisioning);
  if (state !== undefined) {
    await send(state, key, x509, id, Device);
  }
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
