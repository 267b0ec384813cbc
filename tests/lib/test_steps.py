#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Steps of tests/run that take too long are ended, by the right limit, and nobody else is."""

import os
import subprocess
import tempfile
import unittest

STEPS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "steps.sh")
FRAME = """set -u
whole=%d grace=1
declare -A group_limits=([quick]=60 [slow]=2)
group_of() { case $1 in slow*) echo slow ;; packages) ;; *) echo quick ;; esac; }
. %s
%s
finish
"""


class Steps(unittest.TestCase):
    """Small runs in a directory of their own."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = directory.name

    def run_steps(self, text, whole=60):
        """(exit code, all lines said)"""
        done = subprocess.run(["bash", "-c", FRAME % (whole, STEPS, text)], cwd=self.path, text=True,
                              capture_output=True, timeout=60, check=False)
        if "kill" not in done.stderr.lower():  # bash tells of those
            self.assertEqual(done.stderr, "")
        return done.returncode, done.stdout.splitlines()

    def log(self, step):
        with open(os.path.join(self.path, "build", "log", f"{step}.log"), encoding="utf-8") as file:
            return file.read()

    def test_all_in_time(self):
        code, said = self.run_steps("step one 5 true; step slow-one 5 echo said; step packages 5 true")
        self.assertEqual((code, said[-1]), (0, "3 passed, 0 failed"))
        self.assertEqual(self.log("slow-one"), "said\n")
        self.assertFalse([line for line in said if "OVER" in line or "FAILED" in line])

    def test_a_group_that_runs_over_is_ended_and_named(self):
        bystander = subprocess.Popen(["sleep", "60"])
        self.addCleanup(bystander.wait)
        self.addCleanup(bystander.kill)
        child = os.path.join(self.path, "child")
        code, said = self.run_steps(f"""
            step slow-one 50 sh -c 'sleep 50 & echo $! > {child}; sleep 50'
            step slow-two 50 touch {child}-two
            step one 5 true""")
        self.assertEqual((code, said[-1]), (1, "1 passed, 2 failed"))
        self.assertIn("slow-one: not done within 2 s, what its group, slow, has left of 2 s",
                      self.log("slow-one"))
        self.assertIn("slow-two: not done within 0 s", self.log("slow-two"))
        self.assertFalse(os.path.exists(child + "-two"))
        groups = [line for line in said if " s of " in line]
        self.assertEqual(["RAN OVER" in line for line in groups], [False, True], groups)
        self.assertIsNone(bystander.poll())
        with open(child, encoding="ascii") as file:
            self.assertFalse(self.is_alive(int(file.read())))

    @staticmethod
    def is_alive(pid):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                return file.read().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    def test_its_own_limit_is_no_groups(self):
        code, said = self.run_steps("step one 1 sleep 50")
        self.assertEqual((code, said[-1]), (1, "0 passed, 1 failed"))
        self.assertIn("not done within 1 s, its own limit", self.log("one"))
        self.assertFalse([line for line in said if "OVER" in line])

    def test_the_runs_limit(self):
        code, said = self.run_steps("step one 50 sleep 50; step packages 5 true", whole=1)
        self.assertEqual((code, said[-1]), (1, "0 passed, 2 failed"))
        self.assertIn("what is left of the run's 1 s", self.log("one"))

    def test_who_does_not_heed_is_killed(self):
        code, _ = self.run_steps("step slow-one 50 sh -c 'trap : TERM; while :; do sleep 0.1; done'")
        self.assertEqual(code, 1)
        self.assertIn("has left of 2 s", self.log("slow-one"))

    def test_what_failed_is_no_timeout(self):
        code, said = self.run_steps("step slow-one 5 sh -c 'kill -KILL $$'")
        self.assertEqual((code, said[-1]), (1, "0 passed, 1 failed"))
        self.assertEqual(self.log("slow-one"), "")

    def test_tests_of_a_step_are_counted(self):
        _, said = self.run_steps("counted count_line one 5 sh -c 'echo FAILED a; echo 2 passed, 1 failed; exit 1'\n"
                                 "counted count_line two 5 true")
        self.assertEqual(said[-1], "2 passed, 2 failed")
        self.assertIn("failed: one (a)", said)


if __name__ == "__main__":
    unittest.main()
