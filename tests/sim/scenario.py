# SPDX-License-Identifier: Apache-2.0
"""Other managers' regression scenarios, told to the simulator.

    tests/sim/run scenario FILE... [--json] [--table] [--trace]
    tests/sim/run scenario --all             the folder below $HAMGR_SHARED or ../shared; its table must
                                             be what SCENARIOS.md says

FILE is a scenario as ../shared/peer-scenarios/README.md describes it. It is translated into a script
for hamgr-sim (tests/sim/script.h) and played with hamgr's own timing. --json prints for each
{"name", "final": {guest: {"node", "state", "running_on"}}, "events", "violations", "refused"}. A file
with directives that hamgr does not offer is refused by name, never played in part. One that can't be
read at all is an error: exit code 2.

--table compares with what the peer did: same, different (which needs a line of why in
scenarios.txt) or refused. A guest's node counts where an order named it; where the peer chose one of
several equal nodes, any of them is right.
"""

import glob
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
STARTED = ("started", "enabled")
STOPPED = ("stopped", "disabled", "ignored", None)
SETUP_S = 40  # before the story begins guests are brought to the nodes they are defined on
CLOCK_S = 1   # the peer's clock ticks in seconds
CALM_S = 60   # a story may end no sooner behind its last event
UNREAD = "it can't be read: "
# What whole scenarios are about that hamgr does not offer: refusals that begin so.
NOT_OFFERED = ("placement rules are", "placement by load is")


class Refused(Exception):
    """The scenario asks for something that hamgr does not offer, or is malformed."""


def need(condition, why):
    if not condition:
        raise Refused(why)


def typed(value, kind, what):
    need(isinstance(value, kind) and not (kind is not bool and isinstance(value, bool)),
         f"{what}: expected {getattr(kind, '__name__', 'a number')}, not {value!r:.60}")
    return value


def number(value, what):
    """max_restart and the like are numbers or texts of numbers."""
    try:
        return max(0, min(1000, int(value)))
    except (TypeError, ValueError):
        raise Refused(f"{what}: expected a number, not {value!r:.60}") from None


