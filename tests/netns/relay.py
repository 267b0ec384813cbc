# SPDX-License-Identifier: Apache-2.0
"""The network between a room's nodes, spoilt on order: cuts, loss, delay, duplicates, damage.

This kernel has no tc netem, so corosync's datagrams go through tests/netns/relay.c; everything else
(migration streams) stays on the switch and meets the same cuts and losses there, as nftables rules.
"""

import mmap
import os
import struct

NODES = 8
RULE = struct.Struct("<5I")
COROSYNC = "udp dport 5405"


class Network:
    """The whole mesh of a room. A rule says what happens to one direction: from node a to node b."""

    def __init__(self, room, program, seed):
        self.room = room
        self.nodes = list(room.nodes.values())
        self.rules = {}  # (from name, to name) -> {loss, delay_ms, jitter_ms, twice, flip}: ms, percent
        path = os.path.join(room.dir, "relay-rules")
        with open(path, "wb") as file:
            file.write(bytes(NODES * NODES * RULE.size))
        with open(path, "r+b") as file:
            self.page = mmap.mmap(file.fileno(), NODES * NODES * RULE.size)
        ports = [f"port{node.index}" for node in self.nodes]
        room.call("spawn", name="relay", argv=[program, path, str(seed), *ports])
        self.apply()

    def apply(self):
        """Puts the rules into force."""
        filters = [{"match": COROSYNC}]
        for sender in self.nodes:
            for receiver in self.nodes:
                rule = self.rules.get((sender.name, receiver.name), {})
                RULE.pack_into(self.page, ((sender.index - 1) * NODES + receiver.index - 1)
                               * RULE.size, int(rule.get("loss", 0) * 10),
                               int(rule.get("delay_ms", 0) * 1000),
                               int(rule.get("jitter_ms", 0) * 1000),
                               int(rule.get("twice", 0) * 10), int(rule.get("flip", 0) * 10))
                if rule.get("loss"):
                    filters.append({"from": sender.name, "to": receiver.name,
                                    "loss": rule["loss"]})
        self.room.filters(filters)

    def set(self, pairs, **rule):
        """The same rule for each (from, to) of node names; no keywords: as new."""
        for pair in pairs:
            if rule:
                self.rules[pair] = rule
            else:
                self.rules.pop(pair, None)
        self.apply()

    def heal(self):
        self.rules.clear()
        self.apply()

    def all_pairs(self):
        return [(a.name, b.name) for a in self.nodes for b in self.nodes if a is not b]

    def pairs_of(self, node, is_out=True, is_in=True):
        """The directions from a node, to it, or both."""
        others = [other.name for other in self.nodes if other is not node]
        return [(node.name, other) for other in others if is_out] + \
               [(other, node.name) for other in others if is_in]
