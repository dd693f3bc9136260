package flotilla;

import java.nio.charset.StandardCharsets;
import java.util.Collections;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.message.MessageView;

/**
 * A push consumer of the unmodified Java SDK that says what it gets, and works on each message for a while.
 *
 * <p>Arguments: ENDPOINT TOPIC GROUP SECONDS. Prints {@code got BODY ATTEMPT} for every message when it comes, and ends
 * when its input does.
 */
public final class Push {
    private Push() {
    }

    private static ConsumeResult consume(MessageView message, double seconds) {
        String body = StandardCharsets.UTF_8.decode(message.getBody()).toString();
        System.out.println("got " + body + " " + message.getDeliveryAttempt());
        try {
            Thread.sleep((long) (seconds * 1000));
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
        return ConsumeResult.SUCCESS;
    }

    public static void main(String[] arguments) throws Exception {
        double seconds = Double.parseDouble(arguments[3]);
        ClientConfiguration configuration =
            ClientConfiguration.newBuilder().setEndpoints(arguments[0]).enableSsl(false).build();
        PushConsumer consumer = ClientServiceProvider.loadService().newPushConsumerBuilder()
            .setClientConfiguration(configuration).setConsumerGroup(arguments[2])
            .setSubscriptionExpressions(Collections.singletonMap(arguments[1], new FilterExpression("*")))
            .setMessageListener(message -> consume(message, seconds))
            .build();
        System.out.println("ready");
        while (System.in.read() >= 0) {
            // Nothing that is said matters, only the end.
        }
        consumer.close();
        System.exit(0);
    }
}
