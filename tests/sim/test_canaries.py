"""Every deliberate mistake is caught, by a checker of a guarantee that it breaks, within a bounded number of seeds."""

from __future__ import annotations

from collections import Counter

import pytest

from sim.canaries import CANARIES
from sim.run import run
from sim.violation import Violation

pytestmark = pytest.mark.random


@pytest.mark.parametrize("name", CANARIES)
def test_a_canary_is_caught(name: str) -> None:
    canary = CANARIES[name]
    others: Counter[str] = Counter()
    for seed in range(canary.seeds_max):
        try:
            run(seed, canary=name)
        except Violation as violation:
            if violation.guarantee in canary.caught_by:
                print(f"{name} ({canary.mistake}): caught by {violation.guarantee} with seed {seed}")
                return
            others[violation.guarantee] += 1
    pytest.fail(
        f"{name} ({canary.mistake}) was not caught in {canary.seeds_max} runs; other violations: {dict(others)}"
    )


def test_without_a_canary_the_same_runs_are_right() -> None:
    """The canaries' options alone break nothing."""
    for canary in CANARIES.values():
        fixed = canary.options.get("faults")
        for seed in range(3):
            run(seed, faults=fixed)