class Story:
    """A scenario, checked, and its translation."""

    def __init__(self, data):
        typed(data, dict, "scenario")
        self.name = str(data.get("name", "?"))[:100]
        self.refuse_features(data)
        self.nodes = sorted(typed(data.get("nodes"), dict, "nodes"))
        need(2 <= len(self.nodes) <= 9, f"{len(self.nodes)} nodes: 2 to 9 can be simulated")
        self.guests = typed(data.get("guests"), dict, "guests")
        self.state = typed(data.get("initial_manager_state") or {}, dict, "initial_manager_state")
        self.cluster = typed(data.get("cluster") or {}, dict, "cluster")
        self.shutdown_policy = (self.cluster.get("ha") or {}).get("shutdown_policy", "conditional")
        need(self.shutdown_policy in ("migrate", "conditional", "failover", "freeze"),
             f"shutdown policy {self.shutdown_policy!r:.40} is not offered")
        self.fencing = self.cluster.get("fencing", "none")  # no peer's, for kept/
        need(self.fencing in ("none", "strip"), f"fencing {self.fencing!r:.40} is not known")
        self.lines = []  # (second, words)
        self.extra = {}  # guests that a command adds
        self.events = typed(data.get("events"), list, "events")
        self.expected_final = typed(data.get("expected_final") or {}, dict, "expected_final")
        self.expected_events = typed(data.get("expected_events") or [], list, "expected_events")
        self.ordered = set()  # guests whose node an order names
        self.down = {}        # node -> since when it is not there at the end
        for event in self.events:
            self.translate(typed(event, dict, "event"))
        story = [self.time(e) for e in self.events
                 if not (e.get("ev") == "node_power" and e.get("on") is True)]
        self.begins_s = min(story) if story else 120
        last = max([self.time(e) for e in self.events], default=0)
        self.end_s = max(last + CALM_S, float(typed(data.get("end_t", 0), (int, float), "end_t")))
        need(self.end_s <= 86000, "it takes longer than a day")

    @staticmethod
    def refuse_features(data):
        need(not data.get("rules"), "placement rules are not offered yet")
        need(not data.get("static_load") and not data.get("dynamic_load"),
             "placement by load is not offered")
        cluster = data.get("cluster") or {}
        need(not (isinstance(cluster, dict) and cluster.get("crs")), "placement by load is not offered")
        for name, guest in (data.get("guests") or {}).items():
            need(isinstance(guest, dict), f"guest {name}: expected an object")
            need(not guest.get("group"), f"guest {name}: groups are not offered")
            need(not guest.get("lock"), f"guest {name}: locks are the peer's own")

    def time(self, event):
        value = typed(event.get("t", 0), (int, float), "t")
        need(0 <= value <= 86000, f"t: {value} s is not within a day")
        return float(value)

    def node(self, name):
        need(isinstance(name, str) and name in self.nodes, f"there is no node {name!r:.60}")
        return str(self.nodes.index(name) + 1)

    def guest(self, name):
        need(isinstance(name, str) and (name in self.guests or name in self.extra),
             f"there is no guest {name!r:.60}")
        return name.replace(":", "-")

    def add(self, event, *words, after_s=0):
        self.lines.append((self.time(event) + after_s, words))

    # --- one event each ---

    def translate(self, event):
        kind = str(event.get("ev"))
        handler = getattr(self, "on_" + kind, None)
        need(handler, f"event {kind} is not known")
        handler(event)

    def on_wait(self, event):
        self.time(event)

    on_skip_round = on_wait

    def on_node_power(self, event):
        self.add(event, "power", self.node(event.get("node")), "on" if event.get("on") else "off")
        if event.get("on"):
            self.down.pop(event["node"], None)
        else:
            self.down[event["node"]] = self.time(event)

    def on_node_net(self, event):
        self.add(event, "net", self.node(event.get("node")), "up" if event.get("up") else "down")
        if not event.get("up"):
            self.down[event["node"]] = self.time(event)

    def on_node_shutdown(self, event):
        node = self.node(event.get("node"))
        if self.shutdown_policy == "freeze":  # its guests stay its own: ours is told by an operator
            self.add(event, "freeze", node)
            self.add(event, "power", node, "off", after_s=5)
        else:
            self.add(event, "shutdown", node)
        self.down[event["node"]] = self.time(event)

    def on_node_reboot(self, event):
        self.add(event, "reboot", self.node(event.get("node")))

    def on_agent_restart(self, event):
        self.add(event, "kill", self.node(event.get("node")))

    def on_shared_state_fault(self, event):
        """The peer's replicated file system; ours is the log on the node's disk."""
        node = self.node(event.get("node"))
        if event.get("ok"):
            return
        mended = [self.time(e) for e in self.events if isinstance(e, dict) and e.get("ok") and
                  e.get("node") == event["node"] and self.time(e) > self.time(event)]
        self.add(event, "disk", node, f"{min(mended, default=86000.0) * 1000:.0f}")

    def on_admin(self, event):
        node, command = self.node(event.get("node")), event.get("cmd")
        plain = {"disarm-ha": ("disarm",), "arm-ha": ("arm",), "stop": ("kill", node),
                 # No peer's, for kept/:
                 "fence-node": ("fence", node), "new-board": ("board", node),
                 "confirm-fenced": ("confirm-fenced", node),
                 "enable-node-maintenance": ("maintenance", node, "on"),
                 "disable-node-maintenance": ("maintenance", node, "off")}
        need(command in plain, f"admin command {command} is not known")
        self.add(event, *plain[command])

    def on_guest(self, event):
        name, command = event.get("guest"), event.get("cmd")
        args = typed(event.get("args") or [], list, "args")
        if command == "add":
            typed(name, str, "guest")
            self.extra[name] = {}
            stopped = len(args) > 1 and args[1] in STOPPED
            self.add(event, "add", self.guest(name), "stopped" if stopped else "started")
            if args and not stopped:
                self.add(event, "migrate", self.guest(name), self.node(args[0]), after_s=10)
                self.ordered.add(name)
            return
        guest = self.guest(name)
        if command in STARTED:
            self.add(event, "want", guest, "started")
        elif command in ("stop", "stopped", "disabled"):
            self.add(event, "want", guest, "stopped")
        elif command in ("migrate", "relocate", "manual-migrate"):
            need(args, f"{command} without a node")
            self.add(event, "migrate", guest, self.node(args[0]))
            self.ordered.add(name)
        elif command == "delete":
            self.add(event, "want", guest, "stopped")
            self.add(event, "remove", guest, after_s=10)
        elif command == "ignored":
            self.add(event, "unprotect", guest)
        else:
            raise Refused(f"guest command {command} is not offered")

    # --- the script ---

    def is_started(self, name):
        guest = self.guests[name]
        state = guest.get("state")
        if state is None:
            status = self.state.get("service_status", {})
            state = status.get(name, {}).get("state") if isinstance(status, dict) else None
        need(state in STARTED or state in STOPPED, f"guest {name}: state {state!r:.40} is not known")
        return state in STARTED

    @staticmethod
    def failures(name):
        """Starts, migrations and stops that fail: digits 2 to 4 behind "fa:"."""
        digits = name[3:] if name.startswith("fa:") and name[3:].isdigit() else ""
        starts, moves, stops = (int(d) for d in (digits[1:4] + "000")[:3])
        need(digits[5:6] in ("", "0"), f"guest {name}: runs on one node only, which is a rule")
        return starts, moves, 1000000 if stops else 0

    def guest_line(self, name, want):
        guest = self.guests.get(name, {})
        # The peer's first try and its further ones; ours is the number of failures it is left alone at.
        limit = (1 + number(guest.get("max_restart", 1), "max_restart") +
                 number(guest.get("max_relocate", 1), "max_relocate"))
        starts, moves, stops = self.failures(name)
        return f"guest {self.guest(name)} {want} {limit} {starts} {moves} {stops}"

    def script(self):
        out = [f"nodes {len(self.nodes)}",
               f"shutdown {'migrate' if self.shutdown_policy == 'migrate' else 'stop'}",
               f"fencing {self.fencing}", f"story {self.begins_s * 1000:.0f}"]
        for name, guest in self.guests.items():
            need(guest.get("node") in self.nodes, f"guest {name}: no such node")
            if guest.get("state") == "ignored":
                continue
            out.append(self.guest_line(name, "started" if self.is_started(name) else "stopped"))
            if self.is_started(name) and name not in self.extra:
                home = str(self.nodes.index(guest["node"]) + 1)
                self.lines.append((max(0, self.begins_s - SETUP_S),
                                   ("migrate", self.guest(name), home)))
        out += [self.guest_line(name, "absent") for name in self.extra if name not in self.guests]
        for second, words in sorted(self.lines, key=lambda line: line[0]):
            out.append(f"at {second * 1000:.0f} {' '.join(words)}")
        out.append(f"end {self.end_s * 1000:.0f}")
        return "\n".join(out) + "\n"

    # --- what came of it ---

    def empty(self, refused=None):
        return {"name": self.name, "final": {}, "events": [], "violations": [], "refused": refused}

    def read(self, text):
        """What hamgr-sim told."""
        result = self.empty()
        names = {self.guest(name): name for name in list(self.guests) + list(self.extra)}
        node_of = {f"n{i + 1}": name for i, name in enumerate(self.nodes)}
        for line in text.splitlines():
            words = line.split()
            if words[:1] == ["event"]:
                result["events"].append({"t": int(words[1]) / 1000, "what": words[2],
                                         "guest": names.get(words[3]),
                                         "node": node_of.get(words[4]),
                                         **({"why": " ".join(words[5:])} if words[5:] else {})})
            elif words[:1] == ["final"]:
                result["final"][names.get(words[1], words[1])] = {
                    "state": words[2], "node": node_of.get(words[3]),
                    "running_on": [node_of.get(word) for word in words[4:]]}
            elif words[:1] == ["violation"]:
                result["violations"].append(" ".join(words[1:]))
        return result


