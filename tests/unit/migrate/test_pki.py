#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""deploy/pki: what it makes, what it keeps, what it refuses."""
import os
import stat
import subprocess
import tempfile
import unittest

from streamrig import PKI


def pki(*arguments):
    return subprocess.run([PKI, *arguments], capture_output=True, text=True, check=False)


class Pki(unittest.TestCase):
    def setUp(self):
        self.holder = tempfile.TemporaryDirectory(prefix="hamgr-pki-")
        self.dir = self.holder.name

    def tearDown(self):
        self.holder.cleanup()

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def read(self, *parts):
        with open(self.path(*parts), encoding="ascii") as file:
            return file.read()

    def fine(self, *arguments):
        done = pki(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def refused(self, words, *arguments):
        done = pki(*arguments)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(words, done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1)

    def x509(self, *parts):
        return subprocess.run(["openssl", "x509", "-noout", "-text", "-in", self.path(*parts)],
                              capture_output=True, text=True, check=True).stdout

    def test_whole_cluster(self):
        self.fine("all", self.dir, "n1", "n2")
        for key in (("ca.key",), ("n1", "node.key"), ("n2", "node.key")):
            self.assertEqual(stat.S_IMODE(os.stat(self.path(*key)).st_mode), 0o600)
        self.assertEqual(self.read("n1", "ca.pem"), self.read("ca.pem"))
        text = self.x509("n1", "node.pem")
        for words in ("DNS:n1", "TLS Web Server Authentication, TLS Web Client Authentication",
                      "prime256v1", "CA:FALSE"):
            self.assertIn(words, text)
        self.assertIn("CA:TRUE", self.x509("ca.pem"))
        for node in ("n1", "n2"):
            subprocess.run(["openssl", "verify", "-x509_strict", "-CAfile", self.path("ca.pem"),
                            self.path(node, "node.pem")], check=True, stdout=subprocess.DEVNULL)

    def test_repeatable(self):
        self.fine("all", self.dir, "n1")
        first = self.read("ca.pem") + self.read("n1", "node.pem") + self.read("n1", "node.key")
        self.fine("all", self.dir, "n1", "n2")
        self.assertEqual(first, self.read("ca.pem") + self.read("n1", "node.pem") + self.read("n1", "node.key"))
        self.fine("node", self.dir, "n1", "--renew")
        self.assertNotIn(self.read("n1", "node.pem"), first)
        # Another address is another certificate.
        self.fine("node", self.dir, "n1", "--ip", "192.0.2.1", "--ip", "2001:db8::1")
        self.assertIn("IP Address:192.0.2.1", self.x509("n1", "node.pem"))
        # One that has expired is replaced.
        self.fine("node", self.dir, "old", "--not-before", "2020-01-01", "--not-after", "2020-02-01")
        self.assertIn("EXPIRED", self.fine("show", self.dir))
        self.fine("node", self.dir, "old")
        self.assertNotIn("EXPIRED", self.fine("show", self.dir))
        # A new CA needs new certificates, and gets them.
        self.fine("init", self.dir, "--renew")
        self.fine("all", self.dir, "n1")
        self.assertEqual(self.read("n1", "ca.pem"), self.read("ca.pem"))

    def test_refusals(self):
        self.refused("first: deploy/pki init", "node", self.dir, "n1")
        self.fine("init", self.dir, "--days", "30", "--name", "lab")
        self.assertIn("CN = hamgr cluster lab", self.x509("ca.pem"))
        for name in ("", "-n1", "a/b", "..", "a b", "x" * 64):
            self.refused("is no node name", "node", self.dir, "--", name)
        self.refused("before it begins", "node", self.dir, "n1", "--not-after", "2020-01-01")
        other = self.path("other")
        self.fine("init", other)
        os.replace(os.path.join(other, "ca.key"), self.path("ca.key"))
        self.refused("does not belong to", "node", self.dir, "n1")
        self.refused("does not belong to", "init", self.dir)
        os.unlink(self.path("ca.key"))
        self.refused("only one of ca.pem and ca.key", "init", self.dir)
        self.refused("holds no certificates", "show", self.path("nowhere"))


if __name__ == "__main__":
    unittest.main()
