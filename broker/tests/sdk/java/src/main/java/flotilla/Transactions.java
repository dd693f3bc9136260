package flotilla;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/**
 * Transactions with the unmodified Java SDK: some are committed, some rolled back, and some forgotten, about which the broker asks
 * the producer. Consumers get what was committed, once, and nothing else.
 *
 * <p>Arguments: ENDPOINT TOPIC GROUP COUNT.
 */
public final class Transactions {
    private static final long DEADLINE_MS = 120_000;
    /** Receives that must come back empty before we believe that nothing else comes. */
    private static final int EMPTY_RECEIVES = 2;
    private static final String[] OUTCOMES = {"commit", "rollback", "forgotten, commit", "forgotten, rollback"};

    private Transactions() {
    }

    private static Map<String, Integer> receive(ClientConfiguration configuration, String topic, String group, int count)
        throws Exception {
        SimpleConsumer consumer = ClientServiceProvider.loadService().newSimpleConsumerBuilder()
            .setClientConfiguration(configuration).setConsumerGroup(group).setAwaitDuration(Duration.ofSeconds(1))
            .setSubscriptionExpressions(Collections.singletonMap(topic, new FilterExpression("*")))
            .build();
        Map<String, Integer> received = new HashMap<>();
        long end = System.currentTimeMillis() + DEADLINE_MS;
        int empty = 0;
        while ((received.size() < count || empty < EMPTY_RECEIVES) && System.currentTimeMillis() < end) {
            int came = 0;
            for (MessageView message : consumer.receive(32, Duration.ofMinutes(1))) {
                came++;
                received.merge(message.getMessageId().toString(), 1, Integer::sum);
                consumer.ack(message);
            }
            empty = came == 0 ? empty + 1 : 0;
        }
        consumer.close();
        return received;
    }

    public static void main(String[] arguments) throws Exception {
        String topic = arguments[1];
        int count = Integer.parseInt(arguments[3]);
        ClientConfiguration configuration =
            ClientConfiguration.newBuilder().setEndpoints(arguments[0]).enableSsl(false).build();
        ClientServiceProvider provider = ClientServiceProvider.loadService();
        Set<String> asked = ConcurrentHashMap.newKeySet();
        Producer producer = provider.newProducerBuilder().setClientConfiguration(configuration).setTopics(topic)
            .setTransactionChecker(message -> {
                asked.add(message.getMessageId().toString());
                return message.getProperties().get("outcome").endsWith("commit")
                    ? TransactionResolution.COMMIT : TransactionResolution.ROLLBACK;
            }).build();
        Set<String> wanted = new HashSet<>();
        Set<String> forgotten = new HashSet<>();
        for (int number = 0; number < count; number++) {
            String outcome = OUTCOMES[number % OUTCOMES.length];
            Transaction transaction = producer.beginTransaction();
            String id = producer.send(provider.newMessageBuilder().setTopic(topic).addProperty("outcome", outcome)
                .setBody(("message " + number).getBytes(StandardCharsets.UTF_8)).build(), transaction)
                .getMessageId().toString();
            if (outcome.endsWith("commit")) {
                wanted.add(id);
            }
            switch (outcome) {
                case "commit":
                    transaction.commit();
                    break;
                case "rollback":
                    transaction.rollback();
                    break;
                default:
                    forgotten.add(id);
            }
        }
        Map<String, Integer> received = receive(configuration, topic, arguments[2], wanted.size());
        long end = System.currentTimeMillis() + DEADLINE_MS;
        while (!asked.containsAll(forgotten) && System.currentTimeMillis() < end) {
            Thread.sleep(100);
        }
        producer.close();
        long duplicates = received.values().stream().mapToInt(times -> times - 1).sum();
        long missing = wanted.stream().filter(id -> !received.containsKey(id)).count();
        long foreign = received.keySet().stream().filter(id -> !wanted.contains(id)).count();
        long unasked = forgotten.stream().filter(id -> !asked.contains(id)).count();
        System.out.printf("java transaction: sent=%d received=%d duplicates=%d missing=%d foreign=%d unasked=%d%n", count,
            received.size(), duplicates, missing, foreign, unasked);
        System.exit(duplicates + missing + foreign + unasked == 0 ? 0 : 1);
    }
}