def refused(name, why):
    return {"name": name, "final": {}, "events": [], "violations": [], "refused": why}


def is_unread(result):
    return bool(result and result["refused"] and result["refused"].startswith(UNREAD))


def load(path):
    """(Story or None, its data, the refusal)."""
    name = os.path.splitext(os.path.basename(path))[0]
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        return Story(data), None
    except Refused as why:
        return None, refused(name, str(why))
    except (OSError, ValueError, RecursionError) as why:
        return None, refused(name, f"{UNREAD}{why}"[:200])
    except (KeyError, TypeError, AttributeError) as why:
        return None, refused(name, f"it is malformed: {why!r}"[:200])


def play(binary, story, trace=False):
    try:
        script = story.script()
    except Refused as why:
        return refused(story.name, str(why))
    except (KeyError, TypeError, AttributeError) as why:
        return refused(story.name, f"it is malformed: {why!r}"[:200])
    with tempfile.NamedTemporaryFile("w", suffix=".sim", encoding="ascii") as file:
        file.write(script)
        file.flush()
        done = subprocess.run([binary, "--script", file.name] + (["--trace"] if trace else []),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False, timeout=300)
    if trace:
        print(script, done.stdout, sep="\n")
    if done.returncode == 2:
        return refused(story.name, done.stdout.strip()[-200:] or "the simulator refused it")
    if done.returncode not in (0, 1):
        return {**refused(story.name, None),
                "violations": [f"the simulator ended with {done.returncode}"]}
    return story.read(done.stdout)


