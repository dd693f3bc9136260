#!/usr/bin/env python3
"""Check 9: consumers that are slow or far behind do not slow a producer down.

A steady producer (open loop, latency from when each message was due) sends to a topic with an old backlog, in turns
alone and beside two crowds that use the same topic:

- 50 consumer groups that start at new messages, receive and never acknowledge: each one receive of up to 32 messages a
  second, with a long poll of 2 s, from all nodes in turn; what they leased comes again after INVISIBLE.
- 10 consumer groups that read the backlog from its oldest message, receiving and acknowledging 32 at a time, each at
  READERS_RATE. A group that has read as much as the backlog holds is followed by a new one that begins anew.

Their pace is bounded because two cores have to carry the clients too: it is the broker that is tested, not how Python
takes the processor from it. They run in a process of their own with a lower priority, whose processor time is printed.

The p99 of a steady load tells first of all whether a processor was free when one was needed. So a run counts only if
the machine below took no more than STOLEN of a core from this virtual one meanwhile, whatever its result; others are
done again, up to three times as many as wanted.

Parameters: DURATION (30 s per run), RATE (500 messages/s of the producer), ROUNDS (2 runs of each kind), STOLEN (0.05),
NEVER (50 groups), READERS (10 groups), READERS_RATE (100 messages/s each), BACKLOG (200000 messages of 1 KiB: more than
the nodes' caches hold), INVISIBLE (15 s).
"""

import math
import multiprocessing
import os
import re
import resource
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median

from lib import Bench, Check, http, parameter, percentile, verify
from rpc import Broken, Client, attempt_of
from grpc.experimental import ChannelOptions  # after rpc, which sees to it that there is gRPC

DURATION, RATE, ROUNDS = parameter("DURATION", 30), parameter("RATE", 500), parameter("ROUNDS", 2)
STOLEN = parameter("STOLEN", 0.05)
NEVER, READERS, READERS_RATE = parameter("NEVER", 50), parameter("READERS", 10), parameter("READERS_RATE", 100.0)
BACKLOG, INVISIBLE = parameter("BACKLOG", 200_000), parameter("INVISIBLE", 15)
TOPIC, BATCH, WARMUP, RATIO = "load", 32, 3, 1.5
TARGET = ["--topic", TOPIC, "--queues", 12, "--payload", 1024]
# Answers are read by the thread that asked. Otherwise each connection has a thread that hands every message over, and a
# hundred of them in turns at one interpreter delay everybody on the machine.
OPTIONS = [(ChannelOptions.SingleThreadedUnaryStream, 1)]


class Group(threading.Thread):
    """One consumer group at work, and its books."""

    def __init__(self, crowd, name, start_at):
        super().__init__(daemon=True, name=name)
        self.crowd, self.start_at, self.turns = crowd, start_at, 0
        self.clients = [Client(address, client_id=name, options=OPTIONS) for address in crowd.clients]
        self.books = {"received": 0, "again": 0, "begun": 0, "receives_ms": [], "failures": []}
        self.begin(name)

    def begin(self, group):
        self.books["begun"] += 1
        body = {"name": group, "start_at": self.start_at}
        answer = http("POST", self.crowd.http, "/v1/consumer-groups", body, timeout=30)
        if answer[0] != 201:
            self.failed(f"create: {answer}")

    def failed(self, what):
        self.books["failures"].append(what)

    def receive(self, group, poll_s):
        """One receive, each from the next node; the client that asked, and what came."""
        self.turns += 1
        client, began = self.clients[self.turns % len(self.clients)], time.monotonic()
        try:
            status, messages = client.receive(TOPIC, group, BATCH, INVISIBLE, poll_s, timeout=poll_s + 10)
        except Broken as broken:
            self.failed(f"receive: {broken.args[0]}")
            return client, []
        if status not in ("OK", "MESSAGE_NOT_FOUND"):
            self.failed(f"receive: {status}")
        if messages:
            self.books["receives_ms"].append((time.monotonic() - began) * 1000)
        self.books["received"] += len(messages)
        self.books["again"] += sum(attempt_of(each) > 1 for each in messages)
        return client, messages


class Never(Group):
    """Receives once a second, and never acknowledges."""

    def run(self):
        due = time.monotonic()
        while not self.crowd.over.is_set():
            self.receive(self.name, 2.0)
            # One that is late does not catch up: it is slow.
            due = max(due + 1.0, time.monotonic())
            self.crowd.pause_until(due)


