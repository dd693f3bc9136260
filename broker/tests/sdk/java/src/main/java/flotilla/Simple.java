package flotilla;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collections;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageView;

/**
 * A simple consumer of the unmodified Java SDK that says what it gets, and acknowledges it.
 *
 * <p>Arguments: ENDPOINT TOPIC GROUP. Prints {@code ready} before its first receive, {@code got BODY ATTEMPT} for every
 * message when it comes, and ends with its input.
 */
public final class Simple {
    private Simple() {
    }

    private static void endWithInput() {
        try {
            while (System.in.read() >= 0) {
                // Nothing that is said matters, only the end.
            }
        } catch (java.io.IOException broken) {
            // As good as the end.
        }
        System.exit(0);
    }

    public static void main(String[] arguments) throws Exception {
        ClientConfiguration configuration =
            ClientConfiguration.newBuilder().setEndpoints(arguments[0]).enableSsl(false).build();
        SimpleConsumer consumer = ClientServiceProvider.loadService().newSimpleConsumerBuilder()
            .setClientConfiguration(configuration).setConsumerGroup(arguments[2]).setAwaitDuration(Duration.ofSeconds(5))
            .setSubscriptionExpressions(Collections.singletonMap(arguments[1], new FilterExpression("*")))
            .build();
        new Thread(Simple::endWithInput).start();
        System.out.println("ready");
        while (true) {
            for (MessageView message : consumer.receive(32, Duration.ofMinutes(1))) {
                String body = StandardCharsets.UTF_8.decode(message.getBody()).toString();
                System.out.println("got " + body + " " + message.getDeliveryAttempt());
                consumer.ack(message);
            }
        }
    }
}
