#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes first inputs for the fuzz targets of the page stream: make_corpus.py DIR"""
import os
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
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([streamrig.PKI, "all", work, "n1"], check=True, stdout=subprocess.DEVNULL)
        der = subprocess.run(["openssl", "x509", "-in", f"{work}/n1/node.pem", "-outform", "DER"],
                             check=True, capture_output=True).stdout
    put(directory, "fuzz_pem", "node", der)
    return 0


if __name__ == "__main__":
    sys.exit(main())
