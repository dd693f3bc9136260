"""Walks through docs/limits.md: every field of the requests that are served stands there, a value at its bound is answered as
a good request is, and one over it with the code that the table names."""

import re
import sys

from lib import ROOT
from rpc import OPTIONS, definition, duration, grpc, message, resource, service
from wire import PACKAGE, delimited, statuses, varint

# Over the bound of any request that may wait, and within that of others.
OVER_SMALL = 20_000
SECTIONS = ("SendMessage", "ReceiveMessage", "AckMessage", "ChangeInvisibleDuration", "RecallMessage", "EndTransaction",
            "ForwardMessageToDeadLetterQueue",
            "PullMessage", "QueryOffset", "GetOffset", "UpdateOffset", "QueryRoute", "QueryAssignment", "Heartbeat", "NotifyClientTermination")
METADATA = [("x-mq-client-id", "fields@1"), ("x-mq-language", "JAVA")]
EXTREMES = [0, 1, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63)]


def rows():
    """(RPC, field, bound, code over it) of each row."""
    section = None
    for line in (ROOT / "docs/limits.md").read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if section in SECTIONS and len(cells) == 4 and cells[0] != "field" and not cells[0].startswith("---"):
            yield section, cells[0], cells[1], cells[2]


def bases():
    """A good request of each kind, the part that stands before the field, and the codes that answer it."""
    topic, group = resource("fields"), resource("fields")
    handle = "AQAAAAEAAAAAAAAAAQAAAAEAAAAAAAAAAQAAAAAAAAAB"
    receive = service.ReceiveMessageRequest(
        group=group, message_queue=definition.MessageQueue(topic=topic), batch_size=1, invisible_duration=duration(15),
        filter_expression=definition.FilterExpression(type=definition.TAG, expression="*"), long_polling_timeout=duration(0))
    lease = {"group": group, "topic": topic}
    queue = definition.MessageQueue(topic=topic, id=0)
    pull = service.PullMessageRequest(group=group, message_queue=queue, offset=0, batch_size=1, long_polling_timeout=duration(0),
                                      filter_expression=definition.FilterExpression(type=definition.TAG, expression="*"))
    query = service.QueryOffsetRequest(message_queue=queue, query_offset_policy=definition.END)
    query.timestamp.seconds = 1
    return {
        "SendMessage": (message("fields", "fields"), {"OK"}),
        "ReceiveMessage": (receive, {"OK", "MESSAGE_NOT_FOUND"}),
        "AckMessage": (service.AckMessageEntry(message_id="x", receipt_handle=handle), {"INVALID_RECEIPT_HANDLE"}),
        "ChangeInvisibleDuration": (service.ChangeInvisibleDurationRequest(receipt_handle=handle, **lease), {"INVALID_RECEIPT_HANDLE"}),
        "ForwardMessageToDeadLetterQueue": (service.ForwardMessageToDeadLetterQueueRequest(receipt_handle=handle, **lease),
                                            {"INVALID_RECEIPT_HANDLE"}),
        "PullMessage": (pull, {"OK", "MESSAGE_NOT_FOUND", "TOPIC_NOT_FOUND"}),
        "QueryOffset": (query, {"OK", "TOPIC_NOT_FOUND"}),
        "GetOffset": (service.GetOffsetRequest(group=group, message_queue=queue), {"OK", "OFFSET_NOT_FOUND", "TOPIC_NOT_FOUND"}),
        "UpdateOffset": (service.UpdateOffsetRequest(group=group, message_queue=queue, offset=0), {"OK", "TOPIC_NOT_FOUND"}),
        "RecallMessage": (service.RecallMessageRequest(topic=topic, recall_handle=handle), {"BAD_REQUEST", "TOPIC_NOT_FOUND"}),
        "EndTransaction": (service.EndTransactionRequest(topic=topic, message_id="x", transaction_id="y", resolution=definition.COMMIT),
                           {"INVALID_TRANSACTION_ID", "TOPIC_NOT_FOUND"}),
        "QueryRoute": (service.QueryRouteRequest(topic=topic), {"OK"}),
        "QueryAssignment": (service.QueryAssignmentRequest(topic=topic, group=group), {"OK"}),
        "Heartbeat": (service.HeartbeatRequest(), {"OK"}),
        "NotifyClientTermination": (service.NotifyClientTerminationRequest(), {"OK"}),
    }


