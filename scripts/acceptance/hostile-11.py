#!/usr/bin/env python3
"""Hostile check 11: the log stays within 1.25 x of `retention.size` while it is written as fast as the disk takes it, with
dead letters beside.

Producers send as much as they can; a consumer group gives every message of one topic up, which makes dead letters that
have to be copied from segment to segment. The size of every node's log directory is measured all the time.

Parameters: SECONDS (600), SIZE_MIB (512: retention.size), SEGMENT_MIB (32), DEAD_PER_SECOND (1000), PAYLOAD (8192: so
that the disk is the limit and not the processor), IN_FLIGHT (256).
"""

import threading
import time

from lib import Bench, Check, parameter
from rpc import Broken, Client, grpc

SECONDS, SIZE_MIB, SEGMENT_MIB = parameter("SECONDS", 600), parameter("SIZE_MIB", 512), parameter("SEGMENT_MIB", 32)
DEAD_PER_SECOND, PAYLOAD, IN_FLIGHT = parameter("DEAD_PER_SECOND", 1000), parameter("PAYLOAD", 8192), parameter("IN_FLIGHT", 256)
MIB, FACTOR, DEAD_QUEUES, SAY_EVERY_S = 1 << 20, 1.25, 8, 30


def log_bytes(node):
    total = 0
    for path in (node.directory / "log").glob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:  # recycled between two looks
            pass
    return total


class Undertaker(threading.Thread):
    """Sends messages to a topic whose consumer group has one attempt, and lets their leases end: dead letters."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.client, self.sent, self.over = Client(node.client, "undertaker@1"), 0, False
        self.start()

    def run(self):
        began = time.monotonic()
        while not self.over:
            due = int((time.monotonic() - began) * DEAD_PER_SECOND) - self.sent
            if due <= 0:
                time.sleep(0.01)
                continue
            try:
                waiting = [self.client.send_later("doomed", f"doomed-{self.sent + n}") for n in range(min(due, 200))]
                for answer in waiting:
                    answer.result()
                self.sent += len(waiting)
            except (Broken, grpc.RpcError):
                time.sleep(0.1)


class Reader(threading.Thread):
    """Receives what is doomed and never acknowledges it."""

    def __init__(self, node, number):
        super().__init__(daemon=True)
        self.client, self.over = Client(node.client, f"reader-{number}@1"), False
        self.start()

    def run(self):
        while not self.over:
            try:
                self.client.receive("doomed", "doomed", invisible_s=10, poll_s=1)
            except (Broken, grpc.RpcError):
                time.sleep(0.1)


def body(check):
    cluster = check.cluster(args=["--log-segment-size", f"{SEGMENT_MIB}MiB", "--retention-size", f"{SIZE_MIB}MiB"]).start()
    cluster.wait_healthy()
    check.must(cluster.create_topic("doomed", DEAD_QUEUES)[0] == 201, "the topic was not created")
    check.must(cluster.create_group("doomed", max_attempts=1)[0] == 201, "the consumer group was not created")
    bench = Bench(check, "load", "produce", cluster, "--topic", "load", "--queues", 24, "--payload", PAYLOAD, "--in-flight",
                  IN_FLIGHT, "--duration", f"{SECONDS}s", "--give-up", "60s")
    bench.wait_flowing(cluster)
    undertaker = Undertaker(cluster[1])
    readers = [Reader(cluster.nodes[number % 3], number) for number in range(9)]
    most, lately = [0] * len(cluster.nodes), [0] * len(cluster.nodes)
    say_at = time.monotonic() + SAY_EVERY_S
    while bench.running():
        sizes = [log_bytes(node) for node in cluster.nodes]
        most, lately = ([max(pair) for pair in zip(before, sizes)] for before in (most, lately))
        if time.monotonic() >= say_at:
            check.say(f"{undertaker.sent} doomed; at most {[size // MIB for size in lately]} MiB lately")
            say_at, lately = time.monotonic() + SAY_EVERY_S, sizes
        time.sleep(0.1)
    for each in [undertaker, *readers]:
        each.over = True
    written = [node.metric("flotilla_log_written_bytes_total") or 0 for node in cluster.nodes]
    check.say(f"{undertaker.sent} doomed messages sent; logs written {[int(size) // MIB for size in written]} MiB, "
              f"at most {[size // MIB for size in most]} MiB on disk, of {SIZE_MIB} MiB")
    for node, size, bytes_written in zip(cluster.nodes, most, written):
        check.must(size <= FACTOR * SIZE_MIB * MIB, f"node {node.number} had a log of {size // MIB} MiB")
        check.must(bytes_written > 2 * SIZE_MIB * MIB, f"node {node.number} wrote too little to show anything")


Check("hostile-11", f"retention at full write rate for {SECONDS} s").run(body)
