#!/usr/bin/env python3
"""Check 8: 10,000 queues on three nodes cost little: in rate, in memory, and in the time a restart takes.

The same load is sent in turns to one topic of 64 queues and over all of 1,000 topics with 10 queues each, on the same
nodes, so that a machine that gets slower or faster meets both; the median rates are compared. Then all nodes are killed
with kill -9 at once: they serve again when all are ready, every shard has a leader, and a send to each of 200 topics
succeeded. The memory of an idle queue is what the nodes grow by when the topics are created; it is only reported.

Parameters: DURATION (20 s per run), ROUNDS (3 pairs of runs), IN_FLIGHT (256), TOPICS (1000, at least 2), QUEUES (10
per topic).
"""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from lib import Bench, Check, parameter, verify, wait_for
from rpc import Broken, Client

DURATION, ROUNDS, IN_FLIGHT = parameter("DURATION", 20), parameter("ROUNDS", 3), parameter("IN_FLIGHT", 256)
TOPICS, QUEUES = parameter("TOPICS", 1000), parameter("QUEUES", 10)
RATIO, LIMIT_S, PROBED = 0.8, 10.0, min(200, TOPICS)
# As the bench names them.
MANY = [f"many-{number}" for number in range(TOPICS)]
FEW = ["--topic", "few", "--queues", 64]
SPREAD = ["--topic", "many", "--topics", TOPICS, "--queues", QUEUES]


def memory(cluster):
    return [node.resident_bytes() for node in cluster.nodes]


def megabytes(sizes):
    return "/".join(f"{size / 1e6:.1f}" for size in sizes) + " MB"


def create_topics(check, cluster):
    """All topics at once; what an idle queue costs each node in memory."""
    before, began = memory(cluster), time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda name: cluster.create_topic(name, QUEUES), MANY))
    wrong = [answer for answer in answers if answer[0] != 201]
    check.must(not wrong, f"{len(wrong)} topics were not created: {wrong[:1]}")

    def known(node):
        status, text = node.get("/v1/topics", timeout=10)
        return status == 200 and len(json.loads(text)) >= TOPICS
    wait_for(30, "every node knows all topics", lambda: all(known(node) for node in cluster.nodes))
    took, after = time.monotonic() - began, memory(cluster)
    per_queue = [(new - old) / (TOPICS * QUEUES) for old, new in zip(before, after)]
    check.say(f"{TOPICS} topics with {QUEUES} queues each created in {took:.1f} s; nodes grew from {megabytes(before)} "
              f"to {megabytes(after)} resident: {'/'.join(f'{size:.0f}' for size in per_queue)} bytes per idle queue")


def run(check, cluster, name, where, seconds):
    """One load; its rate and its processor time per message, zeros without a report."""
    bench = Bench(check, name, "produce", cluster, *where, "--payload", 1024, "--in-flight", IN_FLIGHT, "--rate", "max",
                  "--duration", f"{seconds}s")
    report = bench.wait(seconds + 300)
    verify(check, report, name)
    if report is None:
        return 0.0, 0.0
    cpu = report["cost"]["cpu_us_per_message"]
    check.say(f"{name}: {cpu['servers'] or 0:.0f} us of CPU per message in the nodes and {cpu['client']:.0f} us in the "
              f"client; verified in {report['verification']['seconds']:.0f} s")
    return report["messages_per_second"], cpu["total"] or 0.0


def compare(check, cluster):
    # Caches, and what a queue's first message brings about.
    for name, where in (("warm-up-few", FEW), ("warm-up-many", SPREAD)):
        run(check, cluster, name, where, min(5, DURATION))
    few, many = [], []
    for turn in range(ROUNDS):
        few.append(run(check, cluster, f"few-{turn}", FEW, DURATION))
        many.append(run(check, cluster, f"many-{turn}", SPREAD, DURATION))
    (few_rate, few_cpu), (many_rate, many_cpu) = ([median(column) for column in zip(*runs)] for runs in (few, many))
    ratio = many_rate / max(few_rate, 1.0)
    check.say(f"medians of {ROUNDS} runs: {many_rate:.0f} messages/s over {TOPICS * QUEUES} queues, {few_rate:.0f} "
              f"over 64: {ratio:.0%}, pair by pair {[f'{b[0] / max(a[0], 1.0):.0%}' for a, b in zip(few, many)]}; "
              f"{many_cpu:.0f} us of CPU per message, {few_cpu:.0f} us over 64")
    check.must(ratio >= RATIO, f"{TOPICS * QUEUES} queues reach {ratio:.0%} of the rate with 64 queues")


def every_shard_led(cluster):
    views = [node.view() for node in cluster.nodes]
    return all(view and view["shards"] and all(shard["leader"] for shard in view["shards"]) for view in views)


def send_to_each(cluster, topics):
    """Until each topic took one message, through all nodes in turn; how many tries failed meanwhile."""
    clients, failed, tries = [Client(node.client) for node in cluster.nodes], 0, 0
    waiting, began = list(topics), time.monotonic()
    while waiting and time.monotonic() - began < 60:
        tries += 1
        topic = waiting.pop()
        try:
            taken = clients[tries % len(clients)].send(topic, f"after-restart-{topic}") == "OK"
        except Broken:
            taken = False
        if not taken:
            failed += 1
            waiting.insert(0, topic)
            time.sleep(0.02)
    for client in clients:
        client.close()
    if waiting:
        raise TimeoutError(f"{len(waiting)} topics take no message, such as {waiting[0]}")
    return failed


def restart(check, cluster):
    before = memory(cluster)
    for node in cluster.nodes:
        node.process.kill()
    for node in cluster.nodes:
        node.kill()
    began = time.monotonic()
    for node in cluster.nodes:
        node.start()
    cluster.wait_ready(60)
    ready = time.monotonic() - began
    wait_for(60, "every node knows a leader of every shard", lambda: every_shard_led(cluster))
    led = time.monotonic() - began
    failed = send_to_each(cluster, random.sample(MANY, PROBED))
    served = time.monotonic() - began
    check.say(f"after kill -9 of all nodes: ready in {ready:.2f} s, every shard led in {led:.2f} s, {PROBED} topics "
              f"sent to in {served:.2f} s ({failed} tries failed); {megabytes(memory(cluster))} resident, "
              f"{megabytes(before)} before")
    check.must(served <= LIMIT_S, f"served again only after {served:.1f} s")


def body(check):
    cluster = check.cluster().start()
    cluster.wait_healthy()
    cluster.wait_spread()
    check.must(cluster.create_topic("few", 64)[0] == 201, "the topic of 64 queues was not created")
    create_topics(check, cluster)
    compare(check, cluster)
    restart(check, cluster)
    cluster.wait_healthy(30)


Check(8, f"{TOPICS * QUEUES} queues against 64, {IN_FLIGHT} in flight, {ROUNDS} pairs of {DURATION} s").run(body)
