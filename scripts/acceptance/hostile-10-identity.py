#!/usr/bin/env python3
"""Hostile check 10, the part about what is shown: redundancy and readiness are true within seconds.

Each ROUND, with other nodes: a node stops in good order and its leaderships are not sent back to it; a node is killed and has no lag
any more; a second one is, and nobody is ready; an old directory is put back after it was replaced, is not counted, and says
so; a learner's directory is replaced before it was promoted, and the shards come to rest. With the right
directories everything is as before.

Parameters: ROUNDS (5).
"""

import shutil
import time

from lib import Check, parameter, wait_for
from rpc import Broken, Client

ROUNDS = parameter("ROUNDS", 5)
TRUE_WITHIN = 6.0


def shards_of(node):
    view = node.view()
    return view["shards"] if view else []


def within(check, what, condition, limit=TRUE_WITHIN):
    try:
        check.say(f"{what}: after {wait_for(limit, what, condition):.1f} s")
    except TimeoutError as late:
        check.must(False, str(late))


def send(check, cluster, what, limit_s=15.0):
    client, answer, began = Client(cluster.any_running().client), None, time.monotonic()
    while answer != "OK" and time.monotonic() - began < limit_s:
        try:
            answer = client.send("shown", f"{what}-{time.monotonic_ns()}")
        except Broken as broken:
            answer = str(broken)
    client.close()
    check.must(answer == "OK", f"{what}: a send is answered with {answer}")


def leaves(check, cluster, node):
    """Whoever it hands over to does not send anything back: its terms grow by one hand-over each, and it ends."""
    others = [other for other in cluster.nodes if other is not node]
    before = {shard["id"]: shard["term"] for shard in shards_of(others[0])}
    began = time.monotonic()
    code = node.stop()
    check.must(code == 0, f"node {node.number} ended with {code}")
    within(check, f"node {node.number} left in {time.monotonic() - began:.1f} s; nobody takes it for a leader",
           lambda: all(shard["served"] and shard["leader"] != node.number
                       for other in others for shard in shards_of(other)))
    for shard in shards_of(others[0]):
        check.must(shard["term"] <= before[shard["id"]] + 2, f"shard {shard['id']} had {shard['term'] - before[shard['id']]} "
                                                             f"elections when node {node.number} left")
    text = "".join(other.log.read_text(errors="replace") for other in others)
    check.must(f"to={node.number}" not in "".join(line for line in text.splitlines() if "preferred" in line and line > stamp(began)),
               f"a leadership was sent back to node {node.number}")
    node.start()
    cluster.wait_healthy(60, lag=0)


def stamp(began):
    """A log line's beginning at that moment."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - (time.monotonic() - began)))


def killed(check, cluster, node, second):
    node.kill()
    others = [other for other in cluster.nodes if other is not node]
    within(check, f"node {node.number} killed: it is no redundancy", lambda: all(
        not replica["alive"] and replica["lag"] is None
        for other in others for shard in shards_of(other) for replica in shard["replicas"] if replica["node"] == node.number))
    within(check, "the others serve", lambda: all(other.ready() for other in others))
    send(check, cluster, "one is down")
    second.kill()
    last = next(other for other in others if other is not second)
    within(check, f"node {second.number} killed, too: node {last.number} is not ready", lambda: last.get("/healthz/ready")[0] == 503)
    within(check, "no shard is shown as served", lambda: not any(shard["served"] for shard in shards_of(last)))
    node.start()
    within(check, "two run again: ready", lambda: last.ready() and node.ready(), 20)
    second.start()
    cluster.wait_healthy(60, lag=0)


def put_back(check, cluster, node):
    """A directory that was replaced comes back."""
    node.kill()
    old, new = node.directory.with_suffix(".old"), node.directory.with_suffix(".new")
    node.directory.rename(old)
    node.start()
    cluster.wait_healthy(90, lag=0)
    node.kill()
    node.directory.rename(new)
    old.rename(node.directory)
    length = node.log.stat().st_size
    node.start()
    others = [other for other in cluster.nodes if other is not node]
    within(check, f"node {node.number} says that its directory was replaced, and stops",
           lambda: "was replaced" in node.log.read_text(errors="replace")[length:] and not node.running())
    within(check, "it is not counted", lambda: all(
        not each["alive"] for other in others for each in other.view()["nodes"] if each["id"] == node.number))
    send(check, cluster, "an old directory is back")
    shutil.rmtree(node.directory)
    new.rename(node.directory)
    node.start()
    cluster.wait_healthy(60, lag=0)


def lost_again(check, cluster, node):
    """The directory is lost again and again, before its replicas were promoted."""
    for pause in (0.3, 0.6, 0.9):
        node.kill()
        shutil.rmtree(node.directory)
        node.start()
        time.sleep(pause)
    cluster.wait_healthy(90, lag=0)
    leader = cluster.leader_of(1)
    before = [shard["committed"] for shard in shards_of(leader)]
    time.sleep(3.0)
    grown = [shard["committed"] - was for shard, was in zip(shards_of(leader), before)]
    check.must(max(grown) <= 3, f"nobody sends anything, and the shards commit {grown} entries in 3 s")
    check.say(f"node {node.number} lost its directory three times; the shards are at rest: {grown} entries in 3 s")


def body(check):
    cluster = check.cluster()
    cluster.expected_errors = [r"does not belong here", r"does not start"]
    cluster.start()
    cluster.wait_healthy()
    check.must(cluster.create_topic("shown", 6)[0] == 201, "the topic was not created")
    for round in range(ROUNDS):
        one, two, three = (cluster[(round + turn) % 3 + 1] for turn in range(3))
        send(check, cluster, f"round {round}")
        cluster.wait_spread()
        leaves(check, cluster, one)
        killed(check, cluster, two, three)
        put_back(check, cluster, three)
        lost_again(check, cluster, one)


Check("hostile-10-identity", "what is shown is true within seconds").run(body)
