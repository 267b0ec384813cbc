# SPDX-License-Identifier: Apache-2.0
"""Which failpoints a run reached, written down for tests/netns/failpoints to sum up.

A failpoint is a place or a way in which tests make something fail on purpose: a step at which a
migration is held and struck, an order that a preloaded disk or clock obeys. What counts is that it
happened: a daemon was held there, an fsync did fail. HAMGR_REACHED names the directory; without it
nothing is written.
"""

import collections
import os
import time

_counts = collections.Counter()
_pages = []


def note(name, times=1):
    """It was reached so often (0: not at all)."""
    if times:
        _counts[name] += times


def watch(page):
    """page() says at the end of the run how often what was reached: {name: times}."""
    _pages.append(page)


def tell(run):
    """The end of a run: what it reached becomes a file of lines TIMES NAME."""
    for page in _pages:
        for name, times in page().items():
            note(name, times)
    directory = os.environ.get("HAMGR_REACHED")
    if directory and _counts:
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, f"{run}-{os.getpid()}-{time.monotonic_ns()}")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{times} {name}\n" for name, times in sorted(_counts.items()))
    _pages.clear()
    _counts.clear()
