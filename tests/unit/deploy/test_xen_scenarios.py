#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tests/xen without a lab: what its programs make of what they hear, read and are told, and whether
hactl has the words they use: test_xen_scenarios.py HACTL [unittest's arguments]."""

import argparse
import ast
import contextlib
import importlib.machinery
import importlib.util
import io
import itertools
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import types
import unittest
import unittest.mock

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
XEN = os.path.join(ROOT, "tests", "xen")
sys.path.insert(0, XEN)

import comparison  # noqa: E402
import harness  # noqa: E402
import knife  # noqa: E402
import world  # noqa: E402

from xenlab import nbd, process  # noqa: E402

HACTL = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
PROGRAMS = ("test_contract", "test_cuts", "test_faults", "test_guests", "test_hangs", "test_install", "test_kinds",
            "test_moves")
def load(name):
    """One of the programs that are not called .py."""
    loader = importlib.machinery.SourceFileLoader(name, os.path.join(XEN, name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


GOOD = "guest: pv1 00ff00ff00ff00ff step 12 checked 9 bad 0 disk 4 disk_bad 0 gap 20\n"


class Consoles(unittest.TestCase):
    """What a guest says on its console."""

    def test_a_healthy_guest_has_no_complaint(self):
        self.assertEqual(world.complaints("guest: boot pv1 00ff00ff00ff00ff\n" + GOOD * 3), [])

    def test_wrong_memory_and_disk_are_found(self):
        self.assertEqual(len(world.complaints(GOOD.replace("bad 0 disk 4", "bad 1 disk 4"))), 1)
        self.assertEqual(len(world.complaints(GOOD.replace("disk_bad 0", "disk_bad 10"))), 1)
        said = GOOD + "guest: WRONG disk: somebody else wrote, block 4\n" + GOOD
        self.assertEqual(world.complaints(said), ["guest: WRONG disk: somebody else wrote, block 4"])

    def test_a_line_that_was_cut_short_tells_nothing(self):
        for size in range(len(GOOD)):
            self.assertEqual(world.complaints(GOOD[:size] + "guest: boot pv1 1\n" + GOOD), [])
        bad = GOOD.replace("disk_bad 0", "disk_bad 3")
        self.assertEqual(len(world.complaints(GOOD[:40] + bad)), 1)

    def test_the_guest_says_it_as_it_is_read(self):
        with open(os.path.join(ROOT, "deploy/lib/xenlab/guest/guest.c"), encoding="utf-8") as file:
            text = re.sub(r'"\s*(PRI[ux]64)?\s*"', "", file.read())
        self.assertIn("guest: %s %016 step % checked % bad % disk % disk_bad % gap %", text)


class Copies(unittest.TestCase):
    """Which domains are exactly one copy that runs."""

    LISTING = ("Name                ID   Mem VCPUs\tState\tTime(s)\n"
               "Domain-0             0   768     1     r-----     100.1\n"
               "pv1               4097   128     1     -b----       1.5\n"
               "pv1--incoming-7   4098   128     1     --p---       0.0\n"
               "pv10              4099   128     1     -b----       0.2\n")

    def test_a_listing_is_read(self):
        self.assertEqual(world.domains_in(self.LISTING, "pv1"), ["-b----", "--p---"])
        self.assertEqual(world.domains_in(self.LISTING, "pv10"), ["-b----"])
        self.assertEqual(world.domains_in("", "pv1"), [])

    def test_one_copy_runs(self):
        self.assertIsNone(world.why_not_alone([("n1", "-b----")], set()))
        self.assertIn("0 copies", world.why_not_alone([], set()))
        self.assertIn("2 copies", world.why_not_alone([("n1", "r-----"), ("n2", "r-----")], set()))
        self.assertIn("paused", world.why_not_alone([("n1", "--p---")], set()))

    def test_what_is_cut_off_must_be_paused(self):
        self.assertIsNone(world.why_not_alone([("n1", "--p---"), ("n2", "r-----")], {"n1"}))
        self.assertIn("outside", world.why_not_alone([("n1", "-b----"), ("n2", "r-----")], {"n1"}))
        self.assertIn("0 copies", world.why_not_alone([("n1", "--p---")], {"n1"}))


class Ears(unittest.TestCase):
    """Beats of copies, in the order they were heard."""

    @staticmethod
    def ear(*beats):
        ear = world.Ear.__new__(world.Ear)
        ear.beats = [world.Beat(float(at), "pv1", copy, step) for at, (copy, step) in enumerate(beats, 1)]
        return ear

    def test_copies_that_follow_each_other(self):
        self.ear(("a", 1), ("a", 1), ("a", 4), ("b", 1), ("b", 2)).check_one_copy("pv1")

    def test_a_copy_that_comes_back(self):
        with self.assertRaisesRegex(AssertionError, "ran twice"):
            self.ear(("a", 1), ("b", 1), ("a", 2)).check_one_copy("pv1")

    def test_a_copy_that_goes_back(self):
        with self.assertRaisesRegex(AssertionError, "step 3 after 4"):
            self.ear(("a", 4), ("a", 3)).check_one_copy("pv1")


class Lab(world.World):
    """A world without a lab: three nodes whose answers are kept here, to be falsified. The storage's
    directory is real, and so is the witness."""

    def __init__(self, directory):  # pylint: disable=super-init-not-called
        self.place = types.SimpleNamespace(of_lab=lambda *names: os.path.join(directory, *names))
        self.directory = os.path.join(directory, "storage")
        os.makedirs(self.directory)
        process.remember(os.path.join(self.directory, "pid"), os.getpid())
        self.witness = nbd.Witness(self.directory)
        self.nodes = {name: types.SimpleNamespace(name=name, state=lambda: "on")
                      for name in ("n1", "n2", "n3")}
        self.cut = set()
        self.homes = {name: [("pv1", "-b----")] if name == "n1" else [("pvh1", "r-----")] * (name == "n2")
                      for name in self.nodes}
        self.consoles = {name: GOOD for name in self.nodes}
        self.silent = set()
        self.ear = world.Ear.__new__(world.Ear)
        self.ear.beats = [world.Beat(at, name, "a1", at) for name in ("pv1", "pvh1") for at in (1, FOREVER)]
        self.wrote = 0

    def inside(self, machine, *words, **_):
        """In place of a command on a node."""
        if machine.name in self.silent:
            raise world.LabError(f"{machine.name}: no answer")
        if words == ("xl", "list"):
            return Copies.LISTING.split("pv1", 1)[0] + "".join(
                f"{guest:16} {number:6} 128 1 {state} 1.5\n"
                for number, (guest, state) in enumerate(self.homes[machine.name], 1))
        return self.consoles[machine.name] if words[0] == "sh" else ""

    def hactl(self, *words, **_):
        homes = {guest: node for node, found in self.homes.items() for guest, _ in found}
        return {"data": {"nodes": [{"name": n, "status": "member", "armed": True} for n in self.nodes],
                         "guests": [{"name": g, "node": n, "phase": "running"} for g, n in homes.items()],
                         "moves": []}}

    def write(self, node, guest=1, incarnation=7, skip=0):
        """A block of pv1's disk."""
        before, self.wrote = self.wrote, self.wrote + 1 + skip
        data = bytearray(nbd.BLOCK)
        for index in range(8):
            struct.pack_into("<8Q", data, index * nbd.SECTOR, nbd.CHAIN_MAGIC, guest, incarnation,
                             self.wrote, before, before, 99, index)
        struct.pack_into("<2Q", data, nbd.BLOCK - 16, self.wrote, self.wrote)
        self.witness.write(node, "disk0", 4096 * self.wrote, bytes(data))

    def close(self, keep=False):
        """Nothing runs."""


FOREVER = 1 << 60
# What must not be -> (how it shows in what nodes, guests and storage say, words of the finding).
WRONGS = {
    "two copies": (lambda lab: lab.homes["n3"].append(("pv1", "r-----")), "2 copies"),
    "two copies on a node": (lambda lab: lab.homes["n1"].append(("pv1", "-b----")), "2 copies"),
    "a copy that arrived and stayed": (lambda lab: lab.homes["n3"].append(("pv1--incoming-7", "--p---")),
                                       "2 copies"),
    "a copy that stands still": (lambda lab: lab.homes.update(n1=[("pv1", "--p---")]), "it is paused"),
    "a copy outside the cluster": (lambda lab: (lab.homes["n3"].append(("pv1", "r-----")),
                                                lab.cut.add("n3")), "runs outside"),
    "a node that can't be asked": (lambda lab: lab.silent.add("n3"), "no answer"),
    "a page of its chain is wrong": (lambda lab: lab.consoles.update(
        n1=GOOD + GOOD.replace("bad 0 disk", "bad 1 disk")), "bad 1 disk"),
    "its disk is not what it wrote": (lambda lab: lab.consoles.update(
        n2=GOOD.replace("disk_bad 0", "disk_bad 2") + GOOD), "disk_bad 2"),
    "it found somebody else's block": (lambda lab: lab.consoles.update(
        n3=GOOD + "guest: WRONG disk: somebody else wrote, block 4\n"), "somebody else wrote"),
    "an old copy is heard again": (lambda lab: lab.ear.beats.extend(
        world.Beat(FOREVER + at, "pv1", copy, FOREVER) for at, copy in ((1, "b2"), (2, "a1"))),
        "it ran twice"),
    "its time goes back": (lambda lab: lab.ear.beats.append(world.Beat(FOREVER + 1, "pv1", "a1", 5)),
                           "step 5 after"),
    "two nodes write by turns": (lambda lab: [lab.write(node) for node in ("n1", "n3", "n1")],
                                 "writes by turns"),
    "an older copy writes": (lambda lab: [lab.write("n1", incarnation=n) for n in (7, 8, 7)],
                             "writes again"),
    "a write is lost": (lambda lab: (lab.write("n1"), lab.write("n1", skip=1)), "too early"),
    "another guest's block": (lambda lab: (lab.write("n1"), lab.write("n1", guest=2)), "another guest"),
    "nobody witnesses": (lambda lab: os.unlink(os.path.join(lab.directory, "pid")), "the storage is gone"),
}


class Verdict(unittest.TestCase):
    """All that is asked of a guest in a scenario and after each step of a campaign: with honest answers
    it is well, and each kind of wrong answer is found."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.lab = Lab(directory.name)
        for patch in (unittest.mock.patch.object(world.cluster, "inside", self.lab.inside),
                      unittest.mock.patch.object(world, "ALONE_S", -1)):
            patch.start()
            self.addCleanup(patch.stop)
        self.addCleanup(self.lab.witness.findings.close)
        self.addCleanup(self.lab.witness.writes.close)

    def test_a_guest_that_is_well(self):
        for node in ("n1", "n1", "n2", "n2"):
            self.lab.write(node)
        self.lab.check_guest("pv1")
        self.lab.check_guest("pvh1")

    def test_each_wrong_answer_is_found(self):
        for what, (falsify, words) in WRONGS.items():
            with self.subTest(what):
                self.doCleanups()
                self.setUp()
                self.lab.check_guest("pv1")
                falsify(self.lab)
                with self.assertRaisesRegex((AssertionError, world.LabError), words):
                    self.lab.check_guest("pv1")

    def campaign(self, strike):
        """(exit code, what it said) of a campaign whose strikes are all this one."""
        program = load("campaign")
        options = argparse.Namespace(seconds=100, seed=1, keep=True, logs=self.lab.directory)
        clock = types.SimpleNamespace(monotonic=itertools.count(step=10).__next__)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), \
                unittest.mock.patch.object(program, "time", clock), \
                unittest.mock.patch.object(program, "lab_of", lambda _: self.lab), \
                unittest.mock.patch.object(program, "STRIKES",
                                           {kind: (strike, 1) for kind in program.STRIKES}):
            return program.run(options), said.getvalue()

    def test_a_campaign_in_which_all_is_well(self):
        code, said = self.campaign(lambda _world, _step: None)
        self.assertEqual(code, 0, said)
        self.assertRegex(said, r"\n4 steps, 0 findings\n$")

    def test_a_campaign_ends_with_what_it_found(self):
        for what, (falsify, words) in WRONGS.items():
            with self.subTest(what):
                self.doCleanups()
                self.setUp()
                code, said = self.campaign(lambda _world, _step, falsify=falsify: falsify(self.lab))
                self.assertEqual(code, 1)
                self.assertIn("FOUND  step 1 ", said)
                self.assertIn(words, said)
                self.assertRegex(said, r"\n0 steps, 1 findings\n$")


class Answers(unittest.TestCase):
    """What hactl and the logs say."""

    MEMBER = {"name": "n1", "status": "member", "armed": True}

    def test_back_is_every_node(self):
        self.assertTrue(world.are_back({"nodes": [self.MEMBER] * 3}, 3))
        self.assertFalse(world.are_back({"nodes": [self.MEMBER] * 2}, 3))
        self.assertFalse(world.are_back({}, 3))  # nobody answered
        self.assertFalse(world.are_back({"nodes": [self.MEMBER, {**self.MEMBER, "armed": False}]}, 2))

    def test_the_newest_line_counts(self):
        lines = ["Nov 22 01:02:03.500 [info] FENCED n1: agent", "Nov 22 01:02:04.250 [info] OPEN",
                 "Nov 22 01:03:00.125 [info] FENCED n2: agent"]
        self.assertEqual(world.wall(world.newest(lines, world.TIME + r"\[info\] FENCED ")),
                         3600 + 180 + 0.125)
        self.assertIsNone(world.newest(lines, world.TIME + r"\[info\] ASSIGN "))

    def test_a_lab_of_another_kind_is_not_used(self):
        kind = harness.Kind("shadow", "auto")
        self.assertIsNone(world.mismatch(None, kind))
        settings = {"hypervisor": "shadow", "driver": "xen", "xen_helper": "auto"}
        self.assertIsNone(world.mismatch(settings, kind))
        for key in settings:
            self.assertIn(key, world.mismatch({**settings, key: "other"}, kind))


class SecondTry(unittest.TestCase):
    """A scenario that fails is tried once more, on another lab."""

    class Lab:
        """In World's place."""
        labs = []

        def __init__(self, *_):
            self.is_open = True
            self.labs.append(self)

        def close(self, _keep):
            self.is_open = False

        def on(self):
            return []

    def run_failing(self, times, keep=False):
        """(names of those that failed, labs) of three scenarios, the second of which fails so often."""
        left = [times]

        def good(_world):
            """Passes."""

        def bad(_world):
            """Fails at first."""
            left[0] -= 1
            self.assertLess(left[0], 0)

        kind = harness.Kind("shadow", "stock")
        chosen = [harness.Scenario(f, 60, kind, False) for f in (good, bad, good)]
        options = argparse.Namespace(keep=keep, lab="nolab", logs="/nonexistent")
        self.Lab.labs = []
        with unittest.mock.patch.object(harness, "World", self.Lab), \
                contextlib.redirect_stdout(io.StringIO()):
            return harness.run_all(chosen, kind, options), self.Lab.labs

    def test_once(self):
        for times, failed, labs in ((0, [], 1), (1, [], 2), (2, ["bad"], 3)):
            found = self.run_failing(times)
            self.assertEqual((found[0], len(found[1])), (failed, labs))
            self.assertFalse(any(lab.is_open for lab in found[1]))

    def test_not_on_a_lab_that_is_kept(self):
        failed, labs = self.run_failing(1, keep=True)
        self.assertEqual((failed, len(labs)), (["bad"], 1))


class Install(unittest.TestCase):
    """What tests/xen/test_install.py types."""

    def test_it_stands_in_the_document(self):
        with open(os.path.join(XEN, "test_install.py"), encoding="utf-8") as file:
            calls = [node for node in ast.walk(ast.parse(file.read())) if isinstance(node, ast.Call)]
        lines = [ast.literal_eval(call.args[0]) for call in calls if getattr(call.func, "id", "") == "as_written"]
        with open(os.path.join(ROOT, "deploy", "INSTALL.md"), encoding="utf-8") as file:
            document = file.read()
        self.assertGreater(len(lines), 6)
        self.assertEqual([line for line in lines if line not in document], [])


class Scenarios(unittest.TestCase):
    """What would be run."""

    @classmethod
    def setUpClass(cls):
        harness.SCENARIOS.clear()
        cls.counts = {}
        for name in PROGRAMS:
            importlib.import_module(name)
            cls.counts[name] = len(harness.SCENARIOS)

    def test_each_has_a_name_and_a_story(self):
        names = [harness.name_of(s) for s in harness.SCENARIOS]
        self.assertEqual(len(names), len(set(names)))
        for entry in harness.SCENARIOS:
            self.assertRegex(entry.function.__doc__.splitlines()[0], r"^\w.*\.$")
            self.assertGreater(entry.timeout_s, 0)

    def test_moves_are_made_by_both_helpers(self):
        names = {harness.name_of(s) for s in harness.SCENARIOS}
        for name in ("pv_live", "pvh_live", "cancelled_in_mid_stream", "hvm_live-stock"):
            self.assertLessEqual({name, f"{name}-auto"}, names)

    @staticmethod
    def strings_of(path):
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            source = re.sub(r'"\s*PRIu32\s*"', "u", file.read())
        return re.findall(r'"([^"]*)"', re.sub(r'"\s*"', "", source))

    def test_refusals_are_worded_as_they_are_read(self):
        texts = self.strings_of("hamgr/doctor/bars.c") + self.strings_of("hamgr/core/explain.c")
        said, limit, fix = (next(t for t in texts if words in t).replace("%u", "7")
                            for words in ("can't move live", " ms may be (", "--max-downtime %u"))
        kinds = sys.modules["test_kinds"]
        for whose in ("its contract", "--max-downtime"):
            self.assertIn(whose, texts)
            found = kinds.REFUSED.search(said.replace("%s", "") + limit.replace("%s", whose))
            self.assertEqual(found.groups(), ("7", "7", "7", whose))
        self.assertEqual(kinds.OFFERED.search(fix).group(1), "7")

    def test_choosing(self):
        self.assertEqual(harness.choose([], full=True), harness.SCENARIOS)
        left_out = [harness.name_of(s) for s in harness.SCENARIOS if s not in harness.choose([])]
        self.assertEqual(left_out, ["live_contract", "stream_cuts", "dom0_hangs", "dom0_panics", "xenstored_stops",
                                    "install_by_the_document", "hvm_live-stock-auto",
                                    "cancelled_in_mid_stream", "devices_made_early-auto",
                                    "helpers_mixed-auto"])
        self.assertEqual([harness.name_of(s) for s in harness.choose(["stream_cuts"])],
                         ["stream_cuts", "stream_cuts-auto"])
        self.assertEqual([harness.name_of(s) for s in harness.choose(["pv_live"])],
                         ["pv_live", "pv_live-auto"])
        self.assertEqual([harness.name_of(s) for s in harness.choose(["pv_live-auto"])],
                         ["pv_live-auto"])
        self.assertEqual([harness.name_of(s) for s in harness.choose(["pv_live"], "stock")], ["pv_live"])
        self.assertEqual(harness.choose(["none"]), [])

    def test_each_kind_has_one_lab(self):
        kinds = harness.kinds_of(harness.choose([]))
        self.assertEqual(kinds, [("stock", "stock", 2, "xen"), ("shadow", "stock", 3, "xen"),
                                 ("shadow", "auto", 3, "xen")])

    def test_every_program_of_the_directory_is_looked_at(self):
        found = {name[:-3] for name in os.listdir(XEN)
                 if name.startswith("test_") and name.endswith(".py")}
        self.assertEqual(found, set(PROGRAMS))


class Cuts(unittest.TestCase):
    """The packet filter that cuts streams."""

    SAID = json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}] + [
        {"counter": {"family": "netdev", "name": name, "table": "knife", "packets": packets,
                     "bytes": size}}
        for name, packets, size in (("passed", 30, 9000), ("lost", 4, 2000), ("dialled", 1, 60))]})

    def test_what_is_lost_has_not_passed(self):
        blade = knife.Knife.__new__(knife.Knife)
        with unittest.mock.patch.object(blade, "run", lambda *_: self.SAID):
            self.assertEqual(blade.counts(), {"passed": 7000, "lost": 4, "dialled": 1})


