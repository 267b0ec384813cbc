#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A failpoint that no run reached fails tests/netns/failpoints, and so does one that nobody knows."""

import contextlib
import importlib.machinery
import importlib.util
import io
import os
import sys
import tempfile
import unittest
import unittest.mock

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NETNS = os.path.join(ROOT, "tests", "netns")
sys.path.insert(0, NETNS)

import faults  # noqa: E402
import reached  # noqa: E402


def load():
    loader = importlib.machinery.SourceFileLoader("failpoints", os.path.join(NETNS, "failpoints"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("failpoints", loader))
    loader.exec_module(module)
    return module


class Failpoints(unittest.TestCase):
    """With files as tests write them."""

    def setUp(self):
        self.program = load()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, "reached")

    def tell(self, run, names):
        for name in names:
            reached.note(name)
        with unittest.mock.patch.dict(os.environ, {"HAMGR_REACHED": self.path}):
            reached.tell(run)

    def judged(self, *options):
        """(exit code, lines)"""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), \
                unittest.mock.patch.object(sys, "argv", ["failpoints", self.path, *options]):
            code = self.program.main()
        return code, said.getvalue().splitlines()

    def test_all_are_reached(self):
        self.tell("one", self.program.NEEDED[:5])
        self.tell("two", self.program.NEEDED[4:])
        code, said = self.judged()
        self.assertEqual((code, said[-1]), (0, f"{len(self.program.NEEDED)} failpoints, 0 not reached"))
        self.assertIn(f"   2 runs        2 times  {self.program.NEEDED[4]}", said)

    def test_any_one_is_missed(self):
        for missing in self.program.NEEDED:
            self.path += "-"
            self.tell("one", [name for name in self.program.NEEDED if name != missing])
            code, said = self.judged()
            self.assertEqual((code, said[-2]), (1, f"FAILED {missing}"))

    def test_nothing_was_written(self):
        self.assertEqual(self.judged()[0], 1)

    def test_one_that_nobody_knows(self):
        self.tell("one", [*self.program.NEEDED, "step: P99"])
        self.assertEqual(self.judged()[0], 1)

    def test_campaigns_faults_are_needed_in_full_only(self):
        self.tell("one", [*self.program.NEEDED, *self.program.CAMPAIGNS[1:]])
        self.assertEqual(self.judged()[0], 0)
        code, said = self.judged("--full")
        self.assertEqual((code, said[-2]), (1, f"FAILED {self.program.CAMPAIGNS[0]}"))
        self.tell("two", self.program.CAMPAIGNS[:1])
        self.assertEqual(self.judged("--full")[0], 0)

    def test_an_order_that_had_no_effect_is_not_reached(self):
        page = {name: 0 for name in faults.FAILPOINTS}
        reached.watch(lambda: page)
        self.tell("one", [name for name in self.program.NEEDED if name not in page])
        code, said = self.judged()
        self.assertEqual(code, 1)
        self.assertEqual([line[7:] for line in said if line.startswith("FAILED ")], list(page))

    def test_nothing_is_written_unasked(self):
        with unittest.mock.patch.dict(os.environ):
            os.environ.pop("HAMGR_REACHED", None)
            reached.note("step: P99")
            reached.tell("one")
        self.assertFalse(os.path.exists(self.path))
        self.tell("two", self.program.NEEDED)
        self.assertEqual(self.judged()[0], 0)


if __name__ == "__main__":
    unittest.main()