# --- compared with the peer ---

def chosen_by_peer(story, guest):
    """The peer picked the guest's last node: any equal one is as right."""
    return any(e.get("guest") == guest and e.get("to") for e in story.expected_events) and \
        guest not in story.ordered


def begins_stopped(story, guest):
    """hamgr ties no stopped guest to a node: where it starts is the planner's choice."""
    return guest not in story.guests or not story.is_started(guest)


def is_same_guest(story, name, want, got):
    if not got:
        return not want.get("running_on")
    stopped = ("stopped", "disabled", "ignored")
    if bool(want.get("running_on")) != bool(got["running_on"]):
        return False
    if want.get("state") in stopped and got["state"] != "stopped":
        return False
    if want.get("state") in ("started", "recovery", "fence", "freeze") and got["state"] != "started":
        return False
    if not got["running_on"]:
        return True
    home = (story.guests.get(name) or {}).get("node")
    peer = want["running_on"][0]
    if got["running_on"] == [peer]:
        return True
    if begins_stopped(story, name) and name not in story.ordered:
        return True
    # Where the peer had to choose a new node, another than its pick is as right.
    return peer != home and got["running_on"] != [home] and chosen_by_peer(story, name)


def compare(story, result):
    """Names of guests that ended otherwise."""
    return [name for name, want in story.expected_final.items()
            if not is_same_guest(story, name, want, result["final"].get(name))]


def idle_result(story):
    """What becomes of the guests if nobody does anything."""
    final = {}
    for name, guest in story.guests.items():
        runs = story.is_started(name) and guest["node"] not in story.down
        final[name] = {"state": "started" if story.is_started(name) else "stopped",
                       "node": guest["node"], "running_on": [guest["node"]] if runs else []}
    return {"final": final}


def recoveries(story, result):
    """(guest, the peer's seconds, ours) from what felled its node to its recovery. The peer's is the
    record that gives the guest another node, so ours is that record, too; that it then really runs
    is what `compare` asks of the end."""
    out = []
    for event in story.expected_events:
        if event.get("what") != "recovered" or not event.get("guest"):
            continue
        # From what felled its node, or from the order to start it if that came later.
        causes = [story.time(e) for e in story.events if story.time(e) <= event["t"] and
                  (e.get("guest") == event["guest"] or e.get("ev") in
                   ("node_net", "node_power", "node_shutdown") and not e.get("up") and
                   not e.get("on"))]
        cause = max(causes, default=None)
        ours = min((e["t"] for e in result["events"] if e["what"] == "assigned" and
                    e["guest"] == event["guest"] and cause is not None and e["t"] > cause),
                   default=None)
        if cause is not None and ours is not None:
            out.append((event["guest"], event["t"] - cause, ours - cause))
    return out


