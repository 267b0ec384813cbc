#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every command of hactl against a real cluster: documents, exit codes, refusals, who may do what."""

import json
import os
import re
import select
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import lab  # noqa: E402
from harness import ROOT, check, equal, main, scenario  # noqa: E402
from nslab.client import wait_until  # noqa: E402
from nslab.cluster import BIN  # noqa: E402

sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))

from schema import Schemas  # noqa: E402

DONE, USAGE, REFUSED, NO_QUORUM, NOT_REACHABLE, UNKNOWN = 0, 2, 3, 4, 5, 6
WARNINGS, ERRORS = 7, 8
NOBODY = "65534"
STATUS_TARGET_MS = 20


class Hactl:
    """hactl on a node: each document is checked against its command's schema."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.schemas = Schemas()
        self.checked = set()

    def run(self, *argv, code=DONE, node=None, prefix=(), timeout_s=120):
        """With --json. Returns the document after checking it and the exit code."""
        node = node or self.cluster.live_node()
        done = node.run([*prefix, "hactl", "--json", *argv], timeout_s=timeout_s, check=False)
        what = f"hactl {' '.join(argv)}: exit {done.returncode}: {done.stdout}{done.stderr}"
        try:
            answer = json.loads(done.stdout)  # exactly one document: two would not parse
        except ValueError:
            raise AssertionError(f"not one JSON document: {what}") from None
        equal(done.returncode, code, what)
        equal(done.stderr, "", f"standard error with --json of {what}")
        name = answer["schema"].split(".", 1)[1].split("/")[0]
        self.schemas.check(name + ".json", answer)
        check(name in ("error", argv[0], "-".join(argv[:2])), f"schema {name} for {what}")
        equal(bool(answer["errors"]),
              code not in (DONE, NO_QUORUM, WARNINGS, ERRORS) or answer["data"] is None, what)
        self.checked.add(name)
        return answer

    def data(self, *argv, **more):
        return self.run(*argv, **more)["data"]

    def refusal(self, *argv, code=REFUSED, says=(), fix="", **more):
        """Must fail with code; its message must have each of says, and its fix `fix`."""
        error = self.run(*argv, code=code, **more)["errors"][0]
        for words in says:
            check(words in error["message"], f"{argv}: {words!r} is not in {error['message']!r}")
        check(fix in error["fix"], f"{argv}: {fix!r} is not in the fix {error['fix']!r}")
        return error

    def text(self, *argv, code=DONE, node=None):
        """Without --json: what people see, both streams."""
        done = (node or self.cluster.live_node()).run(["hactl", *argv], timeout_s=120, check=False)
        equal(done.returncode, code, f"hactl {' '.join(argv)}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr


def other_node(cluster, *names):
    return next(node for node in cluster.nodes if node.name not in names)


def bad_words(hactl):
    """Exit 2 with the usage."""
    for argv in (["frobnicate"], ["statsu"], ["guest"], ["status", "extra"], ["guest", "add"],
                 ["guest", "add", "x"], ["guest", "add", "x", "--memory", "a lot"],
                 ["guest", "add", "a b", "--memory", "8MiB"], ["guest", "start"],
                 ["guest", "set", "g1"], ["guest", "set", "g1", "--priority", "1001"],
                 ["guest", "set", "g1", "--dry-run"], ["guest", "remove", "g1", "--detach"],
                 ["migrate"], ["migrate", "g1", "--max-downtime", "fast"], ["cancel", "x"],
                 ["fence"], ["confirm-fenced"], ["maintenance", "n1"], ["freeze"], ["unfreeze"],
                 ["leave", "a", "b"], ["disarm", "now"], ["arm", "now"], ["explain"],
                 ["events", "--count", "0"], ["wait", "guest", "g1"], ["wait", "nodes", "x"],
                 ["failover"], ["node-shutdown", "now"], ["cluster", "init", "--id", "0"],
                 ["cluster", "add-node", "n9"], ["cluster", "remove-node"], ["cluster", "join"]):
        hactl.refusal(*argv, code=USAGE)
    hactl.refusal("statsu", code=USAGE, says=["did you mean \"status\""])
    hactl.refusal("guest", "ad", code=USAGE, says=["did you mean \"guest add\""],
                  fix="hactl guest --help")
    hactl.refusal("guest", "add", "x", "--memory", "8MiB", "--uuid", "x", code=USAGE)
    for option in ("--affinity", "--anti-affinity", "--nodes"):
        hactl.refusal("guest", "add", "x", "--memory", "8MiB", option, "g1", code=USAGE,
                      says=["reserved"])
    check("Usage: hactl guest add" in hactl.text("guest", "add", code=USAGE), "usage is not shown")


def helps(hactl):
    """--help of every command, as --help lists them."""
    names = re.findall(r"^  ([a-z-]+(?: [a-z-]+)?) {2,}", hactl.text("--help"), re.M)
    check(len(names) > 20, f"only {names}")
    for name in names:
        check(f"hactl {name}" in hactl.text(*name.split(), "--help"), f"{name} --help")
    for first in {name.split()[0] for name in names if " " in name}:
        told = re.findall(rf"^  ({first} [a-z-]+) ", hactl.text(first, "--help"), re.M)
        check(told == [name for name in names if name.startswith(f"{first} ")], f"{first} --help: {told}")
    check(hactl.text("--version").startswith("hactl "), "version")
    return names


def looking(context, hactl, cluster):
    """status, guest list, guest show, explain, events: and how long status takes."""
    status = hactl.data("status")
    equal(len(status["nodes"]), 3, "nodes")
    equal({g["name"] for g in hactl.data("guest", "list")["guests"]}, set(cluster.slots), "guests")
    shown = hactl.data("guest", "show", "g1")
    check("memory_mib = 8" in shown["definition"], shown["definition"])
    equal(hactl.data("guest", "show", shown["uuid"])["name"], "g1", "guest shown by uuid")
    hactl.refusal("guest", "show", "nobody", says=["there is no guest nobody"])
    hactl.refusal("explain", "nobody", says=["nobody"])
    explained = hactl.data("explain", "g1")
    check("g1 runs on" in explained["summary"], explained)
    check(any("MiB free" in c["text"] for c in explained["conditions"]), f"numbers: {explained}")
    events = hactl.data("events", "--count", "5")["events"]
    equal(len(events), 5, "events asked for")
    later = hactl.data("events", "--since", str(events[2]["index"]))["events"]
    equal([e["index"] for e in later][:2], [e["index"] for e in events[3:]], "events since")
    for argv in (["status", "--verbose"], ["guest", "list"], ["guest", "show", "g1"],
                 ["explain", "g1"], ["events"]):
        check("g1" in hactl.text(*argv), f"{argv} does not speak of g1")
    node = cluster.live_node()
    loop = ("import subprocess,time\nfor i in range(20):\n t=time.monotonic()\n"
            " subprocess.run(['hactl','--json','status'],stdout=subprocess.DEVNULL,check=True)\n"
            " print((time.monotonic()-t)*1000)\n")
    times = sorted(float(x) for x in node.run(["python3", "-c", loop]).stdout.split())
    context.note(f"hactl status: median {times[10]:.1f} ms, best {times[0]:.1f} ms, "
                 f"worst {times[-1]:.1f} ms (target {STATUS_TARGET_MS} ms)")
    check(times[0] < STATUS_TARGET_MS, f"hactl status took {times[0]:.1f} ms at best")


def guests(hactl, cluster):
    """add, set, stop, start, remove, and their refusals."""
    dry = hactl.data("guest", "add", "dry", "--memory", "8MiB", "--priority", "7", "--dry-run")
    equal((dry["dry_run"], dry["memory_kib"], dry["priority"]), (True, 8192, 7), "dry run")
    hactl.refusal("guest", "show", "dry")
    check("would be added" in hactl.text("guest", "add", "dry", "--memory", "8MiB", "--dry-run"),
          "dry run for people")
    hactl.run("guest", "add", "huge", "--memory", "2GiB")
    explained = hactl.data("explain", "huge")
    check("no node can take it" in explained["summary"], explained)
    numbers = [c for c in explained["conditions"] if "2048 needed" in c["text"]]
    equal(len(numbers), 3, f"nodes that say what they lack: {explained}")
    check(all(re.match(r"free \d+ MiB on n", c["fix"]) for c in numbers), f"fixes: {numbers}")
    hactl.refusal("wait", "guest", "huge", "running", "--timeout", "100ms", code=UNKNOWN)
    hactl.refusal("guest", "remove", "huge", says=["wanted started"], fix="hactl guest stop")
    equal(hactl.data("guest", "stop", "huge")["phase"], "free", "a guest that never ran, stopped")
    hactl.run("guest", "remove", "huge")
    hactl.refusal("guest", "add", "g1", "--memory", "8MiB", says=["exists"])
    hactl.run("guest", "set", "g1", "--priority", "500", "--protected", "no", "--stop-timeout", "5s")
    policy = hactl.data("guest", "show", "g1")["policy"]
    equal((policy["priority"], policy["protected"], policy["stop_timeout_ms"]), (500, False, 5000),
          "policy that was set")
    hactl.run("guest", "set", "g1", "--protected", "yes")
    again = hactl.data("guest", "start", "g1")
    equal((again["already"], again["phase"]), (True, "running"), "start of a running guest")
    check("runs already" in hactl.text("guest", "start", "g1"), "start of a running guest, said")
    stopped = hactl.data("guest", "stop", "g1")
    equal((stopped["phase"], stopped["want"], stopped["already"]), ("free", "stopped", False), "stop")
    equal(hactl.data("guest", "stop", "g1")["already"], True, "stop of a stopped guest")
    check("is stopped, as wanted" in hactl.data("explain", "g1")["summary"], "explain of a stopped")
    hactl.refusal("migrate", "g1", says=["g1 does not run"], fix="hactl guest start")
    hactl.refusal("failover", "g1", "--yes", says=["nowhere"], fix="explain g1")
    equal(hactl.data("wait", "guest", "g1", "stopped")["phase"], "free", "wait for stopped")
    equal(hactl.data("guest", "start", "g1", "--detach")["detached"], True, "start --detach")
    equal(hactl.data("wait", "guest", "g1", "running", "--timeout", "30s")["phase"], "running", "wait")
    hactl.refusal("wait", "guest", "nobody", "running", says=["no guest nobody"])
    hactl.run("guest", "add", "idle", "--memory", "8MiB", "--stopped")
    equal(hactl.data("guest", "show", "idle")["phase"], "free", "a guest added --stopped")
    hactl.run("guest", "remove", "idle")
    lab.all_step(cluster)


def records(hactl, target):
    """What migrations says of the moves above: one that was made, one cancelled, one too slow."""
    seen = hactl.data("migrations", "--count", "10")["migrations"]
    equal({m["guest"] for m in seen}, {"g1", "big"}, "guests that were moved")
    equal({m["outcome"] for m in seen if m["guest"] == "big"}, {"aborted"}, "moves of big")
    moved = [m for m in seen if m["guest"] == "g1" and m["outcome"] == "moved"]
    check(moved and all(m["raw_bytes"] >= 8 << 20 for m in moved), f"moves of g1: {moved}")
    check(target.name in {m["to"] for m in seen}, f"destinations: {seen}")
    check("big" in hactl.text("migrations"), "migrations, said")


def moves(hactl, cluster):
    """migrate, with and without --detach, cancel, and by force."""
    home = cluster.homes()["g1"]
    hactl.refusal("migrate", "g1", "--to", home, says=["already"])
    hactl.refusal("migrate", "g1", "--to", "n9", says=["no node n9"])
    target = other_node(cluster, home)
    foreseen = hactl.data("migrate", "g1", "--to", target.name, "--forecast")
    equal((foreseen["from"], foreseen["to"]), (home, target.name), "forecast")
    check("The link " in hactl.text("migrate", "g1", "--to", target.name, "--forecast"), "forecast, said")
    moved = hactl.data("migrate", "g1", "--to", target.name)
    equal((moved["moved"], moved["from"], moved["node"]), (True, home, target.name), "migration")
    lab.all_step(cluster)
    check(" runs on " in hactl.text("migrate", "g1", "--to", home), "migration, said")
    op = hactl.data("migrate", "big", "--detach")["op"]
    hactl.refusal("migrate", "big", says=["is moving from"], fix=f"hactl cancel {op}")
    hactl.refusal("cancel", str(op + 100000), says=["no such operation"])
    equal([m["id"] for m in hactl.data("status")["moves"]], [op], "moves that status shows")
    check(f"operation {op}" in hactl.text("status"), "status for people names the operation")
    check("is moving from" in hactl.data("explain", "big")["summary"], "explain of a moving guest")
    hactl.run("cancel", str(op))
    wait_until(lambda: not hactl.data("status")["moves"], "the operation is over", 30)
    home = hactl.data("guest", "show", "big")["node"]
    target = other_node(cluster, home)
    with_deadline = hactl.run("migrate", "big", "--to", target.name, "--deadline", "1ms",
                              code=REFUSED)
    equal(with_deadline["data"]["moved"], False, "a migration past its deadline")
    check("did not move" in with_deadline["errors"][0]["message"], f"{with_deadline}")
    records(hactl, target)
    hactl.refusal("failover", "g1")  # nobody typed its name
    home = cluster.homes()["g1"]
    epoch = hactl.data("guest", "show", "g1")["epoch"]
    forced = hactl.data("failover", "g1", "--yes")["guests"]
    equal((forced[0]["guest"], forced[0]["from"]), ("g1", home), "failover")
    check(hactl.data("guest", "show", "g1")["epoch"] > epoch, "failover is a new epoch")
    hactl.refusal("failover", "nobody", "--yes", says=["nobody"])
    busy = lab.busiest(cluster)
    lost = lab.guests_of(cluster, busy)
    equal(sorted(f["guest"] for f in hactl.data("failover", busy.name, "--yes")["guests"]), lost,
          "failover of a node")
    lab.all_step(cluster)


def nodes(hactl, cluster):
    """maintenance, freeze, disarm and arm; what a node refuses meanwhile."""
    busy = lab.busiest(cluster)
    hactl.refusal("leave", busy.name, says=[f"{busy.name} still owns"], fix="hactl maintenance")
    equal(hactl.data("maintenance", busy.name, "on", "--wait", timeout_s=100)["guests"], 0, "drain")
    guest = next(iter(cluster.homes()))
    hactl.refusal("migrate", guest, "--to", busy.name, says=[busy.name, "maintenance"],
                  fix=f"hactl maintenance {busy.name} off")
    hactl.run("maintenance", busy.name, "off")
    hactl.refusal("maintenance", "n9", "on", says=["no node n9"])
    hactl.run("freeze", busy.name)
    check(next(n for n in hactl.data("status")["nodes"] if n["name"] == busy.name)["frozen"],
          "status does not show a frozen node")
    hactl.refusal("migrate", guest, "--to", busy.name, says=["frozen"])
    hactl.run("unfreeze", busy.name)
    hactl.run("disarm")
    check(hactl.data("status")["disarmed"], "status does not show that nobody is guarded")
    check("disarmed" in hactl.text("status"), "nor to people")
    hactl.run("arm")
    cluster.wait_members()
    equal(hactl.data("wait", "nodes", "3", "--timeout", "30s")["nodes"], 3, "nodes waited for")
    hactl.refusal("wait", "nodes", "4", "--timeout", "100ms", code=UNKNOWN)
    hactl.refusal("confirm-fenced", busy.name, "--i-have-looked", busy.name, says=["not UNCLEAN"])
    hactl.refusal("confirm-fenced", busy.name, "--i-have-looked", "n9", code=USAGE)
    hactl.refusal("confirm-fenced", busy.name)
    hactl.refusal("fence", busy.name)
    hactl.refusal("cluster", "remove-node", busy.name)
    hactl.refusal("cluster", "add-node", "n2", "--addr", "10.77.0.99", "--id", "9", says=["exists"])
    hactl.refusal("cluster", "add-node", "n9", "--addr", "a-name", "--id", "9", code=USAGE)
    hactl.run("cluster", "add-node", "n9", "--addr", "10.77.0.99", "--id", "9")
    hactl.run("cluster", "remove-node", "n9")
    hactl.refusal("cluster", "init", "--name", "other", "--addr", "10.77.0.1", "--id", "1",
                  node=cluster.nodes[0])
    hactl.refusal("cluster", "join", "--cluster-id", hactl.data("status")["cluster_id"], "--id", "1",
                  node=cluster.nodes[0])


def doctor(context, hactl, cluster):
    """Every node is looked at and told; what is wrong with one is found, with its fix."""
    begun = time.monotonic()
    found = hactl.data("doctor", code=WARNINGS)
    context.note(f"hactl doctor over {len(cluster.nodes)} nodes: {time.monotonic() - begun:.2f} s")
    equal({n["name"]: n["answered"] for n in found["nodes"]},
          {n.name: True for n in cluster.nodes}, "nodes that answered")
    for node in found["nodes"]:
        facts = node["facts"]
        check(facts.get("is_looked") == 1 and facts.get("is_armed") == 1, f"facts: {facts}")
        check(facts.get("is_cert_named") == 1 and facts.get("is_cert_trusted") == 1, f"{facts}")
        check(facts.get("token_ms", 0) > 0, f"corosync's times: {facts}")
    codes = {f["code"] for f in found["findings"]}
    check("embedded" in codes, f"what does not apply is not said: {codes}")
    equal([f for f in found["findings"] if f["severity"] == "error"], [], "errors when all is well")
    victim = other_node(cluster, cluster.live_node().name)
    key = victim.path("etc-hamgr", "pki", "node.key")
    os.chmod(key, 0o644)
    found = hactl.data("doctor", victim.name, code=ERRORS)
    errors = [f for f in found["findings"] if f["severity"] == "error"]
    equal([(f["code"], f["node"]) for f in errors], [("key-mode", victim.name)], "errors found")
    check("chmod 0640" in errors[0]["fix"], f"{errors}")
    equal([n["name"] for n in found["nodes"]], [victim.name], "nodes asked for")
    os.chmod(key, 0o640)
    check("fix: " in hactl.text("doctor", code=WARNINGS), "findings for people")
    hactl.refusal("doctor", "n99", says=["there is no node n99"])
    victim.init("stop hamgr-hv")
    wait_until(lambda: victim.services()["hamgr-hv"][0] == "down", "hamgr-hv is down", 15)
    found = hactl.data("doctor", code=ERRORS)
    codes = {(f["code"], f["node"]) for f in found["findings"]}
    check(("hv-silent", victim.name) in codes and ("not-looked", victim.name) in codes, f"{codes}")
    victim.init("start hamgr-hv")
    cluster.wait_members()
    wait_until(lambda: not any(f["code"] == "hv-silent" for f in json.loads(
        cluster.live_node().run(["hactl", "--json", "doctor"], check=False).stdout)
        ["data"]["findings"]), "hamgr-hv answers again", 30)


XEN = """{"c_info": {"type": "pvh", "name": "away"}, "b_info": {"type": "pvh", "max_vcpus": 1,
 "max_memkb": 65536, "target_memkb": 65536, "kernel": "%s"},
 "nics": [{"devid": 0, "bridge": "br-none"}]}
