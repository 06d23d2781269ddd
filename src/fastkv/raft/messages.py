"""
The nouns of consensus: entries, messages, configurations, and the Ready that the caller must act on.

Everything here is an immutable value. One Entry holds one *batch*: the commands of many clients as opaque bytes, so
there are a few thousand entries a second however many requests come in.

    data  := origin:u64 sequence:u64 commands      little-endian, as in docs/format.md; empty in a leader's no-op
    origin    the member that gathered the batch and answers its clients
    sequence  its number there; it rises over the member's whole life, restarts included

Invariants:
* The entries of a Message are consecutive and begin at `index + 1`.
* A Message carries a term that is durable at its sender (PRE_VOTE and its granted answer carry the term asked for).

What each kind of message means by its fields stands in `Kind`. Cited as §n: Ongaro and Ousterhout, "In Search of an
Understandable Consensus Algorithm (Extended Version)"; as thesis §n: Ongaro, "Consensus: Bridging Theory and Practice".
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

_HEADER = struct.Struct("<QQ")
BATCH_HEADER_BYTES = _HEADER.size

NO_MEMBER = 0  # The id that no member has: no leader, no vote, no transferee.


class EntryKind(IntEnum):
    """What an entry is: a batch of commands, a ConfChange, or nothing (a no-op, or a ConfChange that was refused)."""

    NORMAL = 0
    CONF_CHANGE = 1
    EMPTY = 2


class Entry(NamedTuple):
    """One batch at one place of the log. (term, index) names it: two logs that share it share all before it (§5.3)."""

    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    kind: EntryKind
    data: bytes


def make_batch(origin: int, sequence: int, commands: bytes = b"") -> bytes:
    """The data of an entry: who answers for it, then the commands."""
    return _HEADER.pack(origin, sequence) + commands


def batch_origin(data: bytes) -> tuple[int, int]:
    """(origin, sequence) of an entry's data; (0, 0) of a no-op's. ValueError if there is data but no header."""
    if not data:
        return (0, 0)
    if len(data) < _HEADER.size:
        raise ValueError(f"a batch of {len(data)} bytes has no header of {_HEADER.size} bytes")
    origin, sequence = _HEADER.unpack_from(data)
    return (origin, sequence)


def batch_commands(data: bytes) -> bytes:
    """What stands behind the header."""
    return data[_HEADER.size :]


class HardState(NamedTuple):
    """What a member must find again after a crash (§5.1, figure 2). `commit` alone may be lost."""

    term: int = 0
    vote: int = NO_MEMBER
    commit: int = 0


class Role(IntEnum):
    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


class SoftState(NamedTuple):
    """Who leads, as far as this member knows. Not stored."""

    term: int
    leader: int
    role: Role


class ConfState(NamedTuple):
    """A configuration. Ids ascend in every tuple; `voters_outgoing` is not empty exactly in a joint one (§6).

    learners_next: voters of the outgoing half that become learners when the joint configuration is left.
    auto_leave: the leader leaves the joint configuration by itself as soon as it has applied it.
    """

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False


class ChangeKind(IntEnum):
    ADD_VOTER = 0  # also promotes a learner
    REMOVE = 1
    ADD_LEARNER = 3  # also demotes a voter


class Change(NamedTuple):
    kind: ChangeKind
    member: int


class Transition(IntEnum):
    """How a ConfChange is carried out.

    AUTO: simply when it changes at most one voter, else through a joint configuration that is left automatically.
    JOINT_AUTO: through a joint configuration, left automatically.
    JOINT_EXPLICIT: through a joint configuration, left by a ConfChange without changes.
    """

    AUTO = 0
    JOINT_AUTO = 1
    JOINT_EXPLICIT = 2


class ConfChange(NamedTuple):
    """A change of membership. No changes: leave the joint configuration. `context` is the caller's (say, a name)."""

    changes: tuple[Change, ...] = ()
    transition: Transition = Transition.AUTO
    context: bytes = b""


