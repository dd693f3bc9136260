"""The client interface as its tables have it (proto/tests/wire-tables.md), and protobuf's encoding by hand: what no generated
class would write can be written."""

import sys

from lib import ROOT

PACKAGE = "apache.rocketmq.v2"


class Tables:
    """Services, messages and enums as the tables have them, which a test holds to what is compiled."""

    def __init__(self):
        self.rpcs, self.messages, self.enums = [], {}, {}
        kind = name = None
        for line in (ROOT / "proto/tests/wire-tables.md").read_text().splitlines():
            if line.startswith("### "):
                kind, name = line[4:].split(" ", 1)
                {"message": self.messages, "enum": self.enums}.get(kind, {}).setdefault(name, [])
            elif line.startswith("| ") and kind:
                cells = [cell.strip() for cell in line.strip("|").split("|")]
                if cells[0] in ("RPC", "Number", "#"):
                    continue
                if kind == "service":
                    self.rpcs.append((f"/{PACKAGE}.{name}/{cells[0]}", cells[0], cells[1], cells[2], cells[3]))
                elif kind == "enum":
                    self.enums[name].append(int(cells[0]))
                elif kind == "message":
                    self.messages[name].append((int(cells[0]), cells[1], cells[2], cells[3]))
        for stamp in ("Timestamp", "Duration"):
            fields = [(1, "single", "int64", "seconds"), (2, "single", "int32", "nanos")]
            self.messages[f"google.protobuf.{stamp}"] = self.messages.setdefault(stamp, fields) or fields

    def known(self, kind):
        return kind if kind in self.messages else kind.rsplit(".", 1)[-1]


def varint(number):
    out, number = b"", number & (1 << 64) - 1
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def delimited(number, value):
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields_of(content):
    """Fields of an encoded message: number and value; ValueError if it is none."""
    at, found = 0, []

    def read():
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(content) or shift > 63:
                raise ValueError
            value, shift, at = value | (content[at] & 127) << shift, shift + 7, at + 1
            if content[at - 1] < 128:
                return value

    while at < len(content):
        key = read()
        kind = key & 7
        if kind == 0:
            found.append((key >> 3, read()))
            continue
        length = {1: 8, 5: 4}.get(kind) if kind != 2 else read()
        if length is None or at + length > len(content):
            raise ValueError
        found.append((key >> 3, content[at:at + length]))
        at += length
    return found


def statuses(tables, kind, content, depth=0):
    """Every status in an answer, however deep."""
    kind = tables.known(kind)
    if kind == "Status":
        values = dict(fields_of(content))
        yield values.get(1, 0), values.get(2, b"")
        return
    types = {number: of for number, _, of, _ in tables.messages.get(kind, [])}
    for number, value in fields_of(content):
        of = tables.known(types.get(number, ""))
        if isinstance(value, bytes) and of in tables.messages and depth < 8:
            yield from statuses(tables, of, value, depth + 1)


if __name__ == "__main__":
    sys.exit("this is a library")