"""


def checks(context, hactl, cluster):
    """What a definition names is looked for on every node; what none has is not added or started."""
    nowhere, kernel = "/no/such/kernel", "/var/lib/hamgr/kernel"
    for node in cluster.nodes:
        node.run(["tee", "/run/away.json"], text=XEN % nowhere)
    begun = time.monotonic()
    dry = hactl.data("guest", "add", "away", "--config", "/run/away.json", "--dry-run")
    context.note(f"a check of {len(cluster.nodes)} nodes: {time.monotonic() - begun:.2f} s")
    equal([(n["node"], n["state"], n["text"]) for n in dry["nodes"]],
          [(n.name, "barred", f"no {nowhere} there") for n in cluster.nodes], "what each node says")
    check(f"copy {nowhere} to n2" in hactl.text("guest", "add", "away", "--config",
                                                "/run/away.json", "--dry-run"), "the fix for people")
    hactl.refusal("guest", "add", "away", "--config", "/run/away.json", fix="--stopped",
                  says=["no node can run it now", f"n1: no {nowhere} there", f"n3: no {nowhere}"])
    hactl.refusal("guest", "show", "away")
    hactl.run("guest", "add", "away", "--config", "/run/away.json", "--stopped")
    hactl.refusal("guest", "start", "away", says=[f"n2: no {nowhere} there"],
                  fix=f"copy {nowhere} to n1")
    found = hactl.data("guest", "check", "away", code=ERRORS)["nodes"]
    equal({n["state"] for n in found}, {"barred"}, "check of a guest")
    hactl.run("guest", "remove", "away")
    # Each node has the kernel, but one of them another, and none the bridge or Xen.
    for node in cluster.nodes:
        node.run(["tee", kernel], text="one" if node is not cluster.nodes[1] else "another")
        node.run(["tee", "/run/away.json"], text=(XEN % kernel).replace('"br-none"', '"lo"'))
    dry = hactl.data("guest", "add", "away", "--config", "/run/away.json", "--dry-run")
    says = {n["node"]: n["text"] for n in dry["nodes"]}
    equal(says["n2"], f"{kernel} is not the same as on n1", "another kernel")
    check("the definition is one of Xen" in says["n1"], f"another hypervisor: {says}")
    equal(hactl.data("guest", "check", "g1")["nodes"][0]["state"], "able", "check of one that runs")
    check("n3: can run it" in hactl.text("guest", "check", "g1"), "check for people")
    hactl.refusal("guest", "check", "nobody", says=["nobody"])


def strangers(hactl, cluster):
    """A user who is nobody may change nothing."""
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    for argv in (["guest", "stop", "g1"], ["disarm"], ["fence", "n2", "--yes"],
                 ["maintenance", "n2", "on"]):
        done = cluster.live_node().run([*prefix, "hactl", "--json", *argv], check=False)
        check(done.returncode in (REFUSED, NOT_REACHABLE), f"{argv}: exit {done.returncode}")
        error = json.loads(done.stdout)["errors"][0]
        check("root" in error["message"], f"{argv}: {error}")
    status = hactl.data("status")
    check(not status["disarmed"], "a stranger disarmed the cluster")
    check(not any(n["maintenance"] for n in status["nodes"]), "a stranger drained a node")


def followers(hactl, cluster):
    """events --follow shows what happens as it happens."""
    newest = hactl.data("events", "--count", "1")["events"][0]["index"]
    process = cluster.live_node().popen(
        ["hactl", "--json", "events", "--follow", "--since", str(newest)],
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        index = hactl.data("guest", "set", "g2", "--priority", "321")["index"]
        end = time.monotonic() + 10
        seen = b""
        while b"\n" not in seen and time.monotonic() < end:
            if select.select([process.stdout], [], [], 0.2)[0]:
                seen += os.read(process.stdout.fileno(), 65536)
        event = json.loads(seen.splitlines()[0])
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
    hactl.schemas.check_part("common.json", hactl.schemas.load("common.json")["$defs"]["event"],
                             event, "$")
    equal((event["index"], event["guest"]), (index, "g2"), "event that was followed")
    check("g2" in event["text"] and "operator root" in event["actor"], f"{event}")


def second_daemon(cluster):
    """A second hamgrd on a node ends and says why; the first goes on."""
    node = cluster.live_node()
    before = node.services()["hamgrd"]
    done = node.run(["setpriv", "--reuid=hamgr", "--regid=hamgr", "--clear-groups",
                     f"{BIN}/hamgrd"], timeout_s=20, check=False)
    check(done.returncode != 0, "a second hamgrd ran")
    said = done.stdout + done.stderr
    check("holds the store" in said, f"it does not say so: {said}")
    equal(node.services()["hamgrd"], before, "the first hamgrd")


def wait_node(cluster, node, status):
    """Waits for a node's status, over view changes, while nobody can say."""
    return cluster.wait_status(
        lambda s: any(n["name"] == node.name and n["status"] == status for n in s["nodes"]),
        f"{node.name} is {status}", 30)


