// A simple consumer of the unmodified Node.js SDK that says what it gets, and acknowledges it.
//
// Usage: simple.js ENDPOINT TOPIC GROUP
// Prints `ready` before its first receive, `got BODY ATTEMPT` for every message when it comes, and ends with its input.

const { SimpleConsumer } = require('rocketmq-client-nodejs');

async function main() {
  const [endpoints, topic, consumerGroup] = process.argv.slice(2);
  const consumer = new SimpleConsumer({
    endpoints, namespace: '', consumerGroup, subscriptions: new Map([[topic, '*']]), awaitDuration: 5000,
  });
  await consumer.startup();
  process.stdin.on('end', () => process.exit(0)).resume();
  console.log('ready');
  for (;;) {
    for (const message of await consumer.receive(32, 60_000)) {
      console.log('got', message.body.toString(), message.deliveryAttempt);
      await consumer.ack(message);
    }
  }
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
