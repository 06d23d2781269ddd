"""
What consensus raises.

Two kinds: what a caller can act on (a proposal that was not taken, a log that was compacted), and InvariantError, which
says that this member or its disk is broken and must stop. Invariants are checked by `check`-like statements and not by
`assert`, which `python -O` removes.
"""

from __future__ import annotations

from enum import Enum


class RaftError(Exception):
    """Base of what a caller can act on."""


class DropReason(Enum):
    NO_LEADER = "there is no leader"
    TRANSFERRING = "leadership is being transferred"
    TOO_MUCH_UNCOMMITTED = "too many bytes wait to be committed"
    NOT_A_MEMBER = "this member is not in the configuration"


class ProposalDropped(RaftError):
    """The proposal was not taken and has no effect; it may be proposed again."""

    def __init__(self, reason: DropReason) -> None:
        super().__init__(f"raft proposal dropped: {reason.value}")
        self.reason = reason


class ConfChangeRefused(RaftError):
    """The change of membership is impossible now or ever; the text says why."""


class TransferRefused(RaftError):
    """Leadership cannot be moved to that member."""


class TooManyReads(RaftError):
    """`max_pending_reads` reads wait already."""


class Compacted(RaftError):
    """The storage no longer holds these entries: they are inside a snapshot."""


class Unavailable(RaftError):
    """The storage does not hold these entries, or no snapshot at this moment; ask again later."""


class InvariantError(Exception):
    """Something happened that cannot. The member must stop: carrying on could lose what was acknowledged."""
