# SPDX-License-Identifier: Apache-2.0
"""deploy/lab: a Xen cluster on a machine without Xen, in QEMU, in a network of its own.

  deploy/lab build [--hypervisor stock|shadow]
                                        make the image: Debian packages, Xen, kernels (minutes, once);
                                        shadow: also Debian's Xen rebuilt with shadow paging
  deploy/lab up [--nodes N]             boot N nodes with hamgr on them and make a cluster
             [--hypervisor stock|shadow] Debian's Xen, or the same with shadow paging (live PV)
             [--driver xen|embedded|none] hamgr-hv's driver; none: no hamgr and no corosync run,
                                        and nothing of /etc is theirs: for deploy/INSTALL.md
             [--xen-helper stock|auto]  who moves guests' memory: libxl's own helper, or hamgr's
                                        where it will do (driver xen; default stock)
             [--build DIR]              the built hamgr to install (default: the tree's build/release)
             [--cold]                   boot each node (the usual: one boots, once, and its memory is
                                        kept beside the image; all nodes go on from there)
  deploy/lab status                     the nodes, how to reach them, where their consoles are
  deploy/lab ssh NODE                   a shell in a node's dom0
  deploy/lab exec NODE COMMAND...       run a command there; its exit code is ours
  deploy/lab copy FILE... NODE:PATH     files into a node (or NODE:PATH... DIR: out of it)
  deploy/lab install [--build DIR]      bring a newer build to the running nodes (restart what uses it)
  deploy/lab power NODE off|on|reset|hang   off: its QEMU is killed; hang: its processors stand still
  deploy/lab cable NODE out|in          its cable to the cluster's network (ssh has one of its own)
  deploy/lab guest NAME [--type pv|pvh|hvm] [--memory MIB] [--disk] ...
                                        writes /root/NAME.cfg on all nodes: a small Linux whose program
                                        checks memory, disk and pauses; then, for instance:
                                        deploy/lab exec n1 xl create NAME.cfg
  deploy/lab witness                    who wrote to the guests' disks, and what must not be (exit 1)
  deploy/lab console GUEST              a guest's console, on the node where it runs (leave: Ctrl-])
  deploy/lab down                       end everything; the image stays

Nodes are n1, n2, ... with 10.77.0.N on the cluster's network, 10.78.0.N for administration and
storage, and a BMC at 10.77.0.(100 + N) (user hamgr, password only-for-the-lab) that fence_ipmilan
drives. On a node: lab-service status | stop NAME | start NAME; logs in /var/log; nodes reach each
other by ssh. A node's disk lasts through power cuts, until down.

Everything is kept below --dir (default /var/cache/hamgr-lab, or $HAMGR_LAB_DIR); labs with different
--name (default lab, or $HAMGR_LAB_NAME) run beside each other. A node takes 1.5 GiB of memory; what up
wakes nodes from takes 250 MB of disk a hypervisor, and is made anew when image, QEMU, the machine or
its scripts are others. Needs root; no KVM, no Xen, no hardware. Packages: deploy/lib/packages lab.
"""

import argparse
import os
import subprocess
import sys
import time

from xenlab import bmc, image, shadow, snapshot, storage
from xenlab.errors import LabError
from xenlab.lab import Lab
from xenlab.place import DEFAULT_DIR, ROOT, Place
from xenlab.seed import supports

NODES_MAX = 8


def complain(words):
    print(f"lab: {words}", file=sys.stderr)
    return 2


def say(words):
    print(f"lab: {words}", flush=True)


# --- verbs ----------------------------------------------------------------------------------------

def do_build(place, options):
    began = time.monotonic()
    if subprocess.call([os.path.join(ROOT, "deploy/lib/packages"), "lab"]) != 0:
        return complain("packages are missing, see above")
    with place.lock("image"):
        is_new = image.build(place, say, options.mirror)
        if options.hypervisor == "shadow" and shadow.build(place, say):
            say(f"hypervisor with shadow paging: {shadow.path(place)}")
    snapshot.ensure(place, options.hypervisor, say)
    say(f"image made in {time.monotonic() - began:.0f} s: {place.image}" if is_new
        else f"the image is there already: {place.image}")
    return 0


def choose_driver(options):
    """hamgr's guests need a hypervisor driver that the build has."""
    if options.driver:
        if options.driver != "none" and not supports(options.build, options.driver):
            raise LabError(f"hamgr-hv in {options.build} has no driver {options.driver}")
        return
    options.driver = "xen" if supports(options.build, "xen") else "embedded"
    if options.driver == "embedded":
        say("this build's hamgr-hv has no driver xen: the cluster comes up with embedded")


