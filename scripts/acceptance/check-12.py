#!/usr/bin/env python3
"""Check 12: the disk is full. Needs root: each node gets a small file system of its own (tmpfs, or SIZE on a loop device).

Part a: one node. Sends fill the disk until they are refused with a clear status; receives and acknowledgements go on;
with more space (a ballast file is deleted) sends are taken again, without help, and nothing acknowledged is lost.
Part b: the same in three nodes of which only node 2's disk is full. Part c: one node, and another program takes the very
last byte of the disk.

Parameters: SIZE (768 MiB per file system), BALLAST (256 MiB), PARTS (abc), KIND (tmpfs or ext4).
"""

import os
import subprocess
import threading
import time

from lib import Check, parameter, wait_for
from rpc import Broken, Client, drain, id_of

SIZE, BALLAST, PARTS, KIND = parameter("SIZE", 768), parameter("BALLAST", 256), parameter("PARTS", "abc"), parameter("KIND", "ext4")
TOPIC, BODY = "filling", os.urandom(256 << 10)
# What a client may read as "the broker cannot store it now"; OK is not among them.
REFUSALS = {"MASTER_PERSISTENCE_TIMEOUT", "TOO_MANY_REQUESTS", "HA_NOT_AVAILABLE"}
mounted = []


def mount(check, directory, size):
    directory.mkdir()
    if KIND == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(directory)]
    else:
        image = check.data / f"{directory.name}.img"
        subprocess.run(["truncate", "-s", f"{size}M", str(image)], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(directory)]
    subprocess.run(command, check=True)
    mounted.append(directory)


def unmount():
    for directory in reversed(mounted):
        subprocess.run(["umount", "-l", str(directory)], check=False)
    mounted.clear()


def ballast(directory, megabytes):
    """A file that takes `megabytes` of space away; with None, as much as there is."""
    path = directory / "ballast"
    with open(path, "ab") as file:
        if megabytes is not None:
            os.posix_fallocate(file.fileno(), 0, megabytes << 20)
            return path
        try:
            while True:
                os.write(file.fileno(), bytes(1 << 20))
        except OSError:
            return path


