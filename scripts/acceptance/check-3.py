#!/usr/bin/env python3
"""Check 3: all three nodes are killed with kill -9 at once under load, again and again, and restarted.

Parameters: TIMES (20), EVERY (6 s of load between the deaths), IN_FLIGHT (256).
"""

import time

from lib import Bench, Check, parameter, verify

TIMES, EVERY, IN_FLIGHT = parameter("TIMES", 20), parameter("EVERY", 6.0), parameter("IN_FLIGHT", 256)
LIMIT_S = 5.0


def body(check):
    cluster = check.cluster().start()
    cluster.wait_healthy()
    # Longer than needed: the load is over when the last death is survived, however long recoveries take.
    duration = int(TIMES * (EVERY + LIMIT_S) + 5)
    bench = Bench(check, "load", "produce", cluster, "--topic", "load", "--queues", 64, "--payload", 1024,
                  "--in-flight", IN_FLIGHT, "--duration", f"{duration}s", "--give-up", "60s")
    bench.wait_flowing(cluster)
    recoveries = []
    for _ in range(TIMES):
        time.sleep(EVERY)
        if not bench.running():
            break
        for node in cluster.nodes:
            node.process.kill()
        for node in cluster.nodes:
            node.kill()
        for node in cluster.nodes:
            node.start()
        try:
            recoveries.append(cluster.wait_ready(30))
        except TimeoutError as error:
            check.must(False, f"{error}; {cluster.ailments()[:3]}")
            break
        check.say(f"death {len(recoveries)}: ready again in {recoveries[-1]:.2f} s")
    report = bench.wait(duration + 300)
    verify(check, report)
    cluster.wait_healthy(30)
    check.say(f"{len(recoveries)} deaths of all nodes; ready again in {min(recoveries, default=0):.2f} to "
              f"{max(recoveries, default=0):.2f} s")
    check.must(len(recoveries) == TIMES, f"only {len(recoveries)} of {TIMES} deaths were survived")
    check.must(max(recoveries, default=99) <= LIMIT_S, f"ready again only after {max(recoveries, default=99):.1f} s")


Check(3, f"all three nodes killed at once, {TIMES} times, {IN_FLIGHT} in flight").run(body)
