#!/usr/bin/env python3
"""Hostile check 10, rebuilding a node: nobody who has the data is harmed by it. Needs root: each of the three nodes gets an ext4
file system of SIZE MiB on a loop device, and is filled with STORED MiB of messages that nobody has consumed.

RUNS times, in a new cluster each time, one after the other:
- node 3 loses its directory and is rebuilt, while producers go on sending;
- the same, and it is killed (-9) three times in the middle of it: what has arrived is not sent again from its start;
- the same, and the node that leads most is killed (-9) in the middle of it, and comes back;
- the same with a disk too small for what it needs, until it has room.
Whoever was not killed runs on; the others never fall below what they keep free; the shards keep their quorum, so sends are
acknowledged meanwhile; a node that is not whole is not shown as if it were; at the end every acknowledged message comes.

Parameters: RUNS (5), SIZE (620 MiB), STORED (300 MiB), BODY_KIB (8), KEEP_FREE (128 MiB: what nodes keep free by themselves).
"""

import os
import random
import shutil
import subprocess
import threading
import time

from lib import Check, parameter, wait_for
from rpc import Broken, Client, drain

RUNS, SIZE, STORED = parameter("RUNS", 5), parameter("SIZE", 620), parameter("STORED", 300)
BODY_KIB, KEEP_FREE = parameter("BODY_KIB", 8), parameter("KEEP_FREE", 128)
TOPIC, BODY = "kept", os.urandom(BODY_KIB << 10)
mounted = []


def mount(check, directory):
    directory.mkdir()
    image = check.data / f"{directory.name}.img"
    subprocess.run(["truncate", "-s", f"{SIZE}M", str(image)], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(directory)], check=True)
    mounted.append((directory, image))


def unmount():
    for directory, image in reversed(mounted):
        subprocess.run(["umount", "-l", str(directory)], check=False)
        image.unlink(missing_ok=True)
    mounted.clear()


def free(node):
    stat = os.statvfs(node.directory)
    return stat.f_bavail * stat.f_frsize >> 20


def wipe(node):
    """Takes everything of the node, and leaves its file system."""
    for path in node.directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


class Producers:
    """Threads that send until they are stopped, to any node that takes it; what was acknowledged."""

    def __init__(self, cluster, name, lanes, pause=0.0, most=None):
        self.cluster, self.name, self.pause, self.left = cluster, name, pause, most
        self.acknowledged, self.answers, self.lock, self.over = set(), {}, threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(lane,), daemon=True) for lane in range(lanes)]
        for thread in self.threads:
            thread.start()

    def take(self):
        with self.lock:
            if self.left is not None:
                self.left -= 1
            return self.left is None or self.left >= 0

    def work(self, lane):
        clients, number = [Client(node.client) for node in self.cluster.nodes], 0
        while not self.over.is_set() and self.take():
            number += 1
            self.send(clients, lane, f"{self.name}-{lane}-{number}")
            time.sleep(self.pause)
        for client in clients:
            client.close()

    def send(self, clients, lane, message_id):
        for turn in range(120):
            if self.over.is_set() and turn:
                return
            try:
                answer = clients[(lane + turn) % len(clients)].send(TOPIC, message_id, BODY, timeout=5)
            except Broken as broken:
                answer = f"broken {broken.args[0]}"
            with self.lock:
                self.answers[answer] = self.answers.get(answer, 0) + 1
                if answer == "OK":
                    self.acknowledged.add(message_id)
                    return
            time.sleep(0.1)

    def count(self):
        with self.lock:
            return len(self.acknowledged)

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join(60)
        return self.acknowledged


class Room:
    """Watches the least that some nodes have free, and what node 3 takes, until it is ended."""

    def __init__(self, nodes):
        self.nodes, self.over = nodes, threading.Event()
        self.least = {node.number: free(node) for node in nodes}
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        while not self.over.wait(0.02):
            for node in self.nodes:
                self.least[node.number] = min(self.least[node.number], free(node))

    def end(self):
        self.over.set()
        self.thread.join(5)
        return self.least


def shown_whole(cluster, watcher):
    """Whether a healthy node shows node 3 as a voter of all shards that lags nowhere."""
    view = watcher.view()
    if view is None or not view["shards"]:
        return False
    for shard in view["shards"]:
        mine = [replica for replica in shard["replicas"] if replica["node"] == 3 and replica["voter"]]
        if not mine or mine[0]["lag"] is None or mine[0]["lag"] > 1000:
            return False
    return True


