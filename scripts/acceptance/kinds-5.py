#!/usr/bin/env python3
"""Transactions: a third is committed, a third rolled back, a third left to check-back, while the node that leads most is killed with
kill -9 again and again. Every outcome must be exact: what was committed comes, nothing else does, nothing before its commit, and in
the end no transaction is open.

Parameters: TRANSACTIONS (10000), THREADS (8), KILL_EVERY (10 s), DOWN_FOR (3 s).
"""

import json
import queue
import threading
import time

from lib import Check, http, parameter
from rpc import Broken, Client, definition, drain, id_of, message, resource, service

TRANSACTIONS, THREADS = parameter("TRANSACTIONS", 10_000), parameter("THREADS", 8)
KILL_EVERY, DOWN_FOR = parameter("KILL_EVERY", 10.0), parameter("DOWN_FOR", 3.0)
TOPIC, GROUP = "transactions", "witnesses"
GIVE_UP_S = 300


class Run:
    def __init__(self, check, cluster):
        self.check, self.cluster = check, cluster
        self.lock = threading.Lock()
        self.committing, self.ends, self.asked, self.seen, self.wrong = set(), {}, {}, {}, []
        self.over = threading.Event()

    def note(self, what):
        with self.lock:
            self.wrong.append(what)

    def until(self, clients, first, call, good):
        """Asks one node after the other until the answer is one of these; its code."""
        until, at = time.monotonic() + GIVE_UP_S, first
        while time.monotonic() < until:
            try:
                code, answer = call(clients[at % len(clients)])
                if code in good:
                    return code, answer
                if code not in ("HA_NOT_AVAILABLE", "PROXY_TIMEOUT", "TOO_MANY_REQUESTS"):
                    self.note(f"answered with {code}: {answer}")
                    return code, answer
            except Broken:
                pass
            at += 1
            time.sleep(0.05)
        self.note("no answer for minutes")
        return None, None

    def end(self, clients, first, message_id, transaction_id, commits):
        if commits:
            with self.lock:
                self.committing.add(message_id)
        request = service.EndTransactionRequest(topic=resource(TOPIC), message_id=message_id, transaction_id=transaction_id,
                                                resolution=definition.COMMIT if commits else definition.ROLLBACK)

        def call(client):
            status = client.call("EndTransaction", request).status
            return definition.Code.Name(status.code), status.message
        code, _ = self.until(clients, first, call, {"OK"})
        if code == "OK":
            with self.lock:
                self.ends[message_id] = commits

    def produce(self, thread):
        clients = [Client(node.client, f"producer-{thread}@1") for node in self.cluster.nodes]
        for number in range(thread, TRANSACTIONS, THREADS):
            message_id = f"transaction-{number:06d}"
            half = message(TOPIC, message_id, b"half of it")
            half.system_properties.message_type = definition.TRANSACTION

            def call(client, half=half):
                answer = client.call("SendMessage", service.SendMessageRequest(messages=[half]))
                entry = answer.entries[0] if answer.entries else None
                return definition.Code.Name(answer.status.code), entry.transaction_id if entry else answer.status.message
            code, transaction_id = self.until(clients, number, call, {"OK"})
            if code == "OK" and number % 3 < 2:
                self.end(clients, number + 1, message_id, transaction_id, number % 3 == 0)

    def listen(self, node):
        """A producer's stream to one node, opened again when it breaks."""
        clients = [Client(each.client, "asked@1") for each in self.cluster.nodes]
        own, settings = clients[node.number - 1], definition.Settings(client_type=definition.PRODUCER)
        settings.publishing.topics.append(resource(TOPIC))
        while not self.over.is_set():
            said = queue.Queue()
            said.put(service.TelemetryCommand(settings=settings))
            try:
                for command in own.stub.Telemetry(iter(said.get, None), metadata=own.metadata):
                    if command.HasField("recover_orphaned_transaction_command"):
                        asked = command.recover_orphaned_transaction_command
                        message_id = id_of(asked.message)
                        with self.lock:
                            self.asked[message_id] = self.asked.get(message_id, 0) + 1
                        number = int(message_id.rsplit("-", 1)[1])
                        # Its producer may be about to end it: it says the same.
                        commits = number % 3 == 0 if number % 3 < 2 else number % 2 == 0
                        self.end(clients, node.number - 1, message_id, asked.transaction_id, commits)
            except Exception:  # noqa: BLE001 the node is dead
                time.sleep(0.2)
            said.put(None)

    def consume(self):
        clients, at = [Client(node.client, "consumer@1") for node in self.cluster.nodes], 0
        while not self.over.is_set():
            at += 1
            try:
                _, messages = clients[at % 3].receive(TOPIC, GROUP)
            except Broken:
                time.sleep(0.05)
                continue
            with self.lock:
                for each in messages:
                    self.seen[id_of(each)] = self.seen.get(id_of(each), 0) + 1
                    if id_of(each) not in self.committing:
                        self.wrong.append(f"{id_of(each)} came before anybody committed it")
            try:
                if messages:
                    clients[at % 3].ack(TOPIC, GROUP, messages)
            except Broken:
                pass

    def kill(self):
        kills = 0
        while not self.over.wait(KILL_EVERY):
            node, _ = self.cluster.leading_most()
            if node is None:
                continue
            node.kill()
            kills += 1
            self.over.wait(DOWN_FOR)
            node.start()
            self.cluster.wait_ready(60)
        return kills

    def open(self):
        """How many transactions nobody has ended; None if that cannot be told now."""
        found, query = 0, {"limit": 256}
        while True:
            status, text = http("POST", self.cluster.any_running().http, f"/v1/topics/{TOPIC}/transactions", query, timeout=30)
            if status != 200:
                return None
            page = json.loads(text)
            found += len(page["transactions"])
            if page.get("next") is None:
                return found
            query["from"] = page["next"]