class Walk:
    def __init__(self, check, node, tables):
        self.check, self.tables, self.bases = check, tables, bases()
        self.channel = grpc.insecure_channel(node.client, options=OPTIONS)
        self.kinds = {rpc: (request, response, kind) for path, rpc, request, response, kind in tables.rpcs}
        self.values = 0

    def ask(self, rpc, content):
        _, response, kind = self.kinds[rpc]
        path = f"/{PACKAGE}.MessagingService/{rpc}"
        call = self.channel.unary_unary if kind == "unary" else self.channel.unary_stream
        answer = call(path, bytes, bytes)(content, timeout=30, metadata=METADATA)
        answers = [answer] if kind == "unary" else list(answer)
        found = [status for each in answers for status in statuses(self.tables, response, each)]
        self.values += 1
        return definition.Code.Name(found[0][0])

    def field(self, rpc, path):
        """Numbers, labels and types on the way to a field; None if there is no such field."""
        kind, steps = self.kinds[rpc][0], []
        for name in path.split("."):
            found = [each for each in self.tables.messages.get(self.tables.known(kind), []) if each[3] == name]
            if not found:
                return None
            number, label, kind, _ = found[0]
            steps.append((number, label, kind))
        return steps

    def request(self, rpc, steps, elements):
        """The good request with these encoded elements of the last field, which protobuf merges over what was there."""
        content = b"".join(elements)
        for number, _, _ in reversed(steps[:-1]):
            content = delimited(number, content)
        base = self.bases[rpc][0].SerializeToString()
        if rpc == "SendMessage":
            # What was wrapped is a whole message of its own: unwrap it into the good one.
            inner = b"".join(elements)
            for number, _, _ in reversed(steps[1:-1]):
                inner = delimited(number, inner)
            return delimited(1, base + inner) if len(steps) > 1 else b"".join(elements)
        if rpc == "AckMessage":
            names = delimited(1, resource("fields").SerializeToString()) + delimited(2, resource("fields").SerializeToString())
            if steps[0][0] == 3:
                inner = b"".join(elements)
                return names + (delimited(3, base + inner) if len(steps) > 1 else inner)
            return names + delimited(3, base) + content
        return base + content

    def elements(self, rpc, steps, size):
        """`size`: bytes of a text, a count of elements, or the number itself, by the type of the field."""
        number, label, kind = steps[-1]
        if label == "repeated" and kind == "string":
            return [delimited(number, b"k") for _ in range(size)]
        if label == "map":
            return [delimited(number, delimited(1, f"k{at}".encode()) + delimited(2, b"v")) for at in range(size)]
        if label == "repeated":
            base = self.bases[rpc][0].SerializeToString()
            return [delimited(number, base) for _ in range(size)]
        if kind in ("string", "bytes"):
            return [delimited(number, b"a" * size)]
        return [varint(number << 3) + varint(size)]

    def expect(self, rpc, field, what, steps, elements, codes):
        try:
            found = self.ask(rpc, self.request(rpc, steps, elements))
        except grpc.RpcError as error:
            found = f"{error.code().name}: {error.details()}"
        self.check.must(found in codes, f"{rpc} with {field} {what}: {found}, not {' or '.join(sorted(codes))}")

    def row(self, rpc, field, bound, over):
        steps, good = self.field(rpc, field), self.bases[rpc][1]
        if not self.check.must(steps is not None, f"docs/limits.md has {field} in {rpc}, the interface has not"):
            return
        whole = re.fullmatch(r"(\d+) bytes|(\d+) of them", bound)
        between = re.fullmatch(r"(\d+) to (\d+)", bound)
        number, _, kind = steps[-1]
        if whole:
            most = int(whole[1] or whole[2])
            self.expect(rpc, field, f"at {bound}", steps, self.elements(rpc, steps, most), good)
            self.expect(rpc, field, f"over {bound}", steps, self.elements(rpc, steps, most + 1), {over})
        elif between:
            least, most = int(between[1]), int(between[2])
            for value in (least, most):
                self.expect(rpc, field, f"= {value}", steps, self.elements(rpc, steps, value), good)
            for value in [most + 1, max(most + 1, (1 << 31) - 1)] + ([least - 1] if least else []):
                self.expect(rpc, field, f"= {value}", steps, self.elements(rpc, steps, value), {over})
        elif bound in ("absent", "request"):
            size = {"request": OVER_SMALL, "absent": 1}[bound]
            text = kind == "string" or self.tables.known(kind) in self.tables.messages
            value = b"a" * size
            if kind != "string":
                value = self.large(kind) if bound == "request" and text else b""
            many = [varint(number << 3) + varint(1)] * (OVER_SMALL if bound == "request" else 1)
            self.expect(rpc, field, f"({bound})", steps, [delimited(number, value)] if text else many, {over})
        elif bound == "any":
            self.any(rpc, field, steps, good)
        else:
            self.check.must(bound == "fits", f"docs/limits.md: {rpc} {field} has the bound {bound!r}")

    def large(self, kind):
        """A message of this kind with one long text somewhere in it."""
        for number, _, of, _ in self.tables.messages[self.tables.known(kind)]:
            if of == "string":
                return delimited(number, b"a" * OVER_SMALL)
            if self.tables.known(of) in self.tables.messages:
                return delimited(number, self.large(of))
        raise ValueError(f"{kind} has no text")

    def any(self, rpc, field, steps, good):
        number, _, kind = steps[-1]
        if kind in ("string", "bytes"):
            for size in (0, 1, 1000):
                self.expect(rpc, field, f"of {size} bytes", steps, [delimited(number, b"a" * size)], good)
        elif self.tables.known(kind) in self.tables.messages:
            if not kind.endswith(("Duration", "Timestamp")):
                self.expect(rpc, field, "with an unknown field", steps, [delimited(number, delimited(1000, b"x"))], good)
                return
            # A poll of any length would be one of 20 s.
            for seconds in [0] if field == "long_polling_timeout" else EXTREMES:
                self.expect(rpc, field, f"with {seconds}", steps, [delimited(number, varint(8) + varint(seconds))], good)
        else:
            for value in [0, 1] if kind == "bool" else EXTREMES:
                self.expect(rpc, field, f"= {value}", steps, [varint(number << 3) + varint(value)], good)


def missing(tables, named, rpc):
    """Fields of a request that no row names, itself or with what it is part of or has."""
    def under(kind, prefix):
        for _, _, of, name in tables.messages.get(tables.known(kind), []):
            path = f"{prefix}{name}"
            if path in named:
                continue
            if any(each.startswith(f"{path}.") for each in named):
                yield from under(of, f"{path}.")
            else:
                yield path
    request = next(each[2] for each in tables.rpcs if each[1] == rpc)
    return list(under(request, ""))


def walk(check, node, tables):
    """Every row, and every field a row."""
    table = list(rows())
    for rpc in SECTIONS:
        named = {field for section, field, _, _ in table if section == rpc}
        absent = missing(tables, named, rpc)
        check.must(not absent, f"docs/limits.md has no row for {absent} of {rpc}")
    walker = Walk(check, node, tables)
    for rpc, field, bound, over in table:
        walker.row(rpc, field, bound, over)
        if not check.must(node.running(), f"the node died of {rpc} with {field}"):
            return
    walker.channel.close()
    check.say(f"{len(table)} fields of docs/limits.md, {walker.values} values at and over their bounds")


if __name__ == "__main__":
    sys.exit("this is a library")
