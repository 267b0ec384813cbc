# SPDX-License-Identifier: Apache-2.0
"""What benches of whole clusters are judged by, and what they plant with --plant to show that they can
fail: a foreign step in a guest's page (Cluster.plant_double_run), and bits flipped in running guests."""

from nslab.client import wait_until

# In the node: flips a bit in each of 64 pages all over each guest's memory. A guest writes some of them
# anew before it checks them, not all.
FLIP = r"""
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/comm") as file:
            if file.read().strip() != "hamgr-guest":
                continue
        with open(f"/proc/{pid}/maps") as file:
            spans = [line.split()[0] for line in file if "memfd:" in line and " rw" in line]
    except OSError:
        continue
    ends = [tuple(int(end, 16) for end in span.split("-")) for span in spans]
    start, end = max(ends, key=lambda span: span[1] - span[0])
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for n in range(1, 65):
            at = start + (end - start) // 4096 * n // 66 * 4096 + 2000
            memory.seek(at)
            byte = memory.read(1)[0]
            memory.seek(at)
            memory.write(bytes([byte ^ 16]))
"""
CORRUPT_AT = 40  # in a slot of the observer's page


def damage(cluster, name):
    """Damages the memory of a guest, and of all others of its node; ends when it, checking itself, has
    found that."""
    cluster.room.nodes[cluster.homes()[name]].run(["/usr/bin/python3", "-c", FLIP])
    wait_until(lambda: cluster.observer.u64(cluster.slots[name], CORRUPT_AT),
               f"{name} finds its memory damaged", 30)


def failures(result):
    """Sentences on what must not be; none: it was a good run."""
    found = [f"{result[key]} {words}" for key, words in (
        ("double_runs", "double runs"), ("corrupt_guests", "corrupt guests"),
        ("broken", "broken contracts")) if result.get(key)]
    return found + [f"leak: {words}" for words in result.get("leaks", [])]


def tell(result, before=None):
    """The exit code of a run, with a line for each failure. `before`: the same before anything was
    planted, which must be none."""
    if before:
        print(f"NOT PLANTED: {'; '.join(before)}")
        return 2
    found = failures(result)
    for words in found:
        print(f"FAILED: {words}")
    return 1 if found else 0
