// Speaks with the hub over HTTPS with the vendor's device SDK.
//   node hub-http.js send CONNECTION_STRING CA_FILE [CERT_FILE KEY_FILE]
//   node hub-http.js settle CONNECTION_STRING CA_FILE
// The first sends one message and a batch of two, as a device with a certificate
// if one is given. The second waits for three
// commands whose message ids say what to do: it completes one, rejects one, and
// abandons one before it completes it. Prints one JSON object a step.
'use strict';

const fs = require('fs');
const { Client, Message } = require('azure-iot-device');
const { Http } = require('azure-iot-device-http');

const print = (object) => console.log(JSON.stringify(object));

async function open(connectionString, caFile, certFile, keyFile) {
  const client = Client.fromConnectionString(connectionString, Http);
  const options = {
    ca: fs.readFileSync(caFile, 'utf8'),
    http: { receivePolicy: { interval: 0.1, drain: true } }, // seconds
  };
  if (certFile) {
    options.cert = fs.readFileSync(certFile, 'utf8');
    options.key = fs.readFileSync(keyFile, 'utf8');
  }
  await client.setOptions(options);
  await client.open();
  return client;
}

async function send(client) {
  const message = new Message(JSON.stringify({ n: 1 }));
  message.messageId = 'message-1';
  message.correlationId = 'of-the-test';
  message.userId = 'someone';
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.expiryTimeUtc = new Date(Date.now() + 3600000);
  message.properties.add('color', 'red & blue');
  await client.sendEvent(message);
  print({ accepted: 1 });

  const batch = [2, 3].map((n) => new Message(JSON.stringify({ n })));
  batch[0].properties.add('Color', 'green');
  await client.sendEventBatch(batch);
  print({ accepted: 2 });
}

// settle resolves when all three commands are settled for good.
async function settle(client) {
  const left = new Set(['complete', 'reject', 'abandon']);
  let abandoned = false;
  await new Promise((resolve, reject) => {
    const take = async (message) => {
      const id = message.messageId;
      let act = id === 'reject' ? 'reject' : 'complete';
      if (id === 'abandon' && !abandoned) {
        act = 'abandon';
        abandoned = true;
      }
      await client[act](message);
      print({ id, act, body: message.getData().toString(), color: message.properties.getValue('iothub-app-color') });
      if (act !== 'abandon') left.delete(id);
      if (left.size === 0) resolve();
    };
    client.on('message', (message) => take(message).catch(reject));
    client.on('error', reject);
  });
}

async function main([what, connectionString, caFile, ...certificate]) {
  const client = await open(connectionString, caFile, ...certificate);
  await (what === 'send' ? send(client) : settle(client));
  await client.close();
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
