"""The unmodified Python SDK against a running broker: send, receive and acknowledge, with a simple and a push consumer.

Usage: roundtrip.py ENDPOINT TOPIC GROUP COUNT [tls]
The push consumer reads the same messages as the consumer group GROUP-push, and GROUP-tag, GROUP-sql and GROUP-none want
some of them. Ends with 1 unless every message that was sent arrived exactly once in every consumer group that wants it.
"""

import sys
import threading
import time
from collections import Counter

from rocketmq import (ClientConfiguration, ConsumeResult, Credentials, FilterExpression, Message, MessageListener,
                      Producer, PushConsumer, SimpleConsumer)
from rocketmq.v5.model.filter_expression import FilterType

DEADLINE_S = 120
INVISIBLE_S = 60
# Receives that must come back empty before we believe that nothing arrives twice.
EMPTY_RECEIVES = 2


def send(config, topic, count, tls):
    """Sends the messages and returns the ids of the receipts, each with the body sent under it."""
    producer = Producer(config, (topic,), tls_enable=tls)
    producer.startup()
    sent = {}
    for number in range(count):
        message = Message()
        message.topic = topic
        message.tag = "python"
        message.keys = f"key-{number}"
        message.body = f"message {number}".encode()
        message.add_property("number", str(number))
        sent[producer.send(message).message_id] = message.body
    producer.shutdown()
    return sent


def receive_simple(config, topic, group, count, tls, expression=None):
    """Receives and acknowledges with a simple consumer until everything it wants came and nothing more does."""
    subscription = {topic: expression or FilterExpression()}
    consumer = SimpleConsumer(config, group, subscription, await_duration=1, tls_enable=tls)
    consumer.startup()
    received, wrong, empty, deadline = Counter(), [], 0, time.monotonic() + DEADLINE_S
    while (len(received) < count or empty < EMPTY_RECEIVES) and time.monotonic() < deadline:
        batch = consumer.receive(32, INVISIBLE_S) or []
        empty = 0 if batch else empty + 1
        for message in batch:
            received[message.message_id] += 1
            check(message, wrong)
            consumer.ack(message)
    consumer.shutdown()
    return received, wrong


def receive_push(config, topic, group, count, tls):
    """Receives with a push consumer, which acknowledges by itself."""
    received, wrong, lock, complete = Counter(), [], threading.Lock(), threading.Event()

    class Listener(MessageListener):
        def consume(self, message):
            with lock:
                received[message.message_id] += 1
                check(message, wrong)
                if len(received) >= count:
                    complete.set()
            return ConsumeResult.SUCCESS

    consumer = PushConsumer(config, group, Listener(), {topic: FilterExpression()}, tls_enable=tls)
    consumer.startup()
    complete.wait(DEADLINE_S)
    # The SDK acknowledges after the listener has returned, and a shutdown cuts that short.
    time.sleep(2)
    consumer.shutdown()
    return received, wrong


def check(message, wrong):
    """Notes a message whose parts do not belong together."""
    number = message.properties.get("number")
    expected = (f"message {number}".encode(), "python", f"key-{number}", 1)
    found = (message.body, message.tag, " ".join(message.keys), message.delivery_attempt)
    if found != expected:
        wrong.append((expected, found))


def report(name, sent, received, wrong):
    """Prints the line the driver looks for and tells whether all is well."""
    duplicates = sum(received.values()) - len(received)
    missing, foreign = len(sent.keys() - received.keys()), len(received.keys() - sent.keys())
    print(f"python {name}: sent={len(sent)} received={len(received)} duplicates={duplicates}"
          f" missing={missing} foreign={foreign} wrong={len(wrong)}", flush=True)
    for expected, found in wrong[:3]:
        print(f"  expected {expected}, found {found}")
    return not (duplicates or missing or foreign or wrong)


def filters(config, topic, group, sent, tls):
    """Consumer groups that want some of the messages, by tag and by condition, and one that wants none."""
    def last(body, most=50):
        return int(body.decode().split()[1]) >= len(sent) - most
    cases = [
        ("tag", FilterExpression("other || python"), lambda body: True),
        ("sql", FilterExpression(f"number >= {len(sent) - 50} AND TAGS = 'python'", FilterType.SQL), last),
        ("none", FilterExpression("other"), lambda body: False),
    ]
    good = True
    for name, expression, wants in cases:
        wanted = {id: body for id, body in sent.items() if wants(body)}
        received = receive_simple(config, topic, f"{group}-{name}", len(wanted), tls, expression)
        good &= report(name, wanted, *received)
    return good


def main():
    endpoint, topic, group, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    tls = "tls" in sys.argv[5:]
    config = ClientConfiguration(endpoint, Credentials())
    sent = send(config, topic, count, tls)
    good = len(sent) == count
    good &= report("simple", sent, *receive_simple(config, topic, group, count, tls))
    good &= report("push", sent, *receive_push(config, topic, f"{group}-push", count, tls))
    good &= filters(config, topic, group, sent, tls)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
