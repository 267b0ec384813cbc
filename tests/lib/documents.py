#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Man pages and completion say all there is: commands, their options, keys; and format cleanly.

    documents.py HACTL

HACTL is the built program; what it says of itself is what the documents must hold.
"""

import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def read(*parts):
    with open(os.path.join(ROOT, *parts), encoding="utf-8") as file:
        return file.read()


def man(name):
    """A page's source with its escapes undone."""
    return read("deploy", "man", name).replace("\\-", "-").replace("\\&", "").replace(
        "\\(aq", "'")


def said(hactl, *argv):
    return subprocess.run([hactl, *argv], capture_output=True, text=True, timeout=10,
                          check=True).stdout


def complete(*words):
    """What bash offers at the end of a command line; words but the last are complete."""
    script = ("source \"$0\"; hactl() { :; }; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _hactl; "
              "printf '%s\\n' \"${COMPREPLY[@]}\"")
    path = os.path.join(ROOT, "deploy", "completion", "hactl.bash")
    done = subprocess.run(["bash", "-c", script, path, "hactl", *words], capture_output=True,
                          text=True, timeout=10, check=False)
    return set(done.stdout.split()), done.stderr.strip()


def check_command(hactl, name, page):
    """Problems of one command."""
    words = name.split()
    help_text = said(hactl, *words, "--help")
    usage = help_text.splitlines()[0].removeprefix("Usage: ").strip()
    if usage not in page:
        yield f"hactl.8: \"{usage}\" is not there as --help says it"
    for line in help_text.splitlines()[1:]:
        if line.strip() and line.strip() not in page:
            yield f"hactl.8: {name}: \"{line.strip()}\" is missing"
    for i, word in enumerate(words):
        offered, problem = complete(*words[:i], word[:1])
        if problem or word not in offered:
            yield f"hactl.bash: {' '.join(words[:i + 1])} is not completed {problem}"
    # Where another word than an option comes first, --wait and the like stand behind it.
    offered = complete(*words, "--")[0] | complete(*words, "x", "--")[0]
    for option in set(OPTION.findall(help_text)) - {"--help", "--json", "--timeout"} - offered:
        yield f"hactl.bash: {name} {option} is not completed"


def check_hactl(hactl):
    page = man("hactl.8")
    names = re.findall(r"^  ([a-z-]+(?: [a-z-]+)?) {2,}", said(hactl, "--help"), re.M)
    if len(names) < 20:
        yield f"hactl --help lists only {names}"
    for name in names:
        yield from check_command(hactl, name, page)
        if not os.path.exists(os.path.join(ROOT, "ctl", "schema", name.replace(" ", "-") + ".json")):
            yield f"ctl/schema: {name} has no schema"
    for code in re.findall(r"EXIT_\w+ = (\d)", read("ctl", "hactl.h")):
        if f".B {code}\n" not in page:
            yield f"hactl.8: exit status {code} is missing"


def check_config():
    page = man("hamgr.conf.5")
    keys = re.findall(r'^    \{"(\w+)", "([a-z-]+)", [A-Z]', read("hamgr", "config", "config.c"),
                      re.M)
    if len(keys) < 20:
        yield f"config.c: only {keys}"
    for section, key in keys:
        part = re.search(rf"^\.SH \[{section}\]$(.*?)^\.SH", page, re.M | re.S)
        if not part or f"\\fB{key}\\fR" not in part.group(1):
            yield f"hamgr.conf.5: [{section}] {key} is missing"
    embedded = re.findall(r'^    \{"([a-z_]+)", [A-Z]+, ', read(
        "hamgr", "hv", "embedded", "definition.c"), re.M)
    if len(embedded) < 10:
        yield f"definition.c: only {embedded}"
    for key in embedded + ["agent", "level", "timeout", "nodes", "monitor"]:
        if not re.search(rf"(?<![\w]){key}(?![\w])", man("hamgrd.8")):
            yield f"hamgrd.8: {key} is missing"


def check_format():
    """Warnings of man-db, where it is installed."""
    for name in sorted(os.listdir(os.path.join(ROOT, "deploy", "man"))):
        if shutil.which("man") and shutil.which("groff"):
            done = subprocess.run(
                ["man", "-l", "--warnings", os.path.join(ROOT, "deploy", "man", name)],
                capture_output=True, text=True, timeout=30, check=False,
                env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "100", "MAN_KEEP_STDERR": "1",
                     "PAGER": "cat"})
            if done.stderr.strip() or done.returncode:
                yield f"{name}: {done.stderr.strip()}"


def main():
    problems = [*check_hactl(os.path.abspath(sys.argv[1])), *check_config(), *check_format()]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
