#!/usr/bin/env python3
"""Check 10: bad input. Wrong names, sizes and handles; garbage on the client, administration and peer ports; wrong TLS;
thousands of idle connections; requests of 100 MiB. Each gets the right status or a closed connection, memory stays
bounded, and a steady producer beside it notices nothing.

Parameters: IDLE (10000 connections), SECONDS (4 of each kind of garbage), STEADY (100 s of the steady
producer), SEED.
"""

import random
import resource as limits
import socket
import ssl
import struct
import threading
import time
import warnings

from lib import Bench, Check, http, parameter, verify
from rpc import Broken, Client, OPTIONS, definition, duration, grpc, message, resource, service

# What one message may have: 4 MiB, of which 64 KiB are kept for what is not the body.
LARGEST_BODY = (4 << 20) - (64 << 10)
STEADY, SLOWEST_MS = parameter("STEADY", 100), 2000
IDLE, SECONDS, SEED = parameter("IDLE", 10_000), parameter("SECONDS", 4.0), parameter("SEED", int(time.time()))
TOPIC, GROUP = "good", "good-group"
# Beside what the bench and the caches need; the receive buffers alone may have 512 MiB (limits.max_inbound_size).
MEMORY_BYTES = 700 << 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def expect(check, what, expected, call):
    """The status code of a call, or the gRPC code of its failure."""
    try:
        found = call()
    except Broken as broken:
        found = broken.args[0]
    check.must(found in expected, f"{what}: {found}, not {' or '.join(sorted(expected))}")
    return found


def code(answer):
    return definition.Code.Name(answer.status.code)


# ---- requests that are well-formed and wrong ------------------------------------------------------------------------

