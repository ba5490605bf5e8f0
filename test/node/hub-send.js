// Sends telemetry with the vendor's device SDK over AMQP, as any device would.
//   node hub-send.js CONNECTION_STRING CA_FILE COUNT
// The connection string may hold GatewayHostName. Prints one JSON object for
// each message that the hub has accepted.
'use strict';

const fs = require('fs');
const { Client, Message } = require('azure-iot-device');
const { Amqp } = require('azure-iot-device-amqp');

async function main([connectionString, caFile, count]) {
  const client = Client.fromConnectionString(connectionString, Amqp);
  await client.setOptions({ ca: fs.readFileSync(caFile, 'utf8') });
  await client.open();
  for (let n = 1; n <= Number(count); n++) {
    const message = new Message(JSON.stringify({ n }));
    message.messageId = `message-${n}`;
    message.correlationId = 'of-the-test';
    message.contentType = 'application/json';
    message.contentEncoding = 'utf-8';
    message.properties.add('color', 'grün & blue');
    await client.sendEvent(message);
    console.log(JSON.stringify({ accepted: n }));
  }
  await client.close();
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
