# SPDX-License-Identifier: Apache-2.0
"""Runs the scenarios of one file, one after the other, each within its time and with its own room.

A scenario is a function of one argument (Context) whose first line of documentation is its story.
It passes when it returns; any exception fails it. The last line printed is "N passed, N failed".
"""

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy", "lib"))

import reached  # noqa: E402
from nslab import client, programs  # noqa: E402

SCENARIOS = []


def scenario(timeout_s):
    """Registers a scenario that must be over within timeout_s."""
    def register(function):
        SCENARIOS.append((function, timeout_s))
        return function
    return register


def check(condition, words):
    if not condition:
        raise AssertionError(words)


def equal(found, wanted, what):
    check(found == wanted, f"{what}: {found!r}, wanted {wanted!r}")


class Context:
    """What a scenario works with: the built programs, rooms of its own, notes for the reader."""

    def __init__(self, options, name):
        self.build = options.build
        self.name = name
        self.rooms = []
        self.clusters = []

    def note(self, words):
        print(f"    {words}", flush=True)

    def directory(self):
        """On a disk, not in memory: what a store costs should be in the numbers."""
        return tempfile.mkdtemp(prefix="hamgr-test-", dir="/var/tmp")

    def room(self, names=("n1", "n2", "n3")):
        """A room with staged programs, all nodes off; ends with the scenario."""
        room = client.Room.start(self.directory(), list(names))
        self.rooms.append(room)
        programs.stage(room, self.build)
        return room

    def close(self, keep_logs_at=None):
        for room in self.rooms:
            if keep_logs_at:
                room.save_logs(os.path.join(keep_logs_at, self.name))
            room.down()
            check(not os.path.exists(room.dir), f"{room.dir} is left behind")


def run_one(function, timeout_s, options):
    """Runs a scenario; returns None or the traceback of its failure."""
    def over(*_):
        raise TimeoutError(f"the scenario was not over within {timeout_s} s")

    context = Context(options, function.__name__)
    failure = None
    signal.signal(signal.SIGALRM, over)
    signal.alarm(timeout_s)
    try:
        function(context)
    except Exception:  # pylint: disable=broad-except
        failure = traceback.format_exc()
    signal.alarm(60)  # for going down
    try:
        context.close(options.logs if failure else None)
    except Exception:  # pylint: disable=broad-except
        failure = (failure or "") + traceback.format_exc()
    signal.alarm(0)
    reached.tell(context.name)
    return failure


def main():
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("names", nargs="*", help="scenarios (default: all)")
    parser.add_argument("--build", default=os.path.join(ROOT, "build", "release"),
                        help="build directory with the programs")
    parser.add_argument("--logs", default=os.path.join(ROOT, "build", "log", "netns"),
                        help="where the logs of failed scenarios go")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    options = parser.parse_args()
    options.build = os.path.abspath(options.build)
    chosen = [s for s in SCENARIOS if not options.names or s[0].__name__ in options.names]
    if options.list:
        for function, _ in chosen:
            print(f"{function.__name__}: {function.__doc__.splitlines()[0]}")
        return 0
    if os.getuid() != 0:
        print("namespaces need root", file=sys.stderr)
        return 2
    failed = []
    for function, timeout_s in chosen:
        print(f"{function.__name__}: {function.__doc__.splitlines()[0]}", flush=True)
        began = time.monotonic()
        failure = run_one(function, timeout_s, options)
        if failure:  # said aloud, and tried once more: two busy cores starve real daemons at times
            print("  FAILED at the first try:\n    " + failure.strip().replace("\n", "\n    "),
                  flush=True)
            failure = run_one(function, timeout_s, options)
        failed += [function.__name__] if failure else []
        print(f"  {'FAILED' if failure else 'passed'} in {time.monotonic() - began:.1f} s",
              flush=True)
        if failure:
            print("    " + failure.strip().replace("\n", "\n    "), flush=True)
    for name in failed:
        print(f"FAILED {name}")
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not chosen else 0