def wrong_requests(check, cluster):
    node = cluster[1]
    client, nobody = Client(node.client), Client(node.client, client_id="")
    big = Client(node.client)
    receive = lambda topic, group, **more: client.receive(topic, group, **more)[0]

    def send_with(**properties):
        request = service.SendMessageRequest(messages=[message(TOPIC, "id-x")])
        for name, value in properties.items():
            setattr(request.messages[0].system_properties, name, value)
        return code(client.call("SendMessage", request))

    def ack(handle, group=GROUP, topic=TOPIC):
        entry = service.AckMessageEntry(message_id="x", receipt_handle=handle)
        answer = client.call("AckMessage", service.AckMessageRequest(group=resource(group), topic=resource(topic), entries=[entry]))
        return definition.Code.Name(answer.entries[0].status.code if answer.entries else answer.status.code)

    def change(handle, seconds):
        return code(client.call("ChangeInvisibleDuration", service.ChangeInvisibleDurationRequest(
            group=resource(GROUP), topic=resource(TOPIC), receipt_handle=handle, invisible_duration=duration(seconds))))

    properties = message(TOPIC, "many")
    for number in range(200):
        properties.user_properties[f"key-{number}"] = "value"
    heavy = message(TOPIC, "heavy")
    heavy.user_properties["key"] = "v" * (17 << 10)
    cases = [
        ("an unknown topic", {"TOPIC_NOT_FOUND"}, lambda: client.send("nowhere", "a")),
        ("an illegal topic", {"ILLEGAL_TOPIC"}, lambda: client.send("no spaces/please", "a")),
        ("an empty topic", {"ILLEGAL_TOPIC"}, lambda: client.send("", "a")),
        ("a topic of 1,000 letters", {"ILLEGAL_TOPIC"}, lambda: client.send("t" * 1000, "a")),
        ("a dead-letter topic of nobody", {"TOPIC_NOT_FOUND", "ILLEGAL_TOPIC"}, lambda: client.send("%DLQ%nobody", "a")),
        ("a blank message id", {"ILLEGAL_MESSAGE_ID"}, lambda: client.send(TOPIC, "  ")),
        ("a message id of 100,000 letters", {"ILLEGAL_MESSAGE_ID"}, lambda: client.send(TOPIC, "i" * 100_000)),
        ("an empty body", {"OK", "MESSAGE_BODY_EMPTY"}, lambda: client.send(TOPIC, "empty", b"")),
        ("the largest body", {"OK"}, lambda: big.send(TOPIC, "largest", bytes(LARGEST_BODY))),
        ("a body one byte too large", {"MESSAGE_BODY_TOO_LARGE"}, lambda: big.send(TOPIC, "large", bytes(LARGEST_BODY + 1))),
        ("200 properties", {"MESSAGE_PROPERTIES_TOO_LARGE"},
         lambda: code(client.call("SendMessage", service.SendMessageRequest(messages=[properties])))),
        ("a property of 17 KiB", {"MESSAGE_PROPERTIES_TOO_LARGE"},
         lambda: code(client.call("SendMessage", service.SendMessageRequest(messages=[heavy])))),
        ("no message", {"MESSAGE_CORRUPTED"}, lambda: code(client.call("SendMessage", service.SendMessageRequest()))),
        ("10,000 messages", {"BAD_REQUEST"}, lambda: code(client.call("SendMessage", service.SendMessageRequest(
            messages=[message(TOPIC, f"m-{n}") for n in range(10_000)])))),
        ("a tag with a bar", {"ILLEGAL_MESSAGE_TAG"}, lambda: send_with(tag="a|b")),
        ("a blank message group", {"ILLEGAL_MESSAGE_GROUP", "MESSAGE_PROPERTY_CONFLICT_WITH_TYPE"},
         lambda: send_with(message_group=" ")),
        ("an unknown consumer group", {"CONSUMER_GROUP_NOT_FOUND"}, lambda: receive(TOPIC, "nobody")),
        ("an illegal consumer group", {"ILLEGAL_CONSUMER_GROUP"}, lambda: receive(TOPIC, "no spaces")),
        ("a receive from an unknown topic", {"TOPIC_NOT_FOUND"}, lambda: receive("nowhere", GROUP)),
        ("an invisible time of 0", {"ILLEGAL_INVISIBLE_TIME"}, lambda: receive(TOPIC, GROUP, invisible_s=0)),
        ("an invisible time of a year", {"ILLEGAL_INVISIBLE_TIME"}, lambda: receive(TOPIC, GROUP, invisible_s=31_536_000)),
        ("an invalid receipt handle", {"INVALID_RECEIPT_HANDLE"}, lambda: ack("garbage")),
        ("an empty receipt handle", {"INVALID_RECEIPT_HANDLE"}, lambda: ack("")),
        ("a receipt handle of 1 MiB", {"BAD_REQUEST"}, lambda: ack("A" * (1 << 20))),
        ("a well-formed receipt handle of nothing", {"INVALID_RECEIPT_HANDLE"},
         lambda: ack("AQAAAAEAAAAAAAAAAQAAAAEAAAAAAAAAAQAAAAAAAAAB")),
        ("a receipt handle of a shard that does not exist", {"INVALID_RECEIPT_HANDLE"},
         lambda: ack("Af____8AAAAAAAAAAQAAAAEAAAAAAAAAAQAAAAAAAAAB")),
        ("an acknowledgement of an unknown consumer group", {"INVALID_RECEIPT_HANDLE", "CONSUMER_GROUP_NOT_FOUND"},
         lambda: ack("garbage", group="nobody")),
        ("a change with an invalid handle", {"INVALID_RECEIPT_HANDLE"}, lambda: change("garbage", 30)),
        ("a change to a year", {"ILLEGAL_INVISIBLE_TIME", "INVALID_RECEIPT_HANDLE"}, lambda: change("garbage", 31_536_000)),
        ("no client id", {"CLIENT_ID_REQUIRED", "BAD_REQUEST"}, lambda: nobody.send(TOPIC, "a")),
        ("a route of an unknown topic", {"TOPIC_NOT_FOUND"}, lambda: code(client.call("QueryRoute", service.QueryRouteRequest(
            topic=resource("nowhere"))))),
        ("a recall with an invalid handle", {"BAD_REQUEST"}, lambda: code(client.call("RecallMessage", service.RecallMessageRequest(
            topic=resource(TOPIC), recall_handle="x")))),
        ("the end of no transaction", {"INVALID_TRANSACTION_ID"}, lambda: code(client.call("EndTransaction", service.EndTransactionRequest(
            topic=resource(TOPIC), message_id="x", transaction_id="y", resolution=definition.COMMIT)))),
        ("a request of 100 MiB", {"RESOURCE_EXHAUSTED", "UNAVAILABLE", "CANCELLED", "OUT_OF_RANGE", "INTERNAL"},
         lambda: big.send(TOPIC, "huge", bytes(100 << 20), timeout=30)),
    ]
    wrong_before = len(check.failures)
    for what, expected, call in cases:
        expect(check, what, expected, call)
    check.say(f"{len(cases)} wrong requests, {len(check.failures) - wrong_before} with another status than the right one")


