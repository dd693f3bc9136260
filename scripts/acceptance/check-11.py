#!/usr/bin/env python3
"""Check 11: node 2 loses its data, or its data is damaged, while a load goes on.

Part a: node 2 is killed, its data directory deleted, and it is started again. Part b: one bit is flipped in each of 20
places of node 2's closed segments and state files, some while it runs and some while it is down, while consumer groups
read everything from the beginning. In both, the node is rebuilt by itself to full replication, sends go on, nothing
acknowledged is lost and nothing wrong is served: every body is checked against what was sent.

Parameters: DURATION (60 s of load per part), FLIPS (20), PARTS (ab), SEED.
"""

import os
import random
import shutil
import time

from lib import Bench, Check, gap_after, parameter, verify, wait_for

DURATION, FLIPS, PARTS = parameter("DURATION", 60), parameter("FLIPS", 20), parameter("PARTS", "ab")
SEED = parameter("SEED", int(time.time()))
RATE, GAP_MS = 2000, 2500


def load(check, cluster, name, duration):
    bench = Bench(check, name, "produce", cluster, "--topic", name, "--queues", 24, "--payload", 1024, "--in-flight", 128,
                  "--rate", RATE, "--duration", f"{duration}s", "--give-up", "60s")
    bench.wait_flowing(cluster)
    return bench


def read_everything(check, cluster, name, group, duration, background=False):
    """A new consumer group that reads the topic from its beginning; bodies carry checksums that the bench verifies."""
    bench = Bench(check, group, "consume", cluster, "--topic", name, "--group", group, "--duration", f"{duration}s",
                  *([] if background else ["--until-empty"]))
    return bench


def judge_reader(check, report, what, at_least=0):
    if report is None:
        return
    counts = report["consumed"]
    check.say(f"{what} read {counts['distinct']} messages: {counts['unexpected']} damaged, {counts['duplicated']} duplicated, "
              f"{counts['redelivered']} redelivered; failures {report['failures']}")
    check.must(counts["unexpected"] == 0, f"{what} was served {counts['unexpected']} damaged messages")
    check.must(counts["distinct"] >= at_least, f"{what} read {counts['distinct']} of {at_least} messages")


def serves_from_node_2(check, cluster, name, group, acknowledged):
    """With another node gone, node 2 is needed for every majority, and leads its share."""
    cluster[3].kill()
    try:
        for node in (cluster[1], cluster[2]):
            began = time.monotonic()
            while not node.ready() and time.monotonic() - began < 20:
                time.sleep(0.05)
        report = read_everything(check, cluster, name, group, 120).wait(240)
        judge_reader(check, report, "without node 3, a new consumer group", acknowledged)
    finally:
        cluster[3].start()
        cluster.wait_ready()
        cluster.wait_healthy(60)


def lost_directory(check):
    cluster = check.cluster(name="lost", args=["--log-segment-size", "16MiB"]).start()
    cluster.wait_healthy()
    bench = load(check, cluster, "lost", DURATION)
    time.sleep(DURATION * 0.3)
    cluster[2].kill()
    died = time.time()
    time.sleep(3)
    shutil.rmtree(cluster[2].directory)
    cluster[2].start()
    began = time.monotonic()
    cluster.wait_healthy(DURATION * 2 + 60)
    view = cluster.view()
    incarnation = next(node["incarnation"] for node in view["nodes"] if node["id"] == 2)
    check.say(f"a: node 2 came back empty and was fully replicated {time.monotonic() - began:.1f} s later, as incarnation "
              f"{incarnation}, while the load {'went on' if bench.running() else 'was over'}")
    check.must(incarnation == 2, f"node 2 has incarnation {incarnation}")
    report = bench.wait(DURATION + 240)
    verify(check, report, "a")
    if report:
        gap, slowest = gap_after(report, died, DURATION)
        check.say(f"a: longest time without an acknowledged send {gap:.0f} ms, slowest send {slowest:.0f} ms")
        check.must(gap <= GAP_MS, f"a: sends stood still for {gap:.0f} ms")
        serves_from_node_2(check, cluster, "lost", "fresh", report["verification"]["acknowledged"])
    cluster.end()


def places(directory):
    """Files whose content is settled: closed segments and table files of the state."""
    segments = sorted((directory / "log").glob("*.seg"))[:-1]
    tables = sorted((directory / "state").rglob("*.sst"))
    return segments, tables


def flip(check, node, dice):
    segments, tables = places(node.directory)
    chosen = [files for files in (segments, tables) if files]
    if not chosen:
        return None
    path = dice.choice(dice.choice(chosen))
    try:
        with open(path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            at, bit = dice.randrange(size), dice.randrange(8)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << bit]))
    except FileNotFoundError:  # compacted away between two looks
        return None
    check.say(f"b: flipped bit {bit} of byte {at} of {size} in {path.relative_to(node.directory)}")
    return path


def flipped_bits(check):
    cluster = check.cluster(name="flipped", args=["--log-segment-size", "16MiB"])
    # This is what damage looks like to the person who must look.
    cluster.expected_errors = [r"damaged", r"corrupt", r"checksum"]
    cluster.start()
    cluster.wait_healthy()
    dice, rounds = random.Random(SEED), 4
    bench = load(check, cluster, "flipped", DURATION + 15 * rounds)
    node, flips, rebuilt = cluster[2], 0, 0
    wait_for(60, "node 2 has closed segments and tables of state", lambda: all(len(files) > 1 for files in places(node.directory)))
    for turn in range(rounds):
        down = turn % 2 == 1
        if down:
            node.kill()
        wanted = FLIPS * (turn + 1) // rounds
        tries = 0
        while flips < wanted and tries < 50:
            tries += 1
            flips += flip(check, node, dice) is not None
            if not down:
                time.sleep(0.2)
        if down:
            node.start()
        reader = read_everything(check, cluster, "flipped", f"reader-{turn}", 12, background=True)
        judge_reader(check, reader.wait(120), f"b: reader {turn} on all nodes")
        check.must(node.running(), f"node 2 ended with {node.process and node.process.poll()} and did not come back")
        cluster.wait_healthy(60)
        condemned = len(list(check.data.glob("flipped-2.condemned-*"))) + len(list(node.directory.glob("*.condemned-*")))
        incarnation = next(each["incarnation"] for each in cluster.view()["nodes"] if each["id"] == 2)
        check.say(f"b: after {flips} flips node 2 is incarnation {incarnation}, {condemned} damaged directories set aside")
        rebuilt = incarnation - 1
    check.must(flips >= FLIPS, f"only {flips} places could be flipped")
    check.must(rebuilt > 0, "no damage was found at all")
    report = bench.wait(DURATION * 3 + 240)
    verify(check, report, "b")
    if report:
        check.say(f"b: longest time without an acknowledged send {report['sending']['longest_gap_ms']:.0f} ms, "
                  f"slowest send {report['sending']['latency_us']['max'] / 1000:.0f} ms")
        check.must(report["sending"]["longest_gap_ms"] <= GAP_MS, "b: sends stood still")
        serves_from_node_2(check, cluster, "flipped", "fresh", report["verification"]["acknowledged"])
    cluster.end()


def body(check):
    if "a" in PARTS:
        lost_directory(check)
    if "b" in PARTS:
        check.say(f"b: SEED={SEED}")
        flipped_bits(check)


Check(11, f"node 2 loses its data; {FLIPS} bits of it are flipped").run(body)
