#!/usr/bin/env python3
"""Check 5: a leader is stopped with SIGSTOP for 10 s: a network partition without the network.

Another leader serves within 2.5 s. What clients sent to the stopped node is on its sockets when it goes on; whatever it
then acknowledges must really be stored: everything acknowledged is read back, once.

Parameters: TIMES (3), PAUSE (10 s).
"""

import json
import signal
import threading
import time

from lib import Bench, Check, parameter, verify
from rpc import Broken, Client, definition, drain, grpc

TIMES, PAUSE = parameter("TIMES", 3), parameter("PAUSE", 10.0)
TOPIC, LIMIT_S, WAITING = "one", 2.5, 200


class Probe(threading.Thread):
    """Sends to one node as fast as it answers, and notes when what was acknowledged."""

    def __init__(self, node, name):
        super().__init__(daemon=True)
        self.client, self.name, self.acknowledged, self.statuses, self.over = Client(node.client), name, [], {}, False
        self.start()

    def run(self):
        number = 0
        while not self.over:
            number += 1
            message_id = f"{self.name}-{number}"
            began = time.monotonic()
            try:
                answer = self.client.send(TOPIC, message_id, timeout=1.0)
            except Broken as broken:
                answer = broken.args[0]
            self.statuses[answer] = self.statuses.get(answer, 0) + 1
            if answer == "OK":
                self.acknowledged.append((began, time.monotonic(), message_id))
            else:
                time.sleep(0.02)


def leader_of_topic(cluster):
    status, text = cluster.any_running().get(f"/v1/topics/{TOPIC}")
    queue = json.loads(text)["queue_list"][0] if status == 200 else {"leader": None}
    return cluster[queue["leader"]] if queue["leader"] else None


def one_pause(check, cluster, turn, acknowledged):
    leader = leader_of_topic(cluster)
    others = [node for node in cluster.nodes if node is not leader]
    probes = [Probe(node, f"probe-{turn}-{node.number}") for node in others]
    stopped_client = Client(leader.client)
    stopped_client.send(TOPIC, f"hello-{turn}")
    time.sleep(1.0)
    leader.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    # On the sockets of a process that does not run.
    waiting = {f"stopped-{turn}-{n}": stopped_client.send_later(TOPIC, f"stopped-{turn}-{n}", timeout=PAUSE + 15)
               for n in range(WAITING)}
    time.sleep(PAUSE)
    new = leader_of_topic(cluster)
    leader.signal(signal.SIGCONT)
    resumed = time.monotonic()
    stale = 0
    for message_id, future in waiting.items():
        try:
            answer = future.result()
            if answer.status.code == definition.OK and answer.entries[0].status.code == definition.OK:
                acknowledged.append(message_id)
                stale += 1
        except grpc.RpcError:
            pass
    time.sleep(1.0)
    for probe in probes:
        probe.over = True
        probe.join()
        # Sent before the pause, and acknowledged during it, does not count as served anew.
        after = [end for begin, end, _ in probe.acknowledged if end > stopped + 0.05]
        served = after[0] - stopped if after else None
        check.say(f"node {probe.name.split('-')[-1]}: served again "
                  f"{'never' if served is None else f'{served:.2f} s'} after the stop; answers {probe.statuses}")
        check.must(served is not None and served <= LIMIT_S, f"no other leader within {LIMIT_S} s: {served}")
        acknowledged.extend(message_id for _, _, message_id in probe.acknowledged)
    check.say(f"node {leader.number} was stopped; node {new and new.number} led instead; of {WAITING} sends that waited on "
              f"its sockets, {stale} were acknowledged within {time.monotonic() - resumed:.1f} s")
    check.must(new is not None and new is not leader, "the stopped node was still taken for the leader")
    stopped_client.close()


def body(check):
    cluster = check.cluster().start()
    cluster.wait_healthy()
    check.must(cluster.create_topic(TOPIC, 1)[0] == 201, "the topic was not created")
    check.must(cluster.create_group("readers")[0] == 201, "the consumer group was not created")
    duration = int(TIMES * (PAUSE + 6) + 5)
    bench = Bench(check, "load", "produce", cluster, "--topic", "load", "--queues", 24, "--payload", 1024, "--in-flight", 32,
                  "--rate", 500, "--timeout", "1s", "--duration", f"{duration}s", "--give-up", "60s")
    bench.wait_flowing(cluster)
    acknowledged = []
    for turn in range(TIMES):
        one_pause(check, cluster, turn, acknowledged)
        cluster.wait_healthy(30)
    verify(check, bench.wait(duration + 240))
    seen = drain(check, cluster, TOPIC, "readers")
    lost = [message_id for message_id in acknowledged if message_id not in seen]
    twice = [message_id for message_id, times in seen.items() if times > 1]
    check.say(f"{len(acknowledged)} acknowledged sends around the pauses: {len(lost)} lost, {len(twice)} delivered twice")
    check.must(not lost, f"{len(lost)} acknowledged messages lost: {lost[:3]}")
    check.must(not twice, f"{len(twice)} messages delivered twice: {twice[:3]}")


Check(5, f"a leader stopped with SIGSTOP for {PAUSE:.0f} s, {TIMES} times").run(body)
