# SPDX-License-Identifier: Apache-2.0
"""What tests/xen/compare runs on nodes, and what it makes of what they print: no lab is touched here.

Two guests of one configuration, one of xl's and one of hamgr's, for xl can't move what hamgr keeps:
only one of them runs while the other is measured. Each command is timed where it is given, by the
shell that gives it, so that the way into the node does not count.
"""

import collections
import re
import statistics

ADDRESS = "10.77.0."
PLAIN_PORT = 7000
CLOCK_PORT = 7798
NAMES = {"xl": "cmpx", "hamgr": "cmph"}
# Ours, where it is; nowhere: libxl's own. hamgr-hv asks at each start (--xen-helper PATH).
HELPER_LINK = "/run/lab-helper"
HELPER = "/usr/local/sbin/hamgr-xen-helper"
CIPHER = "chacha20-poly1305@openssh.com"  # what TLS takes where the processor lacks AES

Method = collections.namedtuple("Method", "name guest helper words")
Run = collections.namedtuple("Run", "method round source to total_s pause_s wire_bytes parts")

METHODS = (
    Method("xl-ssh", "xl", None, "xl migrate over ssh"),
    Method("xl-plain", "xl", None, "xl migrate over plain TCP"),
    Method("hamgr-t0", "hamgr", False, "hactl migrate, libxl's helper (T0)"),
    Method("hamgr-t1", "hamgr", True, "hactl migrate, hamgr's helper (T1)"),
)

# --- what is run on a node ------------------------------------------------------------------------

# Bytes of both directions on the cluster's network, and the time, before and after a command.
MEASURE = """
bytes() { cat /sys/class/net/eth0/statistics/rx_bytes /sys/class/net/eth0/statistics/tx_bytes; }
echo lab-before $(date +%s%N) $(bytes)
"$@"
code=$?
echo
echo lab-after $(date +%s%N) $(bytes) $code
"""
# What xl gives to and takes from `ssh`, over a bare connection.
PLAIN_SEND = f"""#!/bin/bash
exec 3<> /dev/tcp/$1/{PLAIN_PORT} || exit 1
cat <&3 &
cat >&3
wait
"""
# Listens once; then the connection is xl's stdin and stdout, with nobody between.
PLAIN_RECEIVE = f"""#!/usr/bin/python3
import os, socket, sys
listener = socket.create_server(("", {PLAIN_PORT}))
print("listens", flush=True)
if os.fork():
    sys.exit(0)
os.setsid()
# Or the ssh that started us would wait for our end.
null = os.open("/dev/null", os.O_RDWR)
log = os.open("/var/log/plain-receive.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number, file in enumerate((null, null, log)):
    os.dup2(file, number)
listener.settimeout(120)
connection, _ = listener.accept()
connection.setblocking(True)
os.dup2(connection.fileno(), 0)
os.dup2(connection.fileno(), 1)
os.execvp("xl", ["xl", "migrate-receive", "-e"])
"""
# Outside of all nodes, for clock-set.
TELL_TIME = f"""
import socket, struct, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", {CLOCK_PORT}))
print("tells", flush=True)
while True:
    _, asker = sock.recvfrom(16)
    sock.sendto(struct.pack("<Q", time.time_ns()), asker)
"""
# The quickest of some answers tells the time best. Prints the error's bound in microseconds.
CLOCK_SET = f"""#!/usr/bin/python3
import socket, struct, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(1)
best = None
for _ in range(30):
    began = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    try:
        sock.sendto(b"time", (sys.argv[1], {CLOCK_PORT}))
        told, = struct.unpack("<Q", sock.recv(8))
    except OSError:
        continue
    ended = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    if best is None or ended - began < best[0]:
        best = ended - began, told + (ended - began) // 2 - ended
if best is None:
    sys.exit("nobody tells the time")
now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
time.clock_settime_ns(time.CLOCK_REALTIME, now + best[1])
print(best[0] // 2000)
"""
FILES = {"/root/plain-send": PLAIN_SEND, "/root/plain-receive": PLAIN_RECEIVE,
         "/root/clock-set": CLOCK_SET}
GAPS = "grep -h '^guest: gap ' /var/log/xen/guest-{name}*.log 2> /dev/null; true"


def address(node):
    return ADDRESS + node[1:]


def move(method, to):
    """The command that moves a method's guest, as the source runs it."""
    name = NAMES[method.guest]
    if method.name == "xl-ssh":
        return ["xl", "migrate", "-e", "-s", f"ssh -c {CIPHER}", name, to]
    if method.name == "xl-plain":
        return ["xl", "migrate", "-e", "-s", "", name, f"/root/plain-send {address(to)}"]
    return ["hactl", "--json", "migrate", name, "--to", to, "--on-slow", "pause"]


def idle_of(method):
    """The guest that stands still meanwhile."""
    return "hamgr" if method.guest == "xl" else "xl"


