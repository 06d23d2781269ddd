"""
`make sim`: run the simulator by the hour, or replay one run. Its arguments are words NAME=value; an empty value is
none.

    make sim                         random seeds of every kind for SECONDS (3600), stops at the first failure
    make sim SEED=7 KIND=log FAULTS=crash,loss CANARY=figure-8 TRACE=1      one run; TRACE tells what happens in it
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter

from sim.canaries import CANARIES
from sim.run import KINDS, parse_faults, replay, run
from sim.violation import Violation

# How often each kind is drawn.
_SHARES = {"model": 60, "log": 15, "native": 8, "python": 4, "full": 8, "long": 5}


def main(words: list[str]) -> int:
    given = dict(word.partition("=")[::2] for word in words)
    if unknown := set(given) - {"SEED", "KIND", "FAULTS", "CANARY", "TRACE", "SECONDS"}:
        print(f"sim: no such argument: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    seed, kind, canary = given.get("SEED", ""), given.get("KIND", ""), given.get("CANARY", "")
    if kind not in ("", *KINDS) or canary not in ("", *CANARIES):
        print(f"sim: KIND is one of {', '.join(KINDS)}; CANARY one of {', '.join(CANARIES)}", file=sys.stderr)
        return 2
    try:
        faults = parse_faults(given.get("FAULTS", ""))
        number = int(seed) if seed else None
        seconds = float(given.get("SECONDS") or 3600)
    except ValueError as error:
        print(f"sim: {error}", file=sys.stderr)
        return 2
    if number is not None:
        return _one(number, kind or "model", faults, canary, trace=bool(given.get("TRACE")))
    return _many(seconds, kind, faults, canary)


def _one(seed: int, kind: str, faults: tuple[str, ...] | None, canary: str, *, trace: bool) -> int:
    try:
        world = run(seed, kind, faults, canary, print if trace else None)
    except Violation as violation:
        _report(violation)
        return 1
    print(
        f"converged {world.converged_after} ticks after the last fault; trace {world.trace_hash & (1 << 64) - 1:016x}"
    )
    print(f"run again: {replay(seed, kind, world.options.faults, canary)}")
    print(_summary(world.happened + world.clients.counts))
    return 0


def _many(seconds: float, kind: str, faults: tuple[str, ...] | None, canary: str) -> int:
    start = shown = time.monotonic()
    first = seed = random.SystemRandom().randrange(1 << 32)
    happened: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    while (now := time.monotonic()) - start < seconds:
        chosen = kind or random.Random(seed).choices(list(_SHARES), list(_SHARES.values()))[0]
        try:
            world = run(seed, chosen, faults, canary)
        except Violation as violation:
            _report(violation)
            return 1
        kinds[chosen] += 1
        happened += world.happened + world.clients.counts
        seed += 1
        if now - shown > 5:
            shown = now
            print(
                f"{seed - first:,} runs, {(seed - first) / (now - start):.0f} a second, no failure; "
                f"{seconds - (now - start):,.0f} s to go", flush=True,
            )  # fmt: skip
    print(f"{seed - first:,} runs, no failure: {dict(kinds)}")
    print(_summary(happened))
    return 0


def _report(violation: Violation) -> None:
    print("    ".join([str(violation), *violation.__notes__]), flush=True)


def _summary(happened: Counter[str]) -> str:
    return ", ".join(f"{what} {count:,}" for what, count in sorted(happened.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