def wrong_administration(check, cluster):
    node = cluster[1]
    cases = [("GET", "/nowhere", None, {404}), ("PUT", "/v1/topics", {}, {405}), ("POST", "/v1/topics", {"queues": 1}, {400, 422}),
             ("POST", "/v1/topics", {"name": "a b"}, {400}), ("POST", "/v1/topics", {"name": "x", "queues": 0}, {400}),
             ("POST", "/v1/topics", {"name": "x", "queues": 1 << 30}, {400, 422}), ("POST", "/v1/topics", {"name": TOPIC}, {409}),
             ("POST", "/v1/topics", {"name": "x", "typo": 1}, {400, 422}), ("GET", "/v1/topics/nowhere", None, {404}),
             ("DELETE", "/v1/topics/nowhere", None, {404}), ("POST", "/v1/topics", {"name": "x" * (200 << 10)}, {413}),
             ("GET", "/v1/consumer-groups/nobody", None, {404}), ("GET", "/v1/topics/" + "%2e%2e%2f" * 20, None, {400, 404}),
             ("POST", "/v1/topics", {"name": "x", "message_type": "ODD"}, {400})]
    for method, path, content, expected in cases:
        status, text = http(method, node.http, path, content, timeout=10)
        check.must(status in expected, f"{method} {path[:60]}: {status} {text[:100]}, not {expected}")
    check.say(f"{len(cases)} wrong administrative requests")


# ---- garbage --------------------------------------------------------------------------------------------------------

def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def openings(dice):
    """What may stand before garbage, so that it gets further in."""
    settings = frame(4, 0, 0, b"")
    hello = bytes.fromhex("16030100") + bytes([dice.randrange(256)])
    return [b"", b"\x16", hello, b"GET / HTTP/1.1\r\n\r\n", PREFACE, PREFACE[:10], PREFACE + settings,
            PREFACE + settings + frame(1, 4, 1, b"\x82\x84\x87"), PREFACE + settings + frame(1, 4, 1, dice.randbytes(100)),
            PREFACE + settings + b"\xff\xff\xff" + dice.randbytes(6), PREFACE + frame(0, 0, 1, b"x" * 100),
            PREFACE + settings + frame(9, 0, 1, b"\x00") * 50, b"\x00" * 64]


def garbage(check, address, name, dice, seconds):
    """Random bytes, whole and in drips; every connection is to be closed by the node, soon."""
    host, port = address.rsplit(":", 1)
    began, count, open_after = time.monotonic(), 0, 0
    while time.monotonic() - began < seconds:
        for opening in openings(dice):
            try:
                with socket.create_connection((host, int(port)), 5) as connection:
                    count += 1
                    connection.settimeout(0.3)
                    connection.sendall(opening + dice.randbytes(dice.choice([1, 20, 1000, 100_000])))
                    while connection.recv(65536):
                        pass
            except TimeoutError:
                open_after += 1
            except OSError:
                pass
    check.say(f"garbage on the {name} port: {count} connections, {open_after} still open after 0.3 s (they wait for more)")


