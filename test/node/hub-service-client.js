// Does what a back end does, with the vendor's service SDK, and what a device
// does about it, with the vendor's device SDK.
//   node hub-service-client.js commands SERVICE DEVICE TRANSPORT PLAN RECORDS
//   node hub-service-client.js queue    SERVICE DEVICE
//   node hub-service-client.js methods  SERVICE DEVICE TRANSPORT
// SERVICE and DEVICE are connection strings; TRANSPORT is mqtt, mqtt-ws, amqp or
// amqp-ws. The process must trust the hub's CA (NODE_EXTRA_CA_CERTS). Each verb is
// explained at its function. Prints one JSON object a line.
'use strict';

const { Client: Service, AmqpWs: ServiceWs, IoTHubTokenCredentials } = require('azure-iothub');
const { Client: Device, ModuleClient: Module, Message } = require('azure-iot-device');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
// The generated layer of the service SDK makes requests that no class above it
// makes: purging and feedback over HTTP.
const { IotHubGatewayServiceAPIs } = require('azure-iothub/dist/pl/iotHubGatewayServiceAPIs');

const transports = { mqtt: Mqtt, 'mqtt-ws': MqttWs, amqp: Amqp, 'amqp-ws': AmqpWs };

const print = (object) => console.log(JSON.stringify(object));

const deviceId = (connectionString) => /DeviceId=([^;]+)/.exec(connectionString)[1];
const moduleId = (connectionString) => (/ModuleId=([^;]+)/.exec(connectionString) || [])[1];

// failure tells how the SDK reports an error.
const failure = (err) => ({ name: err.name, status: err.response ? err.response.statusCode : undefined });

// commands sends what PLAN says, a JSON array of {id, ack, do, ttl}: the device
// completes, rejects, abandons or ignores a command as "do" says; ttl is in
// milliseconds. With a transport over WebSocket the service uses one too. Ends
// when RECORDS feedback records have come.
//   {received, ...}    each time the device gets a command
//   {feedback, ...}    each feedback record
//   {abandoned}        the body of the first feedback message: it must come again
//   {completed}        the body of each message that was not abandoned
async function commands([serviceString, deviceString, transport, plan, records]) {
  const steps = JSON.parse(plan);
  const device = Device.fromConnectionString(deviceString, transports[transport]);
  device.on('message', (m) => {
    print({
      received: m.messageId, correlationId: m.correlationId, body: m.getBytes().toString(), to: m.to,
      contentType: m.contentType, property: m.properties.getValue('color'),
    });
    const step = steps.find((s) => s.id === m.messageId);
    if (step.do !== 'ignore') device[step.do](m).catch((err) => print({ failed: step.do, ...failure(err) }));
  });
  await device.open();

  const service = Service.fromConnectionString(serviceString, transport.endsWith('-ws') ? ServiceWs : undefined);
  await service.open();
  const { result: receiver } = await service.getFeedbackReceiver();
  const finished = feedback(receiver, Number(records));
  for (const { id, ack, ttl } of steps) {
    const m = new Message(`body of ${id}`);
    m.messageId = id;
    m.correlationId = 'of-the-test';
    m.ack = ack;
    m.contentType = 'text/plain';
    if (ttl) m.expiryTimeUtc = Date.now() + ttl; // the AMQP library inside cannot encode a Date
    m.properties.add('color', 'grün & blue');
    await service.send(deviceId(deviceString), m);
  }
  await finished;
  await service.close();
  await device.close();
}

// feedback prints records until enough have come.
function feedback(receiver, records) {
  let first = true;
  return new Promise((resolve, reject) => {
    receiver.on('error', reject);
    receiver.on('message', async (m) => {
      try {
        const body = m.getData().toString();
        if (first) {
          first = false;
          print({ abandoned: body });
          await receiver.abandon(m);
          return;
        }
        print({ completed: body });
        const list = JSON.parse(body);
        for (const r of list) {
          print({ feedback: r.originalMessageId, ...r, contentType: m.contentType, userId: String(m.userId) });
        }
        await receiver.complete(m);
        records -= list.length;
        if (records <= 0) resolve();
      } catch (err) {
        reject(err);
      }
    });
  });
}

