# SPDX-License-Identifier: Apache-2.0
"""What tests/bench/stream says: the JSON, the readable table, and each figure beside the limit that
was promised for it. GB are 1e9 bytes of guest memory; cpu-s are seconds of processor time."""
import os
import statistics
import subprocess
import time

RUN_KEYS = {"name": str, "level": (int, str), "feed": str, "connections": int, "raw_bytes": int,
            "wire_bytes": int, "wall_s": float, "sender_cpu_s": float, "receiver_cpu_s": float,
            "peak_rss_kib": int, "identical": bool}
BASELINE_KEYS = {"name": str, "image": str, "wall_s": float, "sender_cpu_s": float,
                 "receiver_cpu_s": float, "wire_bytes": int}
PROBES = ("memcpy_gbps", "tls_send_gbps", "tls_recv_gbps", "zstd1_gbps", "socketpair_gbps")
MEMORY_MAX_KIB = 96 << 10


def check_keys(entry, keys):
    wrong = [key for key in {*keys, *entry}
             if key not in keys or key not in entry or not isinstance(entry[key], keys[key])]
    if wrong:
        raise ValueError(f"{entry}: {', '.join(sorted(wrong))}")


def check(result):
    """The shape that was promised; ValueError names what is wrong."""
    if set(result) != {"runs", "baselines", "probes"}:
        raise ValueError(f"keys {sorted(result)}")
    for run in result["runs"]:
        check_keys(run, RUN_KEYS)
    for baseline in result["baselines"]:
        check_keys(baseline, BASELINE_KEYS)
    check_keys(result["probes"], dict.fromkeys(PROBES if result["probes"] else (), float))


