#!/usr/bin/env python3
"""Hostile check 10, damage: what a disk gives back wrong is repaired from the other nodes, and no node gives up what a shard needs.

RUNS times, each in a new cluster of three real nodes with MESSAGES messages in closed segments of the log:
- FLIPS random bits of stored messages go over in node 2, then node 3 loses its directory: node 2 or node 1 feeds it. Node 3 comes back
  whole, node 2 keeps its directory and is repaired;
- nodes 1 and 2 are damaged at different messages, and node 3 loses its directory once more: the same;
- nodes 1 and 2 are damaged at one and the same message while node 3 is dead, for longer than a node takes to give up what cannot be
  repaired: none of them sets its directory aside, everything else is received, `/healthz/ready` and the metrics tell it. When node 3 is back it is repaired.
- the head of a segment of node 2 goes bad, so that it cannot even start, while node 3 is dead: it touches nothing and says so, for DEAD_S. Once
  node 3 is back and whole, node 2 sets its directory aside and is rebuilt.
At the end every acknowledged message comes.

Parameters: RUNS (5), MESSAGES (3000), BODY_KIB (16), FLIPS (3), DEAD_S (25: how long node 3 stays dead).
"""

import json
import os
import random
import shutil
import time

from lib import Check, parameter, wait_for
from rpc import Broken, Client, id_of

RUNS, MESSAGES, BODY_KIB = parameter("RUNS", 5), parameter("MESSAGES", 3000), parameter("BODY_KIB", 16)
FLIPS, DEAD_S = parameter("FLIPS", 3), parameter("DEAD_S", 25)
TOPIC, GROUP = "kept", "readers"


def body_of(message_id):
    return (f"<{message_id}>" + "." * (BODY_KIB << 10))[:BODY_KIB << 10].encode()


def fill(check, cluster):
    clients, acknowledged = [Client(node.client) for node in cluster.nodes], []
    for number in range(MESSAGES):
        message_id = f"message-{number:06}"
        for turn in range(60):
            try:
                if clients[(number + turn) % 3].send(TOPIC, message_id, body_of(message_id), timeout=5) == "OK":
                    acknowledged.append(message_id)
                    break
            except Broken:
                pass
            time.sleep(0.1)
    for client in clients:
        client.close()
    check.must(len(acknowledged) == MESSAGES, f"only {len(acknowledged)} of {MESSAGES} were acknowledged")
    return acknowledged


def closed_segments(node):
    return sorted((node.directory / "log").glob("*.seg"))[:-1]


def places(node, message_ids):
    """Where closed segments have the bodies of these messages: (file, offset) by id. Of those not there nothing."""
    found = {}
    for segment in closed_segments(node):
        content = segment.read_bytes()
        for message_id in message_ids:
            at = content.find(f"<{message_id}>".encode())
            if at >= 0:
                found[message_id] = (segment, at)
    return found


def flip(place):
    """One bit of the message's body, chosen at random."""
    path, at = place
    with open(path, "r+b") as file:
        file.seek(at + random.randrange(BODY_KIB << 10))
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1 << random.randrange(8)]))


def set_aside(cluster):
    return [path.name for path in cluster.check.data.iterdir() if ".condemned-" in path.name and path.name.startswith(cluster.name)]


def identity(node):
    return (node.directory / "IDENTITY").read_bytes()


def stop_all(cluster):
    for node in cluster.nodes:
        if node.running():
            node.stop()
            node.process = None


def whole_again(check, cluster, what, before):
    healed = cluster.wait_healthy(120)
    check.say(f"{what}: whole after {healed if healed is None else round(healed, 1)} s, "
              f"records repaired {[int(node.metric('flotilla_repaired_records_total') or 0) for node in cluster.nodes]}")
    check.must(not set_aside(cluster), f"{what}: {set_aside(cluster)} were set aside")
    for node, identity_before in before.items():
        check.must(identity(node) == identity_before, f"{what}: node {node.number} has another directory")


def feeds_another(check, cluster, what, damage):
    """The damage is done while nothing runs; node 3 comes back empty."""
    stop_all(cluster)
    for node, message_ids in damage.items():
        found = places(node, message_ids)
        check.must(len(found) == len(message_ids), f"{what}: of {message_ids} only {list(found)} are in closed segments of node {node.number}")
        for place in found.values():
            flip(place)
    kept = {cluster[1]: identity(cluster[1]), cluster[2]: identity(cluster[2])}
    shutil.rmtree(cluster[3].directory)
    cluster.start()
    whole_again(check, cluster, what, kept)


def receive_until(cluster, wanted, limit_s):
    """Receives and acknowledges until only `wanted` are left; what came."""
    seen, clients = set(), [Client(node.client) for node in cluster.nodes if node.running()]
    end = time.monotonic() + limit_s
    while not wanted <= seen and time.monotonic() < end:
        for client in clients:
            try:
                _, messages = client.receive(TOPIC, GROUP, invisible_s=10)
                seen |= {id_of(message) for message in messages}
                if messages:
                    client.ack(TOPIC, GROUP, messages)
            except Broken:
                pass
    for client in clients:
        client.close()
    return seen


