"""Check 9: consumers that are slow or far behind do not slow a producer down.

A steady producer (open loop, latency from when each message was due) sends to a topic with an old backlog, in turns
alone and beside two crowds that use the same topic:

- 50 consumer groups that start at new messages, receive and never acknowledge: each one receive of up to 32 messages a
  second, from all queues in turn; what they leased comes again after INVISIBLE.
- 10 consumer groups that read the backlog from its oldest message, receiving and acknowledging 32 at a time, each at
  READERS_RATE.

Their pace is bounded because two cores have to carry the clients too: it is the broker that is tested, not how its
clients take the processor from it. Each crowd is one process (`flotilla bench consume`) with a connection to each node
for every group and a lower priority; its processor time is printed.

The p99 of a steady load tells first of all whether a processor was free when one was needed. So a run counts only if
the machine below took no more than STOLEN of a core from this virtual one meanwhile, whatever its result; others are
done again, up to three times as many as wanted.

Parameters: DURATION (30 s per run), RATE (500 messages/s of the producer), ROUNDS (3 runs of each kind), STOLEN (0.05),
NEVER (50 groups), READERS (10 groups), READERS_RATE (100 messages/s each), BACKLOG (200000 messages of 1 KiB: more than
the nodes' caches hold), INVISIBLE (15 s).
"""

import math
import os
import re
import time
from pathlib import Path
from statistics import median

from lib import Bench, Check, parameter, verify

DURATION, RATE, ROUNDS = parameter("DURATION", 30), parameter("RATE", 500), parameter("ROUNDS", 3)
STOLEN = parameter("STOLEN", 0.05)
NEVER, READERS, READERS_RATE = parameter("NEVER", 50), parameter("READERS", 10), parameter("READERS_RATE", 100)
BACKLOG, INVISIBLE = parameter("BACKLOG", 200_000), parameter("INVISIBLE", 15)
TOPIC, BATCH, WARMUP, MARGIN, RATIO = "load", 32, 3, 10, 1.5
TARGET = ["--topic", TOPIC, "--queues", 12, "--payload", 1024]


class Crowd:
    """Consumer groups at work, from before a producer's first message until after its last."""

    def __init__(self, check, cluster, name, groups, pace, *args):
        self.check, self.name, self.groups, self.pace = check, name, groups, pace
        self.seconds = WARMUP + DURATION + MARGIN
        self.bench = Bench(check, name, "consume", cluster, "--topic", TOPIC, "--group", name, "--groups", groups,
                           "--consumers", 1, "--connections", groups, "--receive-every", f"{BATCH * 1000 // pace}ms",
                           "--invisible", f"{INVISIBLE}s", "--warmup", "0s", "--duration", f"{self.seconds}s", *args,
                           nice=5)

    def judge(self):
        """Each group received something, and all together at least half of what was meant, or it is no load."""
        check, report = self.check, self.bench.wait(self.seconds + 60)
        if report is None:
            return
        received = list(report["consumed"]["by_group"].values())
        cpu = report["cost"]["cpu_us_per_message"]["client"] * report["receiving"]["messages"] / 1e6
        check.say(f"{self.name}: {len(received)} groups received {sum(received)} messages, {min(received)} to "
                  f"{max(received)} each, {report['consumed']['redelivered']} of them again, with {cpu / self.seconds:.0%} "
                  f"of a core")
        check.must(len(received) == self.groups and all(received), f"{self.name}: {received.count(0)} groups received nothing")
        meant = self.groups * self.pace * self.seconds
        check.must(sum(received) >= meant / 2, f"{self.name}: {sum(received)} messages received, and {meant} meant")
        check.must(not report["failures"], f"{self.name}: {report['failures']}")


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


def produce(check, cluster, name, crowds=()):
    """The steady producer, beside crowds that are already there; its p99 in milliseconds, or None, and how much of a core
    was stolen meanwhile."""
    bench = Bench(check, name, "produce", cluster, *TARGET, "--rate", RATE, "--warmup", f"{WARMUP}s",
                  "--duration", f"{DURATION}s")
    bench.wait_flowing(cluster)
    waited, stolen = waiting_seconds(), stolen_seconds()
    time.sleep(WARMUP + DURATION)
    waited = (waiting_seconds() - waited) / (WARMUP + DURATION)
    stolen = (stolen_seconds() - stolen) / (WARMUP + DURATION)
    for crowd in crowds:
        check.must(crowd.bench.running(), f"{crowd.name} ended before the producer")
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


def produce_beside(check, cluster, name):
    crowds = [
        Crowd(check, cluster, f"{name}-never-acknowledging", NEVER, BATCH, "--ack", "none", "--start-at", "last"),
        Crowd(check, cluster, f"{name}-reading-the-backlog", READERS, READERS_RATE, "--ack", "batch"),
    ]
    result = produce(check, cluster, name, crowds)
    for crowd in crowds:
        crowd.judge()
    return result


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
            count(check, beside, produce_beside(check, cluster, f"beside-{turn}"))
    check.must(len(alone) == len(beside) == ROUNDS, f"only {len(alone)} runs alone and {len(beside)} beside the others "
                                                    f"found a quiet machine")
    if check.must(alone and beside and None not in alone + beside, "not every run has a report"):
        ratio = median(beside) / median(alone)
        check.say(f"p99 alone {[f'{ms:.1f}' for ms in alone]} ms, beside the others "
                  f"{[f'{ms:.1f}' for ms in beside]} ms: {ratio:.2f} times in the median")
        check.must(ratio <= RATIO, f"the producer's p99 is {ratio:.2f} times that of a producer alone")
    cluster.wait_healthy(30)


Check(9, f"{NEVER} groups never acknowledge, {READERS} read a backlog, beside {RATE} messages/s").run(body)