def power(context, hactl, cluster):
    """fence, confirm-fenced where no device answers, read only without a quorum, not reachable."""
    victim = other_node(cluster, cluster.live_node().name, lab.leader(cluster).name)
    hactl.run("fence", victim.name, "--yes")
    wait_until(lambda: victim.describe()["state"] == "off", "the power device was used", 30)
    wait_node(cluster, victim, "fenced")
    cluster.wait_running()
    victim.power_on()
    cluster.wait_members()
    for node in cluster.nodes:
        node.bmc("refuse")
    victim = other_node(cluster, cluster.live_node().name, lab.leader(cluster).name)
    guest = cluster.homes()
    if victim.name not in guest.values():
        hactl.run("migrate", "g1", "--to", victim.name)
    victim.power_off()
    wait_node(cluster, victim, "unclean")
    lost = next(g["name"] for g in hactl.data("status")["guests"] if g["node"] == victim.name)
    explained = hactl.data("explain", lost)
    check("not proven dead" in explained["summary"], explained)
    check(any("confirm-fenced" in c["fix"] for c in explained["conditions"]), explained)
    hactl.refusal("guest", "stop", "nobody")
    began = time.monotonic()
    hactl.run("confirm-fenced", victim.name, "--i-have-looked", victim.name)
    cluster.wait_running()
    context.note(f"guests run {time.monotonic() - began:.1f} s after the operator's word")
    equal([e["actor"] for e in hactl.data("events", "--count", "1000")["events"]
           if e["type"] == "FENCED"][-1], "operator root", "who said it")