def do_up(place, options):
    options.build = os.path.abspath(options.build)
    choose_driver(options)
    if options.hypervisor == "shadow" and not os.path.exists(shadow.path(place)):
        raise LabError("there is no hypervisor with shadow paging yet; run: "
                       "deploy/lab build --hypervisor shadow")
    if place.name == snapshot.NAME:
        raise LabError(f"--name {place.name} is what a machine has whose memory is kept; use another")
    with place.lock(place.name):
        Lab(place).up(options, say)
    return 0


def do_status(place, _):
    lab = Lab(place)
    for machine in lab.machines:
        print(f"{machine.name}  {machine.state():4}  {machine.console_log}")
    print("settings: " + ", ".join(f"{key} {value}" for key, value in lab.settings.items()))
    if not lab.alive():
        print("nothing of it lives; deploy/lab down or the next up removes what is left of it")
    return 0


def do_ssh(place, options):
    machine = Lab(place).machine(options.node)
    machine.need_on()
    return subprocess.call([*machine.ssh("-t")])


def do_exec(place, options):
    machine = Lab(place).machine(options.node)
    machine.need_on()
    if not options.command:
        raise LabError("exec: which command? deploy/lab exec n1 xl info")
    line = " ".join("'" + word.replace("'", "'\\''") + "'" for word in options.command)
    return subprocess.call([*machine.ssh(), line])


def do_copy(place, options):
    lab = Lab(place)
    names = {word.partition(":")[0] for word in options.paths if ":" in word}
    if len(options.paths) < 2 or len(names) != 1:
        raise LabError("copy: one node on one side: FILE... NODE:PATH, or NODE:PATH... DIR")
    machine = lab.machine(names.pop())
    machine.need_on()
    ssh = machine.ssh()
    prefix, target = ssh[:ssh.index("ssh")], ssh[-1]
    paths = [f"{target}:{word.partition(':')[2]}" if ":" in word else word for word in options.paths]
    return subprocess.call([*prefix, "scp", "-q", "-r", *ssh[len(prefix) + 1:-1], *paths])


def do_install(place, options):
    with place.lock(place.name):
        names = Lab(place).install(os.path.abspath(options.build))
    say(f"installed on {' '.join(names) or 'no node that is on'}; others get it when they boot. "
        "What runs goes on with what it was: lab-service stop NAME, lab-service start NAME")
    return 0


def do_power(place, options):
    lab = Lab(place)
    machine = lab.machine(options.node)
    if options.what == "on":
        lab.switch_on(machine)
    elif options.what == "off":
        machine.power_off()
    elif options.what == "reset":
        machine.reset()
    else:
        machine.hang()
    return 0


def do_cable(place, options):
    Lab(place).machine(options.node).cable(options.what == "in")
    return 0


def do_console(place, options):
    for machine in Lab(place).machines:
        if machine.state() == "on" and subprocess.call(
                [*machine.ssh(), "xl", "domid", f"'{options.guest}'"], stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL) == 0:
            return subprocess.call([*machine.ssh("-t"), "xl", "console", f"'{options.guest}'"])
    raise LabError(f"no node that is on runs a guest {options.guest}; "
                   "what runs: deploy/lab exec n1 xl list")


def do_witness(place, _):
    """Exit 1 if it saw what must not be."""
    Lab(place).machines  # there is a lab, or that is the error
    writes, findings = storage.report(place)
    for (disk, node), count in sorted(writes.items()):
        print(f"{disk}  {node}  {count} writes")
    for line in findings:
        print(f"FOUND  {line}")
    print(f"{len(findings)} findings")
    return 1 if findings else 0


def do_guest(place, options):
    with place.lock(place.name):
        print(Lab(place).guest(options), end="")
    return 0


def do_chassis(place, options):
    """What a BMC calls (bmc.py)."""
    answer = bmc.chassis(Lab(place).machine(options.node), options.words)
    if answer is None:
        raise LabError(f"chassis: unknown words {' '.join(options.words)}")
    print(answer, end="\n" if answer else "")
    return 0


def do_down(place, _):
    with place.lock(place.name):
        found = Lab(place).down()
    say("down" if found else f"no lab {place.name} was up")
    return 0


# --- arguments ------------------------------------------------------------------------------------

def guest_name(text):
    if not text or not all(c.isalnum() or c in "._-" for c in text) or text.startswith("-"):
        raise argparse.ArgumentTypeError("a guest's name has letters, digits, . _ -")
    return text


def node_count(text):
    if not text.isdigit() or not 1 <= int(text) <= NODES_MAX:
        raise argparse.ArgumentTypeError(f"1 to {NODES_MAX} nodes are possible, not {text}")
    return int(text)


