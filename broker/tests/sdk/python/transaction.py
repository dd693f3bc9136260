"""Transactions with the unmodified Python SDK: some are committed, some rolled back, and some forgotten, about which the broker asks
the producer. Consumers get what was committed, once, and nothing else.

Usage: transaction.py ENDPOINT TOPIC GROUP COUNT
"""

import sys
import time
from collections import Counter

from rocketmq import (ClientConfiguration, Credentials, FilterExpression, Message, Producer, SimpleConsumer, TransactionChecker,
                      TransactionResolution)

DEADLINE_S = 120
INVISIBLE_S = 60
# Receives that must come back empty before we believe that nothing else comes.
EMPTY_RECEIVES = 2
OUTCOMES = ("commit", "rollback", "forgotten, commit", "forgotten, rollback")


class Checker(TransactionChecker):
    """Knows from the message how its transaction ended."""

    def __init__(self):
        self.asked = Counter()
        self.wrong = 0

    def check(self, message):
        outcome = message.properties.get("outcome", "")
        self.asked[message.message_id] += 1
        self.wrong += not outcome or message.body != f"message {message.properties.get('number')}".encode()
        return TransactionResolution.COMMIT if outcome.endswith("commit") else TransactionResolution.ROLLBACK


def send(producer, topic, count):
    """Ids by outcome."""
    sent = {outcome: set() for outcome in OUTCOMES}
    for number in range(count):
        outcome = OUTCOMES[number % len(OUTCOMES)]
        message = Message()
        message.topic = topic
        message.body = f"message {number}".encode()
        message.add_property("number", str(number))
        message.add_property("outcome", outcome)
        transaction = producer.begin_transaction()
        receipt = producer.send(message, transaction)
        if not receipt.transaction_id:
            raise ValueError(f"message {number} has no transaction id")
        sent[outcome].add(receipt.message_id)
        if outcome == "commit":
            transaction.commit()
        elif outcome == "rollback":
            transaction.rollback()
    return sent


def receive(config, topic, group, count):
    consumer = SimpleConsumer(config, group, {topic: FilterExpression()}, await_duration=1)
    consumer.startup()
    received, empty, deadline = Counter(), 0, time.monotonic() + DEADLINE_S
    while (len(received) < count or empty < EMPTY_RECEIVES) and time.monotonic() < deadline:
        batch = consumer.receive(32, INVISIBLE_S) or []
        empty = 0 if batch else empty + 1
        for message in batch:
            received[message.message_id] += 1
            consumer.ack(message)
    consumer.shutdown()
    return received


def main():
    endpoint, topic, group, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    config = ClientConfiguration(endpoint, Credentials())
    checker = Checker()
    producer = Producer(config, (topic,), checker=checker)
    producer.startup()
    sent = send(producer, topic, count)
    wanted = sent["commit"] | sent["forgotten, commit"]
    received = receive(config, topic, group, len(wanted))
    forgotten = sent["forgotten, commit"] | sent["forgotten, rollback"]
    deadline = time.monotonic() + DEADLINE_S
    while not forgotten <= checker.asked.keys() and time.monotonic() < deadline:
        time.sleep(0.1)
    producer.shutdown()
    duplicates, missing = sum(received.values()) - len(received), len(wanted - received.keys())
    foreign, asked = len(received.keys() - wanted), len(checker.asked.keys() & forgotten)
    needless = len(checker.asked.keys() - forgotten)
    print(f"python transaction: sent={count} received={len(received)} duplicates={duplicates} missing={missing} foreign={foreign}"
          f" wrong={checker.wrong} asked={asked} of {len(forgotten)} needless={needless}", flush=True)
    sys.exit(1 if duplicates or missing or foreign or checker.wrong or asked < len(forgotten) else 0)


if __name__ == "__main__":
    main()