def notes():
    """File name -> why hamgr differs."""
    out = {}
    with open(os.path.join(HERE, "scenarios.txt"), encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                name, _, why = line.strip().partition(": ")
                out[name] = why
    return out


def written():
    """The table in the tree: its lines."""
    with open(os.path.join(HERE, "SCENARIOS.md"), encoding="utf-8") as file:
        return file.read().split("```\n")[1].splitlines()


def is_of_another_kind(why):
    """Refused for a rule, placement by load or a group."""
    return why.startswith(NOT_OFFERED) or why.endswith("groups are not offered")


def table(binary, paths, tell=print):
    """Tells the table; returns the number of things that must not be."""
    bad = same = idle = plain = violations = 0
    left = []  # refused, though no rule, load placement or group is in them
    why_of = notes()
    for path in paths:
        story, result = load(path)
        name = os.path.splitext(os.path.basename(path))[0]
        if story:
            result = play(binary, story)
        if result["refused"]:
            tell(f"{name}: refused: {result['refused']}")
            if not is_of_another_kind(result["refused"]):
                left.append(name)
            continue
        plain += 1
        violations += len(result["violations"])
        differs = compare(story, result)
        idle += not compare(story, idle_result(story))
        same += not differs
        slow = [f"{guest} {ours:.1f} s, the peer {peer:.0f} s"
                for guest, peer, ours in recoveries(story, result) if ours > peer + CLOCK_S]
        why = why_of.get(name, "") if differs else ""
        bad += len(result["violations"]) + len(slow) + bool(differs and not why)
        word = "same" if not differs else f"different ({' '.join(differs)}): {why or 'UNEXPLAINED'}"
        tell(f"{name}: {word}" + "".join(f"; VIOLATION {v}" for v in result["violations"]) +
              "".join(f"; SLOWER {s}" for s in slow))
    tell(f"{len(paths)} scenarios: {plain} played, {same} as the peer ({idle} for a manager that "
          f"does nothing), {plain - same} different, {len(paths) - plain} refused, "
          f"{violations} violations")
    tell(f"{plain} of the {plain + len(left)} that use no rule, load placement or group are played; "
         f"not played: {' '.join(left) or 'none'}")
    return bad


def check_all(binary):
    """Plays the folder; what comes out must be what the tree says."""
    paths, lines = folder(), []
    if not paths:
        print("there is no peer-scenarios/pve below $HAMGR_SHARED or ../shared")
        return 77
    bad = table(binary, paths, lines.append)
    print("\n".join(lines))
    if lines != written():
        print("tests/sim/SCENARIOS.md says something else: put these lines there, if they are right")
        bad += 1
    return 1 if bad else 0


def folder():
    root = os.path.dirname(os.path.dirname(HERE))
    shared = os.environ.get("HAMGR_SHARED", os.path.join(root, "..", "shared"))
    return sorted(glob.glob(os.path.join(shared, "peer-scenarios", "pve", "*.json")))


def main(binary, args):
    flags = {arg for arg in args if arg.startswith("--")}
    paths = [arg for arg in args if not arg.startswith("--")]
    if args == ["--all"]:
        return check_all(binary)
    if not paths or flags - {"--json", "--table", "--trace"}:
        print(__doc__, file=sys.stderr)
        return 2
    if "--table" in flags:
        bad = table(binary, paths)
        return 2 if any(is_unread(load(path)[1]) for path in paths) else 1 if bad else 0
    bad = unread = 0
    for path in paths:
        story, result = load(path)
        if story:
            result = play(binary, story, "--trace" in flags)
        unread += is_unread(result)
        bad += len(result["violations"])
        if "--json" in flags:
            print(json.dumps(result))
        elif is_unread(result):
            print(f"tests/sim/run scenario: {path}: {result['refused']}", file=sys.stderr)
        elif result["refused"]:
            print(f"{result['name']}: refused: {result['refused']}")
        else:
            print(f"{result['name']}: {len(result['violations'])} violations")
            for guest, end in sorted(result["final"].items()):
                print(f"  {guest}: {end['state']}, runs on {' '.join(end['running_on']) or 'none'}")
    return 2 if unread else 1 if bad else 0
