// Manages hubs with the vendor's resource provider SDK, as an operator would.
//   node hub-arm.js ENDPOINT GROUP HUB manage AUTHORITY_FILE
//   node hub-arm.js ENDPOINT GROUP HUB verify PROOF_FILE
// HUB is the hub that the bench serves, in resource group GROUP; the process must
// trust the CA (NODE_EXTRA_CA_CERTS). The first form goes through everything and
// ends by uploading the certificate of an authority; the second proves that the
// authority's key is the operator's, and deletes the certificate again. Prints
// one JSON object for each step.
'use strict';

const fs = require('fs');
const { randomBytes } = require('crypto');
const { IotHubClient } = require('@azure/arm-iothub');

const subscription = '00000000-0000-0000-0000-000000000000';
const credential = { getToken: async () => ({ token: 'any', expiresOnTimestamp: Date.now() + 3600e3 }) };

function say(step, result) {
  console.log(JSON.stringify({ step, result }));
}

async function all(pages) {
  const items = [];
  for await (const item of pages) items.push(item);
  return items;
}

async function refusal(promise) {
  try {
    await promise;
    return 'done';
  } catch (err) {
    return `${err.statusCode} ${err.code}`;
  }
}

// There is no call that regenerates a key: the operator puts the hub with
// another key in its policy.
async function regenerate({ iotHubResource: hubs }, group, hub) {
  const policies = await all(hubs.listKeys(group, hub));
  say('keys', policies);
  const description = await hubs.get(group, hub);
  const owner = policies.find((p) => p.keyName === 'iothubowner');
  owner.primaryKey = randomBytes(32).toString('base64');
  description.properties.authorizationPolicies = policies;
  say('stale', await refusal(hubs.beginCreateOrUpdateAndWait(group, hub, description, { ifMatch: 'AAAA' })));
  await hubs.beginCreateOrUpdateAndWait(group, hub, description, { ifMatch: description.etag });
  say('regenerated', { put: owner, got: await hubs.getKeysForKeyName(group, hub, 'iothubowner') });
}

async function settings({ iotHubResource: hubs }, group, hub) {
  const description = await hubs.get(group, hub);
  description.properties.cloudToDevice.maxDeliveryCount = 3;
  description.properties.cloudToDevice.defaultTtlAsIso8601 = 'PT90M';
  const put = await hubs.beginCreateOrUpdateAndWait(group, hub, description, { ifMatch: description.etag });
  say('settings', put.properties.cloudToDevice);
}

async function groups({ iotHubResource: hubs }, group, hub) {
  for (const name of ['alarms', 'short']) {
    await hubs.createEventHubConsumerGroup(group, hub, 'events', name, { properties: { name } });
  }
  say('group', (await hubs.getEventHubConsumerGroup(group, hub, 'events', 'alarms')).name);
  await hubs.deleteEventHubConsumerGroup(group, hub, 'events', 'short');
  say('groups', (await all(hubs.listEventHubConsumerGroups(group, hub, 'events'))).map((g) => g.name));
}

async function figures(client, group, hub) {
  const hubs = client.iotHubResource;
  say('stats', await hubs.getStats(group, hub));
  say('quotas', await all(hubs.listQuotaMetrics(group, hub)));
  say('tiers', (await all(hubs.listValidSkus(group, hub))).map((s) => s.sku.name));
  say('usages', (await client.resourceProviderCommon.getSubscriptionQuota()).value.map((u) => [u.name.value, u.currentValue]));
  say('operations', (await all(client.operations.list())).length);
}

// An export to a container that is nowhere is a job that fails.
async function jobs({ iotHubResource: hubs }, group, hub) {
  let job = await hubs.exportDevices(group, hub, {
    exportBlobContainerUri: 'https://127.0.0.1:1/devices?sig=none', excludeKeys: true,
  });
  while (['enqueued', 'running'].includes(job.status)) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    job = await hubs.getJob(group, hub, job.jobId);
  }
  say('job', { type: job.type, status: job.status, reason: job.failureReason !== undefined });
  say('jobs', (await all(hubs.listJobs(group, hub))).length);
}

// A hub of its own, from its creation to its end.
async function life({ iotHubResource: hubs }, group) {
  const name = 'another-hub';
  say('free', await hubs.checkNameAvailability({ name }));
  const made = await hubs.beginCreateOrUpdateAndWait(group, name, {
    location: 'bench', sku: { name: 'S1', capacity: 1 }, tags: { line: '7' },
  });
  say('made', { host: made.properties.hostName, state: made.properties.state, policies: (await all(hubs.listKeys(group, name))).length });
  say('taken', await hubs.checkNameAvailability({ name }));
  say('tags', (await hubs.beginUpdateAndWait(group, name, { tags: { line: '8' } })).tags);
  say('by group', (await all(hubs.listByResourceGroup(group))).map((h) => h.name));
  await hubs.beginDeleteAndWait(group, name);
  say('gone', await refusal(hubs.get(group, name)));
  say('by subscription', (await all(hubs.listBySubscription())).map((h) => h.name));
}

async function upload({ certificates }, group, hub, file) {
  const certificate = fs.readFileSync(file).toString('base64');
  const put = await certificates.createOrUpdate(group, hub, 'factory', { properties: { certificate } });
  const asked = await certificates.generateVerificationCode(group, hub, 'factory', put.etag);
  say('uploaded', asked.properties);
}

async function verify({ certificates }, group, hub, file) {
  const { etag } = await certificates.get(group, hub, 'factory');
  const certificate = fs.readFileSync(file).toString('base64');
  const verified = await certificates.verify(group, hub, 'factory', etag, { certificate });
  say('verified', verified.properties.isVerified);
  say('names', (await certificates.listByIotHub(group, hub)).value.map((c) => c.name));
  await certificates.delete(group, hub, 'factory', verified.etag);
  say('deleted', await refusal(certificates.get(group, hub, 'factory')));
}

async function main([endpoint, group, hub, verb, file]) {
  const client = new IotHubClient(credential, subscription, { endpoint });
  if (verb === 'verify') {
    return verify(client, group, hub, file);
  }
  say('served', await client.iotHubResource.get(group, hub));
  await regenerate(client, group, hub);
  await settings(client, group, hub);
  await groups(client, group, hub);
  await figures(client, group, hub);
  await jobs(client, group, hub);
  await life(client, group);
  return upload(client, group, hub, file);
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
