# SPDX-License-Identifier: Apache-2.0
"""Reads what the embedded guests leave in the page all nodes share (hamgr/hv/embedded/observer.h).

One slot of 4096 bytes a guest. Every step of a guest exchanges its (node, epoch, step) into the
slot and checks what was there before: a foreign value without a hand-off is a double run, counted
in the slot by the guest that found it. Times are nanoseconds; MONOTONIC is shared by all nodes.
"""

import mmap
import os
import struct
from dataclasses import dataclass, field

SLOT = 4096
HISTORY_AT = 128
HISTORY = 62
COPY = 64


@dataclass
class Word:
    """Who made a step: packed as node (8 bits), epoch (24), step (32)."""

    node: int
    epoch: int
    step: int

    @classmethod
    def unpack(cls, word):
        return cls(word >> 56, (word >> 32) & 0xffffff, word & 0xffffffff)

    def pack(self):
        return self.node << 56 | self.epoch << 32 | self.step


@dataclass
class Copy:
    """One copy of a guest that made a step."""

    word: Word
    first_step_ns: int
    first_check_ns: int  # 0: no full self-check passed yet
    gap_ns: int          # pause seen by a restored copy
    is_restored: bool


@dataclass
class Slot:
    """A guest, as its slot says."""

    word: Word
    violations: int
    foreign: Word
    corrupt: int
    max_gap_ns: int
    last_step_ns: int    # BOOTTIME
    first_check_ns: int  # MONOTONIC, of the newest copy that passed
    checked: Word        # which copy that was
    full_checks: int
    disk_writes: int
    history_count: int
    copies: list = field(default_factory=list)  # the newest last


class Observer:
    """The page, mapped. Makes the file if it is not there: guests only look for it when created."""

    def __init__(self, directory, slots):
        self.path = os.path.join(directory, "page")
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            os.fchmod(fd, 0o666)
            if os.fstat(fd).st_size < slots * SLOT:
                os.ftruncate(fd, slots * SLOT)
            self.map = mmap.mmap(fd, slots * SLOT)
        finally:
            os.close(fd)
        self.slots = slots

    def close(self):
        self.map.close()

    def u64(self, slot, offset):
        return struct.unpack_from("<Q", self.map, slot * SLOT + offset)[0]

    def slot(self, number):
        """The whole slot. Fields are read one by one: enough for counters and finished events."""
        word, violations, foreign, _, _, corrupt, max_gap, last_step = struct.unpack_from(
            "<8Q", self.map, number * SLOT)
        first_check, checked, full_checks, writes, count = struct.unpack_from(
            "<5Q", self.map, number * SLOT + 64)
        copies = []
        for index in range(max(0, count - HISTORY), count):
            at = number * SLOT + HISTORY_AT + index % HISTORY * COPY
            values = struct.unpack_from("<5Q", self.map, at)
            if values[0]:
                copies.append(Copy(Word.unpack(values[0]), *values[1:4], bool(values[4])))
        return Slot(Word.unpack(word), violations, Word.unpack(foreign), corrupt, max_gap,
                    last_step, first_check, Word.unpack(checked), full_checks, writes, count,
                    copies)

    def verdict(self, slots):
        """(double runs, corruptions) over the slots given."""
        violations = corrupt = 0
        for number in slots:
            violations += self.u64(number, 8)
            corrupt += self.u64(number, 40)
        return violations, corrupt

    def reset_gap(self, number):
        struct.pack_into("<Q", self.map, number * SLOT + 48, 0)

    def plant(self, number, node=255, epoch=0xffffff, step=1):
        """Makes a step in a slot as a copy nobody handed anything to: a double run to be seen."""
        struct.pack_into("<Q", self.map, number * SLOT, Word(node, epoch, step).pack())
