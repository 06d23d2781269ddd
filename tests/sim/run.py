"""
One run by its name: a seed, the kind of run, and perhaps the faults and a canary. The same name is the same run.

    run(9041733, "log")                                       raises Violation, whose note is
    replay: make sim SEED=9041733 KIND=log FAULTS=partition,crash
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from sim.canaries import CANARIES
from sim.cluster import Simulation
from sim.options import FAULTS, draw

# What is not drawn from the seed.
KINDS: dict[str, dict[str, Any]] = {
    "model": {},
    "log": {"disk": "log"},
    "native": {"machine": "native", "watch": True},
    "python": {"machine": "python", "watch": True},
    "full": {"machine": "native", "watch": True, "disk": "log", "chaos_ticks": 400},
    "long": {"chaos_ticks": 1500, "converge_ticks": 1000},
}


def replay(seed: int, kind: str, faults: tuple[str, ...], canary: str = "") -> str:
    """The command that does it again."""
    name = f" CANARY={canary}" if canary else ""
    return f"make sim SEED={seed} KIND={kind} FAULTS={','.join(faults) or 'none'}{name}"


def parse_faults(text: str) -> tuple[str, ...] | None:
    """`partition,crash`, `none`, or nothing: as the seed says. ValueError."""
    if not text:
        return None
    faults = () if text == "none" else tuple(text.split(","))
    if unknown := set(faults) - set(FAULTS):
        raise ValueError(f"no such fault: {', '.join(sorted(unknown))}; there are: {', '.join(FAULTS)}")
    return faults


def run(
    seed: int,
    kind: str = "model",
    faults: tuple[str, ...] | None = None,
    canary: str = "",
    narrate: Callable[[str], None] | None = None,
) -> Simulation:
    """The Simulation after its run. Whatever it raises has a note that says how to replay it."""
    rng = random.Random(seed)
    broken = CANARIES[canary] if canary else None
    fixed = KINDS[kind] | (broken.options if broken else {})
    asked = fixed.get("faults")
    options = draw(rng, **fixed | {"faults": asked if faults is None else faults})
    with broken.sings() if broken else nullcontext():
        world = Simulation(rng, options, narrate)
        try:
            world.run()
        except BaseException as error:
            error.add_note(f"replay: {replay(seed, kind, options.faults, canary)}")
            raise
    return world
