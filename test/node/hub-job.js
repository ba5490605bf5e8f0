// Schedules jobs with the vendor's service SDK and watches them.
//   node hub-job.js SERVICE
// SERVICE is a connection string. The hub has the devices leaf-0 to leaf-5, of
// which the first three answer the method reboot. The process must trust the
// hub's CA (NODE_EXTRA_CA_CERTS). Prints one JSON object a line.
'use strict';

const { JobClient, Registry } = require('azure-iothub');

const print = (object) => console.log(JSON.stringify(object));

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// ended asks for a job until it has ended.
async function ended(client, id) {
  for (;;) {
    const { jobStatus } = await client.getJob(id);
    if (['completed', 'failed', 'cancelled'].includes(jobStatus.status)) return jobStatus;
    await pause(100);
  }
}

// failing prints how the SDK reports a failure.
async function failing(step, operation) {
  try {
    await operation;
    print({ step, error: null });
  } catch (err) {
    print({ step, error: err.name, status: err.response.statusCode, body: err.responseBody });
  }
}

// pages collects the ids of all pages of a query of jobs.
async function pages(query) {
  const list = [];
  while (query.hasMoreResults) {
    const { result } = await query.next(query.continuationToken);
    list.push(result.map((job) => job.jobId));
  }
  return list;
}

async function main([connectionString]) {
  const client = JobClient.fromConnectionString(connectionString);
  const patch = { etag: '*', tags: { updated: true }, properties: { desired: { rate: 5 } } };

  await client.scheduleTwinUpdate('update', "deviceId IN ['leaf-0', 'leaf-5']", patch, new Date(0), 300);
  print({ step: 'update', job: await ended(client, 'update') });

  const method = { methodName: 'reboot', payload: { in: 5 }, responseTimeoutInSeconds: 10 };
  await client.scheduleDeviceMethod('method', '*', method, new Date(), 300);
  print({ step: 'method', job: await ended(client, 'method') });

  const rows = Registry.fromConnectionString(connectionString).createQuery("SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'method'");
  print({ step: 'rows', rows: (await rows.next()).result });

  const later = await client.scheduleTwinUpdate('later', '*', patch, new Date(Date.now() + 3600000), 300);
  print({ step: 'later', job: later.jobStatus });
  print({ step: 'cancel', job: (await client.cancelJob('later')).jobStatus });

  await client.scheduleTwinUpdate('wrong', 'SELECT * FROM devices', patch, new Date(), 300);
  print({ step: 'wrong', job: await ended(client, 'wrong') });

  await failing('again', client.scheduleTwinUpdate('update', '*', patch, new Date(), 300));
  await failing('unknown', client.getJob('nothing'));
  print({ step: 'all', pages: await pages(client.createQuery(null, null, 3)) });
  print({ step: 'completed', pages: await pages(client.createQuery('scheduleUpdateTwin', 'completed', 3)) });
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
