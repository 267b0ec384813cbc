# SPDX-License-Identifier: Apache-2.0
"""Runs scenarios on labs of real Xen, those of one file or of all (run): one lab for each kind they want.

A kind is a hypervisor, who moves guests' memory (hamgr-hv's --xen-helper), how many nodes, and what runs
on them (driver none: nothing, a cluster is to be made of them). A scenario is a function of one argument
(World) whose first line of documentation is its story. It leaves guests and nodes as the next one may find
them. The last line printed is "N passed, N failed".
"""

import argparse
import collections
import os
import signal
import sys
import time
import traceback

from world import DEFAULT_DIR, ROOT, Lab, Place, World, mismatch

Kind = collections.namedtuple("Kind", "hypervisor helper nodes driver", defaults=(3, "xen"))
Scenario = collections.namedtuple("Scenario", "function timeout_s kind is_extra")
SCENARIOS = []
UP_S = 900
HELPERS = ("stock", "auto")


def scenario(timeout_s, hypervisor="shadow", helpers=HELPERS[:1], extra=(), nodes=3, driver="xen"):
    """Registers a scenario that must be over within timeout_s on so many nodes of that hypervisor, with each
    helper; with those in extra only in full or by its name."""
    def register(function):
        SCENARIOS.extend(Scenario(function, timeout_s, Kind(hypervisor, h, nodes, driver), h in extra)
                         for h in HELPERS if h in (*helpers, *extra))
        return function
    return register


def name_of(chosen):
    """How a scenario is called: the kind is named where it is not the usual one."""
    kind = chosen.kind
    extra = [kind.hypervisor] * (kind.hypervisor != "shadow") + [kind.helper] * (kind.helper != "stock")
    return chosen.function.__name__ + (f"-{'-'.join(extra)}" if extra else "")


def choose(names, helper=None, full=False):
    """The scenarios of these names (all, if there are none) and, if given, that helper."""
    return [s for s in SCENARIOS
            if (s.function.__name__ in names or name_of(s) in names or
                (not names and (full or not s.is_extra)))
            and helper in (None, s.kind.helper)]


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


def run_one(world, failure, entry, options):
    """Runs a scenario on a lab (None: it did not come up, failure says why); True if it passed."""
    name = name_of(entry)
    print(f"{name}: {entry.function.__doc__.splitlines()[0]}", flush=True)
    began = time.monotonic()
    if world:
        _, failure = bounded(lambda: entry.function(world), entry.timeout_s)
    print(f"  {'FAILED' if failure else 'passed'} in {time.monotonic() - began:.1f} s", flush=True)
    if failure:
        print("    " + failure.strip().replace("\n", "\n    "), flush=True)
        if world:
            bounded(lambda: save_logs(world, name, options), 60)
    return not failure


def end(world, options):
    """Ends a lab, or what went up of one before it failed."""
    if world:
        bounded(lambda: world.close(options.keep), 120)
    elif not options.keep:
        bounded(lambda: Lab(Place(DEFAULT_DIR, options.lab)).down(), 120)


def run_all(chosen, kind, options):
    """Runs the scenarios of one kind; returns the names of those that failed. One that fails is tried
    once more, on a lab of its own: emulated nodes on a busy machine may stand still for seconds."""
    why = mismatch(Lab(Place(DEFAULT_DIR, options.lab)).alive(), kind)
    if why:  # it is somebody's: left as it is
        print(f"{why}; end it first: deploy/lab --name {options.lab} down")
        return [name_of(entry) for entry in chosen]
    world, failure = bounded(lambda: World(options, kind), UP_S)
    failed = []
    for entry in chosen:
        is_good = False
        for _ in range(1 if options.keep else 2):
            is_good = run_one(world, failure, entry, options)
            if is_good or options.keep:
                break
            end(world, options)  # what a failure leaves behind is nobody's
            world, failure = bounded(lambda: World(options, kind), UP_S)
        if not is_good:
            failed.append(name_of(entry))
    end(world, options)
    return failed


def parser_of(text):
    """The options of all programs that run scenarios."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="scenarios (default: all)")
    parser.add_argument("--xen-helper", choices=HELPERS, help="only scenarios with this one")
    parser.add_argument("--full", action="store_true", help="three round trips, and all scenarios")
    parser.add_argument("--build", default=os.path.join(ROOT, "build", "release"))
    parser.add_argument("--lab", default="test", help="the lab's name; one that is up is used as it is")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    parser.add_argument("--logs", default=os.path.join(ROOT, "build", "log", "xen"))
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    return parser


def kinds_of(chosen):
    """In the order they are run: stock hypervisor and helper first, which ask less of Xen."""
    return sorted({s.kind for s in chosen}, reverse=True)


def run_kinds(chosen, options):
    """Runs scenarios, a lab for each kind; returns the names of those that failed."""
    failed = []
    for kind in kinds_of(chosen):
        failed += run_all([s for s in chosen if s.kind == kind], kind, options)
    for name in failed:
        print(f"FAILED {name}")
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return failed


def main(options=None):
    options = options or parser_of(sys.modules["__main__"].__doc__).parse_args()
    options.build = os.path.abspath(options.build)
    chosen = choose(options.names, options.xen_helper, options.full)
    if options.list:
        for entry in chosen:
            print(f"{name_of(entry)}: {entry.function.__doc__.splitlines()[0]}")
        return 0
    if os.getuid() != 0:
        print("a lab needs root", file=sys.stderr)
        return 2
    if options.keep and len(kinds_of(chosen)) > 1:
        print("--keep keeps one lab, these scenarios want more: name them, or --xen-helper stock or auto",
              file=sys.stderr)
        return 2
    return 1 if run_kinds(chosen, options) or not chosen else 0
