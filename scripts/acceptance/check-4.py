#!/usr/bin/env python3
"""Check 4: leases survive the death of the leader that gave them.

A consumer leases messages; the node that leads most shards is killed. Acknowledgements with the old receipt handles are
accepted, nothing leased comes again before its deadline, and what was not acknowledged comes afterwards with the next
attempt: twice in a row, with another leader killed in between.

Parameters: MESSAGES (600), INVISIBLE (20 s).
"""

import time

from lib import Check, parameter
from rpc import Broken, Client, attempt_of, id_of

MESSAGES, INVISIBLE = parameter("MESSAGES", 600), parameter("INVISIBLE", 20)
TOPIC, GROUP = "leases", "workers"


class Consumer:
    """Asks all living nodes in turn and keeps book."""

    def __init__(self, check, cluster):
        self.check, self.cluster = check, cluster
        self.clients = {node.number: Client(node.client) for node in cluster.nodes}
        self.turn = 0

    def each(self):
        return [self.clients[node.number] for node in self.cluster.nodes if node.running()]

    def receive(self, invisible_s):
        self.turn += 1
        clients = self.each()
        try:
            return clients[self.turn % len(clients)].receive(TOPIC, GROUP, invisible_s=invisible_s, poll_s=0.1)[1]
        except Broken:
            return []

    def receive_until(self, count, invisible_s, limit_s=30.0):
        """Messages with the moment each came, at least `count`."""
        found, began = [], time.monotonic()
        while len(found) < count and time.monotonic() - began < limit_s:
            found += [(each, time.monotonic()) for each in self.receive(invisible_s)]
        return found

    def ack(self, messages, limit_s=15.0):
        """Each message's first certain answer; and how many tries broke off before it."""
        answers, broken, began = {}, 0, time.monotonic()
        for each in messages:
            while time.monotonic() - began < limit_s:
                self.turn += 1
                clients = self.each()
                try:
                    answer = clients[self.turn % len(clients)].ack(TOPIC, GROUP, [each])[0]
                except Broken:
                    broken += 1
                    continue
                answers[id_of(each)] = answer
                if answer in ("OK", "INVALID_RECEIPT_HANDLE"):
                    break
        return answers, broken


def one_round(check, cluster, consumer, leased, attempt, done):
    """Kills the leader, acknowledges half of what is leased, and waits for the other half to come again."""
    deadline = min(at for _, at in leased) + INVISIBLE
    latest = max(at for _, at in leased) + INVISIBLE
    wrong = {attempt_of(each) for each, _ in leased} - {attempt}
    check.must(not wrong, f"attempts {sorted(wrong)} where {attempt} was due")
    acked, kept = [each for each, _ in leased[::2]], [each for each, _ in leased[1::2]]
    node, leads = cluster.leading_most()
    node.kill()
    killed = time.monotonic()
    answers, broken = consumer.ack(acked)
    took = time.monotonic() - killed
    good = sum(answer == "OK" for answer in answers.values())
    check.say(f"killed node {node.number}, which led {leads} shards; {good} of {len(acked)} old receipt handles accepted "
              f"within {took:.1f} s ({broken} requests broke off)")
    refused = len(acked) - good
    check.must(refused == 0, f"{refused} old handles refused: {sorted(set(answers.values()))}")
    done |= {id_of(each) for each in acked}
    node.start()
    early, keep_ids, again = [], {id_of(each) for each in kept}, []
    while time.monotonic() < latest + 10 and len(again) < len(kept):
        asked = time.monotonic()
        for each in consumer.receive(INVISIBLE):
            came = time.monotonic()
            check.must(id_of(each) not in done, f"{id_of(each)} came again after its acknowledgement")
            if id_of(each) in keep_ids:
                if came < deadline - 0.05:
                    early.append(id_of(each))
                again.append((each, asked))
    check.must(not early, f"{len(early)} messages came again before their deadline")
    check.must(len({id_of(each) for each, _ in again}) == len(kept), f"{len(again)} of {len(kept)} came again")
    if again:
        check.say(f"{len(again)} unacknowledged messages came again {again[0][1] - deadline:+.1f} s to "
                  f"{again[-1][1] - latest:+.1f} s around their deadlines")
    stale, _ = consumer.ack(kept[:20])
    check.must(set(stale.values()) <= {"INVALID_RECEIPT_HANDLE"}, f"old handles of new leases: {set(stale.values())}")
    return again


def body(check):
    cluster = check.cluster().start()
    cluster.wait_healthy()
    check.must(cluster.create_topic(TOPIC, 12)[0] == 201, "the topic was not created")
    check.must(cluster.create_group(GROUP)[0] == 201, "the consumer group was not created")
    consumer = Consumer(check, cluster)
    for number in range(MESSAGES):
        answer = consumer.each()[number % 3].send(TOPIC, f"message-{number}", timeout=10)
        check.must(answer == "OK", f"send {number}: {answer}")
    leased = consumer.receive_until(MESSAGES, INVISIBLE)
    check.say(f"{len(leased)} of {MESSAGES} messages leased for {INVISIBLE} s")
    check.must(len({id_of(each) for each, _ in leased}) == MESSAGES, f"only {len(leased)} messages leased at first")
    done = set()
    for attempt in (1, 2):
        leased = one_round(check, cluster, consumer, leased, attempt, done)
        cluster.wait_ready()
    last = [each for each, _ in leased]
    check.must({attempt_of(each) for each in last} == {3}, f"attempts {({attempt_of(each) for each in last})}, not 3")
    answers, _ = consumer.ack(last)
    check.must(set(answers.values()) == {"OK"}, f"the last acknowledgements: {set(answers.values())}")
    left = consumer.receive_until(1, INVISIBLE, 3.0)
    check.must(not left, f"{len(left)} messages are left over")
    cluster.wait_healthy(30)


Check(4, f"leases of {MESSAGES} messages across two failovers").run(body)