class Reader(Group):
    """Reads from the beginning at its pace, and acknowledges everything."""

    def run(self):
        due, left, group = time.monotonic(), BACKLOG, self.name
        while not self.crowd.over.is_set():
            client, messages = self.receive(group, 0.5)
            if messages:
                self.acknowledge(client, group, messages)
            # One that is late catches up one second at most.
            due = max(due + max(len(messages), 1) / READERS_RATE, time.monotonic() - 1.0)
            left -= len(messages)
            if left <= 0:
                left, group = BACKLOG, f"{self.name}-{self.books['begun']}"
                self.begin(group)
            self.crowd.pause_until(due)

    def acknowledge(self, client, group, messages):
        try:
            for answer in client.ack(TOPIC, group, messages, timeout=10):
                if answer != "OK":
                    self.failed(f"acknowledge: {answer}")
        except Broken as broken:
            self.failed(f"acknowledge: {broken.args[0]}")


class Crowd:
    """All groups of one run, in a process of their own until `over`; what each did is put into `results`."""

    def __init__(self, clients, http_address, over, turn):
        self.clients, self.http, self.over = clients, http_address, over
        self.never = [Never(self, f"never-{turn}-{number}", "last") for number in range(NEVER)]
        self.readers = [Reader(self, f"reader-{turn}-{number}", "first") for number in range(READERS)]

    def pause_until(self, due):
        self.over.wait(max(0.0, due - time.monotonic()))

    @classmethod
    def process(cls, clients, http_address, started, over, results, turn):
        os.nice(5)
        crowd = cls(clients, http_address, threading.Event(), turn)
        began, before = time.monotonic(), cpu_seconds()
        for number, group in enumerate(crowd.never + crowd.readers):
            group.start()
            time.sleep(1.0 / (NEVER + READERS))  # so that they do not all ask in the same moment
        started.set()
        over.wait(DURATION + 120)  # in case nobody is left to say that it is over
        crowd.over.set()
        took, cpu = time.monotonic() - began, cpu_seconds() - before
        for group in crowd.never + crowd.readers:
            group.join(15)
        results.put((took, cpu, [group.books for group in crowd.never], [group.books for group in crowd.readers]))


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def waiting_seconds():
    """How long anybody on this machine has waited for a processor; 0 where the system does not tell."""
    try:
        return int(re.search(r"some .*total=(\d+)", Path("/proc/pressure/cpu").read_text()).group(1)) / 1e6
    except (OSError, AttributeError):
        return 0.0


def stolen_seconds():
    """Processor time that the machine below took from this virtual one; 0 where the system does not tell."""
    try:
        return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def fill(check, cluster):
    """The old backlog, from as many loads as it takes; how many messages it has."""
    stored, seconds, loads = 0, 5, 0
    while stored < BACKLOG:
        loads += 1
        bench = Bench(check, f"fill-{loads}", "produce", cluster, *TARGET, "--duration", f"{seconds}s")
        report = bench.wait(seconds + 300)
        verify(check, report, f"fill-{loads}")
        stored += report["verification"]["acknowledged"]
        seconds = max(1, math.ceil((BACKLOG - stored) / report["messages_per_second"]))
    return stored


def judge_groups(check, what, books, pace, seconds):
    """Each received something, and all together at least half of what was meant, or it is no load."""
    received, meant = [each["received"] for each in books], len(books) * pace * seconds
    receives = [took for each in books for took in each["receives_ms"]]
    check.say(f"{what}: {len(books)} groups received {sum(received)} messages, {min(received, default=0)} to "
              f"{max(received, default=0)} each ({sum(each['begun'] for each in books)} groups begun, "
              f"{sum(each['again'] for each in books)} messages again); receives that brought some: p50 "
              f"{percentile(receives, 0.5):.0f} ms, p99 {percentile(receives, 0.99):.0f} ms, "
              f"max {max(receives, default=0):.0f} ms")
    check.must(all(received), f"{what}: {received.count(0)} of {len(books)} groups received nothing")
    check.must(sum(received) >= meant / 2, f"{what}: {sum(received)} messages received, and {meant:.0f} meant")
    failures = Counter(failure for each in books for failure in each["failures"])
    check.must(not failures, f"{what}: {dict(failures)}")


