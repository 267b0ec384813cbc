#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes first inputs for the fuzz targets: make_corpus.py DIR"""
import os
import re
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "unit", "migrate"))
import streamrig  # noqa: E402

PAGE = streamrig.PAGE


def put(directory, target, name, data):
    place = os.path.join(directory, target)
    os.makedirs(place, exist_ok=True)
    with open(os.path.join(place, name), "wb") as file:
        file.write(data)


def item(kind, payload):
    return struct.pack("<B", kind) + len(payload).to_bytes(3, "little") + payload


def raw(data):
    return item(8, struct.pack("<BxxxI", 0, len(data)) + data)


def batch(number, entries, with_data):
    return item(9, struct.pack("<QIIBxxxI", number, len(entries), with_data, 0, 8 * len(entries))
                + struct.pack(f"<{len(entries)}Q", *entries))


def pages(number, first, kinds, data):
    return item(10, struct.pack("<QIHBBII", number, first, len(kinds), 0, 0, len(data), 0)
                + bytes(kinds).ljust((len(kinds) + 7) // 8 * 8, b"\0") + data)


def text16(text):
    return struct.pack("<H", len(text)) + text


def peers(directory):
    """Messages between logs and between shells, as their headers in quorum/ and hamgr/shell say."""
    view = struct.pack("<QI", 3, 1)
    member = struct.pack("<IQ", 1, 77) + bytes(48) + struct.pack("<HH", 1, 1)
    entry = (struct.pack("<Q", 5) + view + struct.pack("<BIQQQQI", 4, 1, 77, 1, 2, 3, 4) + bytes(16)
             + b"body")
    ack = struct.pack("<B", 1) + struct.pack("<IQQB", 2, 78, 9, 1)
    bodies = {
        1: struct.pack("<Q", 1) + member + struct.pack("<HB", 0, 3) + view + bytes(32) + bytes(16)
        + bytes(8) + view + view + bytes(16) + ack,
        2: struct.pack("<BIQIQ", 2, 1, 77, 2, 78),
        3: b"\1\1" + member + view + bytes(32) + b"\1" + view + bytes(16) + b"\0\0",
        4: struct.pack("<BIQ", 1, 0, 4) + bytes(48) + struct.pack("<H", 1) + entry,
        5: struct.pack("<IBQ", 1, 1, 4) + b"\1" + view + bytes(8),
        6: bytes(24),
        7: struct.pack("<QH", 0, 1) + struct.pack("<QBI", 1, 4, 2) + b"xy",
        8: struct.pack("<IQBQ", 1, 77, 1, 5) + view,
    }
    for kind, body in bodies.items():
        put(directory, "fuzz_peers", f"log-{kind}", struct.pack("<IHB", 0x31514d48, 1, kind) + bytes(16)
            + bytes(8) + view + struct.pack("<Q", 77) + body)
    put(directory, "fuzz_peers", "entry", entry)
    shell = {
        1: struct.pack("<BIQQII", 15, 0, 9, 1 << 20, 2, 0) + text16(b"0.1.0") + text16(b"an alarm"),
        2: struct.pack("<I", 1) + text16(b"ipmi") + text16(b"fence_ipmilan")
        + struct.pack("<BIBQI", 1, 60000, 0, 0, 1) + text16(b"n1"),
        4: struct.pack("<Q", 9) + text16(b"ipmi") + text16(b"n1") + struct.pack("<BIBI", 1, 0, 1, 5)
        + text16(b"off"),
        5: struct.pack("<QH", 7, 7780) + text16(b"10.0.0.1") + bytes(32),
        7: struct.pack("<QBIQQQQIBIB", 9, 2, 3, 512, 400, 12, 1 << 20, 300, 1, 4000, 90)
        + struct.pack("<QQQIQBIIIQ", 1 << 19, 2048, 4096, 900, 1500, 0, 0, 0, 0, 0)
        + struct.pack("<BbII", 1, -3, 3200, 940) + text16(b""),
        8: struct.pack("<QQ", 1, 9) + bytes(16) + view + struct.pack("<QQI", 4, 0, 4) + b"data",
        11: struct.pack("<Q", 5) + bytes(16) + struct.pack("<IIBBQQQIB", 2, 300, 1, 3, 1, 2, 3, 4, 1)
        + bytes(8 * 9 + 4) + text16(b"busy") + text16(b""),
        15: struct.pack("<Q", 5),
        16: struct.pack("<QBH", 5, 1, 7781) + text16(b"10.0.0.1") + bytes(32) + text16(b""),
    }
    # Of another version nothing is looked at.
    place = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(place, "..", "..", "hamgr", "shell", "message.h"), encoding="utf-8") as header:
        version = int(re.search(r"#define PEER_VERSION (\d+)u", header.read()).group(1))
    for kind, body in shell.items():
        put(directory, "fuzz_peers", f"shell-{kind}", struct.pack("<IBB", 0x31534d48, version, kind)
            + bytes(24) + struct.pack("<QI", 77, 0) + body)


def states(directory):
    """Scripts for the replicated state (tests/fuzz/fuzz_state.c): each a short story that works."""
    def command(kind, flags, guest, node):
        return bytes([0, kind, flags, guest, node, 0])
    guest = bytes([11, 3, 4]) + struct.pack("<HB", 0x2000, 10) + bytes([1, 0, 1])  # g4 of 8 GiB
    assign = command(24, 3, 3, 3)
    put(directory, "fuzz_state", "assign", b"\2" + guest + assign + command(25, 0, 3, 0))
    migrate = bytes([9, 0, 3, 1])  # g1 to n3
    put(directory, "fuzz_state", "switch", b"\2" + migrate + command(29, 0, 0, 0) + command(31, 0, 0, 0))
    put(directory, "fuzz_state", "abort", b"\2" + migrate + command(30, 0, 0, 0))
    without = bytes([12, 0b1100, 0, 0x41])  # a view without n1
    fenced = command(6, 1, 0, 1)[:-1] + bytes([3, 1, 0, 0])
    put(directory, "fuzz_state", "fence", b"\2" + without + fenced + assign)


def looks(directory):
    """The order for a look at a host, and answers to it, behind the byte that picks which."""
    things = [(1, b"/srv/vmlinuz"), (2, b"/dev/vg/web1"), (3, b"xenbr0"), (4, b"/srv/cd.iso")]
    ask = (text16(b"n1") + b"\1" + text16(b"/etc/hamgr/pki/ca.pem") + text16(b"/etc/hamgr/pki/node.pem")
           + text16(b"/etc/hamgr/pki/node.key") + text16(b"/dev/watchdog")
           + struct.pack("<I", len(things)) + b"".join(struct.pack("<B", k) + text16(n) for k, n in things))
    put(directory, "fuzz_look", "ask", b"\0" + ask)

    def answer(numbers, texts_, items, found):
        return (b"\1" + struct.pack("<H", len(numbers))
                + b"".join(struct.pack("<HQ", *n) for n in numbers)
                + struct.pack("<H", len(texts_))
                + b"".join(struct.pack("<H", n) + text16(t) for n, t in texts_)
                + struct.pack("<BH", 0, len(items))
                + b"".join(struct.pack("<HQ", n, v) + text16(s) + text16(t) for n, v, s, t in items)
                + struct.pack("<I", len(found)) + b"".join(struct.pack("<BQ", *f) for f in found))
    # Facts are numbered as in hamgr/doctor/facts.h; 30000 is a newer build's.
    put(directory, "fuzz_look", "healthy", answer(
        [(n, 1) for n in range(2, 15)] + [(30000, 5)], [(1, b"0.1.0"), (3, b"6.1.0"), (30000, b"new")],
        [(5, 1048572, b"/dev/sda2", b"local"), (30000, 1, b"new", b"list")], [(1, 42), (2, 0)]))
    put(directory, "fuzz_look", "ill", answer(
        [(2, 1), (5, 1)] + [(n, 0) for n in (6, 7, 9, 10, 11, 13, 14, 15, 18, 21, 22, 23, 29, 33)]
        + [(17, 1), (12, 1), (34, 1), (32, 1), (19, 83333), (25, 0o644), (30, 0o440), (20, 1)],
        [(6, b"no certificate"), (7, b"two_node"), (8, b"the store failed"), (9, b"1:2:3"), (4, b"hung")],
        [(1, 1, b"CONFIG_XEN", b""), (2, 0, b"sda", b"bfq"), (3, 0, b"ipmi", b" n1 "),
         (4, 0, b"/run/disk", b""), (5, 1, b"/dev/nbd0", b"shared"), (5, 1, b"/dev/zram0", b"memory")],
        [(4, 1)]))


def texts(directory):
    """What people write, with the byte in front that picks the parser."""
    examples = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy", "examples")
    for number, name in ((0, "hamgr.conf"), (1, "fence.conf")):
        path = os.path.join(examples, name)
        if os.path.exists(path):
            with open(path, "rb") as file:
                put(directory, "fuzz_config", name, bytes([number]) + file.read())
    put(directory, "fuzz_config", "config", b"\0[cluster]\nheartbeat = 250ms\nlease = auto\n[migration]\n"
        b"ports = 7780-7799\nlevel = 3\n[node]\nmemory = 4GiB\nwitness = no\n")
    put(directory, "fuzz_config", "devices", b"\1[device a]\nagent = fence_x\nlevel = 2\ntimeout = 20s\n"
        b"nodes = n1, n2\n  n3\nplug.n1 = 4\npassword = secret\nmonitor = 1h\n")
    put(directory, "fuzz_config", "definition", b"\2memory_mib = 8\ndirty_kib_s = 256\ndisk = direct\n"
        b"console = yes\nseed = 7\n; remark\n")
    for number, request in enumerate((b'{"cmd":"status"}', b'{"cmd":"guest-stop","guest":"g1"}',
                                      b'{"cmd":"migrate","guest":"g1","to":"n2","deadline_ms":1}')):
        put(directory, "fuzz_server", f"raw-{number}", b"\0\0" + struct.pack("<H", len(request)) + request)


def main():
    directory = sys.argv[1]
    head = (streamrig.libxl_header() + streamrig.record(1) + streamrig.image_header()
            + streamrig.record(17, bytes(24)) + streamrig.record(16))
    tail = streamrig.record(9, b"x" * 13) + streamrig.record(0) + streamrig.record(0)
    page = b"page" * 1024
    small = head + streamrig.page_data([3, 0xF << 60 | 4], [page]) + tail
    put(directory, "fuzz_native", "hvm", small)
    pv = (streamrig.libxl_header() + streamrig.record(1) + streamrig.image_header(1, 2)
          + streamrig.record(2, bytes(8)) + streamrig.record(3, bytes(24))
          + streamrig.page_data([1 << 60 | 3], [page]) + streamrig.record(4, bytes(20))
          + streamrig.record(0x80000077, b"opt") + streamrig.record(0) + streamrig.record(0))
    put(directory, "fuzz_native", "pv", pv)
    put(directory, "fuzz_rings", "pv", streamrig.image_header(1, 2) + streamrig.record(2, bytes(8))
        + streamrig.record(0x80486D68, struct.pack("<QQ", 5, 9))
        + streamrig.page_data([5, 0xF << 60 | 4, 9, 6], [page] * 3) + streamrig.record(0))
    put(directory, "fuzz_native", "marker", head + streamrig.record(0x80486D67, bytes(16)) + tail)
    put(directory, "fuzz_native", "emulator", head + streamrig.record(0)
        + streamrig.record(3, bytes(20)) + streamrig.record(0))
    good = (raw(head) + batch(0, [3, 4, 0xF << 60 | 5], 2) + pages(0, 0, [1, 0], page) + raw(tail)
            + item(11, struct.pack("<QQQB7xQQ", len(head) + 16 + 24 + 2 * PAGE + len(tail), 1, 2, 0, 0, 0)))
    put(directory, "fuzz_recv", "good", good)
    put(directory, "fuzz_recv", "split", raw(head[:50]) + raw(head[50:]) + item(4, b"")
        + batch(0, [7], 1) + pages(0, 0, [0], b"") + item(3, struct.pack("<HH", 8, 2) + b"no"))
    end = struct.pack("<QQQB7xQQ", 1, 2, 3, 1, 4, 5)
    for name, data in (("batch", batch(0, [3, 4], 2)[4:]), ("pages", pages(0, 0, [1], page)[4:]),
                       ("raw", raw(head)[4:]), ("end", end), ("hello", struct.pack("<HH", 1, 1) + bytes(92)),
                       ("header", b"HMS1" + struct.pack("<HHIIQ", 8, 0, 100, 0, 0)),
                       ("abort", struct.pack("<HH", 4, 5) + b"words")):
        put(directory, "fuzz_frame", name, data)
    peers(directory)
    states(directory)
    texts(directory)
    looks(directory)
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([streamrig.PKI, "all", work, "n1"], check=True, stdout=subprocess.DEVNULL)
        der = subprocess.run(["openssl", "x509", "-in", f"{work}/n1/node.pem", "-outform", "DER"],
                             check=True, capture_output=True).stdout
    put(directory, "fuzz_pem", "node", der)
    return 0


if __name__ == "__main__":
    sys.exit(main())
