package flotilla;

import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import org.apache.rocketmq.filter.SqlFilter;
import org.apache.rocketmq.filter.expression.ComparisonExpression;
import org.apache.rocketmq.filter.expression.EvaluationContext;
import org.apache.rocketmq.filter.expression.Expression;
import org.apache.rocketmq.filter.expression.MQFilterException;
import org.apache.rocketmq.filter.parser.SelectorParser;
import org.apache.rocketmq.filter.parser.Token;
import org.apache.rocketmq.remoting.protocol.filter.FilterAPI;
import org.apache.rocketmq.remoting.protocol.heartbeat.SubscriptionData;

/**
 * Answers what RocketMQ's own library says about expressions: a line in, a line out.
 *
 * <p>In: the kind (sql or tag), the expression, names and values of properties, with tabs between and backslashes before tabs,
 * line ends and backslashes. Out: refused, true, false, null or error; after "trailing" if the expression was taken although
 * text follows that no expression has.
 */
public final class Reference {
    private Reference() {
    }

    public static void main(String[] arguments) throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        BufferedWriter out = new BufferedWriter(new OutputStreamWriter(System.out, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] fields = line.split("\t", -1);
            Map<String, String> properties = new HashMap<>();
            for (int at = 2; at + 1 < fields.length; at += 2) {
                properties.put(plain(fields[at]), plain(fields[at + 1]));
            }
            String text = plain(fields[1]);
            out.write(fields[0].equals("tag") ? tag(text, properties.get("TAGS")) : sql(text, properties));
            out.newLine();
        }
        out.flush();
    }

    private static String tag(String text, String tag) {
        try {
            SubscriptionData subscription = FilterAPI.build("topic", text, "TAG");
            boolean everything = SubscriptionData.SUB_ALL.equals(subscription.getSubString());
            return String.valueOf(everything || tag != null && subscription.getTagsSet().contains(tag)
                && subscription.getCodeSet().contains(tag.hashCode()));
        } catch (Exception refused) {
            return "refused";
        }
    }

    private static String sql(String text, Map<String, String> properties) {
        Expression expression;
        try {
            expression = new SqlFilter().compile(text);
        } catch (MQFilterException refused) {
            return "refused";
        }
        String answer;
        try {
            answer = String.valueOf(expression.evaluate(new Message(properties)));
        } catch (Exception error) {
            answer = "error";
        }
        return new Rest(text).isNothing() ? answer : "trailing " + answer;
    }

    /** Without the backslashes of the line format. */
    private static String plain(String field) {
        StringBuilder text = new StringBuilder(field.length());
        for (int at = 0; at < field.length(); at++) {
            char c = field.charAt(at);
            if (c == '\\') {
                at++;
                switch (field.charAt(at)) {
                    case 't': c = '\t'; break;
                    case 'n': c = '\n'; break;
                    case 'r': c = '\r'; break;
                    default: break;
                }
            }
            text.append(c);
        }
        return text.toString();
    }

    private static final class Message implements EvaluationContext {
        private final Map<String, String> properties;

        Message(Map<String, String> properties) {
            this.properties = properties;
        }

        @Override
        public Object get(String name) {
            return properties.get(name);
        }

        @Override
        public Map<String, Object> keyValues() {
            return new HashMap<>(properties);
        }
    }

    /** What the parser has not looked at when it is satisfied; a comment without a line's end, two signs to it, is nothing. */
    private static final class Rest extends SelectorParser {
        Rest(String text) {
            super(text);
        }

        boolean isNothing() {
            ComparisonExpression.CONVERT_STRING_EXPRESSIONS.set(true);
            try {
                JmsSelector();
                Token next = getNextToken();
                return next.kind == EOF || isMinus(next) && isMinus(getNextToken()) && token.beginLine == next.beginLine
                    && token.beginColumn == next.endColumn + 1;
            } catch (Throwable broken) {
                return false;
            } finally {
                ComparisonExpression.CONVERT_STRING_EXPRESSIONS.remove();
            }
        }

        private static boolean isMinus(Token token) {
            return token.image.equals("-");
        }
    }
}
