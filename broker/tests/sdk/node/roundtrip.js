// The unmodified Node.js SDK against a running broker: send, receive and acknowledge, with a simple and a push consumer.
//
// Usage: roundtrip.js ENDPOINT TOPIC GROUP COUNT. The push consumer reads the same messages as the consumer group
// GROUP-push. Ends with 1 unless every message that was sent arrived exactly once in both consumer groups.

const { ConsumeResult, Producer, PushConsumer, SimpleConsumer } = require('rocketmq-client-nodejs');

const DEADLINE_MS = 120_000;
const INVISIBLE_MS = 60_000;
// Receives that must come back empty before we believe that nothing arrives twice.
const EMPTY_RECEIVES = 2;

async function send(endpoints, topic, count) {
  const producer = new Producer({ endpoints, namespace: '', topics: [topic] });
  await producer.startup();
  const sent = new Set();
  for (let number = 0; number < count; number++) {
    const receipt = await producer.send({
      topic,
      tag: 'node',
      keys: [`key-${number}`],
      properties: new Map([['number', `${number}`]]),
      body: Buffer.from(`message ${number}`),
    });
    sent.add(receipt.messageId);
  }
  await producer.shutdown();
  return sent;
}

// What one consumer group got.
class Received {
  times = new Map();
  wrong = 0;

  note(message) {
    this.times.set(message.messageId, (this.times.get(message.messageId) ?? 0) + 1);
    const number = message.properties.get('number');
    const whole = message.body.toString() === `message ${number}` && message.tag === 'node'
      && message.keys.join(' ') === `key-${number}` && message.deliveryAttempt === 1;
    if (!whole && ++this.wrong <= 3) console.log('  unexpected:', message);
  }
}

async function receiveSimple(endpoints, topic, consumerGroup, count) {
  const consumer = new SimpleConsumer({
    endpoints, namespace: '', consumerGroup, subscriptions: new Map([[topic, '*']]), awaitDuration: 1000,
  });
  await consumer.startup();
  const received = new Received();
  const end = Date.now() + DEADLINE_MS;
  for (let empty = 0; (received.times.size < count || empty < EMPTY_RECEIVES) && Date.now() < end;) {
    const batch = await consumer.receive(32, INVISIBLE_MS);
    empty = batch.length === 0 ? empty + 1 : 0;
    for (const message of batch) {
      received.note(message);
      await consumer.ack(message);
    }
  }
  await consumer.shutdown();
  return received;
}

async function receivePush(endpoints, topic, consumerGroup, count) {
  const received = new Received();
  let complete;
  const all = new Promise(resolve => { complete = resolve; });
  const consumer = new PushConsumer({
    endpoints, namespace: '', consumerGroup, subscriptions: new Map([[topic, '*']]),
    messageListener: {
      async consume(message) {
        received.note(message);
        if (received.times.size >= count) complete();
        return ConsumeResult.SUCCESS;
      },
    },
  });
  await consumer.startup();
  await Promise.race([all, new Promise(resolve => setTimeout(resolve, DEADLINE_MS))]);
  // The SDK acknowledges after the listener has returned, and a shutdown cuts that short.
  await new Promise(resolve => setTimeout(resolve, 2000));
  await consumer.shutdown();
  return received;
}

// Prints the line the driver looks for and tells whether all is well.
function report(name, sent, received) {
  let duplicates = 0;
  for (const times of received.times.values()) duplicates += times - 1;
  const missing = [...sent].filter(id => !received.times.has(id)).length;
  const foreign = [...received.times.keys()].filter(id => !sent.has(id)).length;
  console.log(`node ${name}: sent=${sent.size} received=${received.times.size} duplicates=${duplicates}`
    + ` missing=${missing} foreign=${foreign} wrong=${received.wrong}`);
  return duplicates + missing + foreign + received.wrong === 0;
}

async function main() {
  const [endpoints, topic, group, countText] = process.argv.slice(2);
  const count = Number(countText);
  const sent = await send(endpoints, topic, count);
  let good = sent.size === count;
  good = report('simple', sent, await receiveSimple(endpoints, topic, group, count)) && good;
  good = report('push', sent, await receivePush(endpoints, topic, `${group}-push`, count)) && good;
  process.exit(good ? 0 : 1);
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
