"""
What a leader knows about one other member, and how fast it may send to it.

    PROBE      one APPEND at a time, until the place where the logs part is found
    REPLICATE  many APPENDs under way; `next` runs ahead of what is acknowledged (thesis §10.2.1, pipelining)
    SNAPSHOT   nothing, until the snapshot has arrived or failed

       PROBE --ack--> REPLICATE          REPLICATE --rejected, unreachable--> PROBE
       any   --the entries it needs are compacted--> SNAPSHOT --reported, or acknowledged--> PROBE

Invariants:
* match < next; match never decreases within a term.
* REPLICATE: the APPENDs under way are in `inflights`, last indexes ascending; at most the configured count and bytes
  (one always fits).
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum


class Pace(IntEnum):
    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


class Progress:
    """One follower or learner, in the leader's eyes; also the leader itself, for whom only `match` counts."""

    __slots__ = (
        "active",
        "inflight_bytes",
        "inflights",
        "learner",
        "match",
        "next",
        "pace",
        "pending_snapshot",
        "ping",
        "probe_sent",
        "read_round",
        "sent_commit",
    )

    def __init__(self, next_index: int, *, learner: bool = False) -> None:
        self.match = 0
        self.next = next_index
        self.pace = Pace.PROBE
        self.probe_sent = False  # PROBE: wait for an answer, or for a heartbeat's
        self.pending_snapshot = 0
        self.inflights: deque[tuple[int, int]] = deque()  # (last index, bytes) of each APPEND under way
        self.inflight_bytes = 0
        self.active = True  # heard from since the last CheckQuorum
        self.learner = learner
        self.sent_commit = 0  # the commit index that it has been told, if nothing got lost
        self.ping = False  # it answers heartbeats but lags: send something even if everything was sent already
        self.read_round = 0  # the last read round that it has confirmed

    def __repr__(self) -> str:
        return (
            f"<Progress {self.pace.name} match={self.match} next={self.next} inflights={len(self.inflights)}"
            f"{' active' if self.active else ''}{' learner' if self.learner else ''}>"
        )

    # -- changes of pace --------------------------------------------------------------------------------------
    def _become(self, pace: Pace) -> None:
        self.pace = pace
        self.probe_sent = False
        self.pending_snapshot = 0
        self.sent_commit = 0
        self.inflights.clear()
        self.inflight_bytes = 0

    def become_probe(self) -> None:
        """Behind a snapshot: go on after it, if it arrived (the caller has set pending_snapshot to 0 if not)."""
        self.next = max(self.match + 1, self.pending_snapshot + 1)
        self._become(Pace.PROBE)

    def become_replicate(self) -> None:
        self._become(Pace.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        self._become(Pace.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1

    # -- answers ----------------------------------------------------------------------------------------------
    def acknowledge(self, index: int) -> bool:
        """It holds everything up to index. False: that was known."""
        if self.next <= index:
            self.next = index + 1
        if index <= self.match:
            return False
        self.match = index
        return True

    def reject(self, refused: int, probe: int) -> bool:
        """It refused an APPEND behind `refused`; go on behind `probe`. False: an answer that has been overtaken."""
        if self.pace is Pace.REPLICATE:
            if refused <= self.match:
                return False
            self.next = self.match + 1
            return True
        if self.pace is Pace.SNAPSHOT or self.next - 1 != refused:
            return False
        self.next = max(min(refused, probe + 1), self.match + 1)
        self.probe_sent = False
        return True

    # -- flow -------------------------------------------------------------------------------------------------
    def sent(self, last: int, size: int) -> None:
        """Entries up to `last` went out."""
        if self.pace is Pace.REPLICATE:
            self.next = last + 1
            self.inflights.append((last, size))
            self.inflight_bytes += size
        else:
            self.probe_sent = True

    def free_to(self, index: int) -> None:
        """APPENDs up to index are no longer under way."""
        inflights = self.inflights
        while inflights and inflights[0][0] <= index:
            self.inflight_bytes -= inflights.popleft()[1]

    def full(self, max_messages: int, max_bytes: int) -> bool:
        return len(self.inflights) >= max_messages or (0 < max_bytes <= self.inflight_bytes)
