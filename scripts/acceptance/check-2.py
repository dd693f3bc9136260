#!/usr/bin/env python3
"""Check 2: under load, the node that leads most shards is killed with kill -9 again and again, and restarted.

Parameters: DURATION (60 s of load), EVERY (10 s between kills), DOWN (3 s until the restart), IN_FLIGHT (256).
"""

import time

from lib import Bench, Check, gap_after, parameter, percentile, verify

DURATION, EVERY, DOWN = parameter("DURATION", 60), parameter("EVERY", 10.0), parameter("DOWN", 3.0)
IN_FLIGHT = parameter("IN_FLIGHT", 256)
LIMIT_MS = 2500


def body(check):
    cluster = check.cluster().start()
    check.must(cluster.wait_healthy() is not None, "the fresh cluster is not healthy")
    bench = Bench(check, "load", "produce", cluster, "--topic", "load", "--queues", 64, "--payload", 1024,
                  "--in-flight", IN_FLIGHT, "--duration", f"{DURATION}s")
    bench.wait_flowing(cluster)
    began, kills, recoveries = time.monotonic(), [], []
    while bench.running() and time.monotonic() - began + EVERY < DURATION + 2:
        time.sleep(max(0.0, began + EVERY * (len(kills) + 1) - time.monotonic()))
        node, leads = cluster.leading_most()
        if not check.must(node is not None, "no node tells who leads"):
            break
        kills.append(time.time())
        node.kill()
        check.say(f"killed node {node.number}, which led {leads} shards")
        time.sleep(DOWN)
        node.start()
        restarted = time.monotonic()
        while not node.ready() and time.monotonic() - restarted < EVERY:
            time.sleep(0.05)
        recoveries.append(time.monotonic() - restarted)
    report = bench.wait(DURATION + 240)
    verify(check, report)
    healthy = cluster.wait_healthy(30)
    check.say(f"healthy again {healthy if healthy is None else round(healthy, 1)} s after the verification; "
              f"restarted nodes were ready within {max(recoveries, default=0):.1f} s")
    if report is None:
        return
    measured = [gap_after(report, kill) for kill in kills]
    gaps, slowest = [gap for gap, _ in measured], [send for _, send in measured]
    check.say(f"{len(kills)} kills; without any acknowledged send: {[round(gap) for gap in gaps]} ms; "
              f"slowest send near each: {[round(send) for send in slowest]} ms")
    check.must(percentile(gaps, 0.99) <= LIMIT_MS, f"write gap p99 {percentile(gaps, 0.99):.0f} ms")
    check.must(len(kills) >= 1, "nobody was killed")


Check(2, f"kill -9 of the busiest node every {EVERY:.0f} s for {DURATION} s, {IN_FLIGHT} in flight").run(body)
