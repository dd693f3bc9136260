#!/usr/bin/env python3
"""Hostile check 4: answers that never reach their push consumers, while those live on, make no message disappear.

Push consumers of the Java, Go and Python SDKs reach three nodes through a proxy each, without TLS, and work on nothing for
long. Whenever an answer carries a message that was never cut off before, the proxy lets none of its bytes through and cuts the connection:
with a reset on both sides, with an orderly end, or with a reset after two seconds of silence, in turns. So the node has
written the answer, and the client has never seen it. Each message must come to its consumer within 60 s
of its last cut.

Parameters: CUTS (200 messages, shared by the languages), SDKS ("java go python"), LIMIT_S (60).
"""

import os
import re
import select
import socket
import struct
import threading
import time

from lib import Check, free_ports, parameter, percentile, wait_for
from rpc import Client
from sdks import Consumer, build

CUTS, LIMIT_S = parameter("CUTS", 200), parameter("LIMIT_S", 60.0)
SDKS = parameter("SDKS", "java go python").split()
MARK = re.compile(rb"<([a-z]+-\d+)>")
# From the first byte of an answer to its last.
WHOLE_ANSWER_S = 0.05


class Proxy:
    """Passes bytes between clients and one node, except answers with messages that were not cut off yet."""

    def __init__(self, port, target, cut):
        self.target, self.cut = target, cut
        self.listener = socket.create_server(("127.0.0.1", port), backlog=256)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client):
        try:
            node = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            client.close()
            return
        try:
            while True:
                for ready in select.select([client, node], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if ready is node and MARK.search(data):
                        data = self._answer(node, data)
                        how = self.cut.judge(data)
                        if how is not None:
                            end(how, client, node)
                            return
                    (client if ready is node else node).sendall(data)
        except OSError:
            pass
        finally:
            client.close()
            node.close()

    @staticmethod
    def _answer(node, data):
        """All of an answer that has begun to come."""
        while select.select([node], [], [], WHOLE_ANSWER_S)[0]:
            more = node.recv(1 << 16)
            if not more:
                break
            data += more
        return data


def end(how, client, node):
    """Ends a connection: 0 resets both sides, 1 closes them, 2 is silent before it resets."""
    if how == 2:
        time.sleep(2)
    if how != 1:
        for side in (client, node):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Cut:
    """Which messages were cut off, and when."""

    def __init__(self):
        self.at, self.how, self.connections, self.lock = {}, {}, 0, threading.Lock()

    def judge(self, data):
        """How to end the connection of this answer; None: let it through."""
        with self.lock:
            carried = {found.decode() for found in MARK.findall(data)}
            if carried <= self.at.keys():
                return None
            how = self.connections % 3
            self.connections += 1
            # Also what was cut off before and comes again beside something new.
            for body in carried:
                self.at[body], self.how[body] = time.monotonic(), how
            return how


def main(check):
    build(SDKS)
    cluster, cut = check.cluster(), Cut()
    ports = free_ports(len(cluster.nodes))
    for node, port in zip(cluster.nodes, ports):
        Proxy(port, node.client_port, cut)
        node.start("--advertise-client-addr", f"127.0.0.1:{port}")
    cluster.wait_ready()
    cluster.wait_spread()
    consumers = []
    for language in SDKS:
        cluster.create_topic(f"cut-{language}", 6)
        cluster.create_group(f"readers-{language}")
        endpoint = f"127.0.0.1:{ports[0]}"
        consumers.append(Consumer(check, language, "push", language, endpoint, f"cut-{language}", f"readers-{language}", 0))
    for consumer in consumers:
        check.must(consumer.ready.wait(60), f"the {consumer.name} consumer did not start")
    producer = Client(cluster.nodes[0].client)
    sent = []
    for number in range(CUTS):
        language = SDKS[number % len(SDKS)]
        body = f"{language}-{number}"
        check.must(producer.send(f"cut-{language}", body, f"<{body}>".encode()) == "OK", f"{body} was not stored")
        sent.append(body)
        time.sleep(0.15)
    wait_for(120, "every message was cut off", lambda: len(cut.at) == CUTS)
    check.say(f"{CUTS} messages in {cut.connections} answers were cut off")

    def first():
        """When each message came first."""
        came = {}
        for consumer in consumers:
            for at, body, _ in consumer.got:
                came.setdefault(body.strip("<>"), at)
        return came
    try:
        wait_for(LIMIT_S + 60, "every message came", lambda: len(first()) == CUTS, every=0.5)
    except TimeoutError:
        check.must(False, f"{CUTS - len(first())} messages never came: {sorted(set(sent) - first().keys())[:5]}")
    after = {body: at - cut.at[body] for body, at in first().items()}
    for language in SDKS:
        theirs = [seconds for body, seconds in after.items() if body.startswith(language)]
        check.say(f"{language}: {len(theirs)} came after {percentile(theirs, 0.5):.1f} s (median), "
                  f"{max(theirs, default=0):.1f} s (longest)")
    late = {body: seconds for body, seconds in after.items() if seconds > LIMIT_S}
    check.must(not late, f"{len(late)} messages came later than {LIMIT_S:.0f} s after their cut: {sorted(late.items())[:3]}")
    early = [body for body, seconds in after.items() if seconds < 0]
    check.must(not early, f"{early[:3]} came before they were cut off: the proxy leaks")
    for consumer in consumers:
        consumer.close()


if __name__ == "__main__":
    Check("hostile-4", f"{CUTS} answers cut off before {', '.join(SDKS)} push consumers had them").run(main)