// queue fills the queue of a device that is away, purges it over HTTP and reads
// the feedback over HTTP.
//   {sent} or {refused, ...}  of each command, and one for an unknown device
//   {purged}                  what the hub answers
//   {nothing}                 status of a receive that finds nothing
//   {records, count}          feedback records; received, abandoned, received again
//   {lost}                    status of a second completion
async function queue([serviceString, deviceString]) {
  const id = deviceId(deviceString);
  const service = Service.fromConnectionString(serviceString);
  await service.open();
  for (let n = 1; n <= 51; n++) await attempt(service, id, `m-${n}`);
  await attempt(service, 'no-such-device', 'm-0');
  await service.close();

  const credentials = new IoTHubTokenCredentials(serviceString);
  const http = new IotHubGatewayServiceAPIs(credentials, {
    baseUri: `https://${credentials.getHubName()}`, apiVersion: '2021-04-12',
  }).cloudToDeviceMessages;
  const purged = await http.purgeCloudToDeviceMessageQueue(id);
  print({ purged: purged._response.parsedBody });
  const empty = await http.receiveFeedbackNotification();
  print({ nothing: empty._response.status });
  let lock = await records(http);
  await http.abandonFeedbackNotification(lock);
  lock = await records(http);
  await http.completeFeedbackNotification(lock);
  try {
    await http.completeFeedbackNotification(lock);
  } catch (err) {
    print({ lost: err.statusCode });
  }
}

async function attempt(service, device, id) {
  const m = new Message(id);
  m.messageId = id;
  m.ack = 'negative';
  try {
    await service.send(device, m);
    print({ sent: id });
  } catch (err) {
    print({ refused: id, ...failure(err) });
  }
}

// records polls for feedback and returns the lock token.
async function records(http) {
  for (;;) {
    const answer = (await http.receiveFeedbackNotification())._response;
    if (answer.status === 200) {
      const headers = answer.headers;
      print({
        records: JSON.parse(answer.bodyAsText).map((r) => `${r.originalMessageId} ${r.statusCode}`),
        count: headers.get('iothub-deliverycount'),
      });
      return headers.get('etag').replace(/"/g, '');
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

// methods calls methods of a device, or of a module when DEVICE names one.
//   {call, status, payload} or {call, name, status}  of each call
async function methods([serviceString, deviceString, transport]) {
  const module = moduleId(deviceString);
  const target = module ? [deviceId(deviceString), module] : [deviceId(deviceString)];
  const service = Service.fromConnectionString(serviceString);
  const call = async (label, params) => {
    try {
      const { result } = await service.invokeDeviceMethod(...target, params);
      print({ call: label, status: result.status, payload: result.payload });
    } catch (err) {
      print({ call: label, ...failure(err) });
    }
  };
  await call('offline', { methodName: 'echo' });
  const waiting = call('waited for', { methodName: 'echo', payload: 'patience', connectTimeoutInSeconds: 30 });

  const device = (module ? Module : Device).fromConnectionString(deviceString, transports[transport]);
  await device.open();
  const on = (name, answer) => (module ? device.onMethod(name, answer) : device.onDeviceMethod(name, answer));
  on('echo', (request, response) => {
    response.send(207, { name: request.methodName, payload: request.payload }, () => {});
  });
  on('mute', () => {});
  on('bare', (request, response) => response.send(204, () => {}));
  await waiting;
  await call('object', { methodName: 'echo', payload: { a: [1, 'grün'] } });
  await call('number', { methodName: 'echo', payload: 5 });
  await call('none', { methodName: 'echo' });
  await call('bare', { methodName: 'bare' });
  await call('bad name', { methodName: 'a b' });
  await call('bad timeout', { methodName: 'echo', responseTimeoutInSeconds: 4 });
  await call('no answer', { methodName: 'mute', responseTimeoutInSeconds: 5 });
  await Promise.all(Array.from({ length: 10 }, (_, n) => call('together', { methodName: 'echo', payload: n })));
  await device.close();
}

const [verb, ...args] = process.argv.slice(2);
({ commands, queue, methods })[verb](args).then(
  () => process.exit(0),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