def http2_flood(check, address):
    """Well-formed HTTP/2 that is a nuisance: thousands of streams opened and reset, settings and pings without end."""
    host, port = address.rsplit(":", 1)
    headers = b"\x83\x86\x44\x01/\x41\x01x"
    for what, chunk in [("settings", frame(4, 0, 0, b"")), ("pings", frame(6, 0, 0, bytes(8))),
                        ("empty continuation", frame(1, 0, 1, headers) + frame(9, 0, 1, b"") * 100)]:
        try:
            with socket.create_connection((host, int(port)), 5) as connection:
                connection.settimeout(1)
                connection.sendall(PREFACE + frame(4, 0, 0, b""))
                for _ in range(20_000):
                    connection.sendall(chunk)
        except OSError:
            pass
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.settimeout(1)
        try:
            connection.sendall(PREFACE + frame(4, 0, 0, b""))
            for stream in range(1, 40_001, 2):
                connection.sendall(frame(1, 5, stream, headers) + frame(3, 0, stream, bytes(4)))
        except OSError:
            pass
    check.say("floods of settings, pings, continuations and 20,000 resets")


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def odd_frames(dice, node):
    """Frames of the peer protocol: right in their outer parts, garbage inside. Never a Raft vote that a node could take
    for its peer's: the peer port has no authentication, and is to be kept inside the network."""
    shard, replica = dice.randrange(0, 8), (node << 16) + 1
    some = dice.randbytes(dice.choice([0, 1, 10, 200, 5000]))
    append = field(4, some) + field(4, some)
    yield field(1, 1) + field(3, field(1, shard) + field(2, replica) + field(3, append))
    yield field(1, 2) + field(3, field(1, shard) + field(2, replica) + field(3, field(1, b"") + append))
    yield field(1, 3) + field(3, field(1, shard) + field(2, replica) + field(7, field(2, b"id") + field(3, 1 << 60) + field(4, some)))
    yield field(1, 4) + field(3, field(1, shard) + field(2, replica) + field(6, b""))
    yield field(1, 5) + field(3, field(1, 1 << 31) + field(2, 1 << 63))
    for rpc in (b"SendMessage", b"ReceiveMessage", b"AckMessage", b"MetaPropose", b"Meta", b"Nothing", b""):
        yield field(1, 6) + field(5, field(1, rpc) + field(3, some) + field(4, shard) + field(5, 1 << 62))
    yield field(1, 7) + field(7, field(1, some))
    yield field(1, 8) + field(9, b"")
    yield some


def odd_peers(check, node, dice, seconds):
    identity = lambda each: each
    began, count, statuses = time.monotonic(), 0, {}
    while time.monotonic() - began < seconds:
        for hello in (None, b"", field(1, 99) + field(2, 7), field(1, 1) + field(2, 7), field(1, 1) + field(2, 0)):
            channel = grpc.insecure_channel(node.peer, options=[*OPTIONS, ("grpc.use_local_subchannel_pool", 1)])
            exchange = channel.stream_stream("/flotilla.peer.v1.Peer/Exchange", identity, identity)
            first = [] if hello is None else [field(1, 0) + field(2, hello)]
            try:
                answers = exchange(iter(first + list(odd_frames(dice, node.number))), timeout=1)
                for _ in answers:
                    count += 1
                status = "ended"
            except grpc.RpcError as error:
                status = error.code().name
            statuses[status] = statuses.get(status, 0) + 1
            channel.close()
    check.say(f"odd peers: {count} answers, ends {statuses}")


