# SPDX-License-Identifier: Apache-2.0
"""Cuts the connections of a migration between two nodes, as a packet filter on the way does it.

Rules at both nodes' cables, outside of the nodes. Of what is TCP on the cluster's network all is a
migration's stream: corosync speaks UDP, storage and ssh have a network of their own.
"""

import json
import subprocess

from world import check
from xenlab import net

# What comes behind a number of bytes (of both directions, headers and all) goes no further.
TABLE = """
table netdev knife {{
    counter passed {{
    }}
    counter lost {{
    }}
    counter dialled {{
    }}
    chain cut {{
        tcp flags & (syn | ack) == syn counter name "dialled"
        counter name "lost"
        {verdict}
    }}
    chain stream {{
        counter name "passed"
    }}
    chain cables {{
        type filter hook ingress devices = {{ {cables} }} priority 0
        ip saddr {{ {ends} }} ip daddr {{ {ends} }} ip protocol tcp jump stream
    }}
}}
"""
RESET, SILENT = "ip protocol tcp reject with tcp reset", "drop"


class Knife:
    """From its beginning it counts; one cut may be made, at once or behind so many bytes more."""

    def __init__(self, world, ends, verdict):
        self.namespace = world.place.namespace
        indices = [world.nodes[node].index for node in ends]
        self.run("-f", "-", text=TABLE.format(
            verdict=verdict, cables=", ".join(f"tap{i}" for i in indices),
            ends=", ".join(net.address(i) for i in indices)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.run("delete", "table", "netdev", "knife")

    def run(self, *words, text=""):
        done = subprocess.run([*net.inside(self.namespace), "nft", *words], input=text, text=True,
                              capture_output=True, timeout=30, check=False)
        check(done.returncode == 0, f"nft: {done.stderr.strip()}")
        return done.stdout

    def cut(self, after=0):
        behind = ["quota", "over", str(after), "bytes"] if after else []
        self.run("add", "rule", "netdev", "knife", "stream", *behind, "goto", "cut")

    def heal(self):
        self.run("flush", "chain", "netdev", "knife", "stream")

    def counts(self):
        """{"passed": bytes that went over, "lost": packets that did not, "dialled": of these those
        that begin a connection}"""
        found = {c["counter"]["name"]: c["counter"] for c in
                 json.loads(self.run("-j", "list", "counters", "table", "netdev", "knife"))["nftables"]
                 if "counter" in c}
        return {"passed": found["passed"]["bytes"] - found["lost"]["bytes"],
                "lost": found["lost"]["packets"], "dialled": found["dialled"]["packets"]}
