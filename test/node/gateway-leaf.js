// A leaf made of the hub vendor's own SDK, unmodified. It publishes numbered
// messages and ends with 0 when all of them are acknowledged.
//
//   node gateway-leaf.js CONNECTION-STRING CA-FILE COUNT [CERTIFICATE KEY]
//
// With the files of a certificate and its key, the connection string has x509=true
// in the place of a key.
'use strict';

const fs = require('fs');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');

async function main([connectionString, caFile, count, certFile, keyFile]) {
  const client = Client.fromConnectionString(connectionString, Mqtt);
  const options = { ca: fs.readFileSync(caFile, 'utf8') };
  if (certFile) {
    options.cert = fs.readFileSync(certFile, 'utf8');
    options.key = fs.readFileSync(keyFile, 'utf8');
  }
  await client.setOptions(options);
  await client.open();
  for (let n = 1; n <= Number(count); n++) {
    const message = new Message(JSON.stringify({ n }));
    message.messageId = `node-${n}`;
    message.correlationId = 'c-1';
    message.contentType = 'application/json';
    message.contentEncoding = 'utf-8';
    message.properties.add('site', 'plant 7');
    message.properties.add('größe & zeichen', '50 % = ½');
    await client.sendEvent(message);
  }
  await client.close();
}

main(process.argv.slice(2)).catch((err) => {
  console.error(err);
  process.exit(1);
});
