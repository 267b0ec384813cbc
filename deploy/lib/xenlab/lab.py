# SPDX-License-Identifier: Apache-2.0
"""A whole lab: its nodes, network and BMCs from up to down, kept in a directory between commands."""

import json
import os
import shutil
import tempfile
import time

from . import bmc, cluster, guests, net, process, seed, snapshot, storage
from .errors import LabError, read, run, wait_until, write
from .machine import Machine


class Lab:
    """The lab at `place`, running or not."""

    def __init__(self, place):
        self.place = place
        self.maker_file = place.of_lab("maker")
        text = read(place.of_lab("lab.json"))
        self.settings = json.loads(text) if text else None
        if self.alive():
            place.image = self.settings["image"]  # what it was started with, whatever the tree says now

    @property
    def machines(self):
        """Its nodes in order; LabError if there is no lab."""
        if self.settings is None:
            raise LabError(f"no lab {self.place.name} is up; start one: deploy/lab up")
        return [Machine(self.place, i, self.settings["hypervisor"])
                for i in range(1, self.settings["nodes"] + 1)]

    def alive(self):
        """Its settings, if anything of it lives: a node, its storage, a BMC or who brings it up. None if
        nothing does, which a reboot or who ended its processes leaves behind: it is nobody's."""
        if self.settings is None:
            return None
        files = [self.maker_file, storage.pid_file(self.place)]
        for machine in self.machines:
            files += [machine.pid_file, bmc.pid_file(machine)]
        return self.settings if any(map(process.find, files)) else None

    def machine(self, name):
        found = {m.name: m for m in self.machines}
        if name not in found:
            raise LabError(f"there is no node {name}; there are {' '.join(found)}")
        return found[name]

    # --- up ---

    def up(self, options, say):
        """Starts a new lab; what went up before a failure stays, for a look, until down."""
        if self.alive():
            raise LabError(f"lab {self.place.name} is up already; end it with: deploy/lab down")
        self.place.need_image()
        if self.settings is not None:
            say(f"lab {self.place.name} was left behind, nothing of it lives: it is removed")
            self.down()
        began = time.monotonic()
        kept = None if options.cold else self.keep_memory(options.hypervisor, say)
        shutil.rmtree(self.place.lab, ignore_errors=True)
        os.makedirs(self.place.lab, mode=0o700)
        process.remember(self.maker_file, os.getpid())
        self.settings = {"nodes": options.nodes, "hypervisor": options.hypervisor,
                         "driver": options.driver, "xen_helper": options.xen_helper,
                         "build": options.build, "image": self.place.image, "disks": options.disks,
                         "snapshot": kept.directory if kept else None}
        write(self.place.of_lab("lab.json"), json.dumps(self.settings))
        try:
            self.bring_up(options, kept, began, say)
        finally:
            os.unlink(self.maker_file)

    def bring_up(self, options, kept, began, say):
        machines = self.machines
        net.make(self.place.namespace, options.nodes)
        self.make_seeds(machines, options)
        storage.start(self.place, options.disks)
        for machine in machines:
            bmc.start(self.place, machine)
        cluster.together(lambda m: self.first_on(m, kept), machines)
        say(f"{options.nodes} nodes run Xen after {time.monotonic() - began:.1f} s")
        if options.driver != "none":
            cluster.create(machines, say)
            say(f"hamgr's cluster is made, after {time.monotonic() - began:.1f} s")

    def keep_memory(self, hypervisor, say):
        """What nodes can be woken from; None, and they boot, if none can be made."""
        try:
            return snapshot.ensure(self.place, hypervisor, say)
        except LabError as error:
            say(f"each node boots by itself, for no booted machine's memory could be kept: {error}")
            return None

    def make_seeds(self, machines, options):
        for machine in machines:
            os.makedirs(machine.dir)
        write(self.place.of_lab("initrd"), snapshot.initrd(self.place))
        seed.make_shared(self.place, options.build, guests.files(self.place, options.build))
        seed.make_keys(self.place, machines)
        seed.make_certificates(self.place, machines)
        key = os.urandom(256)
        for machine in machines:
            seed.make_own(self.place, machine, machines, options, key)

    def first_on(self, machine, kept):
        """Boots a new node, or wakes it from what is kept of one that has booted."""
        if kept:
            machine.make_disk(kept.disk, "qcow2")
            kept.wake(machine)
        else:
            machine.make_disk(self.place.of_image("root.img"), "raw")
            machine.power_on()
        self.wait_up(machine)

    def wait_up(self, machine, boots=0):
        """Until it has booted more than `boots` times and answers to ssh."""
        machine.wait_ready(boots)
        self.wait_ssh(machine)

    def wait_ssh(self, machine):
        """An ssh that tries again by itself for a while: one every half second, and three nodes to wait
        for, are a quarter of a processor that nodes could have. Between two of them: has the machine been
        switched off meanwhile, as whom a fence agent finds only now is?"""
        machine.forget_ssh()

        def answers():
            machine.explain_off()
            try:
                run([*machine.ssh("-o", "ConnectionAttempts=10"), "true"], 40, "")
                return True
            except LabError:
                return False
        wait_until(answers, f"{machine.name} answers to ssh", 180, 0.5)

    # --- in between ---

    def switch_on(self, machine):
        state = machine.state()
        before = machine.boots()
        machine.power_on()
        if state == "off":
            self.wait_up(machine, before)

    def install(self, build):
        """Brings a newer build to all nodes that are on, and to the others' next boot."""
        size = seed.make_shared(self.place, build, guests.files(self.place, build))
        on = [m for m in self.machines if m.state() == "on"]
        with open(self.place.of_lab("shared.tar"), "rb") as file, tempfile.TemporaryFile() as archive:
            archive.write(file.read(size))
            for machine in on:
                archive.seek(0)
                cluster.feed(machine, archive, "tar", "-x", "-C", "/", "-f", "-")
        return [m.name for m in on]

    def guest(self, options):
        """Puts a guest's configuration on all nodes that are on; returns it."""
        known = self.settings.setdefault("guests", [])
        if options.guest not in known:
            if len(known) >= guests.GUESTS_MAX:
                raise LabError(f"this lab has addresses for {guests.GUESTS_MAX} guests, not more")
            known.append(options.guest)
            write(self.place.of_lab("lab.json"), json.dumps(self.settings))
        index = known.index(options.guest)
        if options.disk and index >= self.settings["disks"]:
            raise LabError(f"{options.guest} is guest {index + 1}, and the lab has "
                           f"{self.settings['disks']} disks; deploy/lab up --disks makes more")
        text = guests.config(self.place, options.guest, index, options)
        path = self.place.of_lab("guest.cfg")
        write(path, text)
        for machine in self.machines:
            if machine.state() == "on":
                with open(path, "rb") as file:
                    cluster.feed(machine, file, f"cat > /root/{options.guest}.cfg")
        return text

    # --- down ---

    def down(self):
        """Ends everything of this lab, however far it got. True if there was one."""
        found = os.path.exists(self.place.lab) or net.exists(self.place.namespace)
        if self.settings is not None:
            for machine in self.machines:
                if os.path.isdir(machine.dir):
                    machine.forget_ssh()
                    bmc.stop(machine)
                    machine.power_off()
        storage.stop(self.place)
        net.remove(self.place.namespace)
        shutil.rmtree(self.place.lab, ignore_errors=True)
        return found