def fill(check, client, acknowledged, name, limit_s=180):
    """Sends from several threads until refusals are all there is; returns them by name."""
    answers, over, lock = {}, threading.Event(), threading.Lock()
    refused_since = [None]

    def work(lane):
        number = 0
        while not over.is_set():
            number += 1
            message_id = f"{name}-{lane}-{number}"
            began = time.monotonic()
            try:
                answer = client.send(TOPIC, message_id, BODY, timeout=5)
            except Broken as broken:
                answer = f"broken {broken.args[0]}"
            with lock:
                answers[answer] = answers.get(answer, 0) + 1
                if answer == "OK":
                    acknowledged.add(message_id)
                    refused_since[0] = None
                else:
                    refused_since[0] = refused_since[0] or began
            if answer != "OK":
                time.sleep(0.1)

    threads = [threading.Thread(target=work, args=(lane,), daemon=True) for lane in range(8)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        time.sleep(0.2)
        with lock:
            if refused_since[0] and time.monotonic() - refused_since[0] > 5:
                break
    over.set()
    for thread in threads:
        thread.join(10)
    return answers


def receives_go_on(check, client, node, acknowledged, group, want):
    """Receives and acknowledges some messages on the full disk."""
    done, began = set(), time.monotonic()
    slowest = 0.0
    while len(done) < want and time.monotonic() - began < 60:
        asked = time.monotonic()
        try:
            status, messages = client.receive(TOPIC, group, count=8, invisible_s=300, poll_s=0.5)
            answers = client.ack(TOPIC, group, messages) if messages else []
        except Broken as broken:
            check.must(False, f"a receive or an acknowledgement broke off on a full disk: {broken.args}")
            return done
        slowest = max(slowest, time.monotonic() - asked)
        if not check.must(set(answers) <= {"OK"}, f"acknowledgements on a full disk: {set(answers)}"):
            return done
        for each in messages:
            check.must(bytes(each.body) == BODY, "a wrong body was served")
            done.add(id_of(each))
    check.say(f"on the full disk {len(done)} messages were received and acknowledged, the slowest pair in {slowest * 1000:.0f} ms")
    check.must(len(done) >= want, f"only {len(done)} of {want} messages could be received on a full disk")
    return done


def finish(check, cluster, client, acknowledged, done, group):
    def taken():
        try:
            return client.send(TOPIC, "after-the-flood", b"again") == "OK"
        except Broken:
            return False
    try:
        took = wait_for(30, "sends are taken again", taken, every=0.2)
        check.say(f"with space again, sends were taken after {took:.1f} s")
    except TimeoutError as error:
        check.must(False, str(error))
    seen = drain(check, cluster, TOPIC, group)
    lost = acknowledged - set(seen) - done
    twice = [message_id for message_id, times in seen.items() if times > 1 or message_id in done]
    check.say(f"{len(acknowledged)} acknowledged: {len(lost)} lost, {len(twice)} delivered again")
    check.must(not lost, f"{len(lost)} acknowledged messages lost: {sorted(lost)[:3]}")
    check.must(not twice, f"{len(twice)} messages delivered again: {twice[:3]}")


def small_cluster(check, nodes, name, small, size=SIZE):
    cluster = check.cluster(nodes=nodes, name=name, args=["--log-segment-size", "16MiB"])
    for number in small:
        mount(check, cluster[number].directory, size)
    cluster.start()
    cluster.wait_healthy()
    cluster.create_topic(TOPIC, 6)
    cluster.create_group("readers")
    return cluster


def free(directory):
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize >> 20


def one_node(check, name, last_byte):
    cluster = small_cluster(check, 1, name, [1])
    node, acknowledged = cluster[1], set()
    path = ballast(node.directory, BALLAST)
    client = Client(node.client)
    answers = fill(check, client, acknowledged, "fill")
    check.say(f"{name}: {len(acknowledged)} sends of {len(BODY) >> 10} KiB until the disk was full ({free(node.directory)} MiB "
              f"free); answers {answers}")
    check.must(set(answers) - {"OK"} <= REFUSALS and len(answers) > 1, f"{name}: answers {answers}")
    if last_byte:
        ballast(node.directory, None)
        check.say(f"{name}: another program took the rest: {free(node.directory)} MiB free")
    done = receives_go_on(check, client, node, acknowledged, "readers", min(200, len(acknowledged) // 2))
    check.must(node.running(), f"{name}: the node ended")
    if last_byte:
        time.sleep(35)  # long enough for a flush of the state on a disk that has no room for it
        check.must(node.running(), f"{name}: the node ended on the full disk")
        if not node.running():
            node.log and check.say(node.log.read_text(errors="replace")[-400:])
    path.unlink()
    if not node.running():
        node.start()
        cluster.wait_ready()
    finish(check, cluster, client, acknowledged, done, "readers")
    cluster.end()


def one_full_of_three(check, name):
    # Large enough for everything once the ballast is gone.
    cluster = small_cluster(check, 3, name, [2], size=4 * SIZE)
    cluster.expected_errors.append("the disk is full to the last segment")
    path, acknowledged = ballast(cluster[2].directory, 3 * SIZE + BALLAST), set()
    # Far more than node 2 can take, to the other nodes.
    clients = [Client(cluster[1].client), Client(cluster[3].client)]
    answers = fill_bytes(check, clients, acknowledged, (SIZE + 128) << 20)
    check.say(f"{name}: {len(acknowledged)} sends through nodes 1 and 3, {free(cluster[2].directory)} MiB free on node 2; "
              f"answers {answers}")
    check.must(set(answers) - {"OK"} <= REFUSALS, f"{name}: answers {answers}")
    check.must(answers.get("OK", 0) >= 0.99 * sum(answers.values()), f"{name}: one full disk of three refused sends: {answers}")
    time.sleep(35)  # the others go on trying to bring node 2 up to date
    sizes = [node.resident_bytes() >> 20 for node in cluster.nodes]
    check.say(f"{name}: after 35 s of that the nodes hold {sizes} MiB of memory")
    check.must(max(sizes) <= 1024, f"{name}: memory grew while node 2 had no room: {sizes} MiB")
    check.must(cluster[2].running(), f"{name}: node 2 ended")
    done = receives_go_on(check, clients[0], cluster[1], acknowledged, "readers", 100)
    path.unlink()
    healed = cluster.wait_healthy(120)
    check.say(f"{name}: node 2 was fully replicated {healed if healed is None else round(healed, 1)} s after it had space")
    finish(check, cluster, clients[0], acknowledged, done, "readers")
    cluster.end()


def fill_bytes(check, clients, acknowledged, wanted):
    """Sends `wanted` bytes, from several threads."""
    answers, lock, left = {}, threading.Lock(), [wanted // len(BODY)]

    def work(lane):
        while True:
            with lock:
                if left[0] <= 0:
                    return
                left[0] -= 1
                message_id = f"many-{left[0]}"
            try:
                answer = clients[lane % len(clients)].send(TOPIC, message_id, BODY, timeout=10)
            except Broken as broken:
                answer = f"broken {broken.args[0]}"
            with lock:
                answers[answer] = answers.get(answer, 0) + 1
                if answer == "OK":
                    acknowledged.add(message_id)

    threads = [threading.Thread(target=work, args=(lane,), daemon=True) for lane in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    return answers


def body(check):
    if os.geteuid() != 0:
        check.must(False, "needs root, to mount small file systems")
        return
    try:
        if "a" in PARTS:
            one_node(check, "a", last_byte=False)
        if "c" in PARTS:
            one_node(check, "c", last_byte=True)
        if "b" in PARTS:
            one_full_of_three(check, "b")
    finally:
        for cluster in check.clusters:
            cluster.end()
        unmount()


Check(12, f"disk full ({KIND} of {SIZE} MiB)").run(body)