def leaving(hactl, cluster):
    """leave and the shutdown of a host; what is refused without a quorum, and without hamgrd."""
    here = cluster.live_node()
    other = next(n for n in cluster.nodes if n.is_on() and n is not here)
    hactl.run("node-shutdown", "--timeout", "60s", node=other)
    cluster.wait_status(lambda s: any(n["name"] == other.name and n["status"] != "member"
                                      for n in s["nodes"]), f"{other.name} left", 10, node=here)
    for node in cluster.nodes:
        if node is not here and node.is_on():
            node.power_off()
    wait_until(lambda: not json.loads(here.run(["hactl", "--json", "status"], check=False)
                                      .stdout)["data"]["open"], "the view closes", 30)
    status = hactl.run("status", code=NO_QUORUM, node=here)
    check(not status["data"]["open"] and status["data"]["guests"], "status without a quorum")
    hactl.run("guest", "show", "g1", node=here)
    hactl.run("guest", "list", node=here)
    check("voters" in hactl.data("explain", "g1", node=here)["summary"] or
          any("view" in c["text"] for c in hactl.data("explain", "g1", node=here)["conditions"]),
          "explain does not speak of the quorum")
    hactl.run("events", node=here)
    silent = {f["node"] for f in hactl.data("doctor", code=ERRORS, node=here)["findings"]
              if f["code"] == "node-silent"}
    equal(silent, {n.name for n in cluster.nodes if n is not here}, "nodes that can't be asked")
    for argv in (["guest", "stop", "g1"], ["guest", "start", "g1"], ["migrate", "g1"], ["disarm"],
                 ["guest", "set", "g1", "--priority", "1"]):
        hactl.refusal(*argv, code=NO_QUORUM, node=here)
    here.init("stop hamgrd")
    wait_until(lambda: here.services()["hamgrd"][0] == "down", "hamgrd is down", 15)
    hactl.refusal("status", code=NOT_REACHABLE, node=here, fix="systemctl status hamgrd")
    hactl.refusal("guest", "stop", "g1", code=NOT_REACHABLE, node=here)
    alone = hactl.data("doctor", "--here", code=ERRORS, node=here)
    equal([f["code"] for f in alone["findings"] if f["severity"] == "error"], ["hamgrd-silent"],
          "errors of a host without hamgrd")


@scenario(280)
def every_command(context):
    """Every command of hactl: what it prints, what it refuses and why, and who may use it."""
    cluster = lab.start(context)
    cluster.add_guest("big", 96, dirty_kib_s=65536)
    cluster.wait_running()
    hactl = Hactl(cluster)
    names = helps(hactl)
    bad_words(hactl)
    looking(context, hactl, cluster)
    guests(hactl, cluster)
    moves(hactl, cluster)
    nodes(hactl, cluster)
    checks(context, hactl, cluster)
    doctor(context, hactl, cluster)
    strangers(hactl, cluster)
    followers(hactl, cluster)
    second_daemon(cluster)
    lab.no_harm(cluster)
    power(context, hactl, cluster)
    leaving(hactl, cluster)
    missing = {name.replace(" ", "-") for name in names} - hactl.checked
    equal(missing, set(), "commands whose documents were not seen")
    for name in names:
        check(os.path.exists(os.path.join(ROOT, "ctl", "schema", name.replace(" ", "-") + ".json")),
              f"{name} has no schema")


if __name__ == "__main__":
    sys.exit(main())
