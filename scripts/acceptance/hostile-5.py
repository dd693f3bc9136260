#!/usr/bin/env python3
"""Hostile check 5: many push consumers with full caches that work for minutes keep what they have, and time goes on.

CONSUMERS push consumers of one group fill their caches on three nodes (the server renews what they hold), give a sign of life to every node
every ten seconds, work for HOLD_S, and then acknowledge everything. No acknowledgement may be refused and nothing may be
delivered twice. Meanwhile a simple consumer lets leases of its own run out: what was leased must be visible again at most a second after
its lease was over. The consumers are plain clients of the interface, because 64 SDKs need more than a machine.

Beside that, LARGE topics of LARGE_MESSAGES messages each are deleted while the consumers hold their messages (0: none).

Parameters: CONSUMERS (64), CACHE (4096), HOLD_S (300), QUEUES (48), LARGE (2), LARGE_MESSAGES (10,000,000).
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from lib import Bench, Check, http, parameter, percentile, wait_for
from rpc import Broken, Client, attempt_of, id_of

CONSUMERS, CACHE, HOLD_S = parameter("CONSUMERS", 64), parameter("CACHE", 4096), parameter("HOLD_S", 300.0)
QUEUES = parameter("QUEUES", 48)
LARGE, LARGE_MESSAGES = parameter("LARGE", 2), parameter("LARGE_MESSAGES", 10_000_000)
BEAT_S, LEASE_S, LATE_S = 10.0, 10, 1.0
AT_ONCE = 1000


class Push:
    """A push consumer with a cache; it lives until it is told to end."""

    def __init__(self, cluster, number):
        self.clients = [Client(node.client, client_id=f"push@{number}") for node in cluster.nodes]
        self.held, self.ended = [], threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self):
        while not self.ended.wait(BEAT_S):
            for client in self.clients:
                try:
                    client.heartbeat("workers")
                except Broken:
                    pass

    def fill(self):
        turn, empty = 0, 0
        while len(self.held) < CACHE and empty < 3 * len(self.clients):
            turn += 1
            try:
                _, messages = self.clients[turn % len(self.clients)].receive("work", "workers", poll_s=1, auto_renew=True)
            except Broken:
                messages = []
            empty = 0 if messages else empty + 1
            self.held += messages

    def finish(self):
        """Acknowledges everything; how often that was answered with what."""
        said = {}
        for at in range(0, len(self.held), AT_ONCE):
            client = self.clients[at // AT_ONCE % len(self.clients)]
            for code in client.ack("work", "workers", self.held[at:at + AT_ONCE], timeout=30):
                said[code] = said.get(code, 0) + 1
        self.ended.set()
        return said


class Ticks:
    """A simple consumer that lets leases run out, and sees how late they end."""

    def __init__(self, cluster):
        self.over, self.late, self.ended = {}, [], threading.Event()
        self.threads = [threading.Thread(target=self._watch, args=(Client(node.client, client_id="ticks@1"),), daemon=True)
                        for node in cluster.nodes]
        for thread in self.threads:
            thread.start()

    def _watch(self, client):
        over = self.over
        while not self.ended.is_set():
            try:
                _, messages = client.receive("ticks", "watchers", invisible_s=LEASE_S, poll_s=2)
            except Broken:
                continue
            for each in messages:
                if id_of(each) in over:
                    self.late.append(time.monotonic() - over[id_of(each)])
                # At the latest: the lease may have begun when it was asked for.
                over[id_of(each)] = time.monotonic() + LEASE_S

    def close(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(10)


def produce(check, cluster, topic, messages, queues):
    """Stores so many small messages; how many there are."""
    cluster.create_topic(topic, queues)
    bench = Bench(check, f"fill-{topic}", "produce", cluster, "--topic", topic, "--payload", 40, "--in-flight", 4096,
                  "--rate", "max", "--duration", f"{max(30, messages // 5_000)}s")
    began = sum(node.metric("rocketmq_messages_in_total") or 0 for node in cluster.nodes)

    def enough():
        now = sum(node.metric("rocketmq_messages_in_total") or 0 for node in cluster.nodes)
        return now - began >= messages or not bench.running()
    wait_for(3600, f"{messages} messages in {topic}", enough, every=0.5)
    if bench.running():
        bench.process.terminate()
        bench.process.wait()
    return int(sum(node.metric("rocketmq_messages_in_total") or 0 for node in cluster.nodes) - began)


def main(check):
    cluster = check.cluster().start()
    cluster.wait_spread()
    for number in range(LARGE):
        check.say(f"large-{number}: {produce(check, cluster, f'large-{number}', LARGE_MESSAGES, 6)} messages")
    check.say(f"work: {produce(check, cluster, 'work', CONSUMERS * CACHE, QUEUES)} messages")
    cluster.create_topic("ticks", 6)
    producer = Client(cluster.nodes[0].client)
    for number in range(24):
        check.must(producer.send("ticks", f"tick-{number}") == "OK", "a message was not stored")
    ticks = Ticks(cluster)
    consumers = [Push(cluster, number) for number in range(CONSUMERS)]
    with ThreadPoolExecutor(CONSUMERS) as pool:
        list(pool.map(Push.fill, consumers))
        held = [len(consumer.held) for consumer in consumers]
        check.say(f"{CONSUMERS} push consumers hold {sum(held)} messages, {min(held)} to {max(held)} each")
        check.must(min(held) == CACHE, f"a cache was not filled: {min(held)} of {CACHE}")
        for number in range(LARGE):
            status, text = http("DELETE", cluster.nodes[0].http, f"/v1/topics/large-{number}", timeout=30)
            check.must(status in (200, 204), f"large-{number} was not deleted: {status} {text[:200]}")
        time.sleep(HOLD_S)
        said = {}
        for answers in pool.map(Push.finish, consumers):
            for code, count in answers.items():
                said[code] = said.get(code, 0) + count
    ticks.close()
    check.say(f"after {HOLD_S:.0f} s acknowledgements were answered with {said}")
    check.must(set(said) == {"OK"}, f"leases of living clients were lost: {said}")
    ids = [id_of(each) for consumer in consumers for each in consumer.held]
    check.must(len(ids) == len(set(ids)), f"{len(ids) - len(set(ids))} messages came to two consumers")
    again = sum(attempt_of(each) > 1 for consumer in consumers for each in consumer.held)
    check.must(again == 0, f"{again} messages were delivered again while their holders lived")
    check.say(f"{len(ticks.late)} leases ran out, visible again {percentile(ticks.late, 0.5) * 1000:.0f} ms (median), "
              f"{max(ticks.late, default=0) * 1000:.0f} ms (longest) after their end")
    check.must(len(ticks.late) > 0, "no lease ran out")
    check.must(max(ticks.late, default=0) <= LATE_S, f"a lease ended {max(ticks.late, default=0):.1f} s late")


if __name__ == "__main__":
    Check("hostile-5", f"{CONSUMERS} push consumers hold {CACHE} messages each for {HOLD_S:.0f} s").run(main)
