#!/usr/bin/env python3
"""Hostile check 3: three nodes that may open few files, and many silent sockets on every port of one of them.

The log must go on through new segments, the nodes must stay connected, health and metrics must answer, and new clients must get in.
Parameters: DESCRIPTORS (200), IDLE (400 silent sockets on each port), SECONDS (20 of load beside them).
"""

import multiprocessing
import resource
import socket
import time

from lib import Bench, Check, parameter, verify

DESCRIPTORS, IDLE, SECONDS = parameter("DESCRIPTORS", 200), parameter("IDLE", 400), parameter("SECONDS", 20)
HEALTH_WITHIN_S = 5.0


def is_closed(opened):
    try:
        return opened.recv(64) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def keep_silent(ports, begin):
    """Holds IDLE sockets on each port that say nothing, and replaces those that are closed."""
    begin.wait()
    sockets = {port: [] for port in ports}
    while True:
        for port, mine in sockets.items():
            for gone in [known for known in mine if is_closed(known)]:
                gone.close()
                mine.remove(gone)
            while len(mine) < IDLE:
                try:
                    opened = socket.create_connection(("127.0.0.1", port), timeout=1)
                except OSError:
                    break
                opened.setblocking(False)
                mine.append(opened)
        time.sleep(0.05)


def answers(node):
    """Seconds until the node's health and metrics have answered; they may have to wait for a silent socket to give way."""
    began = time.monotonic()
    while time.monotonic() - began < 30:
        try:
            if node.get("/healthz/live")[0] == 200 and node.metric("process_open_fds"):
                return time.monotonic() - began
        except (OSError, ValueError):
            pass
        time.sleep(0.05)
    return 30.0


def body(check):
    cluster = check.cluster(args=("--log-segment-size", "16MiB"))
    victim, begin = cluster[1], multiprocessing.Event()
    ports = [victim.client_port, victim.http_port, victim.peer_port]
    silent = multiprocessing.Process(target=keep_silent, args=(ports, begin), daemon=True)
    silent.start()
    # What is started from here on, the nodes among it, may not have more.
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    cluster.start()
    cluster.wait_healthy()
    begin.set()
    time.sleep(2)
    bench = Bench(check, "load", "produce", cluster, "--topic", "load", "--queues", 16, "--payload", 65536,
                  "--in-flight", 16, "--duration", f"{SECONDS}s", "--give-up", "60s")
    waits, open_files, end = [], [], time.monotonic() + SECONDS
    while time.monotonic() < end:
        waits.append(answers(victim))
        open_files.append(victim.metric("process_open_fds") or 0)
        time.sleep(0.5)
    verify(check, bench.wait(SECONDS + 300))
    check.must(all(node.running() for node in cluster.nodes), "a node ended")
    check.must(max(waits) <= HEALTH_WITHIN_S, f"health and metrics answered only after {max(waits):.1f} s")
    check.must(max(open_files) < DESCRIPTORS, f"{max(open_files):.0f} of {DESCRIPTORS} files were open")
    check.say(f"health within {max(waits):.2f} s, at most {max(open_files):.0f} of {DESCRIPTORS} files open")
    silent.kill()
    silent.join()
    cluster.wait_healthy(30)


Check("hostile-3", f"{DESCRIPTORS} descriptors, {IDLE} silent sockets on each port").run(body)
