#!/usr/bin/env python3
"""Hostile check 7: few messages in many queues reach a simple consumer of every SDK at once, and many are spread evenly.

Three nodes, topics of eight queues. For each SDK, REPEATS times with a topic and a consumer group of their own:
- its simple consumer waits when MESSAGES messages are sent one after the other: from the last acknowledged send to the last
  message that it gets, at most LIMIT_S may pass;
- the messages are there first: from its first receive to the last message, at most LIMIT_S may pass.
Then a producer of the Go and one of the Python SDK send MANY messages each: no
shard may have more or fewer than its queues' share by a tenth.
In half of the repetitions a consumer is given one node's address, each time another's; Node's SDK takes no more than one.

Parameters: MESSAGES (20), REPEATS (10), LIMIT_S (2), MANY (10000), SDKS ("java go python node").
"""

import json
import random
import subprocess
import time

from lib import Check, parameter, wait_for
from rpc import Client
from sdks import BUILT, SOURCES, SDK_PYTHON, Consumer, build

MESSAGES, REPEATS, LIMIT_S = parameter("MESSAGES", 20), parameter("REPEATS", 10), parameter("LIMIT_S", 2.0)
MANY, SDKS = parameter("MANY", 10_000), parameter("SDKS", "java go python node").split()
QUEUES, SPREAD = 8, 0.1


def endpoint(cluster, language, number):
    one_only = language == "node" or number % 2
    return cluster.nodes[number % len(cluster.nodes)].client if one_only else cluster.endpoints


def waiting(cluster):
    return sum(node.metric("flotilla_waiting_receives") or 0 for node in cluster.nodes)


def send_some(check, cluster, topic):
    """Sends to all nodes in turns; the bodies."""
    clients = [Client(node.client) for node in cluster.nodes]
    # Where a message goes follows from its id: other places in every run.
    bodies = [f"{topic}-{number}-{random.getrandbits(32):x}" for number in range(MESSAGES)]
    for number, body in enumerate(bodies):
        answer = clients[number % len(clients)].send(topic, f"id-{body}", body.encode())
        check.must(answer == "OK", f"a send was answered with {answer}")
    for client in clients:
        client.close()
    return set(bodies)


def judge(check, consumer, wanted, since, what):
    try:
        wait_for(60, "all messages came", lambda: wanted <= {body for _, body, _ in consumer.got}, every=0.01)
    except TimeoutError:
        missing = wanted - {body for _, body, _ in consumer.got}
        check.must(False, f"{what}: {len(missing)} messages did not come in 60 s")
        return None
    took = max(at for at, body, _ in consumer.got) - since
    check.must(took <= LIMIT_S, f"{what}: the last message came after {took:.2f} s")
    check.must(all(attempt == 1 for _, _, attempt in consumer.got), f"{what}: messages came again")
    return max(took, 0.0)


def one(check, cluster, language, number, sent_first):
    topic = f"few-{language}-{number}-{'first' if sent_first else 'later'}"
    check.must(cluster.create_topic(topic, QUEUES)[0] == 201, f"{topic} was not created")
    check.must(cluster.create_group(topic)[0] == 201, f"consumer group {topic} was not created")
    bodies = send_some(check, cluster, topic) if sent_first else None
    consumer = Consumer(check, language, "simple", topic, endpoint(cluster, language, number), topic, topic)
    if not check.must(consumer.ready.wait(60), f"{topic}: the consumer did not start"):
        return None
    since = consumer.ready_at
    if not sent_first:
        wait_for(30, "it waits in its first receive", lambda: waiting(cluster) > 0)
        bodies = send_some(check, cluster, topic)
        since = time.monotonic()
    took = judge(check, consumer, bodies, since, topic)
    consumer.close()
    # The next one is not taken for this one, whose last receive may go on for a while.
    wait_for(30, "nobody waits any more", lambda: waiting(cluster) == 0)
    return took


def few(check, cluster):
    for language in SDKS:
        for sent_first in (False, True):
            times = [one(check, cluster, language, number, sent_first) for number in range(REPEATS)]
            shown = ", ".join("never" if took is None else f"{took:.2f}" for took in times)
            check.say(f"{language}: {MESSAGES} messages {'that were there' if sent_first else 'while it waited'} came after {shown} s")


def spread(check, cluster, language, command):
    topic = f"many-{language}"
    check.must(cluster.create_topic(topic, QUEUES)[0] == 201, f"{topic} was not created")
    for group in (topic, f"{topic}-push"):
        check.must(cluster.create_group(group)[0] == 201, f"consumer group {group} was not created")
    log = open(check.logs / f"{topic}.txt", "wb")
    ended = subprocess.run([*command, cluster.endpoints, topic, topic, str(MANY)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                           timeout=600)
    check.must(ended.returncode == 0, f"{topic}: not every message came once")
    queues = json.loads(cluster[1].get(f"/v1/topics/{topic}", timeout=10)[1])["queue_list"]
    counts, shares = {}, {}
    for queue in queues:
        counts[queue["shard"]] = counts.get(queue["shard"], 0) + queue["next_offset"]
        shares[queue["shard"]] = shares.get(queue["shard"], 0) + MANY / len(queues)
    check.say(f"{language}: {sum(counts.values())} messages, by shard {counts}, by queue {[each['next_offset'] for each in queues]}")
    check.must(sum(counts.values()) == MANY, f"{topic}: {sum(counts.values())} messages are stored")
    for shard, share in shares.items():
        check.must(abs(counts[shard] - share) <= SPREAD * share, f"{topic}: shard {shard} has {counts[shard]}, its share is {share:.0f}")


def body(check):
    build(["go", *SDKS])
    cluster = check.cluster().start()
    cluster.wait_spread()
    few(check, cluster)
    spread(check, cluster, "go", [str(BUILT / "go/go-sdk-test")])
    spread(check, cluster, "python", [str(SDK_PYTHON), str(SOURCES / "python/roundtrip.py")])


Check("hostile-7", f"{MESSAGES} messages to {QUEUES} queues, {MANY} to all shards").run(body)
