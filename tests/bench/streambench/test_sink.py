#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The judge of tests/bench/stream is judged: what feed writes is what sink calls identical; a stream
without the pages that had not changed is canonical; anything else differs.

  test_sink.py BUILD
"""
import os
import socket
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from streambench import rig as rigging  # noqa: E402

PAGES, CHANGED = 8, (2, 5)


def page(number, version):
    return (b"page %d version %d." % (number, version)).ljust(64) * 64


def images(rig):
    paths = [os.path.join(rig.work, name) for name in ("a", "b")]
    for version, path in enumerate(paths):
        with open(path, "wb") as file:
            file.write(b"".join(page(i, version if i in CHANGED else 0) for i in range(PAGES)))
    return ["--resend", "--image", paths[0], "--image", paths[1]]


def batch(pages):
    body = struct.pack(f"<II{len(pages)}Q", len(pages), 0, *(number for number, _ in pages))
    body += b"".join(content for _, content in pages)
    return struct.pack("<II", 1, len(body)) + body


def fed(rig, arguments):
    """What feed writes."""
    ours, theirs = socket.socketpair()
    feed = rigging.Tool(rig, "feed", ["--fd", theirs.fileno(), *arguments], [theirs.fileno()])
    theirs.close()
    feed.expect("ready")
    feed.say("go")
    feed.expect("round")
    feed.say("go")
    feed.expect("round")
    feed.say("go")
    feed.expect("fed")
    with ours, ours.makefile("rb") as file:
        return file.read()


def judged(rig, arguments, data):
    ours, theirs = socket.socketpair()
    sink = rigging.Tool(rig, "sink", ["--fd", theirs.fileno(), *arguments], [theirs.fileno()])
    theirs.close()
    with ours:
        ours.sendall(data)
    sink.expect("taken")
    sink.say("verify")
    try:
        return sink.expect("identical", "canonical", "differs")[0]
    except rigging.Failed:
        return "differs"  # a stream that can't be parsed ends the sink


def main():
    rig = rigging.Rig(sys.argv[1])
    try:
        arguments = images(rig)
        data = fed(rig, arguments)
        second = [(i, page(i, 1 if i in CHANGED else 0)) for i in range(PAGES)]
        whole = batch(second)
        assert data.count(whole) == 1, "the second round is not where it should be"
        cases = {
            "as fed": (data, "identical"),
            "unchanged left out": (data.replace(whole, batch([second[i] for i in CHANGED])), "canonical"),
            "a change left out": (data.replace(whole, batch([second[2]])), "differs"),
            "all of it left out": (data.replace(whole, b""), "differs"),
            "an old version": (data.replace(whole, batch([(2, page(2, 0)), second[5]])), "differs"),
            "in two records": (data.replace(whole, batch(second[:3]) + batch(second[3:])), "canonical"),
            "out of order": (data.replace(whole, batch([second[5], second[2]])), "differs"),
            "one page twice": (data.replace(whole, whole + batch(second[2:3])), "differs"),
            "cut": (data[:-100], "differs"),
            "more behind": (data + b"\0", "differs"),
            "another tail": (data[:-20] + b"x" + data[-19:], "differs"),
        }
        for name, (stream, want) in cases.items():
            got = judged(rig, arguments, stream)
            assert got == want, f"{name}: {got}, not {want}"
            print(f"{name}: {got}")
    finally:
        rig.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