def wrong_tls(check, node):
    host, port = node.client.rsplit(":", 1)
    found = {}

    def shake(what, context, hello=None, name="localhost"):
        try:
            with socket.create_connection((host, int(port)), 5) as raw:
                raw.settimeout(5)
                with context.wrap_socket(raw, server_hostname=name) as connection:
                    if hello:
                        connection.sendall(hello)
                        connection.recv(1000)
                    found[what] = f"{connection.version()} {connection.selected_alpn_protocol()}"
        except (OSError, ssl.SSLError, ValueError) as error:
            found[what] = type(error).__name__

    def context(**settings):
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
        for name, value in settings.items():
            setattr(made, name, value)
        return made

    good = context()
    good.set_alpn_protocols(["h2"])
    shake("a good client", good, PREFACE + frame(4, 0, 0, b""))
    old = context()
    try:
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
    except (ValueError, ssl.SSLError):
        pass
    shake("TLS 1.1", old)
    other = context()
    other.set_alpn_protocols(["http/1.1"])
    shake("another protocol", other, b"GET / HTTP/1.1\r\n\r\n")
    shake("HTTP/1.1 without saying so", context(), b"GET / HTTP/1.1\r\n\r\n")
    strict = ssl.create_default_context()
    shake("a client that does not trust us", strict)
    check.say(f"TLS: {found}")
    check.must(found["a good client"] == "TLSv1.3 h2", f"a good TLS client got {found['a good client']}")
    check.must("TLSv1" not in found["TLS 1.1"], "TLS 1.1 was accepted")
    check.must("Error" in found["a client that does not trust us"], "a strict client was content")
    with socket.create_connection(tuple(node.peer.rsplit(":", 1)), 5) as raw:
        raw.settimeout(5)
        try:
            context().wrap_socket(raw)
            check.must(False, "the peer port speaks TLS?")
        except (OSError, ssl.SSLError):
            pass


# ---- masses ---------------------------------------------------------------------------------------------------------

def idle_connections(check, cluster):
    node = cluster[1]
    soft, hard = limits.getrlimit(limits.RLIMIT_NOFILE)
    limits.setrlimit(limits.RLIMIT_NOFILE, (hard, hard))
    count = min(IDLE, hard - 500)
    before = node.resident_bytes()
    host, port = node.client.rsplit(":", 1)
    connections = []
    for number in range(count):
        try:
            connection = socket.create_connection((host, int(port)), 5)
            # Half of them silent, half of them with HTTP/2 begun and then silent.
            if number % 2:
                connection.sendall(PREFACE + frame(4, 0, 0, b""))
            connections.append(connection)
        except OSError as error:
            check.must(False, f"connection {number} of {count}: {error}")
            break
    held = node.metric("flotilla_grpc_connections") or 0
    grown = node.resident_bytes() - before
    check.say(f"{len(connections)} idle connections: the node counts {held:.0f}, and has {grown >> 20} MiB more "
              f"({grown / max(1, len(connections)) / 1024:.1f} KiB each)")
    check.must(held >= 0.4 * len(connections), "the connections were not held")
    client = Client(node.client)
    began = time.monotonic()
    answer = expect(check, "a send beside the idle connections", {"OK"}, lambda: client.send(TOPIC, "among-the-idle"))
    check.say(f"a new client's send beside them: {answer} after {(time.monotonic() - began) * 1000:.0f} ms")
    # As many on the peer port as it takes; the cluster's own connections must not suffer.
    peers = []
    for _ in range(400):
        try:
            peers.append(socket.create_connection(tuple(cluster[2].peer.rsplit(":", 1)), 5))
        except OSError:
            break
    time.sleep(12)
    left = node.metric("flotilla_grpc_connections") or 0
    check.say(f"12 s later the node counts {left:.0f} (silent ones are closed after 10 s)")
    check.must(left <= len(connections) / 2 + 50, f"{left:.0f} connections that never spoke are still held")
    for connection in connections + peers:
        connection.close()
    ailments = cluster.ailments()
    check.must(not ailments, f"the cluster ails beside idle connections: {ailments[:2]}")


