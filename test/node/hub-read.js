// Reads events with the vendor's Event Hubs SDK, as a back end would.
//   NODE_EXTRA_CA_CERTS=CA_FILE node hub-read.js CONNECTION_STRING COUNT
// Prints what the hub says of its partitions, and then one JSON object an event,
// from the beginning, until COUNT have come.
'use strict';

const { EventHubConsumerClient, earliestEventPosition } = require('@azure/event-hubs');

async function main([connectionString, count]) {
  const client = new EventHubConsumerClient('$Default', connectionString);
  const partitions = await client.getPartitionIds();
  const properties = await Promise.all(partitions.map((id) => client.getPartitionProperties(id)));
  console.log(JSON.stringify({ partitions, properties }));
  let left = Number(count);
  await new Promise((resolve, reject) => {
    client.subscribe(
      {
        processEvents: async (events, context) => {
          for (const e of events) {
            console.log(JSON.stringify({
              partition: context.partitionId,
              sequence: e.sequenceNumber,
              offset: e.offset,
              enqueued: e.enqueuedTimeUtc,
              messageId: e.messageId,
              correlationId: e.correlationId,
              contentType: e.contentType,
              properties: e.properties,
              system: e.systemProperties,
              body: e.body,
            }));
            if (--left === 0) resolve();
          }
        },
        processError: async (err) => reject(err),
      },
      { startPosition: earliestEventPosition },
    );
  });
  await client.close();
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
