#!/usr/bin/env python3
"""Hostile check 6: many topics and consumer groups are created and deleted, then again: it still works, memory and state are
as before.

Each worker goes round: a topic, sometimes with a message and a consumer group that reads it, then both are deleted. After
each round the catalogue must be empty, and neither the nodes' memory nor the bytes of their state engine may have grown between
the first round and the last. The log and its cache are kept small: they are full after the first round, as they should be.

Parameters: TOPICS (100000: of each round), ROUNDS (2), WORKERS (16), GROUPS (10: every so many topics a consumer group),
GROWTH_MIB (16: what a node may have more of each after the last round than after the first).
"""

import json
import threading
import time

from lib import Check, http, parameter, wait_for
from rpc import Client

TOPICS, ROUNDS, WORKERS = parameter("TOPICS", 100_000), parameter("ROUNDS", 2), parameter("WORKERS", 16)
GROUPS, GROWTH_MIB = parameter("GROUPS", 10), parameter("GROWTH_MIB", 16)


def until(method, address, path, body, wanted, tries=100):
    """Repeats what may have been refused for the moment; the last answer."""
    for _ in range(tries):
        answer = http(method, address, path, body, timeout=10)
        if answer[0] in wanted:
            return answer
        time.sleep(0.1)
    return answer


class Worker(threading.Thread):
    def __init__(self, cluster, turn, number):
        super().__init__(daemon=True)
        self.node = cluster.nodes[number % len(cluster.nodes)]
        self.turn, self.number, self.failures = turn, number, []
        self.start()

    def run(self):
        client = Client(self.node.client, f"worker-{self.number}@1")
        try:
            for each in range(self.number, TOPICS, WORKERS):
                self.one(client, each)
        except Exception as error:  # a failure of the check, and never a silent one
            self.failures.append(f"{type(error).__name__}: {error}")
        client.close()

    def one(self, client, each):
        topic, group = f"t-{self.turn}-{each}", f"g-{self.turn}-{each}"
        # A retry of what took effect finds it there, or gone.
        self.must(until("POST", self.node.http, "/v1/topics", {"name": topic, "queues": 8}, (201, 409)), topic)
        if each % GROUPS == 0:
            self.must(until("POST", self.node.http, "/v1/consumer-groups", {"name": group}, (201, 409)), group)
            client.send(topic, f"{topic}-message")
            client.receive(topic, group)
            self.must(until("DELETE", self.node.http, f"/v1/consumer-groups/{group}", None, (200, 204, 404)), group)
        self.must(until("DELETE", self.node.http, f"/v1/topics/{topic}", None, (200, 204, 404)), topic)

    def must(self, answer, what):
        if answer[0] not in (200, 201, 204, 404, 409):
            self.failures.append(f"{what}: {answer}")


def names(cluster, what):
    status, text = cluster.any_running().get(f"/v1/{what}", timeout=30)
    return json.loads(text) if status == 200 else None


def state_bytes(node):
    return sum(path.stat().st_size for path in (node.directory / "state").glob("*.sst"))


def figures(cluster):
    return [(node.resident_bytes(), state_bytes(node)) for node in cluster.nodes]


def body(check):
    cluster = check.cluster(args=["--log-cache-size", "8MiB", "--log-segment-size", "16MiB", "--retention-size", "64MiB"]).start()
    cluster.wait_healthy()
    after = []
    for turn in range(ROUNDS):
        began = time.monotonic()
        workers = [Worker(cluster, turn, number) for number in range(WORKERS)]
        for worker in workers:
            worker.join()
        failures = [failure for worker in workers for failure in worker.failures]
        check.must(not failures, f"round {turn}: {len(failures)} failures: {failures[:3]}")
        seconds = wait_for(120, "the catalogue is empty", lambda: not names(cluster, "topics"), every=0.5)
        after.append(figures(cluster))
        check.say(f"round {turn}: {TOPICS} topics in {time.monotonic() - began:.0f} s, the last forgotten {seconds:.1f} s later; "
                  f"MiB of memory and state {[(memory >> 20, state >> 20) for memory, state in after[-1]]}")
    for before, now in zip(after[0], after[-1]):
        for what, first, last in zip(("memory", "the state"), before, now):
            check.must(last - first <= GROWTH_MIB << 20, f"{what} grew from {first >> 20} to {last >> 20} MiB")
    check.must(cluster.create_topic("after", 8)[0] == 201, "no topic can be created any more")
    answer = Client(cluster.any_running().client).send("after", "one")
    check.must(answer == "OK", f"a send after all that: {answer}")


Check("hostile-6", f"{TOPICS} topics created and deleted, {ROUNDS} times").run(body)
