#!/usr/bin/env python3
"""Hostile check 3: three nodes that may open few files, have little memory left, and clients that are silent or do not read.

First each of three nodes may open DESCRIPTORS files, and on every port of one of them IDLE sockets say nothing. The log must go on
through new segments, the nodes must stay connected, health and metrics must answer, and new clients must get in.

Then that node may have no more than MEMORY_MIB beyond what it has at rest, and a client asks it for MESSAGES messages, 32 at a time, and
reads none of them, while others produce and consume. What waits for the reader must stay within the bound, its next receive must be refused
in time, the others must go on, and everything must come to the consumer group in the end. The memory is limited by a
control group (v2 or v1) if one can be made here, and by the address space if not; the check says which.

Parameters: DESCRIPTORS (200), IDLE (400 silent sockets on each port), SECONDS (20 of load in each part), MEMORY_MIB (64), MESSAGES (10000).
"""

import multiprocessing
import os
import resource
import socket
import time
from pathlib import Path

from lib import Bench, Check, parameter, verify, wait_for
from rpc import Broken, Client, definition, id_of, resource as named, service, duration

DESCRIPTORS, IDLE, SECONDS = parameter("DESCRIPTORS", 200), parameter("IDLE", 400), parameter("SECONDS", 20)
MEMORY_MIB, MESSAGES = parameter("MEMORY_MIB", 64), parameter("MESSAGES", 10000)
HEALTH_WITHIN_S = 5.0
BODY_BYTES = 16 << 10
# docs/limits.md: for one reader, and a little for answers that are not refused.
MAX_UNREAD_BYTES = (32 << 20) * 5 // 4


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


class AdministeredElsewhere:
    """A cluster whose load asks all nodes but this one over HTTP: a place there may take several tries."""

    def __init__(self, cluster, victim):
        self.endpoints = cluster.endpoints
        self.https = ";".join(node.http for node in cluster.nodes if node is not victim)


def load(check, cluster, victim, name):
    return Bench(check, name, "produce", AdministeredElsewhere(cluster, victim), "--topic", name, "--queues", 16, "--payload", 65536,
                 "--in-flight", 16, "--duration", f"{SECONDS}s", "--give-up", "60s")


def watch(check, node, bench, look):
    """Until the load has ended: how long health took at most. `look` is called between."""
    waits, end = [], time.monotonic() + SECONDS
    while time.monotonic() < end:
        waits.append(answers(node))
        look()
        time.sleep(0.5)
    verify(check, bench.wait(SECONDS + 300))
    check.must(all(each.running() for each in node.cluster.nodes), "a node ended")
    check.must(max(waits) <= HEALTH_WITHIN_S, f"health and metrics answered only after {max(waits):.1f} s")
    return max(waits)


def few_descriptors(check, cluster, victim, begin):
    begin.set()
    time.sleep(2)
    open_files = []
    bench = load(check, cluster, victim, "few-files")
    slowest = watch(check, victim, bench, lambda: open_files.append(victim.metric("process_open_fds") or 0))
    check.must(max(open_files) < DESCRIPTORS, f"{max(open_files):.0f} of {DESCRIPTORS} files were open")
    check.say(f"health within {slowest:.2f} s, at most {max(open_files):.0f} of {DESCRIPTORS} files open")


class Memory:
    """What a node's process may have, from its start, so that all it has counts."""

    def __init__(self, node):
        self.node, self.folder = node, None
        for root, name in (("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")):
            self.folder = Path(root) / f"flotilla-hostile-3.{os.getpid()}"
            try:
                self.folder.mkdir()
                self.limit = self.folder / name
                # Only a real group has these files already.
                if self.limit.exists():
                    with open(self.folder / "cgroup.procs", "r+") as processes:
                        processes.write(str(node.pid))
                    return
            except OSError:
                pass
            self.end()

    def leave(self, more):
        """From now on the process may have so many bytes more; says how."""
        status = Path(f"/proc/{self.node.pid}/status").read_text()

        def bytes_of(name):
            return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(name + ":"))

        if self.folder:
            # Pages of files are given back to make room, and do not count.
            limit = bytes_of("RssAnon") + more
            with open(self.limit, "r+") as file:
                file.write(str(limit))
            return f"{self.limit.name} of a control group = {limit >> 20} MiB, {more >> 20} more than it has"
        limit = bytes_of("VmSize") + more
        resource.prlimit(self.node.pid, resource.RLIMIT_AS, (limit, limit))
        return f"address space of {limit >> 20} MiB, {more >> 20} more than it has: no control group can be made here"

    def end(self):
        try:
            self.folder.rmdir()
        except (AttributeError, OSError):
            pass
        self.folder = None


