# SPDX-License-Identifier: Apache-2.0
"""Runs the scenarios of one file on labs of real Xen, one lab for each hypervisor they want.

A scenario is a function of one argument (World) whose first line of documentation is its story. It
leaves guests and nodes as the next one may find them. The last line printed is "N passed, N failed".
"""

import argparse
import os
import signal
import sys
import time
import traceback

from world import DEFAULT_DIR, ROOT, Lab, Place, World

SCENARIOS = []
UP_S = 600


def scenario(timeout_s, hypervisor="shadow"):
    """Registers a scenario that must be over within timeout_s on that hypervisor."""
    def register(function):
        SCENARIOS.append((function, timeout_s, hypervisor))
        return function
    return register


def bounded(function, timeout_s):
    """Runs function; returns (its value, None) or (None, the traceback of its failure)."""
    def over(*_):
        raise TimeoutError(f"not over within {timeout_s} s")
    signal.signal(signal.SIGALRM, over)
    signal.alarm(timeout_s)
    try:
        return function(), None
    except Exception:  # pylint: disable=broad-except
        return None, traceback.format_exc()
    finally:
        signal.alarm(0)


def save_logs(world, name, options):
    """Nodes' logs of a failed scenario."""
    for node in [m.name for m in world.on()]:
        directory = os.path.join(options.logs, name, node)
        os.makedirs(directory, exist_ok=True)
        for log in ("hamgrd.log", "hamgr-hv.log", "hamgr-watchdog.log", "hamgr-fence.log"):
            with open(os.path.join(directory, log), "w", encoding="utf-8") as file:
                file.write("\n".join(world.lines(node, log)) + "\n")


def run_all(chosen, hypervisor, nodes, options):
    """Runs the scenarios of one hypervisor; returns the names of those that failed."""
    world, failure = bounded(lambda: World(options, hypervisor, nodes), UP_S)
    failed = []
    for function, timeout_s in chosen:
        name = function.__name__
        print(f"{name}: {function.__doc__.splitlines()[0]}", flush=True)
        began = time.monotonic()
        if world:
            _, failure = bounded(lambda function=function: function(world), timeout_s)
        print(f"  {'FAILED' if failure else 'passed'} in {time.monotonic() - began:.1f} s",
              flush=True)
        if failure:
            failed.append(name)
            print("    " + failure.strip().replace("\n", "\n    "), flush=True)
            if world:
                bounded(lambda name=name: save_logs(world, name, options), 60)
    if world:
        bounded(lambda: world.close(options.keep), 120)
    elif not options.keep:  # what went up before it failed
        bounded(lambda: Lab(Place(DEFAULT_DIR, options.lab)).down(), 120)
    return failed


def main(nodes=3):
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("names", nargs="*", help="scenarios (default: all)")
    parser.add_argument("--build", default=os.path.join(ROOT, "build", "release"))
    parser.add_argument("--lab", default="test", help="the lab's name; one that is up is used as it is")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    parser.add_argument("--logs", default=os.path.join(ROOT, "build", "log", "xen"))
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    options = parser.parse_args()
    options.build = os.path.abspath(options.build)
    chosen = [s for s in SCENARIOS if not options.names or s[0].__name__ in options.names]
    if options.list:
        for function, _, hypervisor in chosen:
            print(f"{function.__name__} ({hypervisor}): {function.__doc__.splitlines()[0]}")
        return 0
    if os.getuid() != 0:
        print("a lab needs root", file=sys.stderr)
        return 2
    failed = []
    for hypervisor in sorted({s[2] for s in chosen}):
        mine = [(f, t) for f, t, h in chosen if h == hypervisor]
        failed += run_all(mine, hypervisor, nodes, options)
    for name in failed:
        print(f"FAILED {name}")
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not chosen else 0
