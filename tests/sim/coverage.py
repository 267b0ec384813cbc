#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What 2000 seeds did not reach fails tests/sim/run, and so does a transition that nobody knows.

    tests/sim/coverage.py

Asks the front's own judgement with counts made up here: the real ones take 2000 seeds.
"""

import contextlib
import importlib.machinery
import importlib.util
import io
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def load_run():
    loader = importlib.machinery.SourceFileLoader("sim_run", os.path.join(HERE, "run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("sim_run", loader))
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


def main():
    run = load_run()
    known = [tuple(words) for words in run.lines_of("transitions.txt")]
    whole = {("move", *words[:3]): 1 for words in known if len(words) == 3}
    whole |= {("fault", "isolate"): 5, ("fault", "power"): 5}
    needed = next(key for key in whole if key[0] == "move")
    cases = {
        "all that must be": (whole, True),
        "a transition missing": ({key: n for key, n in whole.items() if key != needed}, False),
        "an unknown transition": ({**whole, ("move", "keeper", "0", "3"): 1}, False),
        "a fault that never was": ({**whole, ("fault", "power"): 0}, False),
        "an entry of the next version that never was": ({**whole, ("version", "entry"): 0}, False),
    }
    for what, (cover, is_fine) in cases.items():
        with contextlib.redirect_stdout(io.StringIO()):
            assert run.report_coverage(cover, run.COVER_SEEDS) == is_fine, what
            assert run.report_coverage(cover, run.COVER_SEEDS - 1), f"{what}, with too few seeds"
    assert ("keeper", "0", "3") not in {words[:3] for words in known}
    print(f"{len(cases)} judged as they should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
