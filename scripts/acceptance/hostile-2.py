#!/usr/bin/env python3
"""Hostile check 2: data directories at the wrong place, in every combination over three nodes.

A node is started with a directory of another cluster (its own number, another number), with the directory of another node
(swapped, copied), with its own as it was a while ago (put back after a restart of this node, and after one of all nodes), with
one that was replaced, and a second time (a copy of its directory, and an empty one) beside the process that runs. Each with
each of the three nodes. The healthy nodes serve on, the wrong one says what it is, nobody counts it, and with the right
directories back everything that was acknowledged is there with any one node down.

Parameters: NODES (123: the nodes that are the wrong one in turn), MESSAGES (20: sent through each healthy node in each trial).
"""

import shutil
import time

from lib import Check, Node, free_ports, parameter, wait_for
from rpc import Broken, Client, drain

NODES = [int(each) for each in parameter("NODES", "123")]
MESSAGES = parameter("MESSAGES", 20)
TOPIC = "kept"
SAYS_WITHIN = 20.0


class Trials:
    def __init__(self, check):
        self.check = check
        self.cluster = check.cluster()
        self.acknowledged = set()
        self.sent = 0
        self.cluster.expected_errors = [r"does not belong here", r"does not start"]

    # ---- what a healthy cluster does ----

    def feed(self, through, what, limit_s=15.0):
        """Every message is acknowledged, through every healthy node."""
        clients = {number: Client(self.cluster[number].client) for number in through}
        for _ in range(MESSAGES):
            for number, client in clients.items():
                self.sent += 1
                message_id, answer, began = f"m-{self.sent}", None, time.monotonic()
                while answer != "OK" and time.monotonic() - began < limit_s:
                    try:
                        answer = client.send(TOPIC, message_id)
                    except Broken as broken:
                        answer = str(broken)
                if self.check.must(answer == "OK", f"{what}: node {number} answers a send with {answer}"):
                    self.acknowledged.add(message_id)
        for client in clients.values():
            client.close()

    def whole(self, what):
        took = self.cluster.wait_healthy(90, lag=0)
        self.check.must(took is not None, f"{what}: the cluster is not whole again")

    def others(self, number):
        return [other for other in (1, 2, 3) if other != number]

    # ---- what is said of a wrong one ----

    def says(self, node, pattern, what, log_from=0):
        """The node itself says what it is: in its log, and in what it answers while it runs."""
        def said():
            log = node.log.read_text(errors="replace")[log_from:]
            ready = node.get("/healthz/ready")[1] if node.running() else log
            return pattern in log and (pattern in ready or not node.running())
        try:
            took = wait_for(SAYS_WITHIN, f"node {node.number} says {pattern!r}", said)
            self.check.say(f"{what}: says {pattern!r} after {took:.1f} s, "
                           f"{'and runs on' if node.running() else 'and has stopped'}")
        except TimeoutError as late:
            self.check.must(False, f"{what}: {late}")

    def shown(self, number, pattern, what):
        """The healthy nodes show it: not alive, no replica of it counts, and (with a pattern) why."""
        def one(view):
            node = next(each for each in view["nodes"] if each["id"] == number)
            counted = [replica for shard in view["shards"] for replica in shard["replicas"]
                       if replica["node"] == number and (replica["alive"] or replica["lag"] is not None)]
            return not node["alive"] and not counted and (pattern is None or pattern in (node["problem"] or ""))
        try:
            wait_for(SAYS_WITHIN, "the others show it", lambda: all(
                one(self.cluster[other].view()) for other in self.others(number)))
        except TimeoutError:
            self.check.must(False, f"{what}: the others do not show it")

    # ---- the trials ----

    def wrong(self, number, directory, pattern, what, shown=None):
        """Runs a node with that directory in the place of its own; what it was is back afterwards."""
        node = self.cluster[number]
        if node.running():
            node.kill()
        right = node.directory.with_suffix(".right")
        node.directory.rename(right)
        shutil.copytree(directory, node.directory, symlinks=True)
        length = node.log.stat().st_size
        node.start()
        self.feed(self.others(number), what)
        self.says(node, pattern, what, length)
        self.shown(number, shown, what)
        if node.running():
            node.kill()
        shutil.rmtree(node.directory)
        right.rename(node.directory)
        node.start()
        self.whole(what)

    def foreign(self, number):
        for of in (number, number % 3 + 1):
            what = f"node {number} with the directory of node {of} of another cluster"
            if of == number:
                self.wrong(number, self.foreign_directory(of), "belongs to cluster", what, shown="belongs to cluster")
            else:
                self.wrong(number, self.foreign_directory(of), f"belongs to node {of} of cluster", what)

    def foreign_directory(self, number):
        return self.check.data / f"foreign-{number}"

    def swapped(self, number):
        """Two nodes with each other's directory: a majority is wrong, and nothing is harmed."""
        one, two = self.cluster[number], self.cluster[number % 3 + 1]
        what = f"nodes {one.number} and {two.number} with each other's directory"
        for node in (one, two):
            node.kill()
        self.exchange(one, two)
        lengths = {node: node.log.stat().st_size for node in (one, two)}
        for node, of in ((one, two), (two, one)):
            node.start()
            self.says(node, f"belongs to node {of.number} of cluster", what, lengths[node])
        third = self.cluster[6 - one.number - two.number]
        wait_for(SAYS_WITHIN, "the third knows that it is alone", lambda: third.get("/healthz/ready")[0] == 503)
        self.exchange(one, two)
        for node in (one, two):
            if node.running():
                node.kill()
            node.start()
        self.whole(what)

    def exchange(self, one, two):
        aside = self.check.data / "aside"
        one.directory.rename(aside)
        two.directory.rename(one.directory)
        aside.rename(two.directory)

    def copied(self, number):
        of = number % 3 + 1
        copy = self.copy(of, "copied")
        self.wrong(number, copy, f"belongs to node {of} of cluster", f"node {number} with a copy of node {of}'s directory")
        shutil.rmtree(copy)

    def copy(self, number, name):
        """Of the directory of a node that is stopped for it."""
        node, copy = self.cluster[number], self.check.data / f"{name}-{number}"
        node.stop()
        shutil.copytree(node.directory, copy, symlinks=True)
        node.start()
        self.whole(f"node {number} was copied")
        return copy

    def older(self, number):
        old = self.copy(number, "old")
        self.feed((1, 2, 3), "between a copy and its return")
        self.whole("between a copy and its return")
        self.wrong(number, old, "older state", f"node {number} put back to an older state", shown="older state")
        self.older_with_all(number, old)
        shutil.rmtree(old)

    def older_with_all(self, number, old):
        """All nodes were stopped in between: what is known of the directory must be on the others' disks."""
        what = f"node {number} put back to an older state while all were stopped"
        for node in self.cluster.nodes:
            node.stop()
        node = self.cluster[number]
        right = node.directory.with_suffix(".right")
        node.directory.rename(right)
        shutil.copytree(old, node.directory, symlinks=True)
        length = node.log.stat().st_size
        for each in self.cluster.nodes:
            each.start()
        self.says(node, "older state", what, length)
        self.feed(self.others(number), what)
        wait_for(SAYS_WITHIN, f"node {number} has stopped", lambda: not node.running())
        shutil.rmtree(node.directory)
        right.rename(node.directory)
        node.start()
        self.whole(what)

    def replaced(self, number):
        """An empty directory takes the place of the old one, which comes back after it was replaced."""
        node = self.cluster[number]
        node.kill()
        old = self.check.data / f"replaced-{number}"
        node.directory.rename(old)
        node.start()
        self.feed(self.others(number), f"node {number} is rebuilt")
        self.whole(f"node {number} is rebuilt")
        self.wrong(number, old, "was replaced", f"node {number} with a directory that was replaced", shown="was replaced")
        shutil.rmtree(old)

    def twice(self, number):
        """A second process of a node that runs: with a copy of its directory, and with an empty one."""
        copy = self.copy(number, "twice")
        for directory, pattern, what in (
                (copy, "in use by another process", f"a copy of node {number} beside it"),
                (self.check.data / f"empty-{number}", "runs with another data directory", f"an empty node {number} beside it")):
            self.beside(number, directory, pattern, what)

    def beside(self, number, directory, pattern, what):
        second = Node(self.cluster, number, free_ports(3), directory)
        second.log = self.check.logs / f"second-{number}.log"
        second.log.write_bytes(b"")
        second.start()
        self.feed((1, 2, 3), what)
        # A copy of a directory that has written since is an older state as well.
        took = wait_for(SAYS_WITHIN, f"{what} says what it is", lambda: any(
            each in second.log.read_text(errors="replace") for each in (pattern, "older state")))
        self.check.say(f"{what}: says so after {took:.1f} s")
        view = self.cluster[self.others(number)[0]].view()
        alive = next(each["alive"] for each in view["nodes"] if each["id"] == number)
        self.check.must(alive and self.cluster[number].running(), f"{what}: the first one is not counted any more")
        if second.running():
            second.kill()
        shutil.rmtree(directory)
        self.whole(what)

    # ---- the end ----

    def nothing_is_lost(self):
        for number in (1, 2, 3):
            self.whole("before the last look")
            self.cluster[number].kill()
            group = f"readers-without-{number}"
            wait_for(30, "the others serve", lambda: all(self.cluster[other].ready() for other in self.others(number)))
            # Whoever leads the catalogue may have been killed just now; a try that took effect without an answer is there.
            wait_for(30, "a consumer group is created", lambda: self.cluster.create_group(group)[0] in (201, 409))
            seen = drain(self.check, self.cluster, TOPIC, group)
            lost = self.acknowledged - set(seen)
            self.check.say(f"without node {number}: {len(seen)} messages of {len(self.acknowledged)} acknowledged")
            self.check.must(not lost, f"{len(lost)} lost without node {number}, as {sorted(lost)[:3]}")
            self.cluster[number].start()
        self.whole("at the end")


def another_cluster(check, cluster):
    """Lives and ends at the same addresses; its directories are what nodes are given by mistake."""
    own = {node.number: node.directory for node in cluster.nodes}
    for node in cluster.nodes:
        node.directory = check.data / f"foreign-{node.number}"
        node.start()
    cluster.wait_healthy()
    cluster.create_topic("theirs", 6)
    client = Client(cluster[1].client)
    for number in range(200):
        client.send("theirs", f"theirs-{number}", timeout=10)
    client.close()
    for node in cluster.nodes:
        node.kill()
        node.directory = own[node.number]


def body(check):
    trials = Trials(check)
    another_cluster(check, trials.cluster)
    trials.cluster.start()
    trials.whole("at the beginning")
    check.must(trials.cluster.create_topic(TOPIC, 6)[0] == 201, "the topic was not created")
    trials.feed((1, 2, 3), "at the beginning")
    for number in NODES:
        for trial in (trials.foreign, trials.swapped, trials.copied, trials.older, trials.replaced, trials.twice):
            trial(number)
            trials.feed((1, 2, 3), f"after {trial.__name__} of node {number}")
    trials.nothing_is_lost()


Check("hostile-2", "data directories at the wrong place").run(body)
