"""
One member of a Raft group: no clock, no disk, no socket.

`step`, `tick`, `propose` and the others change the member; `ready` says what the caller must now persist, send and
apply. The same calls with the same seed give the same sequence of Ready, bit for bit.

    node = Node(config, storage, random.Random(seed))
    while node.has_ready():
        ready = node.ready()
        send(ready.messages)                        # at once: the leader's entries leave before its own disk has them
        write(ready.snapshot, ready.entries, ready.hard_state)   # one write, in this order; fsync if must_sync
        apply(ready.committed)                      # meanwhile; apply_conf_change for each CONF_CHANGE; then
        node.applied(last index)
        ...                                         # when the write, and every one before it, is durable:
        node.persisted(ready.number)
        send(ready.messages_after_persist)

What may overlap: any number of Readys may be taken before the first is persisted, and `applied` and `persisted` come in
any order relative to each other. What may not: writes happen in the order of the Readys; persisted(n) says that all up
to n are durable; messages_after_persist of n wait for that even if n itself has nothing to write; committed entries are
applied in order. `ready` may raise nothing but InvariantError; after one of those the Node is not to be used any more.

What becomes of a proposal: `propose` raises ProposalDropped (it has no effect), or the batch is one day in
`Ready.committed` with this member as origin, or its sequence is in `Ready.lost` (it can never commit: safe to propose
again at once) or, after a snapshot, in `Ready.uncertain`. Until then it is open. See forwarding.py for why that is
exact.

Invariants (broken ones raise InvariantError with the numbers):
* term never decreases; at most one vote a term (§5.2); at most one leader a term.
* applied <= commit <= last_index; an entry at or below commit never changes (§5.4).
* a member's own acknowledgement and its own vote count only when they are durable (thesis §10.2.1).
* at most one change of membership is between the log and the state machine (thesis §4.1).

Thread safety: none; one thread at a time. Left out: lease-based reads, witnesses.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from fastkv.raft import election, follower, forwarding, membership, reads, replication, transfer
from fastkv.raft.config import Config
from fastkv.raft.errors import InvariantError
from fastkv.raft.log import Write
from fastkv.raft.messages import (
    NO_MEMBER,
    ConfChange,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Kind,
    Message,
    Ready,
    Role,
    SoftState,
)
from fastkv.raft.progress import Progress
from fastkv.raft.state import State
from fastkv.raft.storage import Storage

Handler = Callable[[State, Message], None]


def _handle_propose(state: State, message: Message) -> None:
    forwarding.handle_propose(state, message, membership.append_proposal)


def _handle_heartbeat_response(state: State, message: Message) -> None:
    replication.handle_heartbeat_response(state, message)
    reads.release(state)


# What each role does with a message of its own term; what is not here is ignored (it is late, or for another role).
_IN_EVERY_ROLE: dict[Kind, Handler] = {Kind.VOTE: election.handle_vote, Kind.PRE_VOTE: election.handle_vote}
_CANDIDATE: dict[Kind, Handler] = _IN_EVERY_ROLE | {
    Kind.VOTE_RESPONSE: election.handle_vote_response,
    Kind.PRE_VOTE_RESPONSE: election.handle_vote_response,
}
_HANDLERS: dict[Role, dict[Kind, Handler]] = {
    Role.FOLLOWER: _IN_EVERY_ROLE
    | {
        Kind.APPEND: follower.handle_append,
        Kind.HEARTBEAT: follower.handle_heartbeat,
        Kind.SNAPSHOT: follower.handle_snapshot,
        Kind.PROPOSE_RESPONSE: forwarding.handle_propose_response,
        Kind.READ_INDEX_RESPONSE: reads.handle_read_index_response,
        Kind.TIMEOUT_NOW: election.handle_timeout_now,
    },
    Role.PRE_CANDIDATE: _CANDIDATE,
    Role.CANDIDATE: _CANDIDATE,
    Role.LEADER: _IN_EVERY_ROLE
    | {
        Kind.APPEND_RESPONSE: replication.handle_append_response,
        Kind.HEARTBEAT_RESPONSE: _handle_heartbeat_response,
        Kind.PROPOSE: _handle_propose,
        Kind.READ_INDEX: reads.handle_read_index,
        Kind.TRANSFER_LEADER: transfer.handle_transfer_leader,
    },
}


class Status(NamedTuple):
    """For metrics, tests and the member list. progress: empty unless leader."""

    id: int
    term: int
    vote: int
    role: Role
    leader: int
    transferee: int
    commit: int
    applied: int
    persisted: int
    last_index: int
    conf: ConfState
    progress: dict[int, Progress]


class Node(State):
    """One member. State's fields may be read at any time: id, term, role, leader, conf, log.commit, log.applied."""

    __slots__ = ("_applying", "_applying_bytes", "_hard_state", "_number", "_soft_state")

    def __init__(self, config: Config, storage: Storage, rng: random.Random) -> None:
        """Starts as a follower from what the storage holds; entries behind config.applied are handed out again."""
        super().__init__(config, storage, rng)
        membership.switch(self, self.conf)
        self._number = 0
        self._applying: deque[tuple[int, int]] = deque()  # (last index, bytes) of each Ready.committed not yet applied
        self._applying_bytes = 0
        self._hard_state = HardState(self.term, self.vote, self.log.commit)
        self._soft_state = SoftState(self.term, NO_MEMBER, Role.FOLLOWER)

    # -- input ------------------------------------------------------------------------------------------------
    def step(self, message: Message) -> None:
        """Take in a message from a peer, in any order, any number of times or never. One to another member is ignored.

        A SNAPSHOT is stepped once its state has arrived completely; it may be refused (it is old), see Ready.snapshot.
        """
        if message.to != self.id or not election.admit(self, message):
            return
        handler = _HANDLERS[self.role].get(message.kind)
        if handler is not None:
            handler(self, message)

    def tick(self) -> None:
        """One unit of time has passed."""
        election.tick(self)
        membership.leave_if_due(self)

    def campaign(self) -> None:
        """Stand for election now (a single member at its start). Ignored by who leads or may not."""
        election.campaign(self)

    def propose(self, data: bytes) -> None:
        """Take one batch: `make_batch(own id, sequence, ...)`, the sequence not open already. Followers forward it.

        ProposalDropped: it was not taken. Else see "What becomes of a proposal" above.
        """
        forwarding.propose(self, EntryKind.NORMAL, data, membership.append_proposal)

    def propose_conf_change(self, change: ConfChange, sequence: int) -> None:
        """As `propose`, for a change of membership (`sequence` from the same numbers). ConfChangeRefused: impossible.

        A forwarded change that the leader refuses comes back as `Ready.lost`; then too it may be proposed again.
        """
        if self.is_leader:
            membership.check_proposal(self, change)
        data = membership.encode(self.id, sequence, change)
        forwarding.propose(self, EntryKind.CONF_CHANGE, data, membership.append_proposal)

    def apply_conf_change(self, entry: Entry, *, refuse: bool = False) -> ConfState:
        """To be called when a CONF_CHANGE entry of Ready.committed is applied, before `applied` covers it.

        Returns the configuration from here on, which belongs with the applied state. refuse: the state machine does not
        want it (every member must say so alike); the configuration stays.
        """
        return membership.apply(self, entry, refuse=refuse)

    def read_index(self, context: object) -> None:
        """Ask for a linearizable read; answered by a ReadState with this context. Any member may ask.

        Never answered while there is no leader with a quorum; it is asked again by itself. TooManyReads.
        """
        reads.ask(self, context)

    def transfer_leadership(self, to: int) -> None:
        """Hand leadership over (thesis §3.10). Followers pass it on. Given up after election_ticks. TransferRefused."""
        transfer.request(self, to)

    def report_unreachable(self, member: int) -> None:
        """Messages to this member may have been lost: go back to probing it."""
        replication.report_unreachable(self, member)

    def report_snapshot(self, member: int, *, delivered: bool) -> None:
        """How the streaming of a SNAPSHOT message ended. Must be told for each, or the member gets nothing more."""
        replication.report_snapshot(self, member, delivered)

    # -- output -----------------------------------------------------------------------------------------------
    def has_ready(self) -> bool:
        """Whether `ready` has anything to say."""
        self._flush()
        log = self.log
        return bool(
            self.messages
            or self.messages_after_persist
            or log.has_unwritten()
            or self._may_apply()
            or self.reads.states
            or self.proposals.lost
            or self.proposals.uncertain
            or self._snapshot_waits()
            or self._hard_state != (self.term, self.vote, log.commit)
            or self._soft_state != (self.term, self.leader, self.role)
        )

    def ready(self) -> Ready:
        """What must be done since the last Ready."""
        self._flush()
        log = self.log
        self._number += 1
        soft_state = SoftState(self.term, self.leader, self.role)
        hard_state = HardState(self.term, self.vote, log.commit)
        new_soft_state = None if soft_state == self._soft_state else soft_state
        new_hard_state = None if hard_state == self._hard_state else hard_state
        must_sync = hard_state[:2] != self._hard_state[:2]
        if hard_state.term != self._hard_state.term:
            # What was promised to an earlier term before the disk heard of it is void.
            self.messages_after_persist = [m for m in self.messages_after_persist if m.term >= self.term]
        self._soft_state = soft_state
        self._hard_state = hard_state
        snapshot = log.pending_snapshot if self._snapshot_waits() else None
        entries = log.take_unwritten()
        if entries or snapshot is not None or must_sync:
            must_sync = True
            log.writes.append(Write(self._number, log.written, self.term, self.vote, snapshot))
        committed: list[Entry] = []
        if self._may_apply():
            committed = log.take_committed(self.config.max_committed_bytes)
            size = sum([len(entry.data) for entry in committed])
            self._applying.append((log.applying, size))
            self._applying_bytes += size
            self.proposals.settle(self.id, committed)
        messages, self.messages = self.messages, []
        after, self.messages_after_persist = self.messages_after_persist, []
        states, self.reads.states = self.reads.states, []
        lost, self.proposals.lost = self.proposals.lost, []
        uncertain, self.proposals.uncertain = self.proposals.uncertain, []
        return Ready(
            self._number, new_soft_state, new_hard_state, snapshot, entries, must_sync, committed, messages, after,
            states, lost, uncertain,
        )  # fmt: skip

    def persisted(self, number: int) -> None:
        """The writes of the Readys up to this number are durable (a Ready without any may be told or not)."""
        if number > self._number:
            raise InvariantError(f"Ready {number} is persisted, but the last one is {self._number}")
        write = self.log.persisted(number)
        if write is None:
            return
        self.durable_term = write.term
        self.durable_vote = write.vote
        election.count_own_vote(self, write)
        if self.is_leader:
            self.progress[self.id].match = self.log.stable
            replication.maybe_commit(self)

    def applied(self, index: int) -> None:
        """The state machine has applied the entries (or the snapshot) up to this index."""
        self.log.applied_to(index)
        while self._applying and self._applying[0][0] <= index:
            self._applying_bytes -= self._applying.popleft()[1]
        membership.leave_if_due(self)
        election.campaign_if_summoned(self)

    def status(self) -> Status:
        """A copy of what is worth showing."""
        log = self.log
        return Status(
            self.id, self.term, self.vote, self.role, self.leader, self.transferee, log.commit, log.applied, log.stable,
            log.last_index, self.conf, {m: copy.copy(p) for m, p in self.progress.items()} if self.is_leader else {},
        )  # fmt: skip

    # -- within -----------------------------------------------------------------------------------------------
    def _flush(self) -> None:
        """Turn what has gathered into messages."""
        if self.is_leader:
            replication.flush(self)
        else:
            forwarding.flush(self)
        reads.flush(self)

    def _may_apply(self) -> bool:
        return self.log.has_committed() and (
            not self._applying or self._applying_bytes < self.config.max_applying_bytes
        )

    def _snapshot_waits(self) -> bool:
        """Whether a snapshot is to be installed that no Ready has carried."""
        pending = self.log.pending_snapshot
        return pending is not None and not any(write.snapshot is pending for write in self.log.writes)