def produce(check, cluster, name, over=None):
    """The steady producer; its p99 in milliseconds, or None, and how much of a core was stolen meanwhile. `over` is set at
    the end of its window."""
    bench = Bench(check, name, "produce", cluster, *TARGET, "--rate", RATE, "--warmup", f"{WARMUP}s",
                  "--duration", f"{DURATION}s")
    bench.wait_flowing(cluster)
    waited, stolen = waiting_seconds(), stolen_seconds()
    time.sleep(WARMUP + DURATION)
    waited = (waiting_seconds() - waited) / (WARMUP + DURATION)
    stolen = (stolen_seconds() - stolen) / (WARMUP + DURATION)
    if over:
        over.set()
    report = bench.wait(DURATION + 300)
    verify(check, report, name)
    if report is None:
        return None, stolen
    sending = report["sending"]
    p50, p99, slowest = (sending["latency_us"][key] / 1000 for key in ("p50", "p99", "max"))
    nodes = [node["cpu_seconds"] or 0.0 for node in report["cost"]["nodes"]]
    client = report["cost"]["cpu_us_per_message"]["client"] * sending["messages"] / 1e6
    check.say(f"{name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {slowest:.0f} ms; of a core, the nodes used "
              f"{'/'.join(f'{cpu / DURATION:.0%}' for cpu in nodes)}, the producer {client / DURATION:.0%}; "
              f"somebody on this machine waited for a processor {waited:.0%} of the time, and {stolen:.0%} of a core "
              f"was stolen from it")
    sent = sending["messages"]
    check.must(sent >= 0.99 * RATE * DURATION, f"{name}: only {sent} of {RATE * DURATION} messages were sent in time")
    return p99, stolen


def produce_beside(check, cluster, name, turn):
    # Not forked: gRPC's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    started, over, results = context.Event(), context.Event(), context.Queue()
    arguments = ([node.client for node in cluster.nodes], cluster[1].http, started, over, results, turn)
    process = context.Process(target=Crowd.process, args=arguments, daemon=True)
    process.start()
    if not check.must(started.wait(60), "the consumer groups did not start"):
        return None, 0.0
    p99, stolen = produce(check, cluster, name, over)
    took, cpu, never, readers = results.get(timeout=60)
    process.join(10)
    check.say(f"{name}: the consumers' process used {cpu / took:.0%} of a core in {took:.0f} s")
    judge_groups(check, f"{name}, never acknowledging", never, min(BATCH, RATE), took)
    judge_groups(check, f"{name}, reading the backlog", readers, READERS_RATE, took)
    return p99, stolen


def count(check, results, result):
    """Takes a result in if the machine was quiet."""
    p99, stolen = result
    if stolen > STOLEN:
        check.say(f"this run does not count: {stolen:.0%} of a core was stolen")
    else:
        results.append(p99)


def body(check):
    cluster = check.cluster().start()
    cluster.wait_healthy()
    cluster.wait_spread()
    check.say(f"backlog of {fill(check, cluster)} messages")
    # What the fill left to do in the background must not count for the first run.
    produce(check, cluster, "warm-up")
    alone, beside = [], []
    for turn in range(3 * ROUNDS):
        if len(alone) < ROUNDS:
            cluster.wait_healthy()
            count(check, alone, produce(check, cluster, f"alone-{turn}"))
        if len(beside) < ROUNDS:
            cluster.wait_healthy()
            count(check, beside, produce_beside(check, cluster, f"beside-{turn}", turn))
    check.must(len(alone) == len(beside) == ROUNDS, f"only {len(alone)} runs alone and {len(beside)} beside the others "
                                                    f"found a quiet machine")
    if check.must(alone and beside and None not in alone + beside, "not every run has a report"):
        ratio = median(beside) / median(alone)
        check.say(f"p99 alone {[f'{ms:.1f}' for ms in alone]} ms, beside the others "
                  f"{[f'{ms:.1f}' for ms in beside]} ms: {ratio:.2f} times in the median")
        check.must(ratio <= RATIO, f"the producer's p99 is {ratio:.2f} times that of a producer alone")
    cluster.wait_healthy(30)


# The consumers' process imports this file.
if __name__ == "__main__":
    Check(9, f"{NEVER} groups never acknowledge, {READERS} read a backlog, beside {RATE} messages/s").run(body)
