"""
Seeded runs of whole clusters. A failure prints its seed and the command that replays it; KEPT are seeds that once
failed.

Most runs are short ones on a dict, since bugs hide in rare orders of few events; the others have the real store, the
real log, or both.
"""

from __future__ import annotations

from collections import Counter

import pytest

from sim.options import FAULTS
from sim.run import run
from support.engines import ENGINES

pytestmark = pytest.mark.random

# More than 2,000 runs with those below and the canaries'; `make sim` makes a million.
MODEL_RUNS, LOG_RUNS, STORE_RUNS, FULL_RUNS, LONG_RUNS = 1_400, 240, 80, 24, 12
_CHUNK = 200

# Seed and kind, and what was wrong. The simulator draws other numbers when it changes, so a bug of the core that it
# found has a test in tests/raft, and where it can be put back with a patch a canary.
KEPT = [
    (201131, "model", "a removed member exited while a voter knew of the removal only in memory"),
    (100365, "model", "a member that was still being added was stopped as one that was removed"),
    (300133, "log", "the term before a log's first entry was not taken from the snapshot"),
]


@pytest.mark.parametrize("first", range(0, MODEL_RUNS, _CHUNK))
def test_clusters_keep_their_promises_and_converge(first: int) -> None:
    for seed in range(first, first + _CHUNK):
        run(seed)


@pytest.mark.parametrize("first", range(0, LOG_RUNS, 120))
def test_on_the_real_log_and_a_disk_that_tears(first: int) -> None:
    for seed in range(first, first + 120):
        run(seed, "log")


@pytest.mark.parametrize("engine", ENGINES)
def test_with_the_real_store(engine: str) -> None:
    for seed in range(STORE_RUNS // len(ENGINES)):
        run(seed, engine)


def test_with_the_real_store_on_the_real_log() -> None:
    for seed in range(FULL_RUNS):
        run(seed, "full")


def test_long_runs() -> None:
    for seed in range(LONG_RUNS):
        run(seed, "long")


@pytest.mark.parametrize(("seed", "kind", "what"), KEPT)
def test_seeds_that_once_failed(seed: int, kind: str, what: str) -> None:
    run(seed, kind)


# What each fault must have led to; a fault that never happens tests nothing.
TRACES = {
    "loss": "message lost", "duplicate": "message repeated", "reorder": "message overtaken", "delay": "message delayed",
    "partition": "two-way partition", "oneway": "one-way partition", "crash": "power loss", "kill": "kill -9",
    "slowdisk": "slow disk", "faildisk": "disk failed", "pause": "pause", "skew": "clock skew", "jump": "clock jump",
    "membership": "change of membership applied", "transfer": "leadership transfer", "compact": "compaction",
    "slowapply": "slow state machine", "unreachable": "reported unreachable", "burst": "burst",
}  # fmt: skip
CONSEQUENCES = (
    "cut off by a partition", "restart", "snapshot delivered", "snapshot installed", "lagging member",
    "joint configuration", "member removed itself", "removed member exited", "change of membership refused",
    "change of membership dropped", "transfer refused", "proposal lost", "history searched",
)  # fmt: skip
ANSWERS = (
    "read", "written", "proposed again", "uncertain", "timed out", "dropped: NO_LEADER", "dropped: TRANSFERRING",
    "dropped: TOO_MUCH_UNCOMMITTED",
)  # fmt: skip


def test_every_fault_happens_and_has_its_consequences() -> None:
    happened: Counter[str] = Counter()
    for seed in range(5_000, 5_150):
        world = run(seed)
        happened += world.happened + world.clients.counts
    assert set(TRACES) == set(FAULTS)
    missing = [what for what in (*TRACES.values(), *CONSEQUENCES, *ANSWERS) if not happened[what]]
    assert not missing, f"never happened: {missing}"


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone(fault: str) -> None:
    """So that the command printed for one fault of many is known to work; and alone it must happen, too."""
    happened: Counter[str] = Counter()
    for seed in range(8):
        happened += run(seed, faults=(fault,)).happened
    assert happened[TRACES[fault]]
