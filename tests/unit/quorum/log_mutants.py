#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Breaks the log on purpose, one rule at a time, and lets log_torture find it.

    tests/unit/quorum/log_mutants.py [--seeds N] [--only NAME]

A mutant that survives N seeds means: a rule nobody checks. Names follow the holes they open. What needs
more luck than that (leases under another OPEN, eviction) has its stories in test_log_*.c.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
PURE = ["entry.c", "msg.c", "log.c", "log_ring.c", "log_out.c", "log_peers.c", "log_view.c",
        "log_lead.c", "log_elect.c", "log_entries.c", "log_propose.c", "lease.c"]
BASE = ["err.c", "id.c", "digest.c", "bytes.c"]

# (name, file, what stands there, what the mutant says)
MUTANTS = [
    ("H1-view-of-last-entry", "log_view.c", "    p->log_view = log->durable_log_view;",
     "    log_ring_view(&log->ring, log->durable_last, &p->log_view);\n"
     "    if (p->log_view.counter > 0) p->log_view.counter--;"),
    ("H2-counts-promises-in-memory", "log_lead.c", "    promised->p = msg->u.promise;",
     "    promised->p = msg->u.promise;\n    promised->p.is_durable = true;"),
    ("H2-accepts-older-view", "log_view.c",
     "    if (log_view_cmp(view, log->promised) <= 0 || log_view_cmp(view, log->log_view) <= 0)\n"
     "        return;", "    log->promised = (struct log_view){0, 0};"),
    ("H2-acks-before-durable", "log_entries.c",
     "    action->u.persist.last = has_entries ? log->ring.last : 0;\n    w->truncate_from = 0;\n",
     "    action->u.persist.last = has_entries ? log->ring.last : 0;\n    w->truncate_from = 0;\n"
     "    log->durable_last = log->stored_last = w->last;\n"
     "    log->durable_log_view = w->log_view;\n"
     "    void acknowledge(struct log *); acknowledge(log);\n"),
    ("H4-quorum-of-half", "log_internal.h", "return v->count / 2 + 1;",
     "return (v->count + 1) / 2;"),
    ("H5-any-store-counts", "log_ring.c",
     "return i >= 0 && ha_uuid_equal(v->list[i].store_id, store_id);",
     "(void)store_id; return i >= 0;"),
    ("H10-acks-of-any-view", "log_entries.c",
     "        log_view_cmp(peer->log_view, log->current.view) != 0)\n        return 0;\n    if (peer",
     "        false)\n        return 0;\n    if (peer"),
    ("H17-own-age-only", "lease.c", "        if (age < evidence)",
     "        if (names->list[i].node == log->config.self.node && age < evidence)"),
    ("H17-restart-forgets", "lease.c", "    p->rest_age_ms = log->now_ms - since;",
     "    p->rest_age_ms = log->now_ms - since + 100000;"),
    ("H17-acks-are-forgotten", "lease.c",
     "        p->ages[p->age_count].age_ms = log->now_ms - peer->ack_ms;",
     "        p->ages[p->age_count].age_ms = log->now_ms - peer->ack_ms + 400;"),
    ("shortest-log-wins", "log_lead.c", "if (cmp > 0 || (cmp == 0 && p->last > b->last))",
     "if (cmp > 0)"),
    ("catch-up-keeps-log-view", "log_entries.c", "    log->log_view = view;\n    log->needs",
     "    (void)view;\n    log->needs"),
    ("numbers-twice", "log_propose.c", "        if (proposal.seq <= peer->numbered_seq) {",
     "        if (false) {"),
    ("takes-out-of-order", "log_propose.c", "peer->numbered_seq < m->prev_seq)",
     "false)"),
    ("T-wait-too-short", "lease.c", "    uint64_t wait = plain + drift +",
     "    uint64_t wait = plain - 300 + drift +"),
    ("no-gap-repair", "log_peers.c",
     "log->phase >= LOG_PHASE_ADOPTED && hb->end > log->ring.last)", "false)"),
    ("no-room-left-for-OPEN", "log_ring.c",
     "    return r->last + 1 - first + r->capacity / 4 < r->capacity &&\n"
     "           used + size + HA_ENTRY_MAX <= r->byte_limit;",
     "    return r->last + 1 - first < r->capacity && used + size <= r->byte_limit;"),
]


def build(work, name, mutation):
    quorum = work / "quorum"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(ROOT / "quorum", quorum)
    if mutation:
        path = quorum / mutation[0]
        text = path.read_text()
        if text.count(mutation[1]) != 1:
            sys.exit(f"{name}: its place is not in {mutation[0]} exactly once")
        path.write_text(text.replace(mutation[1], mutation[2]).replace(
            "static void acknowledge", "void acknowledge"))
    tests = ROOT / "tests/unit/quorum"
    sources = [quorum / f for f in PURE] + [ROOT / "hamgr/base" / f for f in BASE]
    sources += [tests / f for f in ("cluster.c", "cluster_store.c", "cluster_shell.c",
                                    "log_torture.c")]
    subprocess.run(["cc", "-std=c17", "-O1", "-g", "-w", "-D_GNU_SOURCE", f"-I{work}",
                    f"-I{ROOT}", "-o", work / "torture", *sources], check=True, timeout=300)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3000)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    survived = []
    with tempfile.TemporaryDirectory(prefix="log-mutants-") as place:
        work = pathlib.Path(place) / "m"
        for name, file, old, new in MUTANTS:
            if args.only not in name:
                continue
            build(work, name, (file, old, new))
            run = subprocess.run([work / "torture", "--seeds", f"1..{args.seeds}", "--first"],
                                 capture_output=True, text=True, timeout=600, check=False)
            lines = [line for line in run.stdout.splitlines() if line.startswith("seed ")]
            if run.returncode == 0:
                survived.append(name)
            print(f"{name}: {lines[0] if lines else f'exit {run.returncode}'}", flush=True)
    if survived:
        sys.exit("survived: " + ", ".join(survived))


if __name__ == "__main__":
    main()
