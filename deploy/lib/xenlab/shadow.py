# SPDX-License-Identifier: Apache-2.0
"""The hypervisor with shadow paging: Debian's Xen source, built with Xen's own default configuration.

Debian builds Xen without it, and without it the pages a PV guest dirties cannot be logged: no live
migration. Only the hypervisor is built; Debian's tools work with it. Not every source version that the
archive lists can be fetched whole: they are tried in order, newest first.
"""

import gzip
import os
import shutil
import tempfile

from .errors import LabError, run, write
from .recipe import SUITE

BUILD_TIMEOUT_S = 3600
MIRROR = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def path(place):
    return place.of_image("xen-shadow")


def build(place, say):
    """Makes the image's xen-shadow unless it is there. LabError if no source is complete."""
    if os.path.exists(path(place)):
        return False
    place.need_image()
    work = tempfile.mkdtemp(prefix="xen.new-", dir=place.directory)
    try:
        sources = Sources(work)
        tree = sources.first_complete(say)
        say("compiling the hypervisor")
        compile_in(os.path.join(tree, "xen"))
        with gzip.open(os.path.join(tree, "xen", "xen.gz")) as packed:
            write(path(place), packed.read())
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return True


def compile_in(directory):
    for target in ("defconfig", "build"):
        run(["nice", "-n", "15", "make", "-C", directory, "-j2", "XEN_TARGET_ARCH=x86_64", target],
            BUILD_TIMEOUT_S, f"hypervisor: make {target}")
    with open(os.path.join(directory, ".config"), encoding="utf-8") as file:
        if "CONFIG_SHADOW_PAGING=y\n" not in file.read():
            raise LabError("hypervisor: its default configuration has no shadow paging any more")


class Sources:
    """An apt of our own below `work`, that knows source packages only."""

    def __init__(self, work):
        self.work = work
        self.options = []
        for name in ("lists/partial", "cache/archives/partial", "etc"):
            os.makedirs(os.path.join(work, name))
        lines = [f"deb-src [signed-by={KEYRING}] {mirror} {suite} main" for mirror, suite in (
            (SECURITY, f"{SUITE}-security"), (MIRROR, f"{SUITE}-updates"), (MIRROR, SUITE))]
        write(os.path.join(work, "etc", "sources.list"), "\n".join(lines) + "\n")
        for key, value in (("Dir::Etc::sourcelist", f"{work}/etc/sources.list"),
                           ("Dir::Etc::sourceparts", "-"), ("Dir::State::lists", f"{work}/lists"),
                           ("Dir::Cache", f"{work}/cache"), ("APT::Sandbox::User", "root")):
            self.options += ["-o", f"{key}={value}"]

    def versions(self):
        """Newest first, as apt compares them."""
        run(["apt-get", *self.options, "update", "-q"], 300, "source packages")
        said = run(["apt-cache", *self.options, "showsrc", "--only-source", "xen"], 60,
                   "source packages")
        found = []
        for line in said.splitlines():
            if line.startswith("Version: ") and line[9:] not in found:
                found.append(line[9:])
        return found

    def first_complete(self, say):
        """Fetches and unpacks the first version that is whole; returns its directory."""
        failed = []
        for version in self.versions():
            directory = os.path.join(self.work, f"source-{len(failed)}")
            os.mkdir(directory)
            say(f"source of xen {version}")
            try:
                run(["apt-get", *self.options, "source", "-q", f"xen={version}"], 600,
                    f"xen {version}", cwd=directory)
            except LabError as error:
                failed.append(str(error))
                continue
            return next(os.path.join(directory, name) for name in os.listdir(directory)
                        if os.path.isdir(os.path.join(directory, name)))
        raise LabError("no version of Xen's source is complete in the archive today: "
                       + ("; ".join(failed) or "it lists none"))