def before(method, source, to, at, paused):
    """[(node, command)] before a move is measured; at = where the guests are, paused = those that xl
    has paused: Xen counts pauses, so each is paused once. What is paused afterwards is idle_of."""
    idle, steps = idle_of(method), []
    if idle not in paused:
        steps.append((at[idle], ["xl", "pause", NAMES[idle]]))
    if method.guest in paused:
        steps.append((source, ["xl", "unpause", NAMES[method.guest]]))
    if method.helper is not None:
        link = ["ln", "-sfn", HELPER, HELPER_LINK] if method.helper else ["rm", "-f", HELPER_LINK]
        for node in (source, to):
            steps += [(node, link), (node, ["lab-service", "stop", "hamgr-hv"]),
                      (node, ["lab-service", "start", "hamgr-hv"])]
    elif method.name == "xl-plain":
        steps.append((to, ["python3", "/root/plain-receive"]))
    return steps


def order(number):
    """The methods of a round: each comes first as often as the others."""
    at = number % len(METHODS)
    return METHODS[at:] + METHODS[:at]


# --- what they print ------------------------------------------------------------------------------

def measured(text):
    """(what the command printed, seconds, bytes on the wire, exit code) of what MEASURE printed."""
    found = re.fullmatch(r"lab-before (\d+) (\d+) (\d+)\n(.*)\nlab-after (\d+) (\d+) (\d+) (\d+)\n?", text,
                         re.DOTALL)
    if not found:
        raise ValueError(f"no measurement: {text[-300:]}")
    began, rx0, tx0, ended, rx1, tx1, code = (int(found.group(i)) for i in (1, 2, 3, 5, 6, 7, 8))
    return found.group(4), (ended - began) / 1e9, rx1 - rx0 + tx1 - tx0, code


def new_gap_s(old, new, most_s):
    """The longest pause that a guest told of (by CLOCK_BOOTTIME) in these lines of two nodes' logs and
    not in the old ones; None: it told of none. One above most_s is of the time it was held before."""
    lines = collections.Counter(new) - collections.Counter(old)
    gaps = [int(m.group(1)) / 1e3
            for m in map(re.compile(r"guest: gap (\d+) at \d+$").match, lines) if m]
    return max((gap for gap in gaps if gap <= most_s), default=None)


STAMP = r"\w+ \d+ (\d+):(\d+):([\d.]+) "


def stamp(lines, pattern):
    """When (seconds of the day) the newest of these lines of hamgrd's log was written; None."""
    found = [m for m in map(re.compile(STAMP + r".*" + pattern).match, lines) if m]
    if not found:
        return None
    return int(found[-1].group(1)) * 3600 + int(found[-1].group(2)) * 60 + float(found[-1].group(3))


def parts(source_log, destination_log, op, name):
    """The end of a hamgr migration in its parts, seconds: the last pages and the drain of the source's
    disk, then agreement (SWITCH committed) and run. None where the logs do not tell."""
    stopped = stamp(source_log, rf"migration {op}: the guest is stopped")
    drained = stamp(source_log, rf"migration {op}: the source is suspended and drained")
    whole = stamp(destination_log, rf"migration {op}: the destination is complete")
    ran = stamp(destination_log, rf"hamgr-hv: run of {re.escape(name)} epoch")

    def between(begin, end):
        return round(end - begin, 3) if begin is not None and end is not None and end >= begin else None
    ready = max(drained, whole) if drained is not None and whole is not None else None
    return {"drain_s": between(stopped, drained), "agreement_s": between(ready, ran)}


# --- what comes of it -----------------------------------------------------------------------------

def median(values):
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


def medians(runs):
    """{method: {what: median}}, with how many runs there were."""
    found = {}
    for method in METHODS:
        mine = [r for r in runs if r.method == method.name]
        if mine:
            found[method.name] = {
                "runs": len(mine), "total_s": median([r.total_s for r in mine]),
                "pause_s": median([r.pause_s for r in mine]),
                "wire_bytes": median([r.wire_bytes for r in mine]),
                **{part: median([(r.parts or {}).get(part) for r in mine])
                   for part in ("drain_s", "agreement_s")}}
    return found


def figure(value, words):
    return "-" if value is None else words.format(value)


def table(runs, memory_mib):
    """The medians as a Markdown table; ratios are to xl over ssh and over plain TCP."""
    found = medians(runs)
    lines = [f"| {memory_mib} MiB PV guest, medians | runs | total | pause | on the wire | "
             "total, pause, wire to xl over ssh | to xl over plain TCP |",
             "|---|---|---|---|---|---|---|"]
    for method in METHODS:
        mine = found.get(method.name)
        if not mine:
            continue
        cells = [method.words, str(mine["runs"]), figure(mine["total_s"], "{:.2f} s"),
                 figure(mine["pause_s"], "{:.2f} s"),
                 figure(mine["wire_bytes"] and mine["wire_bytes"] / 1e6, "{:.1f} MB")]
        cells += [ratios(mine, found.get(base)) for base in ("xl-ssh", "xl-plain")]
        lines.append("| " + " | ".join(cells) + " |")
    ends = [f"{m.words}: source drained in {figure(found[m.name]['drain_s'], '{:.2f} s')}, agreed and "
            f"run in {figure(found[m.name]['agreement_s'], '{:.2f} s')}"
            for m in METHODS if m.guest == "hamgr" and m.name in found]
    return "\n".join(lines + ["", *("; ".join(ends) and ["Of the pause, " + "; ".join(ends) + "."])]) + "\n"


def ratios(mine, base):
    if not base or mine is base:
        return "-"
    return ", ".join("-" if not mine[key] or not base[key] else f"{mine[key] / base[key]:.2f}"
                     for key in ("total_s", "pause_s", "wire_bytes"))
