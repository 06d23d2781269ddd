"""
What kind of run it is: drawn from the seed, so that a seed alone replays it.

Limits of the core are often drawn so small that its rare branches are the common ones: windows of one message, batches
that never fit, a tail that keeps nothing in memory.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

# Every fault there is; faults.py has a function for each.
FAULTS = (
    "loss", "duplicate", "reorder", "delay", "partition", "oneway", "crash", "kill", "slowdisk", "faildisk", "pause",
    "skew", "jump", "membership", "transfer", "compact", "slowapply", "unreachable",
    "burst",
)  # fmt: skip


@dataclass
class Options:
    faults: tuple[str, ...] = FAULTS
    voters: int = 3
    learners: int = 0
    chaos_ticks: int = 100
    converge_ticks: int = 600  # at most; it is over as soon as it is converged
    clients: int = 3
    keys: int = 3
    machine: str = "model"  # or native, python
    watch: bool = False
    disk: str = "model"  # or log: the real log on faulty files
    encoded: bool = False  # messages go through the codec
    loop_lag: int = 0  # a process works up to this much later than something comes
    fault_gap_ticks: int = 6  # on average between two faults
    restart_ticks: int = 25  # at most, after a process ended
    config: dict[str, Any] = field(default_factory=dict)


def draw(rng: random.Random, faults: tuple[str, ...] | None = None, **fixed: Any) -> Options:
    """A run of any kind; `fixed` fields are as given."""
    options = Options()
    # Few at a time go deeper than all at once.
    chosen = tuple(fault for fault in FAULTS if rng.random() < 0.5)
    options.faults = chosen if faults is None else faults
    options.voters = rng.choices((1, 3, 5, 7), (5, 65, 24, 6))[0]
    options.learners = rng.choices((0, 1, 2), (75, 20, 5))[0]
    options.chaos_ticks = rng.randrange(40, 140) * 3 // max(options.voters, 3)
    options.clients = rng.randrange(1, 5)
    options.keys = rng.randrange(1, 5)
    options.encoded = rng.random() < 0.1
    options.loop_lag = rng.choice((0, 0, 10, 40))
    options.fault_gap_ticks = rng.randrange(3, 12)
    election_ticks = rng.randrange(4, 11)
    options.config = {
        "election_ticks": election_ticks,
        "heartbeat_ticks": rng.choice((1, 1, 2, 3)),
        "pre_vote": rng.random() < 0.8,
        "check_quorum": rng.random() < 0.85,
        "max_message_bytes": rng.choice((0, 100, 1 << 20, 1 << 20)),
        "max_inflight_messages": rng.choice((1, 2, 8, 512)),
        "max_inflight_bytes": rng.choice((0, 0, 100)),
        "max_uncommitted_bytes": rng.choice((0, 300, 1 << 30)),
        "max_committed_bytes": rng.choice((0, 100, 4 << 20)),
        "max_applying_bytes": rng.choice((0, 100, 64 << 20)),
        "tail_bytes": rng.choice((0, 100, 16 << 20)),
        "max_pending_reads": rng.choice((1, 100_000, 100_000)),
    }
    for name, value in fixed.items():
        if name == "config":
            options.config |= value
        elif hasattr(options, name):
            setattr(options, name, value)
        else:
            raise TypeError(f"there is no option {name}")
    return options
