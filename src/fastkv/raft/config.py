"""
The constants of one member. Time is in ticks, sizes in bytes. The defaults are etcd's where etcd has one.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastkv.raft.messages import NO_MEMBER


@dataclass(frozen=True, slots=True)
class Config:
    """What a Node is told once.

    id: this member, not 0.
    session: greater at every start of this member. It keeps what is still under way from an earlier life from being
        taken for the present one's (batches appended twice, reads answered with an old index). A counter kept with the
        meta bytes does, and so do the milliseconds at the start.
    applied: what the state machine has applied; entries behind it are handed out (again).
    election_ticks: a follower that hears nothing for this long, times [1, 2), campaigns. A leader that hears no quorum
        for this long steps down (CheckQuorum, thesis §6.2).
    heartbeat_ticks: how often a leader speaks; below election_ticks.
    pre_vote: ask before raising the term (thesis §9.6).
    check_quorum: the leader's stepping down, and the lease that goes with it: who has heard from a leader within
        election_ticks ignores candidates (thesis §4.2.3).
    max_message_bytes: entries in one APPEND, PROPOSE; at least one entry always goes.
    max_inflight_messages, max_inflight_bytes: APPENDs to one follower that are not answered yet (0 bytes = no limit).
    max_uncommitted_bytes: a leader refuses proposals beyond it, a follower forwards no more (0 = no limit). One
        proposal always fits.
    max_committed_bytes: committed entries in one Ready; at least one.
    max_applying_bytes: committed entries handed out and not yet `applied`; no more are handed out beyond it.
    tail_bytes: entries kept in memory behind the persisted and handed-out ones, for followers that are a little behind.
    max_pending_reads: read_index calls that wait for their answer.
    """

    id: int
    session: int = 1
    applied: int = 0
    election_ticks: int = 10
    heartbeat_ticks: int = 1
    pre_vote: bool = True
    check_quorum: bool = True
    max_message_bytes: int = 1 << 20
    max_inflight_messages: int = 512
    max_inflight_bytes: int = 0
    max_uncommitted_bytes: int = 1 << 30
    max_committed_bytes: int = 4 << 20
    max_applying_bytes: int = 64 << 20
    tail_bytes: int = 16 << 20
    max_pending_reads: int = 100_000

    def __post_init__(self) -> None:
        for name, least in (
            ("id", 1), ("session", 0), ("applied", 0), ("heartbeat_ticks", 1), ("max_message_bytes", 0),
            ("max_inflight_messages", 1), ("max_inflight_bytes", 0), ("max_uncommitted_bytes", 0),
            ("max_committed_bytes", 0), ("max_applying_bytes", 0), ("tail_bytes", 0), ("max_pending_reads", 1),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, below {least}")
        if self.election_ticks <= self.heartbeat_ticks:
            raise ValueError(
                f"election_ticks {self.election_ticks} must be above heartbeat_ticks {self.heartbeat_ticks}"
            )
        if self.id == NO_MEMBER:
            raise ValueError("id 0 means nobody")