def huge_requests(check, cluster):
    node = cluster[1]
    before, highest, received, over = node.resident_bytes(), [0], [0], threading.Event()

    def watch():
        while not over.is_set():
            highest[0] = max(highest[0], node.resident_bytes())
            both = [node.metric(f"flotilla_grpc_inbound_{kind}") or 0 for kind in ("bytes", "send_bytes")]
            received[0] = max(received[0], sum(both))
            time.sleep(0.05)

    statuses, lock = {}, threading.Lock()

    def push(number):
        client = Client(node.client)
        try:
            found = client.send(TOPIC, f"huge-{number}", bytes(100 << 20), timeout=60)
        except Broken as broken:
            found = broken.args[0]
        with lock:
            statuses[found] = statuses.get(found, 0) + 1
        client.close()

    def almost(number):
        """Requests that say they are 7 MiB, send most of it and stop."""
        host, port = node.client.rsplit(":", 1)
        headers = b"\x83\x86\x44\x30/apache.rocketmq.v2.MessagingService/SendMessage\x41\x01x\x5f\x10application/grpc"
        try:
            with socket.create_connection((host, int(port)), 5) as connection:
                connection.settimeout(2)
                connection.sendall(PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, headers))
                data = b"\x00" + struct.pack(">I", 7 << 20) + bytes(900 << 10)
                for at in range(0, len(data), 16384):
                    connection.sendall(frame(0, 0, 1, data[at:at + 16384]))
                over.wait(5)
        except OSError:
            pass

    threading.Thread(target=watch, daemon=True).start()
    threads = [threading.Thread(target=push, args=(number,), daemon=True) for number in range(4)]
    threads += [threading.Thread(target=almost, args=(number,), daemon=True) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    over.set()
    check.say(f"4 requests of 100 MiB and 200 unfinished ones of 7 MiB: {statuses}; the node grew from {before >> 20} to at "
              f"most {highest[0] >> 20} MiB")
    check.say(f"at the worst moment {received[0] / (1 << 20):.0f} MiB of requests were being received")
    check.must("OK" not in statuses, "a request of 100 MiB was accepted")
    check.must(highest[0] - before < MEMORY_BYTES, f"the node grew by {highest[0] - before >> 20} MiB")


def body(check):
    dice = random.Random(SEED)
    check.say(f"SEED={SEED}")
    cluster = check.cluster(args=["--auto-create-topics", "false", "--auto-create-groups", "false"]).start()
    cluster.wait_healthy()
    check.must(cluster.create_topic(TOPIC, 6)[0] == 201, "the topic was not created")
    check.must(cluster.create_group(GROUP)[0] == 201, "the consumer group was not created")
    bench = Bench(check, "steady", "produce", cluster, "--topic", "steady", "--queues", 12, "--payload", 1024,
                  "--in-flight", 64, "--rate", 300, "--duration", f"{STEADY}s")
    bench.wait_flowing(cluster)
    pids = [node.pid for node in cluster.nodes]
    stages = [("wrong requests", lambda: wrong_requests(check, cluster)),
              ("wrong administration", lambda: wrong_administration(check, cluster)),
              ("garbage for clients", lambda: garbage(check, cluster[1].client, "client", dice, SECONDS)),
              ("garbage for administration", lambda: garbage(check, cluster[1].http, "administration", dice, SECONDS)),
              ("garbage for peers", lambda: garbage(check, cluster[2].peer, "peer", dice, SECONDS)),
              ("odd peers", lambda: odd_peers(check, cluster[2], dice, SECONDS)),
              ("floods", lambda: http2_flood(check, cluster[1].client)),
              ("wrong TLS", lambda: wrong_tls(check, cluster[1])),
              ("idle connections", lambda: idle_connections(check, cluster)),
              ("huge requests", lambda: huge_requests(check, cluster))]
    for name, stage in stages:
        stage()
        dead = [node.number for node in cluster.nodes if not node.running()]
        if not check.must(not dead, f"nodes {dead} died of {name}"):
            return
    check.must(pids == [node.pid for node in cluster.nodes], "a node was restarted")
    check.say(f"resident: {[node.resident_bytes() >> 20 for node in cluster.nodes]} MiB")
    cluster.wait_healthy(30)
    check.say(f"the steady producer {'still runs' if bench.running() else 'ended before the last stage: raise STEADY'}")
    report = bench.wait(STEADY + 120)
    verify(check, report, "the steady producer")
    if report:
        latency = report["sending"]["latency_us"]
        check.say(f"its sends took p50 {latency['p50'] / 1000:.1f} ms, p99 {latency['p99'] / 1000:.1f} ms, at most "
                  f"{latency['max'] / 1000:.0f} ms; {report['sending']['retried']} were repeated")
        check.must(not report["failures"], f"sends of the steady producer failed: {report['failures']}")
        check.must(latency["max"] <= 1000 * SLOWEST_MS, f"a send of the steady producer took {latency['max'] / 1000:.0f} ms")


Check(10, "bad input beside a steady producer").run(body)
