#!/usr/bin/env python3
"""Hostile check 1: a fuzzer that knows the structure of what it sends. Every RPC of both client services with every field
of their tables (proto/tests/wire-tables.md), first at and over its bound as docs/limits.md has it, then in every
combination that chance brings; every administrative request, and bytes on all three ports, beside a node
that must live, keep its memory bounded, give every refusal a reason, and serve good requests in between.

Parameters: SECONDS (1800), SEED (drawn), WORKERS (6), MEMORY_MIB (1024: what the node may grow by).
"""

import os
import random
import re
import socket
import string
import struct
import threading
import time

from fields import walk
from lib import Check, parameter
from rpc import OPTIONS, Client, definition, grpc
from wire import PACKAGE, Tables, delimited, fields_of, statuses, varint

SECONDS, SEED = parameter("SECONDS", 1800), parameter("SEED", int(time.time()))
WORKERS, MEMORY_MIB = parameter("WORKERS", 6), parameter("MEMORY_MIB", 1024)
TOPIC = GROUP = "hostile"
OK = 20000
# An answer that has not come by then never will: the longest poll has 20 s.
PATIENCE_S = 60
# A receive is hung up on after this long: clients do that too.
HANG_UP_S = 0.5
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Sizes at and over the bounds of docs/limits.md.
LENGTHS = sorted({bound + off for bound in (0, 1, 40, 44, 55, 64, 120, 127, 128, 255, 256, 512, 1024, 16_384, 65_536)
                  for off in (-1, 0, 1)} - {-1}) + [1 << 20, 4_194_200]
BODIES = [0, 1, 1000, (4 << 20) - (64 << 10), (4 << 20) - (64 << 10) + 1, 4 << 20, (4 << 20) + 1, 7 << 20, 9 << 20]
NUMBERS = [0, 1, -1, 2, 16, 31, 32, 33, 99, 128, 1024, 1025, 4096, 40_000, (1 << 31) - 1, -(1 << 31), 1 << 31, (1 << 32) - 1,
           (1 << 63) - 1, -(1 << 63), 253_402_300_799, 253_402_300_800, 999_999_999, 1_000_000_000]
COUNTS = [0, 1, 1, 2, 3, 127, 128, 129, 1024, 1025, 5000]
ODD_TEXTS = ["", " ", "*", "a b", "%DLQ%hostile", "%RETRY%hostile", "TBW102", "rmq_sys_x", "CID_RMQ_SYS_x", "a|b", "\x00", "\n",
             "\u202e", "é", "😀", "UNIQ_KEY", "TIMER_x", "../..", "hostile%hostile", "1" * 20, "-1", "NaN", "'; --", "${x}"]
# What a good client never sends; everything else is sent more often than not.
RARE = {"delivery_timestamp", "message_group", "lite_topic", "priority", "body_digest", "dead_letter_queue",
        "orphaned_transaction_recovery_duration", "resource_namespace"}


# ---- what is sent ---------------------------------------------------------------------------------------------------

