"""A push consumer of the unmodified Python SDK that says what it gets, and works on each message for a while.

Usage: push.py ENDPOINT TOPIC GROUP SECONDS
Prints `got BODY ATTEMPT` for every message when it comes, and ends when its input does.
"""

import sys
import threading
import time

from rocketmq import (ClientConfiguration, ConsumeResult, Credentials, FilterExpression, MessageListener, PushConsumer)


class Listener(MessageListener):
    def __init__(self, seconds):
        self.seconds, self.lock = seconds, threading.Lock()

    def consume(self, message):
        with self.lock:
            print("got", message.body.decode(), message.delivery_attempt, flush=True)
        time.sleep(self.seconds)
        return ConsumeResult.SUCCESS


def main():
    endpoint, topic, group, seconds = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
    config = ClientConfiguration(endpoint, Credentials())
    consumer = PushConsumer(config, group, Listener(seconds), {topic: FilterExpression()}, tls_enable=False)
    consumer.startup()
    print("ready", flush=True)
    sys.stdin.read()
    consumer.shutdown()


if __name__ == "__main__":
    main()
