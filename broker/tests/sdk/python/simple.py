"""A simple consumer of the unmodified Python SDK that says what it gets, and acknowledges it.

Usage: simple.py ENDPOINT TOPIC GROUP
Prints `ready` before its first receive, `got BODY ATTEMPT` for every message when it comes, and ends with its input.
"""

import os
import sys
import threading

from rocketmq import ClientConfiguration, Credentials, FilterExpression, SimpleConsumer

AWAIT_S, INVISIBLE_S = 5, 60


def end_with_input():
    sys.stdin.read()
    os._exit(0)


def main():
    endpoint, topic, group = sys.argv[1:4]
    config = ClientConfiguration(endpoint, Credentials())
    consumer = SimpleConsumer(config, group, {topic: FilterExpression()}, await_duration=AWAIT_S, tls_enable=False)
    consumer.startup()
    threading.Thread(target=end_with_input, daemon=True).start()
    print("ready", flush=True)
    while True:
        for message in consumer.receive(32, INVISIBLE_S) or []:
            print("got", message.body.decode(), message.delivery_attempt, flush=True)
            consumer.ack(message)


if __name__ == "__main__":
    main()
