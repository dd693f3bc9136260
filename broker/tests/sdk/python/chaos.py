"""Clients of the unmodified Python SDK for chaos: each says what it is about to do and what came of it, as JSON lines.

Usage: chaos.py produce ENDPOINTS NAME TOPIC[,TOPIC]
       chaos.py consume ENDPOINTS GROUP TOPIC[,TOPIC] INVISIBLE_SECONDS
Every line is answered by one line of input before the program goes on, so that what is about to happen is written down
before it does. It ends when it is told `end`, or with its input.
"""

import itertools
import json
import os
import random
import sys
import time

from rocketmq import ClientConfiguration, Credentials, FilterExpression, Message, Producer, SimpleConsumer
from rocketmq.grpc_protocol import Code

AWAIT_S = 1
BATCH = 16
# After a failure the next try waits so long.
PAUSE_S = 0.05
SEND_PAUSE_S = (0.005, 0.075)
REPEATED = (1, 100)


def say(event, **more):
    """Says something, and returns the words of the answer."""
    print(json.dumps({"event": event, **more}), flush=True)
    answer = sys.stdin.readline().split()
    if not answer or answer[0] == "end":
        # Without a good-bye: nothing is told to the service.
        sys.stdout.flush()
        os._exit(0)
    return answer


def started(make):
    """A client that has started: the SDK gives up when its first requests are lost, and its user does not."""
    while True:
        client = make()
        try:
            client.startup()
            return client
        except Exception as error:
            say("failed", request="start", why=str(error))
            time.sleep(PAUSE_S)


def produce(config, name, topics):
    producer = started(lambda: Producer(config, topics, tls_enable=False))
    for number in itertools.count():
        topic = random.choice(topics)
        key = f"{topic}/{name}-{number:06}"
        message = Message()
        message.topic, message.keys = topic, key
        message.body = (key * random.randint(*REPEATED)).encode()
        say("sending", topic=topic, id=key)
        try:
            say("stored", topic=topic, id=key, offset=producer.send(message).offset)
        except Exception as error:
            say("failed", request="send", why=str(error))
        time.sleep(random.uniform(*SEND_PAUSE_S))


def remember_places():
    """The SDK does not show where a message stands, and the oracles want to know."""
    original = Message.fromProtobuf

    def from_protobuf(self, message):
        found = original(self, message)
        found.place = (message.system_properties.queue_id, message.system_properties.queue_offset)
        return found

    Message.fromProtobuf = from_protobuf


def told(message):
    key = next(iter(message.keys), message.message_id)
    whole = message.body == (key * (len(message.body) // len(key))).encode() and not message.corrupted
    return {"id": key, "topic": message.topic, "queue": message.place[0], "offset": message.place[1],
            "attempt": message.delivery_attempt, "intact": whole}


def is_refused(error):
    return getattr(error, "code", None) == Code.INVALID_RECEIPT_HANDLE


def acknowledge(consumer, number, message):
    """Until the answer is certain."""
    say("ending", number=number)
    while True:
        try:
            consumer.ack(message)
            return say("acked", number=number)
        except Exception as error:
            if is_refused(error):
                return say("ack-refused", number=number)
            say("failed", request="ack", why=str(error))
            time.sleep(PAUSE_S)


def hide(consumer, number, message, seconds):
    """Once, and then acknowledges with the handle that came of it."""
    say("hiding", number=number, seconds=seconds)
    try:
        consumer.change_invisible_duration(message, seconds)
    except Exception as error:
        if is_refused(error):
            say("hide-refused", number=number)
        else:
            say("failed", request="hide", why=str(error))
        return
    say("hidden", number=number)
    acknowledge(consumer, number, message)


def consume(config, group, topics, invisible):
    remember_places()
    subscription = {topic: FilterExpression() for topic in topics}
    consumer = started(lambda: SimpleConsumer(config, group, subscription, await_duration=AWAIT_S, tls_enable=False))
    while True:
        say("asking")
        try:
            messages = consumer.receive(BATCH, invisible) or []
        except Exception as error:
            say("failed", request="receive", why=str(error))
            time.sleep(PAUSE_S)
            continue
        # The answer says what to do with each: `ack:NUMBER` and `hide:NUMBER:SECONDS`.
        for order in say("got", messages=[told(message) for message in messages])[1:]:
            what, number, *more = order.split(":")
            number = int(number)
            if what == "ack":
                acknowledge(consumer, number, messages[number])
            else:
                hide(consumer, number, messages[number], int(more[0]))


def main():
    role, endpoints, name, topics = sys.argv[1:5]
    config = ClientConfiguration(endpoints, Credentials())
    if role == "produce":
        produce(config, name, tuple(topics.split(",")))
    else:
        consume(config, name, topics.split(","), int(sys.argv[5]))


if __name__ == "__main__":
    main()