def machine():
    """Where and when: what every figure depends on."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "?")
    commit = subprocess.run(["git", "-C", os.path.dirname(__file__), "describe", "--always", "--dirty"],
                            capture_output=True, text=True, check=False).stdout.strip()
    return (f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, {len(os.sched_getaffinity(0))} cores "
            f"({model}), load {' '.join(f'{x:.1f}' for x in os.getloadavg())}, tree {commit or '?'}")


def spread(values, digits=2):
    middle = statistics.median(values)
    return f"{middle:.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}]"


class Figures:
    """Medians over the runs of one kind."""

    def __init__(self, entries, raw=None):
        self.entries = entries
        self.raw = [raw or entry["raw_bytes"] for entry in entries]

    def __bool__(self):
        return bool(self.entries)

    def values(self, key):
        return [entry[key] for entry in self.entries]

    def median(self, key):
        return statistics.median(self.values(key))

    def per(self, key):
        return [raw / 1e9 / max(value, 1e-9) for raw, value in zip(self.raw, self.values(key))]

    def rate(self, key):
        return statistics.median(self.per(key))

    def ratio(self):
        return statistics.median(wire / raw for wire, raw in zip(self.values("wire_bytes"), self.raw))


class Report:
    def __init__(self, result, facts):
        self.result, self.facts = result, facts

    def ours(self, name, level, feed):
        return Figures([run for run in self.result["runs"]
                        if (run["name"], run["level"], run["feed"]) == (name, level, feed)])

    def theirs(self, name, image):
        raw = next((run["raw_bytes"] for run in self.result["runs"] if run["name"] == image), 0)
        return Figures([entry for entry in self.result["baselines"]
                        if (entry["name"], entry["image"]) == (name, image)], raw)

    # ---- the table ----

    def row(self, words, figures, extra):
        rates = [spread(figures.per(key)) for key in ("sender_cpu_s", "receiver_cpu_s", "wall_s")]
        return [*words, *rates, spread(figures.values("wall_s")), f"{figures.ratio():.4f}", *extra]

    def rows(self):
        kinds = list(dict.fromkeys((run["name"], run["level"], run["feed"], run["connections"])
                                   for run in self.result["runs"]))
        for name, level, feed, connections in kinds:
            figures = Figures([run for run in self.result["runs"] if (
                run["name"], run["level"], run["feed"], run["connections"]) == (name, level, feed, connections)])
            same = sum(figures.values("identical"))
            words = [name, f"hamgr {feed}, level {level}, {connections} conn."]
            yield self.row(words, figures, [f"{max(figures.values('peak_rss_kib')) / 1024:.0f}",
                                            f"{same}/{len(figures.entries)}"])
        for name, image in dict.fromkeys((entry["name"], entry["image"]) for entry in self.result["baselines"]):
            yield self.row([image, name], self.theirs(name, image), ["", ""])

    def table(self):
        head = ["data", "how", "GB/sender cpu-s", "GB/receiver cpu-s", "GB/s wall", "wall s", "wire/raw",
                "peak MiB", "equal"]
        return layout([head, *self.rows()])

    # ---- the promises ----

    def limits(self):
        """(what, figure, how it is compared, limit); figure None: not run."""
        probe = self.result["probes"]

        def over(figures, key, base):
            return figures.rate(key) / base if figures and base else None
        zero = {feed: self.ours("zero", 1, feed) for feed in ("mapped", "fd")}
        yield "zero mapped, sender / memcpy probe", over(zero["mapped"], "sender_cpu_s",
                                                         probe.get("memcpy_gbps")), ">=", 0.65
        yield "zero fd, sender / socketpair probe", over(zero["fd"], "sender_cpu_s",
                                                         probe.get("socketpair_gbps")), ">=", 0.5
        yield "same, GB/sender cpu-s", over(self.ours("same", 1, "mapped"), "sender_cpu_s", 1), ">=", 8
        yield "delta 10 %, GB/sender cpu-s", over(self.ours("delta", 1, "mapped"), "sender_cpu_s", 1), ">=", 2
        stored = self.ours("random", 0, "mapped")
        for side, key in (("sender", "tls_send_gbps"), ("receiver", "tls_recv_gbps")):
            best = 1 / (1 / probe[key] + 1 / probe["memcpy_gbps"]) if probe else 0
            yield f"stored + TLS, {side} / 1/(1/TLS + 1/copy)", over(stored, side + "_cpu_s", best), ">=", 0.8
        for image in ("real", "mix"):
            yield from self.level_one(image)
        for image in ("real", "mix"):
            for name, limit in (("ssh", 0.35), ("zstd-openssl", 0.4)):
                auto, base = self.ours(image, "auto", "mapped"), self.theirs(name, image)
                yield (f"{image}, level auto, wall / {name}'s",
                       auto.median("wall_s") / base.median("wall_s") if auto and base else None, "<=", limit)
        yield "1 Gbit/s, auto: wall / (best level's wire bytes / rate)", self.link(), "<=", 1.10
        pair, alone = self.ours("pair", 1, "fd"), self.facts.get("pair_zstd_bytes")
        yield ("pair, wire / zstd -1 of the changed pages",
               pair.median("wire_bytes") / alone if pair and alone else None, "<=", 0.25)
        memory = [run["peak_rss_kib"] - self.facts.get("cache_kib", 0)
                  for run in self.result["runs"] if run["name"] == "sparse"]
        yield "sparse 64 GiB, MiB resident beside the cache", max(memory) / 1024 if memory else None, "<=", 96

    def level_one(self, image):
        ours, pipe = self.ours(image, 1, "mapped"), self.theirs("zstd-openssl", image)
        qemu = self.theirs("qemu-multifd-zstd-tls", image)
        sender = ours.rate("sender_cpu_s") if ours else None
        yield (f"{image}, level 1, sender / the pipe's",
               sender / pipe.rate("sender_cpu_s") if ours and pipe else None, ">=", 1.3)
        yield (f"{image}, level 1, wire/raw / the pipe's",
               ours.ratio() / pipe.ratio() if ours and pipe else None, "<=", 1.03)
        yield (f"{image}, level 1, sender / QEMU's",
               sender / qemu.rate("sender_cpu_s") if ours and qemu else None, ">", 1.1)
        yield (f"{image}, level 1, receiver / QEMU's",
               ours.rate("receiver_cpu_s") / qemu.rate("receiver_cpu_s") if ours and qemu else None, ">=", 1.1)

    def link(self):
        """The best level is the fixed one that took least time."""
        name = self.facts.get("link_name")
        runs = [run for run in self.result["runs"] if run["name"] == name]
        fixed = [Figures([run for run in runs if run["level"] == level])
                 for level in {run["level"] for run in runs} - {"auto"}]
        auto = Figures([run for run in runs if run["level"] == "auto"])
        if not fixed or not auto:
            return None
        best = min(fixed, key=lambda figures: figures.median("wall_s"))
        return auto.median("wall_s") / (best.median("wire_bytes") * 8 / self.facts["link_mbit"] / 1e6)

    def verdicts(self):
        """(what, figure, limit, met or missed), all words."""
        for what, figure, sign, limit in self.limits():
            if figure is None:
                yield what, "-", f"{sign} {limit}", "not run"
                continue
            met = {">=": figure >= limit, ">": figure > limit, "<=": figure <= limit}[sign]
            yield what, f"{figure:.3f}", f"{sign} {limit}", "met" if met else "MISSED"

    def judged(self):
        return layout([["promise", "figure", "limit", ""], *map(list, self.verdicts())])

    def markdown(self):
        """The same for people who read README: what was measured, where, with what."""
        probes = ", ".join(f"{key[:-5]} {value:.2f}" for key, value in self.result["probes"].items())
        lines = [f"Measured {machine()}; probes of this run, GB per cpu-second: {probes or 'not run'}.", "",
                 "| what | figure | limit | |", "|---|---|---|---|"]
        lines += ["| " + " | ".join(row).replace("MISSED", "**missed**") + " |" for row in self.verdicts()]
        return "\n".join([*lines, ""])

    def text(self, before, is_judged=True):
        probes = ", ".join(f"{key[:-5]} {value:.2f}" for key, value in self.result["probes"].items())
        return "\n".join([f"before: {before}", f"after:  {machine()}",
                          f"probes, GB/cpu-s: {probes or 'not run'}", *self.facts.get("notes", []), "",
                          self.table(), "", *([self.judged(), ""] if is_judged else [])])


def layout(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
