// Exports the registry to a blob container and imports it again, with the
// vendor's service SDK and storage SDK.
//   node hub-registry-jobs.js CONNECTION_STRING ENDPOINT ACCOUNT KEY
// Needs NODE_EXTRA_CA_CERTS. Prints one JSON object for each job when it has
// ended and for each blob that it left.
'use strict';

const { Registry } = require('azure-iothub');
const {
  ContainerClient,
  ContainerSASPermissions,
  StorageSharedKeyCredential,
  generateBlobSASQueryParameters,
} = require('@azure/storage-blob');

const containerName = 'registry';

const print = (step, facts) => console.log(JSON.stringify({ step, ...facts }));

// ended asks until a job has ended; the job says that, not the clock.
async function ended(registry, { jobId }) {
  for (;;) {
    const job = await registry.getJob(jobId);
    if (!['enqueued', 'running'].includes(job.status)) {
      return job;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function blob(container, name) {
  const text = await container.getBlobClient(name).downloadToBuffer();
  const lines = text.toString('utf8').trimEnd().split('\n').map((line) => JSON.parse(line));
  print(name, { lines });
  return lines;
}

// signedUri is all that the hub gets to know of the storage.
function signedUri(endpoint, credential) {
  const sas = generateBlobSASQueryParameters({
    containerName,
    permissions: ContainerSASPermissions.parse('racwdl'),
    expiresOn: new Date(Date.now() + 3600e3),
  }, credential);
  return `${endpoint}/${containerName}?${sas}`;
}

async function main([connectionString, endpoint, account, key]) {
  const registry = Registry.fromConnectionString(connectionString);
  const credential = new StorageSharedKeyCredential(account, key);
  const container = new ContainerClient(`${endpoint}/${containerName}`, credential);
  await container.create();
  const uri = signedUri(endpoint, credential);

  print('export', await ended(registry, await registry.exportDevicesToBlob(uri, false)));
  const lines = await blob(container, 'devices.txt');

  // All of them go and come back; one that is there already cannot be created.
  const kept = lines[0].id;
  for (const { id } of lines.filter((line) => !line.moduleId && line.id !== kept)) {
    await registry.delete(id);
  }
  const items = lines.map((line) => JSON.stringify({ ...line, importMode: 'create' }));
  const text = items.join('\n');
  await container.getBlockBlobClient('devices.txt').upload(text, Buffer.byteLength(text));
  print('import', await ended(registry, await registry.importDevicesFromBlob(uri, uri)));
  await blob(container, 'importErrors.log');

  print('export without keys', await ended(registry, await registry.exportDevicesToBlob(uri, true)));
  await blob(container, 'devices.txt');
  const job = await registry.exportDevicesToBlob(`${uri}x`, false);
  print('export with a bad signature', await ended(registry, job));
  await registry.cancelJob(job.jobId);
  const { responseBody: jobs } = await registry.listJobs();
  print('jobs', { statuses: jobs.map((j) => `${j.type} ${j.status}`) });
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