def rebuild(check, cluster, name, during):
    """Node 3 loses everything; `during` happens while it is rebuilt."""
    healthy = [cluster[1], cluster[2]]
    producers = Producers(cluster, name, lanes=2, pause=0.02)
    wait_for(30, f"{name}: sends are acknowledged", lambda: producers.count() > 20)
    room = Room(healthy)
    cluster[3].kill()
    wipe(cluster[3])
    sent_before = producers.count()
    cluster[3].start()
    killed = during(check, cluster, producers) or set()
    healed = cluster.wait_healthy(240)
    least = room.end()
    check.say(f"{name}: whole after {healed if healed is None else round(healed, 1)} s, {producers.count() - sent_before} sends "
              f"acknowledged meanwhile, least free MiB {least}")
    check.must(producers.count() > sent_before + 20, f"{name}: hardly any send was acknowledged while node 3 was rebuilt")
    for node in healthy:
        check.must(node.running(), f"{name}: node {node.number} ended")
        if node.number not in killed:
            # Half of what is kept free is the log's last resort; the state engine flushes into the rest.
            check.must(least[node.number] >= KEEP_FREE // 2, f"{name}: node {node.number} had {least[node.number]} MiB free")
    return producers.end()


def nothing_more(check, cluster, producers):
    pass


def killed_itself(check, cluster, producers):
    """Node 3 is killed in the middle, and each time begins where it was: what it has on its disk only grows."""
    node, taken = cluster[3], []
    for _ in range(3):
        used = SIZE - free(node)
        reached = (lambda: SIZE - free(node) >= used + STORED // 6) if taken else (lambda: SIZE - free(node) >= STORED // 4)
        try:
            wait_for(60, "node 3 has received a part", reached, every=0.02)
        except TimeoutError:
            break  # it has everything
        node.kill()
        taken.append(SIZE - free(node))
        node.start()
    check.say(f"node 3 was killed when its disk held {taken} MiB")


def leader_killed(check, cluster, producers):
    wait_for(60, "node 3 has received a part", lambda: SIZE - free(cluster[3]) >= STORED // 4, every=0.02)
    leading, leads = max(((node, node.view()) for node in (cluster[1], cluster[2])),
                         key=lambda pair: sum(shard["leader"] == pair[0].number for shard in (pair[1] or {"shards": []})["shards"]))
    check.say(f"node {leading.number}, which leads most, is killed")
    leading.kill()
    time.sleep(random.uniform(1.0, 3.0))
    leading.start()
    return {leading.number}


def too_small(check, cluster, producers):
    """Node 3 has room for a part only, for half a minute."""
    node = cluster[3]
    path = node.directory / "ballast"
    with open(path, "ab") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free(node) - KEEP_FREE - STORED // 3) << 20)
    before, shown, end = producers.count(), False, time.monotonic() + 30
    while time.monotonic() < end:
        shown = shown or shown_whole(cluster, cluster[1])
        time.sleep(0.2)
    check.must(not shown, "node 3 is shown as whole although it has no room for what is stored")
    check.must(producers.count() > before + 100, "sends stopped while node 3 had no room")
    check.must(node.running(), "node 3 ended for want of room")
    path.unlink()


CASES = [("rebuilt", nothing_more), ("killed in the middle", killed_itself), ("the leader killed", leader_killed), ("too small", too_small)]


def one_run(check, number):
    cluster = check.cluster(nodes=3, name=f"run-{number}", args=["--log-segment-size", "16MiB"])
    cluster.expected_errors.append("the disk is full to the last segment")
    for node in cluster.nodes:
        mount(check, node.directory)
    cluster.start()
    cluster.wait_healthy()
    cluster.create_topic(TOPIC, 4)
    cluster.create_group("readers")
    acknowledged = Producers(cluster, "fill", lanes=16, most=(STORED << 10) // BODY_KIB)
    for thread in acknowledged.threads:
        thread.join(900)
    acknowledged = acknowledged.end()
    check.say(f"run {number}: {len(acknowledged)} messages stored, free MiB {[free(node) for node in cluster.nodes]}")
    for name, during in CASES:
        acknowledged |= rebuild(check, cluster, f"{number} {name}".replace(" ", "-"), during)
    seen = drain(check, cluster, TOPIC, "readers", limit_s=600)
    lost = acknowledged - set(seen)
    check.must(not lost, f"run {number}: {len(lost)} acknowledged messages lost: {sorted(lost)[:3]}")
    check.say(f"run {number}: {len(acknowledged)} acknowledged, {len(lost)} lost")
    cluster.end()
    unmount()


def body(check):
    if os.geteuid() != 0:
        check.must(False, "needs root, to mount small file systems")
        return
    try:
        for number in range(1, RUNS + 1):
            one_run(check, number)
    finally:
        for cluster in check.clusters:
            cluster.end()
        unmount()


Check("hostile-10-snapshot", f"a node is rebuilt from small disks ({SIZE} MiB)").run(body)
