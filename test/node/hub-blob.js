// Uses a blob server with the vendor's storage SDK, as a back end would that
// fetches what devices have uploaded.
//   NODE_EXTRA_CA_CERTS=CA_FILE node hub-blob.js ENDPOINT ACCOUNT KEY CONTAINER
// Makes the container when it is missing. Prints one JSON object a step; the
// outcome must be the same whatever the server.
'use strict';

const {
  BlobSASPermissions,
  BlockBlobClient,
  ContainerClient,
  StorageSharedKeyCredential,
  generateBlobSASQueryParameters,
} = require('@azure/storage-blob');

const print = (step, outcome) => console.log(JSON.stringify({ step, outcome }));

// codeOf returns the code of the error that a promise ends with.
const codeOf = (promise) => promise.then(() => 'none', (err) => err.code || err.details.errorCode);

const blockId = (n) => Buffer.from(`block-${n}`).toString('base64');

async function main([endpoint, account, key, container]) {
  const credential = new StorageSharedKeyCredential(account, key);
  const containerClient = new ContainerClient(`${endpoint}/${container}`, credential);
  await containerClient.createIfNotExists();
  print('container', await containerClient.exists());
  print('container again', await codeOf(containerClient.create()));

  const whole = containerClient.getBlockBlobClient('back-end/whole & #1.txt');
  await whole.upload('hello', 5, {
    blobHTTPHeaders: { blobContentType: 'text/plain', blobContentLanguage: 'en' },
    metadata: { color: 'red' },
  });
  const properties = await whole.getProperties();
  print('properties', {
    length: properties.contentLength,
    type: properties.contentType,
    language: properties.contentLanguage,
    metadata: properties.metadata,
    blobType: properties.blobType,
    etag: typeof properties.etag,
    modified: properties.lastModified instanceof Date,
  });
  print('get', (await whole.downloadToBuffer()).toString());
  print('range', (await whole.downloadToBuffer(1, 3)).toString());
  print('no overwriting', await codeOf(whole.upload('x', 1, { conditions: { ifNoneMatch: '*' } })));
  print('wrong etag', await codeOf(whole.upload('x', 1, { conditions: { ifMatch: '"0x1"' } })));

  const name = 'back-end/blocks.bin';
  const blocks = containerClient.getBlockBlobClient(name);
  for (const n of [1, 2, 3]) await blocks.stageBlock(blockId(n), `<${n}>`, 3);
  print('not committed', await codeOf(blocks.download()));
  await blocks.commitBlockList([blockId(3), blockId(1)]);
  print('blocks', (await blocks.downloadToBuffer()).toString());
  await blocks.stageBlock(blockId(4), '<4>', 3);
  await blocks.commitBlockList([blockId(4), blockId(1)]);
  print('more blocks', (await blocks.downloadToBuffer()).toString());
  print('lost block', await codeOf(blocks.commitBlockList([blockId(2)])));
  print('missing', await codeOf(containerClient.getBlockBlobClient('back-end/none').download()));

  const sas = (permissions, life) => generateBlobSASQueryParameters({
    containerName: container,
    blobName: name,
    permissions: BlobSASPermissions.parse(permissions),
    expiresOn: new Date(Date.now() + life),
  }, credential).toString();
  const withSAS = (query) => new BlockBlobClient(`${blocks.url}?${query}`);
  print('SAS', (await withSAS(sas('r', 60000)).downloadToBuffer()).toString());
  print('read-only SAS', await codeOf(withSAS(sas('r', 60000)).upload('x', 1)));
  const spoilt = withSAS(sas('r', 60000).replace('sp=r', 'sp=rw'));
  print('spoilt SAS', await spoilt.upload('x', 1).catch((err) => err.statusCode));
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