class Comparison(unittest.TestCase):
    """xl migrate against hactl migrate: what is run, and what is made of it."""

    XL, PLAIN, T0, T1 = comparison.METHODS
    LOG = ["Nov 22 01:00:00.000 [info] migration 7: the guest is stopped, round 3, 9 pages left",
           "Nov 22 01:00:00.250 [info] migration 7: the source is suspended and drained",
           "Nov 22 01:00:00.400 [info] migration 7: the destination is complete",
           "Nov 22 01:00:00.500 [info] hamgr-hv: run of cmph epoch 9 took 40 ms"]

    def test_the_commands_run_as_a_shell_runs_them(self):
        script = comparison.MEASURE.replace("/sys/class/net/eth0", self.counters())
        done = subprocess.run(["sh", "-c", script, "sh", "sh", "-c", "echo moved; exit 3"],
                              capture_output=True, text=True, timeout=30, check=False)
        said, seconds, wire, code = comparison.measured(done.stdout)
        self.assertEqual((said.strip(), wire, code), ("moved", 0, 3))
        self.assertGreater(seconds, 0)
        for text in (done.stdout[5:], done.stdout[:-20], ""):
            with self.assertRaises(ValueError):
                comparison.measured(text)

    def counters(self):
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        os.makedirs(os.path.join(directory, "statistics"))
        for name in ("rx_bytes", "tx_bytes"):
            with open(os.path.join(directory, "statistics", name), "w", encoding="ascii") as file:
                file.write("1000\n")
        return directory

    def test_a_guest_is_paused_once(self):
        at = {"xl": "n1", "hamgr": "n2"}

        def pauses(method, paused):
            return [words for _, words in comparison.before(method, "n1", "n2", at, paused)
                    if words[0] == "xl"]
        self.assertEqual(pauses(self.XL, set()), [["xl", "pause", "cmph"]])
        self.assertEqual(pauses(self.PLAIN, {"hamgr"}), [])
        self.assertEqual(pauses(self.T0, {"hamgr"}), [["xl", "pause", "cmpx"], ["xl", "unpause", "cmph"]])
        self.assertEqual(pauses(self.T1, {"xl"}), [])

    def test_each_way_comes_first_and_moves_as_often(self):
        first = [comparison.order(n)[0].name for n in range(8)]
        for method in comparison.METHODS:
            self.assertEqual(first.count(method.name), 2)
        for n in range(4):
            self.assertEqual(set(comparison.order(n)), set(comparison.METHODS))

    def test_pauses_are_the_new_ones(self):
        old = ["guest: gap 900 at 1", "guest: gap 70 at 2"]
        new = old + ["guest: gap 350 at 3", "guest: gap 60 at 4", "guest: gap 99000 at 5", "guest: gap 7"]
        self.assertEqual(comparison.new_gap_s(old, new, 10), 0.35)
        self.assertIsNone(comparison.new_gap_s(new, new, 10))

    def test_the_end_is_told_in_its_parts(self):
        self.assertEqual(comparison.parts(self.LOG[:2], self.LOG[2:], 7, "cmph"),
                         {"drain_s": 0.25, "agreement_s": 0.1})
        self.assertEqual(comparison.parts(self.LOG[:2], self.LOG[2:], 8, "cmph"),
                         {"drain_s": None, "agreement_s": None})

    def test_the_table_has_medians_and_ratios(self):
        runs = [comparison.Run("xl-ssh", n, "n1", "n2", total, 1.0, 100e6, None)
                for n, total in enumerate((10.0, 20.0, 90.0))]
        runs.append(comparison.Run("hamgr-t1", 1, "n1", "n2", 5.0, 0.4, 25e6,
                                   {"drain_s": 0.1, "agreement_s": 0.2}))
        text = comparison.table(runs, 128)
        self.assertIn("| xl migrate over ssh | 3 | 20.00 s | 1.00 s | 100.0 MB | - | - |", text)
        self.assertIn("| 1 | 5.00 s | 0.40 s | 25.0 MB | 0.25, 0.40, 0.25 | - |", text)
        self.assertIn("drained in 0.10 s, agreed and run in 0.20 s", text)
        self.assertNotIn("(T0)", text)

    def test_dry_run(self):
        done = subprocess.run([os.path.join(XEN, "compare"), "--dry-run", "--rounds", "2"],
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.count(", measured"), 2 * len(comparison.METHODS))
        self.assertIn("hactl --json migrate cmph --to n2 --on-slow pause", done.stdout)

    def test_what_runs_on_nodes_is_sound(self):
        for path, text in comparison.FILES.items():
            if "python" in text.splitlines()[0]:
                compile(text, path, "exec")
            else:
                subprocess.run(["bash", "-n"], input=text, text=True, timeout=30, check=True)
        compile(comparison.TELL_TIME, "tell-time", "exec")