def not_given_up(check, cluster, acknowledged):
    """Two nodes have lost the same message, and the third is dead."""
    what = "one dead"
    stop_all(cluster)
    here = [places(cluster[number], acknowledged) for number in (1, 2)]
    common = sorted(set(here[0]) & set(here[1]))
    if not check.must(bool(common), f"{what}: no message is in closed segments of both nodes"):
        return set()
    bad = random.choice(common)
    for found in here:
        flip(found[bad])
    for number in (1, 2):
        cluster[number].start()
    wait_for(60, f"{what}: two nodes serve", lambda: cluster[1].ready() and cluster[2].ready())
    rest = set(acknowledged) - {bad}
    seen = receive_until(cluster, rest, 180)
    check.must(rest <= seen, f"{what}: {len(rest - seen)} messages beside the damaged one did not come: {sorted(rest - seen)[:3]}")
    check.must(bad not in seen, f"{what}: the damaged message was received")
    time.sleep(DEAD_S)
    told = [node for node in (cluster[1], cluster[2]) if "cannot be read" in node.get("/healthz/ready")[1]]
    check.must(bool(told), f"{what}: nobody tells of the damage")
    for node in told:
        check.must(node.metric("flotilla_damaged_records") > 0, f"{what}: the metric of node {node.number} shows no damage")
        shown = json.loads(node.get("/v1/cluster")[1])
        check.must(any(each["damaged"] for each in shown["nodes"]), f"{what}: the view of node {node.number} shows no damage")
    check.must(cluster[1].running() and cluster[2].running(), f"{what}: a node ended")
    check.must(not set_aside(cluster), f"{what}: {set_aside(cluster)} were set aside")
    check.say(f"{what}: {bad} lost on two nodes, told by {[node.number for node in told]}, everything else received")
    kept = {node: identity(node) for node in cluster.nodes}
    cluster[3].start()
    wait_for(60, "the record is repaired", lambda: all(not node.metric("flotilla_damaged_records") for node in told))
    whole_again(check, cluster, f"{what}, and back", kept)
    return seen


def does_not_open(check, cluster):
    """What cannot be repaired costs a directory only when the others can do without it."""
    what = "does not open"
    stop_all(cluster)
    with open(closed_segments(cluster[2])[0], "r+b") as file:
        file.seek(20)
        file.write(b"\xff\xff")
    before = identity(cluster[2])
    cluster[1].start()
    cluster[2].start()
    time.sleep(DEAD_S)
    check.must(cluster[2].running(), f"{what}: the process ended")
    check.must(identity(cluster[2]) == before and not set_aside(cluster), f"{what}: the directory was set aside while node 3 was dead")
    check.must("nothing is touched" in cluster[2].log.read_text(errors="replace"), f"{what}: node 2 does not say what it waits for")
    cluster[3].start()
    wait_for(90, f"{what}: the directory is set aside", lambda: len(set_aside(cluster)) == 1)
    healed = cluster.wait_healthy(120)
    check.say(f"{what}: not touched while node 3 was dead, then rebuilt; whole after {healed if healed is None else round(healed, 1)} s")


def one_run(check, number):
    cluster = check.cluster(nodes=3, name=f"run-{number}", args=["--log-segment-size", "16MiB"])
    cluster.expected_errors.append("stored records cannot be read, no other node can give them")
    cluster.expected_errors.append("stored data is damaged")
    cluster.start()
    cluster.wait_healthy()
    cluster.create_topic(TOPIC, 4)
    cluster.create_group(GROUP)
    acknowledged = fill(check, cluster)
    old = acknowledged[:len(acknowledged) // 2]
    feeds_another(check, cluster, f"run {number}, node 2 damaged", {cluster[2]: random.sample(old[::2], FLIPS)})
    # Others: what nobody has read since may be damaged still.
    chosen = random.sample(old[1::2], 2 * FLIPS)
    feeds_another(check, cluster, f"run {number}, nodes 1 and 2 damaged", {cluster[1]: chosen[:FLIPS], cluster[2]: chosen[FLIPS:]})
    seen = not_given_up(check, cluster, acknowledged)
    does_not_open(check, cluster)
    seen |= receive_until(cluster, set(acknowledged) - seen, 120)
    lost = set(acknowledged) - seen
    check.must(not lost, f"run {number}: {len(lost)} acknowledged messages lost: {sorted(lost)[:3]}")
    check.say(f"run {number}: {len(acknowledged)} acknowledged, {len(lost)} lost")
    cluster.end()


def body(check):
    for number in range(1, RUNS + 1):
        one_run(check, number)


Check("hostile-10-damage", f"records go bad ({RUNS} runs)").run(body)
