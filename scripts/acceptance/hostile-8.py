#!/usr/bin/env python3
"""Hostile check 8: producers that send three times what the cluster can take hold up nobody but themselves.

A quiet workload first: simple consumers that acknowledge (the time of every acknowledgement is taken), and push
consumers that hold messages for longer than any lease lasts. Then the same beside a flood: the rate that the cluster takes is measured, and three load
generators each try to send that much. Nothing may be delivered twice, no acknowledgement be refused, and the 99th percentile of
acknowledgements may be three times the quiet one at most.

Parameters: SECONDS (40 s of each part; more than a lease of a push consumer needs to be renewed), RATE (20 messages/s of each quiet
consumer at most), HELD (60 messages that push consumers hold), IN_FLIGHT (2048 sends of each generator), RATIO (3).
"""

import threading
import time

from lib import Bench, Check, parameter, percentile
from rpc import Broken, Client, attempt_of, definition, id_of

SECONDS, RATE, HELD, RATIO = parameter("SECONDS", 40), parameter("RATE", 20), parameter("HELD", 60), parameter("RATIO", 3.0)
IN_FLIGHT = parameter("IN_FLIGHT", 2048)


class Worker(threading.Thread):
    """A simple consumer at one node; what it got, how long acknowledgements took, and what they said."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.client = Client(node.client, client_id=f"worker@{node.number}")
        self.times, self.codes, self.attempts, self.ended = [], {}, [], threading.Event()

    def run(self):
        while not self.ended.is_set():
            try:
                _, messages = self.client.receive("work", "workers", count=1, invisible_s=60, poll_s=1)
            except Broken:
                continue
            self.ended.wait(1 / RATE)
            for each in messages:
                self.attempts.append(attempt_of(each))
                began = time.monotonic()
                try:
                    code = self.client.ack("work", "workers", [each])[0]
                except Broken as broken:
                    code = str(broken.args[0])
                self.times.append((began, time.monotonic() - began))
                self.codes[code] = self.codes.get(code, 0) + 1


class Holder(threading.Thread):
    """A push consumer that holds what it has, and lives."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.clients = [Client(node.client, client_id="holder@1") for node in cluster.nodes]
        self.held, self.ended = [], threading.Event()

    def take(self):
        turn = 0
        while len(self.held) < HELD:
            turn += 1
            self.held += self.clients[turn % len(self.clients)].receive("held", "holders", poll_s=1, auto_renew=True)[1]

    def run(self):
        while not self.ended.wait(10):
            for client in self.clients:
                try:
                    client.heartbeat("holders")
                except Broken:
                    pass


def main(check):
    cluster = check.cluster().start()
    cluster.wait_spread()
    for topic in ("work", "held", "flood"):
        cluster.create_topic(topic, 6)
    client = Client(cluster.nodes[0].client)
    for number in range(HELD):
        check.must(client.send("held", f"held-{number}") == "OK", "a message was not stored")
    # More than can be worked on: a flood may refuse everybody's sends, and is measured by what is not sent.
    stored = int(len(cluster.nodes) * RATE * (3 * SECONDS + 30))
    pending = [client.send_later("work", f"work-{number}") for number in range(stored)]
    check.must(all(each.result().status.code == definition.OK for each in pending), "a message was not stored")
    holder, workers = Holder(cluster), [Worker(node) for node in cluster.nodes]
    holder.take()
    for each in [holder, *workers]:
        each.start()
    flood = ["--topic", "flood", "--payload", 4096]
    took = Bench(check, "what-it-takes", "produce", cluster, *flood, "--in-flight", 512, "--rate", "max", "--duration",
                 "10s").wait(120)
    rate = int(took["messages_per_second"]) if took else 1000
    time.sleep(5)
    quiet = time.monotonic()
    time.sleep(SECONDS)
    floods = [Bench(check, f"flood-{number}", "produce", cluster, *flood, "--in-flight", IN_FLIGHT, "--rate", rate,
                    "--duration", f"{SECONDS + 15}s") for number in range(3)]
    floods[0].wait_flowing(cluster)
    loud = time.monotonic()
    time.sleep(SECONDS)
    for each in floods:
        each.process.terminate()
        each.process.wait()
    for each in workers:
        each.ended.set()

    def p99(since):
        return percentile([took for each in workers for at, took in each.times if since <= at < since + SECONDS], 0.99)
    counts = [sum(since <= at < since + SECONDS for each in workers for at, _ in each.times) for since in (quiet, loud)]
    check.say(f"{counts[0]} acknowledgements in quiet, {counts[1]} beside the flood")
    check.must(min(counts) > 100, f"too few acknowledgements to judge by: {counts}")
    check.say(f"the cluster takes {rate} messages/s; p99 of acknowledgements {p99(quiet) * 1000:.1f} ms, beside three times as "
              f"much {p99(loud) * 1000:.1f} ms")
    check.must(p99(loud) <= RATIO * p99(quiet), f"acknowledgements take {p99(loud) / max(p99(quiet), 1e-9):.1f} times as long")
    codes = {}
    for each in workers:
        for code, count in each.codes.items():
            codes[code] = codes.get(code, 0) + count
    check.must(set(codes) == {"OK"}, f"acknowledgements were refused: {codes}")
    again = sum(attempt > 1 for each in workers for attempt in each.attempts)
    check.must(again == 0, f"{again} messages were delivered again")
    left = client.receive("held", "holders", poll_s=2)[1]
    check.must(not left, f"{len(left)} messages of a living push consumer came to another, such as {[id_of(each) for each in left[:3]]}")
    said = [code for at in range(0, HELD, 32) for code in client.ack("held", "holders", holder.held[at:at + 32])]
    check.must(set(said) == {"OK"}, f"what a push consumer held was lost: {sorted(set(said))}")
    holder.ended.set()


if __name__ == "__main__":
    Check("hostile-8", "three times as many sends as the cluster takes").run(main)