def body(check):
    cluster = check.cluster().start()
    cluster.wait_healthy()
    made = {"name": TOPIC, "queues": 16, "message_type": "TRANSACTION"}
    http("POST", cluster[1].http, "/v1/topics", made, timeout=30)
    cluster.create_group(GROUP)
    run = Run(check, cluster)
    threads = [threading.Thread(target=run.listen, args=(node,), daemon=True) for node in cluster.nodes]
    threads += [threading.Thread(target=run.consume, daemon=True)]
    kills = []
    killer = threading.Thread(target=lambda: kills.append(run.kill()), daemon=True)
    producers = [threading.Thread(target=run.produce, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in (*threads, *producers, killer):
        thread.start()
    for producer in producers:
        producer.join()
    check.say(f"{TRANSACTIONS} half messages sent; {len(run.ends)} transactions ended")
    until, left = time.monotonic() + GIVE_UP_S, None
    while left != 0 and time.monotonic() < until:
        time.sleep(1)
        left = run.open()
    check.must(left == 0, f"{left} transactions are open after {GIVE_UP_S} s")
    run.over.set()
    killer.join(90)
    cluster.wait_healthy()
    for message_id, times in drain(check, cluster, TOPIC, GROUP).items():
        run.seen[message_id] = run.seen.get(message_id, 0) + times
    numbers = [(f"transaction-{number:06d}", number) for number in range(TRANSACTIONS)]
    wanted = {of for of, number in numbers if (number % 3 == 0 if number % 3 < 2 else number % 2 == 0)}
    missing, foreign = wanted - run.seen.keys(), run.seen.keys() - wanted
    asked = sum(1 for of, number in numbers if number % 3 == 2 and of in run.asked)
    check.say(f"{kills[0] if kills else '?'} kills; {len(run.seen)} came of {len(wanted)} that were committed; producers were asked about "
              f"{len(run.asked)}, {asked} of the {TRANSACTIONS // 3} that were left to it, {sum(run.asked.values())} times")
    check.must(not missing, f"{len(missing)} were committed and never came: {sorted(missing)[:3]}")
    check.must(not foreign, f"{len(foreign)} came and were not committed: {sorted(foreign)[:3]}")
    check.must(not run.wrong, f"{len(run.wrong)} times: {run.wrong[:3]}")


Check("kinds-5", f"{TRANSACTIONS} transactions, a kill every {KILL_EVERY:.0f} s").run(body)