class Writer:
    """One hostile request. Most of a request is what a good client sends, or nothing would get past the first check."""

    def __init__(self, tables, dice, handles):
        self.tables, self.dice, self.handles = tables, dice, handles
        self.wildness = dice.choice([0.0, 0.03, 0.03, 0.1, 0.5])
        self.room = dice.choice([1 << 12, 1 << 16, 1 << 20, 6 << 20, 10 << 20])

    def wild(self):
        return self.dice.random() < self.wildness

    def message(self, kind, depth=0):
        out, chosen = b"", {}
        fields = self.tables.messages[self.tables.known(kind)]
        for number, label, of, name in fields:
            if label.startswith("oneof"):
                chosen.setdefault(label, []).append((number, of, name))
                continue
            rare = name in RARE
            if not self.wild() and (self.dice.random() < (0.97 if rare else 0.1)):
                continue
            for _ in range(self.count(label)):
                out += self.field(number, label, of, name, depth)
                if len(out) > self.room:
                    break
        for options in chosen.values():
            for number, of, name in options if self.wild() else [self.dice.choice(options)]:
                out += self.field(number, "single", of, name, depth)
        return out

    def count(self, label):
        if label not in ("repeated", "map"):
            return 1
        return self.dice.choice(COUNTS) if self.wild() else self.dice.choice([0, 1, 1, 2])

    def field(self, number, label, of, name, depth):
        if label == "map" or of.startswith("map"):
            key, value = self.text("key_of_map"), self.text("value_of_map")
            return delimited(number, delimited(1, key) + delimited(2, value))
        if of == "string":
            return delimited(number, self.text(name))
        if of == "bytes":
            return delimited(number, self.body())
        if of in ("double", "fixed64", "sfixed64"):
            return varint(number << 3 | 1) + self.dice.randbytes(8)
        if of in ("float", "fixed32", "sfixed32"):
            return varint(number << 3 | 5) + self.dice.randbytes(4)
        if self.tables.known(of) in self.tables.messages:
            return delimited(number, self.message(of, depth + 1)) if depth < 6 else b""
        return varint(number << 3) + varint(self.number(of, name))

    def number(self, of, name):
        if self.wild():
            return self.dice.choice(NUMBERS)
        if of in self.tables.enums:
            sane = {"message_type": 1, "body_encoding": 1, "type": 1}.get(name)
            return sane if sane is not None else self.dice.choice(self.tables.enums[of])
        return {"seconds": self.dice.choice([0, 10, 15, 30]), "nanos": self.dice.choice([0, 200_000_000]),
                "batch_size": self.dice.choice([1, 32])}.get(name, self.dice.choice([0, 1, 2, 3]))

    def text(self, name):
        if self.wild():
            if self.dice.random() < 0.4:
                return self.dice.choice(ODD_TEXTS).encode()
            length = self.dice.choice(LENGTHS)
            letter = self.dice.choice(["a", "a", "\x01", "é", " ", "%"])
            return (letter * length).encode()[:min(length, self.room)]
        number = self.dice.randrange(1 << 40)
        sane = {"name": self.dice.choice([TOPIC] * 5 + [f"h{number % 40}"]), "expression": "*", "message_id": f"{number:032X}", "value_of_map": "v",
                "key_of_map": f"k{number % 200}", "resource_namespace": "", "tag": "t", "born_host": "10.0.0.1"}
        if name == "receipt_handle":
            return (self.dice.choice(self.handles) if self.handles else "garbage").encode()
        return sane.get(name, self.dice.choice(string.ascii_letters)).encode()

    def body(self):
        return bytes(self.dice.choice(BODIES)) if self.wild() else b"hostile"

    def request(self, kind):
        content = self.message(kind)
        if content and self.dice.random() < 0.05:  # broken bytes
            at = self.dice.randrange(len(content))
            content = content[:at] + self.dice.randbytes(self.dice.randrange(8)) + content[at + self.dice.randrange(8):]
        return content


# ---- one worker -----------------------------------------------------------------------------------------------------

