#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""House rules a compiler does not check. Prints FILE:LINE: rule for each breach; exit 1 if any.

    tests/lib/tidy.py [FILE...]      (default: all files of the tree)
"""

import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILE_MAX = 800
FUNCTION_MAX = 70
LINE_MAX = 120  # of scripts; in C clang-format decides (100)
CONDITIONALS_MAX = 3  # `#if` a file, include guard apart: platform choice is by file
# Calls with a better one at hand: shells, unbounded copies, hidden state, unchecked numbers.
BANNED = {
    "system": "posix_spawn or fork and exec", "popen": "pipe, fork and exec",
    "sprintf": "snprintf", "vsprintf": "vsnprintf", "strcpy": "memcpy with a checked size",
    "strcat": "snprintf", "strncpy": "memcpy with a checked size", "strncat": "snprintf",
    "gets": "fgets", "atoi": "strtol", "atol": "strtol", "alloca": "a bounded array",
    "tmpnam": "mkstemp", "mktemp": "mkstemp", "rand": "hamgr/base/rng.h", "strtok": "strtok_r",
    "asctime": "strftime", "ctime": "strftime", "gmtime": "gmtime_r", "localtime": "localtime_r",
}
BANNED_CALL = re.compile(r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\(")
# Assembled, so that this file passes its own rule.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX"]) + r")\b")
COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
LICENSED = (".c", ".h", ".py", ".sh", ".cmake", "CMakeLists.txt", ".service", ".socket", ".target")


def tree():
    """Files git knows or would take; without git, everything outside build directories."""
    done = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"],
                          capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return [os.path.join(ROOT, name) for name in sorted(set(done.stdout.splitlines()))]
    found = []
    for directory, names, files in os.walk(ROOT):
        names[:] = [n for n in names if not n.startswith(("build", ".git", "__pycache__"))]
        found += [os.path.join(directory, name) for name in files]
    return sorted(found)


def is_script(path, lines):
    return path.endswith((".py", ".sh")) or (lines and lines[0].startswith("#!"))


def blank(text):
    """Comments and string contents replaced by blanks, lines kept."""
    return COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def check_functions(lines):
    """Function bodies start with '{' and end with '}' in the first column (clang-format's)."""
    start = None
    for number, line in enumerate(lines, 1):
        if line == "{":
            start = number
        elif line == "}" and start is not None:
            if number - start + 1 > FUNCTION_MAX:
                yield start, f"function of {number - start + 1} lines, at most {FUNCTION_MAX}"
            start = None
        elif start is not None and re.match(r"\s*#\s*(if|ifdef|ifndef)\b", line):
            yield number, "conditional compilation inside a function"


def check_c(text):
    code = blank(text)
    lines = code.splitlines()
    yield from check_functions(lines)
    conditionals = [n for n, line in enumerate(lines, 1) if re.match(r"\s*#\s*(if|ifdef|ifndef)\b",
                                                                     line)]
    if len(conditionals) > CONDITIONALS_MAX + 1:
        yield conditionals[-1], f"more than {CONDITIONALS_MAX} conditionals in a file"
    for number, line in enumerate(lines, 1):
        for match in BANNED_CALL.finditer(line):
            yield number, f"{match.group(1)}() is banned: {BANNED[match.group(1)]}"


def check(path, text):
    lines = text.splitlines()
    script = is_script(path, lines)
    if (script or path.endswith(LICENSED)) and not any("SPDX-License-Identifier: Apache-2.0" in line
                                                       for line in lines[:3]):
        yield 1, "no SPDX-License-Identifier: Apache-2.0 on top"
    is_code = path.endswith((".c", ".h"))
    if not is_code and not script:
        return
    if len(lines) > FILE_MAX:
        yield FILE_MAX, f"{len(lines)} lines, at most {FILE_MAX}"
    for number, line in enumerate(lines, 1):
        if script and len(line) > LINE_MAX:
            yield number, f"{len(line)} columns, at most {LINE_MAX}"
        if UNFINISHED.search(line):
            yield number, "unfinished business belongs to an issue"
        if line != line.rstrip():
            yield number, "blanks at the end"
    if is_code:
        yield from check_c(text)
    elif path.endswith(".py") or (lines and "python" in lines[0]):
        try:
            compile(text, path, "exec")
        except SyntaxError as error:
            yield error.lineno, f"syntax: {error.msg}"


def main(argv):
    breaches = 0
    for path in argv or tree():
        if not os.path.isfile(path):
            continue
        with open(path, "rb") as file:
            data = file.read()
        if b"\0" in data[:4096]:
            continue
        for number, words in check(path, data.decode("utf-8", "replace")):
            breaches += 1
            print(f"{os.path.relpath(path, ROOT)}:{number}: {words}")
    print(f"tidy: {breaches} breaches" if breaches else "tidy: ok")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