class Product(unittest.TestCase):
    """hactl has the words and the members that the scenarios use."""

    def test_words(self):
        if not HACTL:
            self.skipTest("no hactl was named")
        for words, needed in ((("migrate",), ("--to", "--on-slow", "--detach")),
                              (("migrations",), ("--count",)), (("guest", "add"), ("--config",)),
                              (("cancel",), ("OPERATION",)), (("status",), ()), (("doctor",), ()),
                              (("migrate",), ("--max-downtime", "--forecast")),
                              (("guest", "set"), ("--max-downtime",)),
                              (("maintenance",), ("on|off", "--wait"))):
            done = subprocess.run([HACTL, *words, "--help"], capture_output=True, text=True, timeout=60,
                                  check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            for word in needed:
                self.assertIn(word, done.stdout)

    def test_members(self):
        text = ""
        for name in ("status.json", "common.json", "migrate.json", "migrations.json", "events.json",
                     "doctor.json"):
            with open(os.path.join(ROOT, "ctl", "schema", name), encoding="utf-8") as file:
                text += json.dumps(json.load(file))
        for member in ("phase", "node", "status", "armed", "incarnation", "gate_open", "step", "moves",
                       "op", "moved", "raw_bytes", "wire_bytes", "round", "reason", "leader", "maintenance",
                       "guests", "outcome", "findings", "severity", "code"):
            self.assertIn(f'"{member}": {{', text)


if __name__ == "__main__":
    unittest.main()