class Snapshot(NamedTuple):
    """The state up to and including `index`, by name. The bytes travel on a stream of the caller's; `data` is the
    caller's too (where to find them, or in tests the state itself)."""

    index: int  # type: ignore[assignment]
    term: int
    conf: ConfState
    data: bytes = b""


class Kind(IntEnum):
    """Kinds of messages, and what the fields of `Message` mean in each. Unnamed fields are zero."""

    APPEND = 1  # index, log_term: the entry before `entries`; commit: the leader's
    APPEND_RESPONSE = 2  # index: match. reject: index is the refused one, (hint, log_term) may match
    HEARTBEAT = 3  # commit: never above what the follower holds; context: the read round
    HEARTBEAT_RESPONSE = 4  # context: the round of the heartbeat
    VOTE = 5  # index, log_term: the candidate's last entry; force: leadership is being transferred
    VOTE_RESPONSE = 6  # reject, and then index, log_term: what the sender knows to be committed
    PRE_VOTE = 7  # as VOTE; term: the one that the candidate would campaign in (thesis §9.6)
    PRE_VOTE_RESPONSE = 8  # as VOTE_RESPONSE; term: granted: the one asked for, refused: the sender's own
    SNAPSHOT = 9  # snapshot; the caller streams the state, then steps this message into the receiver
    PROPOSE = 10  # entries: batches for the leader, numbered index + 1 ... within (session, term)
    PROPOSE_RESPONSE = 11  # session; index: every batch up to this number has been appended
    READ_INDEX = 12  # session, context: the number of the question
    READ_INDEX_RESPONSE = 13  # session, context: of the question; index: serve the read when this is applied
    TIMEOUT_NOW = 14  # campaign at once (thesis §3.10)
    TRANSFER_LEADER = 15  # context: the member that is to lead, asked of the leader by a follower


class Message(NamedTuple):
    """One message between two members. One shape for all kinds, as figure 2 would be if it had one RPC."""

    kind: Kind
    to: int
    sender: int
    term: int
    index: int = 0  # type: ignore[assignment]
    log_term: int = 0
    commit: int = 0
    entries: tuple[Entry, ...] = ()
    reject: bool = False
    hint: int = 0
    context: int = 0
    session: int = 0
    force: bool = False
    snapshot: Snapshot | None = None


class ReadState(NamedTuple):
    """The read asked for as `context` is linearizable once `index` is applied (thesis §6.4)."""

    context: object
    index: int  # type: ignore[assignment]


class Ready(NamedTuple):
    """What the caller must do now. Several may be in flight; see `core.Node` for the order of things.

    number: counts the Readys of this Node from 1; what `persisted` is told.
    soft_state: set when leader, role or term changed.
    hard_state: set when it changed. To be written behind `entries`, in the same write.
    snapshot: to be installed before anything else of this Ready is written; it replaces the log.
    entries: to be appended; if entries[0].index is not behind the last one, the log is cut there first.
    must_sync: the write needs an fsync (False: nothing, or only the commit index, which may be written lazily).
    committed: to be applied in order, then `applied(index)`. A CONF_CHANGE is told `apply_conf_change` first.
    messages: may be sent at once, while the write of this Ready is under way.
    messages_after_persist: only when the writes of this Ready and of all before it are durable.
    read_states: reads that may be served when their index is applied.
    lost: sequences of this member's proposals that can never commit; they may be proposed again at once.
    uncertain: sequences whose fate a snapshot has swallowed: they are in it, or they are not.
    """

    number: int
    soft_state: SoftState | None
    hard_state: HardState | None
    snapshot: Snapshot | None
    entries: list[Entry]
    must_sync: bool
    committed: list[Entry]
    messages: list[Message]
    messages_after_persist: list[Message]
    read_states: list[ReadState]
    lost: list[int]
    uncertain: list[int]