def disk_count(text):
    if not text.isdigit() or int(text) > storage.DISKS_MAX:
        raise argparse.ArgumentTypeError(f"0 to {storage.DISKS_MAX} disks are possible, not {text}")
    return int(text)


def parser():
    top = argparse.ArgumentParser(prog="deploy/lab", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter,
                                  usage="deploy/lab [--dir DIR] [--name NAME] VERB ...")
    top.add_argument("--dir", default=os.environ.get("HAMGR_LAB_DIR") or DEFAULT_DIR,
                     help=argparse.SUPPRESS)
    top.add_argument("--name", default=os.environ.get("HAMGR_LAB_NAME") or "lab",
                     help=argparse.SUPPRESS)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name, function, words):
        made = verbs.add_parser(name, help=argparse.SUPPRESS, description=words)
        made.set_defaults(function=function)
        return made

    def with_build(made):
        made.add_argument("--build", default=os.path.join(ROOT, "build", "release"), metavar="DIR",
                          help="the built hamgr (default: the tree's build/release)")

    made = verb("build", do_build, "Makes the image.")
    made.add_argument("--hypervisor", choices=("stock", "shadow"), default="stock",
                      help="shadow: also rebuild Debian's Xen with shadow paging")
    made.add_argument("--mirror", help="Debian mirror (default: mmdebstrap's)")
    made = verb("up", do_up, "Boots nodes and makes a cluster.")
    made.add_argument("--nodes", type=node_count, default=3, metavar="N")
    made.add_argument("--hypervisor", choices=("stock", "shadow"), default="stock")
    made.add_argument("--driver", choices=("xen", "embedded", "none"),
                      help="default: xen if the build has it")
    made.add_argument("--xen-helper", choices=("stock", "auto"), default="stock",
                      help="who moves guests' memory (driver xen)")
    made.add_argument("--token", type=int, default=3000, metavar="MS",
                      help="corosync's (default 3000: emulated nodes on a busy machine are slow)")
    made.add_argument("--watchdog", type=int, default=15, metavar="S",
                      help="watchdog's timeout (default 15)")
    made.add_argument("--memory", type=int, default=0, metavar="MIB",
                      help="memory for guests as hamgr.conf says it (default: what Xen has)")
    made.add_argument("--disks", type=disk_count, default=4, metavar="N",
                      help="shared disks for guests, /dev/nbd0 and on (default 4)")
    made.add_argument("--cold", action="store_true",
                      help="boot each node instead of waking it from a kept memory")
    with_build(made)
    verb("status", do_status, "Shows the nodes.")
    verb("ssh", do_ssh, "A shell in a node.").add_argument("node")
    made = verb("exec", do_exec, "Runs a command in a node.")
    made.add_argument("node")
    made.add_argument("command", nargs=argparse.REMAINDER)
    verb("copy", do_copy, "Copies files.").add_argument("paths", nargs="+")
    with_build(verb("install", do_install, "Brings a newer build to the nodes."))
    made = verb("power", do_power, "Switches a node.")
    made.add_argument("node")
    made.add_argument("what", choices=("off", "on", "reset", "hang"))
    made = verb("cable", do_cable, "Pulls or plugs a node's cable.")
    made.add_argument("node")
    made.add_argument("what", choices=("out", "in"))
    verb("console", do_console, "A guest's console.").add_argument("guest", type=guest_name)
    made = verb("guest", do_guest, "Writes the configuration of a guest to all nodes.")
    made.add_argument("guest", type=guest_name)
    made.add_argument("--type", choices=("pv", "pvh", "hvm"), default="pv")
    made.add_argument("--memory", type=int, default=128, metavar="MIB")
    made.add_argument("--working-set", type=int, default=32, metavar="MIB", help="kept in a hash chain")
    made.add_argument("--steps", type=int, default=4, metavar="N", help="pages written every 10 ms")
    made.add_argument("--disk", action="store_true", help="one of the lab's shared disks")
    made.add_argument("--write-ms", type=int, default=500, metavar="MS", help="between disk writes")
    verb("witness", do_witness, "What the storage saw: who wrote how often, and what must not be.")
    made = verb("chassis", do_chassis, "For a BMC's use.")
    made.add_argument("node")
    made.add_argument("words", nargs="+")
    verb("down", do_down, "Ends everything.")
    return top


def main(argv):
    options = parser().parse_args(argv)
    try:
        place = Place(options.dir, options.name)
        if os.getuid() != 0:
            raise LabError("network namespaces need root: sudo deploy/lab ...")
        return options.function(place, options)
    except (LabError, OSError) as error:
        return complain(str(error))
    except KeyboardInterrupt:
        return complain("interrupted; what is up stays up until: deploy/lab down")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