class Worker:
    def __init__(self, run, number):
        self.run, self.dice = run, random.Random(f"{SEED}-{number}")
        self.counts, self.channel = {}, None

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def work(self):
        strokes = [self.rpc] * 12 + [self.heavy] + [self.administration] * 4 + [self.telemetry] * 2 + [self.bytes, self.good]
        while not self.run.over():
            stroke = self.dice.choice(strokes)
            try:
                stroke()
            except Exception as error:  # noqa: BLE001: what a worker stumbles over fails the check and ends nothing
                self.run.wrong(f"{stroke.__name__}: {type(error).__name__}: {error}")

    def connect(self):
        if self.channel is None or self.dice.random() < 0.02:
            if self.channel:
                self.channel.close()
            self.channel = grpc.insecure_channel(self.run.node.client, options=[*OPTIONS, ("grpc.use_local_subchannel_pool", 1)])
        return self.channel

    def metadata(self):
        text = lambda: self.dice.choice(["", "c", "c" * 512, "c" * 513, "c" * 12_000, "hostile@1"])  # noqa: E731
        sane = self.dice.random() < 0.9
        pairs = [("x-mq-client-id", f"hostile@{self.dice.randrange(50)}" if sane else text()),
                 ("x-mq-language", self.dice.choice(["JAVA", "PYTHON", "HTTP", "GO"]) if sane else text()), ("x-mq-client-version", "5" if sane else text())]
        return pairs if sane else [*pairs, ("x-mq-namespace", text())]

    def judge(self, rpc, kind, answers):
        found = [status for answer in answers for status in statuses(self.run.tables, kind, answer)]
        for code, reason in found:
            self.count("answered OK" if code == OK else "refused")
            if code != OK and not reason.strip():
                self.run.wrong(f"{rpc} was refused with {code} and no reason")
        has_status = any(of == "Status" for _, _, of, _ in self.run.tables.messages[kind])
        if not found and has_status and rpc != "Telemetry":
            self.run.wrong(f"{rpc} was answered without a status")

    def rpc(self):
        path, rpc, request, response, kind = self.dice.choice(self.run.tables.rpcs)
        if kind.startswith("bidi"):
            return
        if self.dice.random() < 0.4:  # what does something more often than what does nothing yet
            path, rpc, request, response, kind = self.dice.choice(self.run.served)
        content = Writer(self.run.tables, self.dice, self.run.handles).request(request)
        raw, channel = bytes, self.connect()
        self.count("requests")
        try:
            if kind == "unary":
                call = channel.unary_unary(path, raw, raw)
                answers = [call(content, timeout=PATIENCE_S, metadata=self.metadata())]
            else:
                call = channel.unary_stream(path, raw, raw)(content, timeout=HANG_UP_S, metadata=self.metadata())
                answers = list(call)
            self.judge(rpc, response, answers)
            self.remember(rpc, answers)
        except grpc.RpcError as error:
            self.count(f"gRPC {error.code().name}")
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED and kind == "unary":
                self.run.wrong(f"{rpc} was not answered in {PATIENCE_S} s")
            if not (error.details() or "").strip():
                self.run.wrong(f"{rpc} failed with {error.code().name} and no reason")

    def remember(self, rpc, answers):
        """Receipt handles that are good, for what acknowledges."""
        if rpc != "ReceiveMessage":
            return
        for answer in answers:
            for content in (value for number, value in fields_of(answer) if number == 2 and isinstance(value, bytes)):
                received = definition.Message.FromString(content)
                if received.system_properties.receipt_handle:
                    self.run.handles.append(received.system_properties.receipt_handle)
                if len(answer) >= 4_194_304:
                    self.run.wrong(f"a message of {len(answer)} bytes was delivered")
        del self.run.handles[:-200]

    def heavy(self):
        """A send whose body is at a bound, and one text with it that is far over every bound."""
        writer = Writer(self.run.tables, self.dice, [])
        writer.wildness = 0.0
        properties = [each for each in self.run.tables.messages["SystemProperties"] if each[2] == "string"]
        number, _, _, name = self.dice.choice(properties)
        long = delimited(number, b"t" * self.dice.choice([1 << 20, 4_194_200, 4_194_304]))
        where = self.dice.choice([delimited(3, long), delimited(2, delimited(1, b"k") + delimited(2, b"v" * 4_194_200)),
                                  delimited(1, delimited(1, b"n" * 4_194_200)), b""])
        good = delimited(1, delimited(2, TOPIC.encode())) + delimited(3, delimited(3, writer.text("message_id")))
        content = delimited(1, good + where + delimited(4, bytes(self.dice.choice(BODIES[1:-2]))))
        self.count("requests")
        try:
            call = self.connect().unary_unary(f"/{PACKAGE}.MessagingService/SendMessage", bytes, bytes)
            self.judge("SendMessage", "SendMessageResponse", [call(content, timeout=PATIENCE_S, metadata=self.metadata())])
        except grpc.RpcError as error:
            self.count(f"gRPC {error.code().name}")
            if not (error.details() or "").strip():
                self.run.wrong(f"a heavy send failed with {error.code().name} and no reason")

    def telemetry(self):
        path, rpc, request, response, _ = next(each for each in self.run.tables.rpcs if each[1] == "Telemetry")
        commands = [Writer(self.run.tables, self.dice, self.run.handles).request(request) for _ in range(self.dice.choice([0, 1, 3]))]
        self.count("requests")
        try:
            call = self.connect().stream_stream(path, bytes, bytes)
            self.judge(rpc, response, list(call(iter(commands), timeout=5, metadata=self.metadata())))
        except grpc.RpcError as error:
            self.count(f"gRPC {error.code().name}")

    def good(self):
        """What a good client does works beside all that."""
        if not self.run.check_good.acquire(blocking=False):
            return
        try:
            client = self.run.good
            found = client.send("good", f"{self.dice.randrange(1 << 60):032X}", timeout=30)
            self.count(f"good send {found}")
            if found not in ("OK", "TOO_MANY_REQUESTS"):
                self.run.wrong(f"a good send was answered with {found}")
            _, messages = client.receive("good", "good", invisible_s=20, poll_s=0.2, timeout=30)
            if messages:
                client.ack("good", "good", messages, timeout=30)
        finally:
            self.run.check_good.release()

    # ---- administration

    def json(self, seeks):
        dice = self.dice
        scalar = lambda: dice.choice([  # noqa: E731
            "null", "true", "1e999", "-0", "NaN", '"first"', '"last"', '"NORMAL"', '"MIXED"', '"x"', "[]", "{}",
            *map(str, NUMBERS), "18446744073709551615", "18446744073709551616", "0.1",
            '"' + "x" * dice.choice([0, 120, 121, 127, 128, 255, 256, 60_000, 70_000]) + '"', '"\\ud800"', '"a\\u0000b"'])
        name = f'"{dice.choice([TOPIC, "h" + str(dice.randrange(40)), "x" * 127, "x" * 128, "%DLQ%h", " "])}"'
        delays = "[" + ",".join(scalar() for _ in range(dice.choice([0, 1, 3, 256, 257, 1000]))) + "]"
        backoff = dice.choice([
            f'{{"customized":{{"next_ms":{delays}}}}}', scalar(),
            f'{{"exponential":{{"initial_ms":{scalar()},"max_ms":{scalar()},"multiplier_percent":{scalar()}}}}}'])
        fields = [f'"name":{name if dice.random() < 0.8 else scalar()}']
        for key, value in (("queues", scalar), ("message_type", scalar), ("max_attempts", scalar), ("fifo", scalar),
                           ("start_at", scalar), ("backoff", lambda: backoff), ("typo", scalar)):
            if dice.random() < 0.25:
                fields.append(f'"{key}":{value()}')
        if seeks:
            to = dice.choice(['"first"', '"last"', f'{{"offset":{scalar()}}}', f'{{"at_ms":{scalar()}}}', scalar()])
            fields = [f'"topic":{name}', f'"to":{to}'] + [
                f'"{key}":{scalar()}' for key in ("queue", "dry_run", "id", "typo") if dice.random() < 0.2]
        whole = "{" + ",".join(fields) + "}"
        return dice.choice([whole] * 12 + [whole[:-1], scalar(), "[" * 5000, '{"name":' * 3000, ""])

    def administration(self):
        dice = self.dice
        name = dice.choice([TOPIC, f"h{dice.randrange(40)}", "%25DLQ%25hostile", "%FF%FE", "%00", "x" * dice.choice(LENGTHS[:-2]), "..", ""])
        query = dice.choice(["", "", "?", "?a=b", "?" + "q" * dice.choice([1, 1000, 20_000]), "?%FF"])
        path = dice.choice(["/v1/topics", "/v1/consumer-groups"] * 4 + [f"/v1/topics/{name}", f"/v1/consumer-groups/{name}",
                            f"/v1/consumer-groups/{name}/seek", f"/v1/consumer-groups/{name}/pause", f"/v1/consumer-groups/{name}/resume"] * 2 + [
            "/v1/cluster", "/metrics", "/healthz/ready", "/healthz/live", "/openapi.json", "/", f"/{name}", "//"]) + query
        method = dice.choice(["POST", "POST", "GET", "GET", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"])
        body = self.json("/seek" in path).encode() if method in ("POST", "PUT", "PATCH") else b""
        kind = dice.choice(["application/json"] * 9 + ["text/plain", "", "application/json; charset=utf-16"])
        length = len(body) if dice.random() < 0.97 else dice.choice([0, 1 << 40, -1])
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
        self.count("administrative requests")
        answer = self.exchange(self.run.node.http, head.encode() + body, 30 if length == len(body) else 0.3)
        match = re.match(rb"HTTP/1\.1 (\d+) ([^\r]*)\r\n", answer)
        if not match:
            if length == len(body) and len(head) < 16_000:
                self.run.wrong(f"{method} {path[:80]} was not answered: {answer[:60]!r}")
            return
        status, said = int(match[1]), answer.partition(b"\r\n\r\n")[2]
        self.count(f"HTTP {status}")
        if status >= 500 and status != 503:
            self.run.wrong(f"{method} {path[:80]} {body[:200]!r}: {status}")
        if status >= 400 and not said.strip() and method != "HEAD" and length == len(body) and len(head) < 16_000:
            self.run.wrong(f"{method} {path[:80]}: {status} without a reason")

    # ---- bytes

    def exchange(self, address, content, patience):
        host, port = address.rsplit(":", 1)
        answer = b""
        try:
            with socket.create_connection((host, int(port)), 30) as connection:
                connection.settimeout(patience)
                connection.sendall(content)
                while len(answer) < 1 << 22 and (part := connection.recv(65536)):
                    answer += part
        except OSError:
            pass
        return answer

    def bytes(self):
        frame = lambda kind, flags, stream, payload: (  # noqa: E731
            struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload)
        dice, settings = self.dice, frame(4, 0, 0, b"")
        openings = [b"", b"\x16\x03\x01\x00\xff", b"POST /v1/topics HTTP/1.1\r\ncontent-length: 9\r\n", PREFACE, PREFACE[:9],
                    PREFACE + settings, PREFACE + settings + frame(1, 4, 1, b"\x83\x86\x84\x41\x01x"),
                    PREFACE + settings + frame(dice.randrange(12), dice.randrange(256), dice.randrange(4), dice.randbytes(30)),
                    PREFACE + settings + b"\xff\xff\xff" + dice.randbytes(6)]
        address = dice.choice([self.run.node.client, self.run.node.http, self.run.node.peer])
        self.count("connections with bytes")
        self.exchange(address, dice.choice(openings) + dice.randbytes(dice.choice([0, 1, 9, 100, 5000])), 0.1)


class Run:
    """The node under attack, and what was seen of it."""

    def __init__(self, check, node):
        self.check, self.node, self.tables = check, node, Tables()
        self.until = time.monotonic() + SECONDS
        served = ("QueryRoute", "Heartbeat", "SendMessage", "QueryAssignment", "ReceiveMessage", "AckMessage",
                  "ForwardMessageToDeadLetterQueue", "NotifyClientTermination", "ChangeInvisibleDuration", "PullMessage",
                  "QueryOffset", "GetOffset", "UpdateOffset", "RecallMessage", "EndTransaction")
        self.served = [each for each in self.tables.rpcs if each[1] in served]
        self.handles, self.seen, self.lock = [], set(), threading.Lock()
        self.good, self.check_good = Client(node.client, "good@1"), threading.Lock()

    def over(self):
        return time.monotonic() > self.until or not self.node.running()

    def wrong(self, what):
        """Each kind of wrong once; none that only the end of the node explains."""
        kind = re.sub(r"\d+|'[^']*'", "#", what)[:60]
        with self.lock:
            if kind in self.seen or not self.node.running():
                return
            self.seen.add(kind)
            self.check.must(False, what)


def body(check):
    check.say(f"SEED={SEED}, {SECONDS} s")
    cluster = check.cluster(1).start()
    node = cluster[1]
    check.must(cluster.create_topic("good")[0] == 201, "the topic was not created")
    run = Run(check, node)
    check.must(len(run.tables.rpcs) == 33, f"{len(run.tables.rpcs)} RPCs in the tables")
    walk(check, node, run.tables)
    run.until = time.monotonic() + SECONDS
    workers = [Worker(run, number) for number in range(WORKERS)]
    threads = [threading.Thread(target=worker.work, daemon=True) for worker in workers]
    before, highest, said = node.resident_bytes(), 0, time.monotonic()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and time.monotonic() < run.until + PATIENCE_S:
        highest = max(highest, node.resident_bytes())
        if time.monotonic() - said > 60:
            said = time.monotonic()
            check.say(f"{sum(worker.counts.get('requests', 0) for worker in workers)} requests, {highest >> 20} MiB at most")
        time.sleep(0.1)
    counts = {}
    for worker in workers:
        for what, count in worker.counts.items():
            counts[what] = counts.get(what, 0) + count
    check.say(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    check.say(f"the node had {before >> 20} MiB at first and {highest >> 20} MiB at most")
    if not check.must(node.running(), f"the node died with {node.process.returncode}; SEED={SEED}"):
        return
    check.must(highest - before < MEMORY_MIB << 20, f"the node grew by {highest - before >> 20} MiB")
    for what in ("requests", "answered OK", "refused", "administrative requests", "connections with bytes", "good send OK"):
        check.must(counts.get(what, 0) > 0, f"nothing was counted under {what!r}")
    check.must(Client(node.client).send("good", f"after-{os.getpid()}", timeout=30) == "OK", "a send after it all was refused")


Check("hostile-1", "every request, hostile").run(body)
