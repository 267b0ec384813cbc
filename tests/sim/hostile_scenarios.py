#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Any scenario file is played or refused with a reason, never a crash.

    tests/sim/hostile_scenarios.py BINARY [COUNT]

Damages example.json in COUNT ways (default 150), each from a seed of its own: values replaced by ones
of another kind, keys removed or misspelt, files cut. Then counts what came of them; that none is
refused, or none is played, is a failure as well.
"""

import json
import os
import random
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import scenario  # noqa: E402

STRANGE = (None, True, -1, 0, 1e308, 2**70, "", "x" * 300, "vm:1\nat 5 power 1 off", "\u0000", "é",
           [], {}, [[]], [None], {"a": {}}, "started", "a", float("nan"))


def places(value):
    """Every (container, key) inside."""
    found = []
    todo = [value]
    while todo:
        at = todo.pop()
        keys = list(at) if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else []
        for key in keys:
            found.append((at, key))
            todo.append(at[key])
    return found


def damage(text, rng):
    if rng.random() < 0.1:
        return text[:rng.randrange(len(text))]
    data = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        container, key = rng.choice(places(data))
        what = rng.random()
        if what < 0.6:
            container[key] = rng.choice(STRANGE)
        elif isinstance(container, dict) and what < 0.8:
            container[str(key) + "x"] = container.pop(key)
        else:
            del container[key]
        if not places(data):
            break
    return json.dumps(data)


def try_one(binary, text, seed):
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        story, result = scenario.load(file.name)
        if story:
            result = scenario.play(binary, story)
    for key in ("name", "final", "events", "violations", "refused"):
        assert key in result, f"seed {seed}: no {key} in {result}"
    assert not result["violations"], f"seed {seed}: {result['violations']}"
    assert result["refused"] is None or len(result["refused"]) > 5, f"seed {seed}: {result}"
    return result["refused"]


def main():
    binary, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 150
    with open(os.path.join(HERE, "example.json"), encoding="utf-8") as file:
        text = file.read()
    assert try_one(binary, text, 0) is None, "the example itself is refused"
    played = refused = 0
    for seed in range(1, count + 1):
        if try_one(binary, damage(text, random.Random(seed)), seed) is None:
            played += 1
        else:
            refused += 1
    print(f"{count} damaged scenarios: {played} played, {refused} refused")
    return 0 if played and refused else 1


if __name__ == "__main__":
    sys.exit(main())
