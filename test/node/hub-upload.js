// Uploads a file with the vendor's device SDK.
//   NODE_EXTRA_CA_CERTS=CA_FILE node hub-upload.js CONNECTION_STRING CA_FILE NAME BYTES [SERVICE_CONNECTION_STRING [CERTIFICATE KEY]]
// The process must trust the authority because the storage SDK inside takes no
// options. The file holds the digits 0 to 9 again and again. With a service
// connection string, if it is not empty, the vendor's service SDK receives the
// notification. With the files of a certificate and its key, the connection string
// has x509=true in the place of a key. Prints one JSON object a step.
'use strict';

const fs = require('fs');
const { Readable } = require('stream');
const { Client } = require('azure-iot-device');
const { Http } = require('azure-iot-device-http');
const service = require('azure-iothub');

const print = (object) => console.log(JSON.stringify(object));

// receiveNotice resolves with the first notification, completed.
async function receiveNotice(connectionString) {
  const client = service.Client.fromConnectionString(connectionString);
  await client.open();
  const { result: receiver } = await client.getFileNotificationReceiver();
  const notice = await new Promise((resolve, reject) => {
    receiver.on('errorReceived', reject);
    receiver.on('message', (message) => receiver.complete(message, (err) => {
      if (err) reject(err);
      else resolve(JSON.parse(message.getData().toString()));
    }));
  });
  await client.close();
  return notice;
}

async function main([connectionString, caFile, name, bytes, serviceConnectionString, certFile, keyFile]) {
  const client = Client.fromConnectionString(connectionString, Http);
  const options = { ca: fs.readFileSync(caFile, 'utf8'), http: { receivePolicy: { interval: 60 } } };
  if (certFile) {
    options.cert = fs.readFileSync(certFile, 'utf8');
    options.key = fs.readFileSync(keyFile, 'utf8');
  }
  await client.setOptions(options);
  const content = Buffer.alloc(Number(bytes), '0123456789');
  await client.uploadToBlob(name, Readable.from([content]), content.length);
  print({ uploaded: name });
  if (serviceConnectionString) print({ notice: await receiveNotice(serviceConnectionString) });
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (err) => {
    console.error(err, err.innerError);
    process.exit(1);
  },
);