class SlowReader:
    """Asks for many messages on one connection and reads no answer."""

    def __init__(self, node, topic, group):
        # gRPC reads ahead for whoever does not read, unless it is told not to.
        self.client = Client(node.client, "slow-reader@1",
                             options=[("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)])
        self.request = service.ReceiveMessageRequest(
            group=named(group), message_queue=definition.MessageQueue(topic=named(topic)),
            filter_expression=definition.FilterExpression(type=definition.TAG, expression="*"), batch_size=32,
            invisible_duration=duration(30), long_polling_timeout=duration(20))
        self.calls = [self.ask() for _ in range(MESSAGES // 32 + 1)]

    def ask(self):
        return self.client.stub.ReceiveMessage(self.request, timeout=300, metadata=self.client.metadata)

    def next_is_refused(self):
        """The status of one more receive, which is read, and the seconds it took. Answers that were smaller than they might
        have been leave some room, which others that are not read take first."""
        for _ in range(50):
            began = time.monotonic()
            status = next((each.status.code for each in self.ask() if each.HasField("status")), None)
            took_s = time.monotonic() - began
            if status != definition.OK:
                break
            self.calls.append(self.ask())
        return definition.Code.Name(status), took_s

    def read_all(self):
        """Ids of all messages that were on their way."""
        ids = set()
        for call in self.calls:
            ids.update(id_of(each.message) for each in call if each.HasField("message"))
        return ids


def fill(check, victim, topic):
    client, sent = Client(victim.client), set()
    wanted = [f"slow-{number}" for number in range(MESSAGES)]
    while wanted:
        some, wanted = wanted[:64], wanted[64:]
        for each, call in [(each, client.send_later(topic, each, b"s" * BODY_BYTES)) for each in some]:
            if call.result().status.code == definition.OK:
                sent.add(each)
            else:
                wanted.append(each)
    client.close()
    check.say(f"{len(sent)} messages of {BODY_BYTES >> 10} KiB for the slow reader")
    return sent


def drain(check, victim, topic, group, missing):
    """Another consumer of the group at the same node: it acknowledges everything that is not on its way to the slow one."""
    client, began = Client(victim.client, "other@1"), time.monotonic()
    while missing and time.monotonic() - began < 180:
        try:
            _, messages = client.receive(topic, group, poll_s=1.0)
            if messages:
                client.ack(topic, group, messages)
            missing -= {id_of(each) for each in messages}
        except Broken:
            pass
    client.close()
    check.must(not missing, f"{len(missing)} messages never came, {sorted(missing)[:3]} among them")


def slow_reader(check, cluster, victim, memory):
    cluster.create_topic("slow", 16)
    cluster.create_group("slow-readers")
    missing = fill(check, victim, "slow")
    check.say(f"memory: {memory.leave(MEMORY_MIB << 20)}")
    reader, unread = SlowReader(victim, "slow", "slow-readers"), []
    wait_for(60, "the room for a slow reader is used", lambda: victim.metric("flotilla_unread_refused_total"))
    status, took_s = reader.next_is_refused()
    check.must(status == "TOO_MANY_REQUESTS" and took_s < 3, f"one more receive: {status} after {took_s:.1f} s")
    rest = victim.resident_bytes()
    bench = load(check, cluster, victim, "beside")
    slowest = watch(check, victim, bench, lambda: unread.append(victim.metric("flotilla_unread_bytes") or 0))
    check.must(max(unread) <= MAX_UNREAD_BYTES, f"{max(unread):.0f} bytes waited for readers")
    check.say(f"health within {slowest:.2f} s, at most {max(unread) / (1 << 20):.1f} MiB waited to be read; "
              f"{rest >> 20} MiB resident before the load, {victim.resident_bytes() >> 20} MiB after it")
    drain(check, victim, "slow", "slow-readers", missing)
    check.say(f"all messages came to the consumer group; {len(reader.read_all())} had waited for the slow reader")
    reader.client.close()


def body(check):
    cluster = check.cluster(args=("--log-segment-size", "16MiB"))
    victim, begin = cluster[1], multiprocessing.Event()
    ports = [victim.client_port, victim.http_port, victim.peer_port]
    silent = multiprocessing.Process(target=keep_silent, args=(ports, begin), daemon=True)
    silent.start()
    # What is started from here on, the nodes among it, may not have more.
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    cluster.start()
    memory = Memory(victim)
    cluster.wait_healthy()
    few_descriptors(check, cluster, victim, begin)
    silent.kill()
    silent.join()
    cluster.wait_healthy(30)
    try:
        slow_reader(check, cluster, victim, memory)
        cluster.wait_healthy(30)
    finally:
        cluster.end()
        memory.end()


Check("hostile-3", f"{DESCRIPTORS} descriptors, {IDLE} silent sockets on each port; {MEMORY_MIB} MiB of memory left, "
      f"a reader of {MESSAGES} messages that does not read").run(body)
