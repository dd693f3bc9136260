package flotilla;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;

/**
 * The unmodified Java SDK against a running broker: send, receive and acknowledge, with a simple and a push consumer.
 *
 * <p>Arguments: ENDPOINT TOPIC GROUP COUNT [tls]. The push consumer reads the same messages as the consumer group
 * GROUP-push. Ends with 1 unless every message that was sent arrived exactly once in both consumer groups.
 */
public final class RoundTrip {
    private static final Duration DEADLINE = Duration.ofSeconds(120);
    private static final Duration INVISIBLE = Duration.ofSeconds(60);
    /** Receives that must come back empty before we believe that nothing arrives twice. */
    private static final int EMPTY_RECEIVES = 2;

    private final ClientServiceProvider provider = ClientServiceProvider.loadService();
    private final ClientConfiguration configuration;
    private final Map<String, FilterExpression> subscription;
    private final String topic;
    private final int count;

    private RoundTrip(String endpoint, String topic, int count, boolean tls) {
        this.configuration = ClientConfiguration.newBuilder().setEndpoints(endpoint).enableSsl(tls).build();
        this.subscription = Collections.singletonMap(topic, new FilterExpression("*"));
        this.topic = topic;
        this.count = count;
    }

    /** What one consumer group got. */
    private static final class Received {
        private final Map<String, Integer> times = new ConcurrentHashMap<>();
        private final AtomicInteger wrong = new AtomicInteger();

        void note(MessageView message) {
            times.merge(message.getMessageId().toString(), 1, Integer::sum);
            String number = message.getProperties().get("number");
            ByteBuffer body = message.getBody();
            boolean whole = StandardCharsets.UTF_8.decode(body).toString().equals("message " + number)
                && message.getTag().filter("java"::equals).isPresent()
                && List.copyOf(message.getKeys()).equals(List.of("key-" + number))
                && message.getDeliveryAttempt() == 1;
            if (!whole && wrong.incrementAndGet() <= 3) {
                System.out.println("  unexpected: " + message);
            }
        }
    }

    private Set<String> send() throws Exception {
        Set<String> sent = new HashSet<>();
        try (Producer producer = provider.newProducerBuilder()
            .setClientConfiguration(configuration).setTopics(topic).build()) {
            for (int number = 0; number < count; number++) {
                Message message = provider.newMessageBuilder().setTopic(topic).setTag("java").setKeys("key-" + number)
                    .addProperty("number", Integer.toString(number))
                    .setBody(("message " + number).getBytes(StandardCharsets.UTF_8)).build();
                sent.add(producer.send(message).getMessageId().toString());
            }
        }
        return sent;
    }

    private Received receiveSimple(String group) throws Exception {
        Received received = new Received();
        try (SimpleConsumer consumer = provider.newSimpleConsumerBuilder().setClientConfiguration(configuration)
            .setConsumerGroup(group).setAwaitDuration(Duration.ofSeconds(1))
            .setSubscriptionExpressions(subscription).build()) {
            int empty = 0;
            long end = System.nanoTime() + DEADLINE.toNanos();
            while ((received.times.size() < count || empty < EMPTY_RECEIVES) && System.nanoTime() < end) {
                List<MessageView> batch = consumer.receive(32, INVISIBLE);
                empty = batch.isEmpty() ? empty + 1 : 0;
                for (MessageView message : batch) {
                    received.note(message);
                    consumer.ack(message);
                }
            }
        }
        return received;
    }

    private Received receivePush(String group) throws Exception {
        Received received = new Received();
        CountDownLatch complete = new CountDownLatch(1);
        try (PushConsumer consumer = provider.newPushConsumerBuilder().setClientConfiguration(configuration)
            .setConsumerGroup(group).setSubscriptionExpressions(subscription)
            .setMessageListener(message -> {
                received.note(message);
                if (received.times.size() >= count) {
                    complete.countDown();
                }
                return ConsumeResult.SUCCESS;
            }).build()) {
            complete.await(DEADLINE.toSeconds(), TimeUnit.SECONDS);
            // The SDK acknowledges after the listener has returned, and closing cuts that short.
            Thread.sleep(2000);
        }
        return received;
    }

    /** Prints the line the driver looks for and tells whether all is well. */
    private static boolean report(String name, Set<String> sent, Received received) {
        int duplicates = received.times.values().stream().mapToInt(times -> times - 1).sum();
        long missing = sent.stream().filter(id -> !received.times.containsKey(id)).count();
        long foreign = received.times.keySet().stream().filter(id -> !sent.contains(id)).count();
        System.out.printf("java %s: sent=%d received=%d duplicates=%d missing=%d foreign=%d wrong=%d%n", name,
            sent.size(), received.times.size(), duplicates, missing, foreign, received.wrong.get());
        return duplicates + missing + foreign + received.wrong.get() == 0;
    }

    public static void main(String[] arguments) throws Exception {
        boolean tls = arguments.length > 4 && arguments[4].equals("tls");
        String group = arguments[2];
        RoundTrip trip = new RoundTrip(arguments[0], arguments[1], Integer.parseInt(arguments[3]), tls);
        Set<String> sent = trip.send();
        boolean good = sent.size() == trip.count;
        good &= report("simple", sent, trip.receiveSimple(group));
        good &= report("push", sent, trip.receivePush(group + "-push"));
        System.exit(good ? 0 : 1);
    }
}
