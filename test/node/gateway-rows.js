// Leaves made of the hub vendor's own SDK, unmodified, many in one process, each
// busy with one thing until it is told to stop. Prints one JSON object a line for
// everything that was done and everything that came, with the leaf's id.
//
//   NODE_EXTRA_CA_CERTS=CA-FILE node gateway-rows.js LEAVES-FILE CA-FILE
//
// LEAVES-FILE is a JSON list of {id, row, transport, connection, renew}. The row
// says with what it is busy: telemetry, command, twin, reported, desired, method
// or upload. transport is mqtt or mqtt-ws. renew, if there is one, is how long a
// token is valid, in seconds; half of that is left when the SDK makes the next.
// Input: the line "stop"; each leaf prints done when it has finished what it was at.
// The process ends with its input.
'use strict';

const fs = require('fs');
const readline = require('readline');
const { Readable } = require('stream');
const { Client, Message } = require('azure-iot-device');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');

const tickInterval = 300; // ms
const answerTimeout = 5000; // ms: the SDK waits for ever for an answer that was lost
const fileSize = 400000; // bytes

let stopped = false;

const print = (object) => console.log(JSON.stringify(object));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function within(ms, promise) {
  let timer;
  const late = new Promise((resolve, reject) => { timer = setTimeout(() => reject(new Error('no answer')), ms); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// again does a thing until it succeeds, and returns how often it was tried.
async function again(leaf, what, f) {
  for (let tries = 1; ; tries++) {
    try {
      await f();
      return tries;
    } catch (err) {
      print({ leaf: leaf.id, failed: what, why: err.message });
      await pause(100);
    }
  }
}

// numbered does a thing for n = 1, 2 … until it is told to stop.
async function numbered(ms, f) {
  for (let n = 1; !stopped; n++) {
    await f(n);
    await pause(ms);
  }
}

function content(leaf, name) {
  const text = `${leaf} ${name}\n`;
  return Buffer.alloc(fileSize, text);
}

const rows = {
  telemetry: (leaf, client) => numbered(30, async (n) => {
    const message = new Message(JSON.stringify({ leaf: leaf.id, n }));
    message.messageId = `${leaf.id}-${n}`;
    message.correlationId = 'c-1';
    message.contentType = 'application/json';
    message.contentEncoding = 'utf-8';
    message.properties.add('größe & zeichen', '50 % = ½');
    await again(leaf, 'telemetry', () => client.sendEvent(message));
    print({ leaf: leaf.id, sent: n });
  }),

  command: async (leaf, client) => {
    client.on('message', (message) => {
      const properties = {};
      message.properties.propertyList.forEach((p) => { properties[p.key] = p.value; });
      print({ leaf: leaf.id, command: message.getData().toString(), id: message.messageId, properties });
      client.complete(message).catch(() => {});
    });
  },

  method: async (leaf, client) => {
    client.onDeviceMethod('echo', (request, response) => {
      const n = request.payload.n;
      print({ leaf: leaf.id, method: n, payload: request.payload });
      response.send(200 + (n % 50), { leaf: leaf.id, n }).catch(() => {});
    });
  },

  twin: async (leaf, client) => {
    const twin = await client.getTwin();
    return () => numbered(30, async () => {
      const began = Date.now();
      await again(leaf, 'twin', () => within(answerTimeout, new Promise((resolve, reject) => {
        twin.get((err) => (err ? reject(err) : resolve()));
      })));
      print({
        leaf: leaf.id, ms: Date.now() - began, twin: { desired: twin.properties.desired, reported: twin.properties.reported },
      });
    });
  },

  reported: async (leaf, client) => {
    const twin = await client.getTwin();
    return () => numbered(30, async (n) => {
      const patch = { n, [`k${n % 5}`]: n };
      await again(leaf, 'reported', () => within(answerTimeout, new Promise((resolve, reject) => {
        twin.properties.reported.update(patch, (err) => (err ? reject(err) : resolve()));
      })));
      print({ leaf: leaf.id, reported: n });
    });
  },

  desired: async (leaf, client) => {
    const twin = await client.getTwin();
    twin.on('properties.desired', (delta) => print({ leaf: leaf.id, desired: delta }));
  },

  upload: (leaf, client) => numbered(100, async (n) => {
    const name = `files/${n}.bin`;
    const body = content(leaf.id, name);
    const tries = await again(leaf, 'upload', () => client.uploadToBlob(name, Readable.from([body]), body.length));
    print({ leaf: leaf.id, uploaded: name, tries });
  }),
};

async function run(leaf, ca) {
  const client = Client.fromConnectionString(leaf.connection, leaf.transport === 'mqtt-ws' ? MqttWs : Mqtt);
  const options = { ca };
  if (leaf.renew) options.tokenRenewal = { tokenValidTimeInSeconds: leaf.renew, tokenRenewalMarginInSeconds: leaf.renew / 2 };
  await client.setOptions(options);
  client.on('error', () => {});
  await client.open();
  const begun = rows[leaf.row](leaf, client);
  // Rows that listen, and those that have to have a twin first, are ready then.
  const rest = ['telemetry', 'upload'].includes(leaf.row) ? begun : await begun;
  print({ leaf: leaf.id, ready: true });
  // A refused connection ends the SDK's own attempts to come back; it is sending
  // that makes it try again.
  setInterval(() => client.sendEvent(new Message('tick')).catch(() => {}), tickInterval);
  await (typeof rest === 'function' ? rest() : rest);
  print({ leaf: leaf.id, done: true });
}

async function main([leavesFile, caFile]) {
  const leaves = JSON.parse(fs.readFileSync(leavesFile, 'utf8'));
  const ca = fs.readFileSync(caFile, 'utf8');
  Promise.all(leaves.map((leaf) => run(leaf, ca))).catch((err) => {
    console.error(err);
    process.exit(1);
  });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    if (line === 'stop') stopped = true;
  }
  process.exit(0);
}

main(process.argv.slice(2));
