// A device with the vendor's own SDK, over any transport.
//   node hub-device.js TRANSPORT CONNECTION_STRING CA_FILE ROUNDS [TOKEN_LIFE]
// TRANSPORT is mqtt, mqtt-ws, amqp or amqp-ws; TOKEN_LIFE is in seconds, and the
// token is renewed at half of it. The device sends a message, reads its twin and
// reports to it. Then it sends a tick again and again, and ends after ROUNDS
// times a command, a method call and a change of the desired property "round".
// Prints one JSON object for each thing it has seen for the first time or done.
'use strict';

const fs = require('fs');
const { Client, Message } = require('azure-iot-device');
const mqtt = require('azure-iot-device-mqtt');
const amqp = require('azure-iot-device-amqp');

const transports = { mqtt: mqtt.Mqtt, 'mqtt-ws': mqtt.MqttWs, amqp: amqp.Amqp, 'amqp-ws': amqp.AmqpWs };
const tickInterval = 200; // ms

const print = (object) => console.log(JSON.stringify(object));

async function telemetry(client) {
  const message = new Message(JSON.stringify({ n: 1 }));
  message.messageId = 'message-1';
  message.correlationId = 'of-the-test';
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.properties.add('größe & zeichen', '50 % = ½');
  message.properties.add('empty', '');
  await client.sendEvent(message);
  print({ accepted: message.messageId });
}

async function reportTo(twin, patch) {
  await new Promise((resolve, reject) => {
    twin.properties.reported.update(patch, (err) => (err ? reject(err) : resolve()));
  });
}

// rounds resolves when count different commands, method calls and desired
// changes have come. A command may come twice when the connection is lost.
function rounds(client, twin, count) {
  return new Promise((resolve, reject) => {
    const seen = { command: new Set(), method: new Set(), desired: new Set() };
    const saw = (kind, what) => {
      const text = JSON.stringify(what);
      if (seen[kind].has(text)) return;
      seen[kind].add(text);
      print({ [kind]: what });
      if (Object.values(seen).every((different) => different.size >= count)) resolve();
    };
    client.on('error', reject);
    client.on('message', (message) => {
      client.complete(message).then(() => saw('command', {
        id: message.messageId,
        to: message.to,
        body: message.getData().toString(),
        color: message.properties.getValue('color'),
      }), reject);
    });
    client.onDeviceMethod('blink', (request, response) => {
      response.send(200, { echo: request.payload }).then(() => saw('method', request.payload), reject);
    });
    twin.on('properties.desired.round', (round) => saw('desired', round));
  });
}

async function main([transport, connectionString, caFile, count, life]) {
  const client = Client.fromConnectionString(connectionString, transports[transport]);
  const options = { ca: fs.readFileSync(caFile, 'utf8') };
  if (life) {
    options.tokenRenewal = { tokenValidTimeInSeconds: Number(life), tokenRenewalMarginInSeconds: Number(life) / 2 };
  }
  await client.setOptions(options);
  await client.open();
  await telemetry(client);

  const twin = await client.getTwin();
  print({ twin: { desired: twin.properties.desired, reported: twin.properties.reported } });
  const over = rounds(client, twin, Number(count));
  await reportTo(twin, { speed: 7 });
  await reportTo(twin, { $speed: 8 }).catch((err) => print({ refused: err.message }));

  const ticking = setInterval(() => {
    client.sendEvent(new Message('tick')).catch(() => {}); // the next one may get through
  }, tickInterval);
  await over;
  clearInterval(ticking);
  await client.close();
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
