// Transactions with the unmodified Node.js SDK: some are committed, some rolled back, and some forgotten, about which the broker
// asks the producer. Consumers get what was committed, once, and nothing else.
//
// Usage: transaction.js ENDPOINT TOPIC GROUP COUNT

const { Producer, SimpleConsumer } = require('rocketmq-client-nodejs');

// As in the protocol; the SDK does not export them.
const COMMIT = 1;
const ROLLBACK = 2;
const DEADLINE_MS = 120_000;
const INVISIBLE_MS = 60_000;
// Receives that must come back empty before we believe that nothing else comes.
const EMPTY_RECEIVES = 2;
const OUTCOMES = ['commit', 'rollback', 'forgotten, commit', 'forgotten, rollback'];

async function main() {
  const [endpoints, topic, consumerGroup, countText] = process.argv.slice(2);
  const count = Number(countText);
  const asked = new Set();
  const checker = {
    async check(message) {
      asked.add(message.messageId);
      return message.properties.get('outcome').endsWith('commit') ? COMMIT : ROLLBACK;
    },
  };
  const producer = new Producer({ endpoints, namespace: '', topics: [topic], checker });
  await producer.startup();
  const wanted = new Set();
  const forgotten = new Set();
  for (let number = 0; number < count; number++) {
    const outcome = OUTCOMES[number % OUTCOMES.length];
    const transaction = producer.beginTransaction();
    const receipt = await producer.send({
      topic,
      properties: new Map([['outcome', outcome]]),
      body: Buffer.from(`message ${number}`),
    }, transaction);
    if (outcome.endsWith('commit')) wanted.add(receipt.messageId);
    if (outcome === 'commit') await transaction.commit();
    else if (outcome === 'rollback') await transaction.rollback();
    else forgotten.add(receipt.messageId);
  }
  const consumer = new SimpleConsumer({
    endpoints, namespace: '', consumerGroup, subscriptions: new Map([[topic, '*']]), awaitDuration: 1000,
  });
  await consumer.startup();
  const received = new Map();
  const end = Date.now() + DEADLINE_MS;
  for (let empty = 0; (received.size < wanted.size || empty < EMPTY_RECEIVES) && Date.now() < end;) {
    const batch = await consumer.receive(32, INVISIBLE_MS);
    empty = batch.length === 0 ? empty + 1 : 0;
    for (const message of batch) {
      received.set(message.messageId, (received.get(message.messageId) ?? 0) + 1);
      await consumer.ack(message);
    }
  }
  while ([...forgotten].some(id => !asked.has(id)) && Date.now() < end) {
    await new Promise(resolve => setTimeout(resolve, 100));
  }
  await consumer.shutdown();
  await producer.shutdown();
  const duplicates = [...received.values()].reduce((sum, times) => sum + times - 1, 0);
  const missing = [...wanted].filter(id => !received.has(id)).length;
  const foreign = [...received.keys()].filter(id => !wanted.has(id)).length;
  const unasked = [...forgotten].filter(id => !asked.has(id)).length;
  console.log(`node transaction: sent=${count} received=${received.size} duplicates=${duplicates} missing=${missing}`
    + ` foreign=${foreign} unasked=${unasked}`);
  process.exit(duplicates + missing + foreign + unasked === 0 ? 0 : 1);
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
