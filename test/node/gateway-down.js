// A leaf made of the hub vendor's own SDK, unmodified, that does what it is told
// on standard input, one JSON value a line, and prints one JSON object a line for
// what it has done and for everything that comes.
//
//   node gateway-down.js TRANSPORT CONNECTION-STRING CA-FILE
//
// TRANSPORT is mqtt or mqtt-ws. Input: "twin" reads the twin; {"report": patch}
// reports.
'use strict';

const fs = require('fs');
const readline = require('readline');
const { Client, Message } = require('azure-iot-device');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');

const tickInterval = 200; // ms

const print = (object) => console.log(JSON.stringify(object));

function read(twin) {
  return new Promise((resolve, reject) => twin.get((err) => (err ? reject(err) : resolve())));
}

function report(twin, patch) {
  return new Promise((resolve, reject) => twin.properties.reported.update(patch, (err) => (err ? reject(err) : resolve())));
}

async function obey(twin, order) {
  const began = Date.now();
  try {
    if (order === 'twin') {
      await read(twin);
      print({ twin: { desired: twin.properties.desired, reported: twin.properties.reported }, ms: Date.now() - began });
    } else {
      await report(twin, order.report);
      print({ reported: order.report, ms: Date.now() - began });
    }
  } catch (err) {
    print({ failed: order, why: err.message });
  }
}

async function main([transport, connectionString, caFile]) {
  const client = Client.fromConnectionString(connectionString, transport === 'mqtt-ws' ? MqttWs : Mqtt);
  await client.setOptions({ ca: fs.readFileSync(caFile, 'utf8') });
  client.on('error', (err) => print({ error: err.message }));
  await client.open();
  client.on('message', (message) => {
    const properties = {};
    message.properties.propertyList.forEach((p) => { properties[p.key] = p.value; });
    print({
      command: message.getData().toString(), id: message.messageId, to: message.to, ack: message.ack, properties,
    });
    client.complete(message).catch((err) => print({ error: err.message }));
  });
  client.onDeviceMethod('blink', (request, response) => {
    print({ method: request.payload });
    response.send(207, { echo: request.payload }).catch((err) => print({ error: err.message }));
  });
  const twin = await client.getTwin();
  twin.on('properties.desired', (delta) => print({ desired: delta }));
  // A refused connection ends the SDK's own attempts to come back; it is sending
  // that makes it try again.
  setInterval(() => client.sendEvent(new Message('tick')).catch(() => {}), tickInterval);
  print({ ready: true });

  // The SDK waits for ever for an answer that was lost: nothing waits for it.
  for await (const line of readline.createInterface({ input: process.stdin })) {
    obey(twin, JSON.parse(line));
  }
  process.exit(0);
}

main(process.argv.slice(2)).catch((err) => {
  console.error(err);
  process.exit(1);
});
