"""
What Raft promises, asked after every step (figure 3 of the paper, and what core.py adds).

One method for each guarantee; it raises Violation under its own name. They keep the *truth*: which entry stands at
which index, in which term it was committed, what the state is after it. The truth is what the first member says; every
other one must say the same. Nothing here may change a member or draw a random number.

    one_leader_a_term        §5.2     at most one member leads in a term
    terms_never_fall         §5.1     not even across crashes, once anybody was told
    one_vote_a_term          §5.2     not even across crashes
    log_matching             §5.3     (index, term) names one entry, and with it all entries before it
    leader_completeness      §5.4     who leads has every entry that was committed in an earlier term
    committed_is_durable     §5.4     an entry counts as committed only when a quorum of voters has it on disk
    commit_never_falls       §5.4     and what is below it never changes
    persisted_before_sent    §5       a promise is on the disk of who gives it before it is on the wire
    state_machine_safety     §5.4.3   the same entries are applied in the same order, giving the same answers and states
    one_change_at_a_time     th. §4.1 at most one change of membership is in a leader's log and not applied
    configurations_agree     §6       members that applied equally much have the same configuration
    lost_means_lost          core.py  a proposal that was called lost is never committed
    applied_once             core.py  a batch, and an operation that is proposed again behind `lost`, takes effect once
    linearizable             §8       every answer fits the real-time order (linearizable.py checks the history again)
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from typing import TYPE_CHECKING

from fastkv.raft import (
    Compacted,
    ConfState,
    Entry,
    EntryKind,
    Kind,
    MemoryStorage,
    Message,
    Ready,
    Role,
    Unavailable,
    batch_commands,
    batch_origin,
)
from fastkv.raft.log import RaftLog
from fastkv.raft.quorum import majority
from sim.machine import Command, Model
from sim.violation import Violation

if TYPE_CHECKING:
    from sim.client import Operation
    from sim.host import Host

_EVERYTHING = 1 << 62
_ASKS_FOR_TERM = (Kind.PRE_VOTE, Kind.PRE_VOTE_RESPONSE)


class Truth:
    """What is committed and what comes of it. Lists are indexed by log index; place 0 stands for the empty log."""

    def __init__(self) -> None:
        self.committed: list[Entry] = [Entry(0, 0, EntryKind.EMPTY, b"")]
        self.committed_in: list[int] = [0]  # the term of whoever knew of it first, which is the leader that did it
        self.model = Model()
        self.chain: list[int] = [0]  # of the entries up to an index that is applied somewhere
        self.took_effect: list[bool] = [False]
        self.conf: dict[int, ConfState] = {0: ConfState()}  # by the index from which it holds
        self.conf_indexes: list[int] = [0]
        self.values: dict[int, list[tuple[int, int]]] = {}  # key -> (index, value), ascending
        self.fingerprints: dict[int, object] = {}

    @property
    def last_applied(self) -> int:
        return len(self.chain) - 1

    def value_at(self, key: int, index: int) -> int:
        history = self.values.get(key, [])
        place = bisect_right(history, (index, _EVERYTHING))
        return history[place - 1][1] if place else 0

    def conf_at(self, index: int) -> ConfState:
        return self.conf[self.conf_indexes[bisect_right(self.conf_indexes, index) - 1]]


def entries_between(log: RaftLog, lo: int, hi: int) -> list[Entry]:
    """Entries [lo, hi); one call of the log may return fewer, and what lies across storage and memory in two parts."""
    entries: list[Entry] = []
    while lo < hi:
        entries += log.entries(lo, _EVERYTHING, hi)
        lo = entries[-1].index + 1
    return entries


def holds(storage: MemoryStorage, index: int, term: int) -> bool:
    """Whether this entry is there, or inside the snapshot."""
    try:
        return storage.term(index) == term
    except Compacted:
        return True
    except Unavailable:
        return False


class Checkers:
    def __init__(self, hosts: dict[int, Host]) -> None:
        self.hosts = hosts
        self.truth = Truth()
        self.leaders: dict[int, int] = {}  # term -> member
        self.terms: dict[int, int] = {}  # member -> the highest term that it told anybody
        self.votes: dict[tuple[int, int], int] = {}  # (member, term) -> whom it told that it votes for
        self.names: dict[tuple[int, int], tuple[int, int, bytes]] = {}  # (index, term) -> term before, kind, data
        self.sequences: dict[tuple[int, int], int] = {}  # (origin, sequence) -> where it is committed
        self.operations: dict[int, int] = {}  # operation -> where it is committed
        self.lost: set[tuple[int, int]] = set()
        self.floor = 0  # the highest index that an answer was given from

    # -- after every call of a node ---------------------------------------------------------------------------
    def look(self, host: Host) -> None:
        node = host.node
        role = (node.term, int(node.role))
        if role != host.seen_role:
            self.terms_never_fall(host, node.term)
            host.seen_role = role
            host.world.say(f"member {host.id} is {node.role.name} in term {node.term}")
            if node.role is Role.LEADER:
                self.one_leader_a_term(host)
                self.leader_completeness(host)
        if node.log.commit != host.seen_commit:
            self.commit_never_falls(host)
            host.seen_commit = node.log.commit

    def terms_never_fall(self, host: Host, term: int) -> None:
        known = max(self.terms.get(host.id, 0), host.seen_role[0])
        if term < known:
            raise Violation("terms_never_fall", f"member {host.id} is in term {term}, but was in {known} already")

    def one_leader_a_term(self, host: Host) -> None:
        other = self.leaders.setdefault(host.node.term, host.id)
        if other != host.id:
            raise Violation("one_leader_a_term", f"members {other} and {host.id} both lead in term {host.node.term}")

    def leader_completeness(self, host: Host) -> None:
        term, truth = host.node.term, self.truth
        index = len(truth.committed) - 1
        while truth.committed_in[index] >= term:
            index -= 1
        entry = truth.committed[index]
        log = host.node.log
        if index > log.last_index or (index >= log.first_index() and not log.matches(index, entry.term)):
            raise Violation(
                "leader_completeness",
                f"member {host.id} leads in term {term} without entry {index} of term {entry.term}, committed in term "
                f"{truth.committed_in[index]}",
            )

    def commit_never_falls(self, host: Host) -> None:
        log, _truth = host.node.log, self.truth
        old, new = host.seen_commit, log.commit
        if new < old:
            raise Violation("commit_never_falls", f"member {host.id}: commit {new} after {old}")
        if new > log.last_index or not log.applied <= log.applying <= new:
            raise Violation(
                "commit_never_falls", f"member {host.id}: applied {log.applied}, commit {new}, last {log.last_index}"
            )
        if log.pending_snapshot is not None:
            old = max(old, log.pending_snapshot.index)
            self._agreed(
                host, Entry(log.pending_snapshot.term, log.pending_snapshot.index, EntryKind.EMPTY, b""), named=True
            )
        if new > old:
            for entry in entries_between(log, old + 1, new + 1):
                self._agreed(host, entry)
            if host.node.is_leader:
                self.committed_is_durable(host, new)

    def _agreed(self, host: Host, entry: Entry, *, named: bool = False) -> None:
        """The member says that this entry is committed. named: only index and term are known."""
        truth = self.truth
        if entry.index == len(truth.committed) and not named:
            self._commit(host, entry)
            return
        if entry.index >= len(truth.committed):
            raise Violation(
                "commit_never_falls", f"member {host.id}: {entry.index} is committed, but not what is before it"
            )
        other = truth.committed[entry.index]
        if (named and entry.term != other.term) or (not named and entry != other):
            raise Violation("commit_never_falls", f"member {host.id} takes {entry} for committed, others {other}")

    def _commit(self, host: Host, entry: Entry) -> None:
        """Known for the first time."""
        truth = self.truth
        truth.committed.append(entry)
        truth.committed_in.append(max(host.node.term, truth.committed_in[-1]))
        name = batch_origin(entry.data)
        if entry.kind is EntryKind.EMPTY or name == (0, 0):
            return
        self.lost_means_lost(name, committed=True)
        self.applied_once(entry, name)

    def committed_is_durable(self, host: Host, index: int) -> None:
        term = host.node.log.term(index)
        for voters in (host.node.conf.voters, host.node.conf.voters_outgoing):
            holders = [id for id in voters if holds(self.hosts[id].disk.durable, index, term)]
            if voters and len(holders) < majority(len(voters)):
                raise Violation(
                    "committed_is_durable",
                    f"member {host.id} has committed {index}, which of {voters} only {holders} have",
                )

    def lost_means_lost(self, name: tuple[int, int], *, committed: bool) -> None:
        if not committed:
            self.lost.add(name)
        if name in self.lost and (committed or name in self.sequences):
            raise Violation("lost_means_lost", f"batch {name[1]} of member {name[0]} is called lost, but is committed")

    def applied_once(self, entry: Entry, name: tuple[int, int]) -> None:
        if self.sequences.setdefault(name, entry.index) != entry.index:
            raise Violation("applied_once", f"batch {name} stands at {self.sequences[name]} and {entry.index}")
        if entry.kind is EntryKind.NORMAL:
            id = Command.decode(batch_commands(entry.data)).id
            if self.operations.setdefault(id, entry.index) != entry.index:
                raise Violation("applied_once", f"operation {id} stands at {self.operations[id]} and {entry.index}")

    # -- what goes to the disk and on the wire ----------------------------------------------------------------
    def wrote(self, host: Host, ready: Ready) -> None:
        if ready.entries:
            self.log_matching(host, ready.entries)
            if host.node.is_leader:
                self.one_change_at_a_time(host, ready.entries)

    def log_matching(self, host: Host, entries: list[Entry]) -> None:
        try:
            before = host.node.log.term(entries[0].index - 1)
        except Compacted:
            raise Violation(
                "log_matching", f"member {host.id} appends {entries[0].index} to an unknown entry"
            ) from None
        for entry in entries:
            meaning = (before, int(entry.kind), entry.data)
            known = self.names.setdefault((entry.index, entry.term), meaning)
            if known != meaning or before > entry.term:
                raise Violation("log_matching", f"entry {entry.index} of term {entry.term} is {known} and {meaning}")
            before = entry.term

    def one_change_at_a_time(self, host: Host, entries: list[Entry]) -> None:
        if not any(entry.kind is EntryKind.CONF_CHANGE for entry in entries):
            return
        log = host.node.log
        unapplied = entries_between(log, log.applied + 1, log.last_index + 1)
        changes = [entry.index for entry in unapplied if entry.kind is EntryKind.CONF_CHANGE]
        own = [index for index in changes if index >= host.node.term_start]  # it may have inherited one
        if own and len(changes) > 1:
            raise Violation("one_change_at_a_time", f"leader {host.id}, applied {log.applied}: changes at {changes}")

    def sent(self, host: Host, message: Message) -> None:
        """persisted_before_sent, one_vote_a_term, terms_never_fall, for one message that leaves its sender."""
        kind, term = message.kind, message.term
        if kind in _ASKS_FOR_TERM:
            return
        durable = host.disk.durable
        durable_term = max(durable.hard_state.term, durable.term(durable.last_index()))
        if durable_term < term:
            raise Violation(
                "persisted_before_sent",
                f"member {host.id} says {kind.name} in term {term}, its disk is in {durable_term}",
            )
        self.terms[host.id] = max(term, self.terms.get(host.id, 0))
        if kind is Kind.VOTE or (kind is Kind.VOTE_RESPONSE and not message.reject):
            self._voted(host, message, host.id if kind is Kind.VOTE else message.to)
        elif kind is Kind.APPEND_RESPONSE and not message.reject:
            self._acknowledged(host, message)

    def _voted(self, host: Host, message: Message, candidate: int) -> None:
        written = host.disk.durable.hard_state
        if (
            written[:2] != (message.term, candidate) and written.term <= message.term
        ):  # else it can never vote there again
            raise Violation(
                "persisted_before_sent",
                f"member {host.id} votes for {candidate} in {message.term}, its disk says {written}",
            )
        other = self.votes.setdefault((host.id, message.term), candidate)
        if other != candidate:
            raise Violation(
                "one_vote_a_term", f"member {host.id} votes for {other} and {candidate} in term {message.term}"
            )

    def _acknowledged(self, host: Host, message: Message) -> None:
        durable, index = host.disk.durable, message.index
        if durable.hard_state.term > message.term:
            return  # A leader since then may have replaced the entry, but then too late for the old one to commit it.
        if durable.last_index() < index:
            raise Violation(
                "persisted_before_sent",
                f"member {host.id} acknowledges {index}, its disk ends at {durable.last_index()}",
            )
        leader = self.hosts[message.to]
        if not leader.up or not leader.node.is_leader or leader.node.term != message.term:
            return
        if index <= leader.node.log.last_index and index >= leader.node.log.first_index():
            term = leader.node.log.term(index)
            if not holds(durable, index, term):
                raise Violation(
                    "persisted_before_sent",
                    f"member {host.id} acknowledges {index} to {leader.id}, where it has term {term}; its disk "
                    "has another entry",
                )

    # -- what is applied --------------------------------------------------------------------------------------
    def applies(self, host: Host, entry: Entry) -> None:
        """Before an entry is applied."""
        truth = self.truth
        if entry.index != host.applied + 1:
            raise Violation("state_machine_safety", f"member {host.id} applies {entry.index} after {host.applied}")
        if entry.index >= len(truth.committed):
            raise Violation("state_machine_safety", f"member {host.id} applies {entry.index}, which is not committed")
        if entry != truth.committed[entry.index]:
            raise Violation(
                "state_machine_safety", f"member {host.id} applies {entry}, committed is {truth.committed[entry.index]}"
            )

    def applied(self, host: Host, entry: Entry, took_effect: bool) -> None:
        """After it."""
        truth, index = self.truth, entry.index
        if index == len(truth.chain):
            self._extend(host, entry)
        if took_effect != truth.took_effect[index]:
            raise Violation(
                "state_machine_safety", f"member {host.id} answers {took_effect} to entry {index}, a dict does not"
            )
        self.configurations_agree(host)
        if host.world.options.machine != "model" and index % 16 == 0:
            self.states_agree(host)

    def _extend(self, host: Host, entry: Entry) -> None:
        truth, index = self.truth, entry.index
        crc = zlib.crc32(entry.data, truth.chain[-1] ^ entry.term)
        truth.chain.append(crc)
        effect = False
        if entry.kind is EntryKind.NORMAL:
            commands = batch_commands(entry.data)
            effect = truth.model.apply(commands)
            key = Command.decode(commands).key
            truth.values.setdefault(key, []).append((index, truth.model.read(key)))
        elif entry.kind is EntryKind.CONF_CHANGE:
            truth.conf[index] = host.conf
            truth.conf_indexes.append(index)
        truth.took_effect.append(effect)

    def restored(self, host: Host) -> None:
        """A state was loaded: from a snapshot, or at a start."""
        if host.applied > self.truth.last_applied:
            raise Violation(
                "state_machine_safety", f"member {host.id} has a snapshot of {host.applied}, which nobody applied"
            )
        self.configurations_agree(host)
        self.states_agree(host)

    def configurations_agree(self, host: Host) -> None:
        conf = self.truth.conf_at(host.applied)
        if host.conf != conf:
            raise Violation(
                "configurations_agree", f"member {host.id} has {host.conf} at {host.applied}, others {conf}"
            )

    def states_agree(self, host: Host) -> None:
        """state_machine_safety, by looking at the whole state."""
        fingerprint = host.machine.fingerprint()
        known = self.truth.fingerprints.setdefault(host.applied, fingerprint)
        if fingerprint != known:
            raise Violation(
                "state_machine_safety", f"member {host.id} at {host.applied}: {fingerprint}, others {known}"
            )

    # -- what is answered -------------------------------------------------------------------------------------
    def linearizable(self, operation: Operation, index: int, *, read: bool) -> None:
        """An operation is answered from the state at `index`. Since every write has its place in one order, it is
        enough that no answer goes back behind one that was given before the operation began."""
        if index < operation.floor or (not read and index == operation.floor):
            raise Violation(
                "linearizable",
                f"operation {operation.id} is answered from {index}, but began after an answer from {operation.floor}",
            )
        if read and operation.answer != (right := self.truth.value_at(operation.command.key, index)):
            raise Violation(
                "linearizable", f"operation {operation.id} reads {operation.answer} at {index}, not {right}"
            )
        self.floor = max(self.floor, index)
