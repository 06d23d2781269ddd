"""
A few members in one process: every message, write and tick happens when the test says so.

A Cluster delivers messages in order until none is left, through `drop` rules; a Member carries out its Readys as a node
would: it writes (at once, or when the test lets a stopped disk go on), sends, and applies. `Cluster.check` holds after
every delivery: at most one leader a term, equal entries applied at equal indexes, nothing sent before it was durable.

    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(1, b"x")
    assert cluster.values(3) == [b"x"]
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable

from fastkv.raft import (
    Change,
    ChangeKind,
    ConfChange,
    Config,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Kind,
    MemoryStorage,
    Message,
    Node,
    ReadState,
    Ready,
    Role,
    Snapshot,
    Transition,
    batch_commands,
    make_batch,
)
from fastkv.raft.codec import decode_message, encode_message

Rule = Callable[[Message], bool]


def add(*ids: int, transition: Transition = Transition.AUTO) -> ConfChange:
    return ConfChange(tuple(Change(ChangeKind.ADD_VOTER, id) for id in ids), transition)


def remove(*ids: int, transition: Transition = Transition.AUTO) -> ConfChange:
    return ConfChange(tuple(Change(ChangeKind.REMOVE, id) for id in ids), transition)


def learn(*ids: int, transition: Transition = Transition.AUTO) -> ConfChange:
    return ConfChange(tuple(Change(ChangeKind.ADD_LEARNER, id) for id in ids), transition)


def _is_value(entry: Entry) -> bool:
    return entry.kind is EntryKind.NORMAL


class Member:
    """One node with its disk and its state machine (a list of batches)."""

    def __init__(self, id: int, conf: ConfState, limits: dict[str, int]) -> None:
        self.id = id
        self.limits = limits
        self.storage = MemoryStorage(conf)
        self.session = 0
        self.sequence = 0
        self.disk_stopped = False
        self.apply_stopped = False
        self.start()

    def start(self, applied: int = 0) -> None:
        """A new life on what the disk holds; the state machine begins at the snapshot, if there is one."""
        self.session += 1
        self.state: list[Entry] = []  # every applied entry; what a snapshot held has index 0 and no header
        self.base = 0  # the index of the snapshot that the state began with
        self.conf = self.storage.initial_state()[1]
        snapshot = self.storage.newest
        if snapshot.index:
            self._load(snapshot)
            applied = snapshot.index
        config = Config(self.id, session=self.session, applied=applied, **self.limits)  # type: ignore[arg-type]
        self.node = Node(config, self.storage, random.Random(self.id * 1000 + self.session))
        self.unwritten: deque[Ready] = deque()
        self.unapplied: deque[Entry] = deque()
        self.outbox: list[Message] = []
        self.reads: list[ReadState] = []
        self.lost: list[int] = []
        self.uncertain: list[int] = []
        self.readies: list[Ready] = []

    def _load(self, snapshot: Snapshot) -> None:
        self.base = snapshot.index
        self.conf = snapshot.conf
        self.state = [Entry(0, 0, EntryKind.NORMAL, data) for data in snapshot.data.split(b"|") if data]

    # -- carrying out -----------------------------------------------------------------------------------------
    def work(self) -> None:
        """Take what is ready and do it, as far as disk and state machine are not stopped."""
        while self.node.has_ready():
            ready = self.node.ready()
            self.readies.append(ready)
            self.outbox += ready.messages
            self.unwritten.append(ready)
            self.unapplied += ready.committed
            self.reads += ready.read_states
            self.lost += ready.lost
            self.uncertain += ready.uncertain
            if not self.disk_stopped:
                self.write(len(self.unwritten))
            if not self.apply_stopped:
                self.apply()

    def write(self, count: int = 1) -> None:
        """Carry out the next `count` writes and say so."""
        for _ in range(count):
            ready = self.unwritten.popleft()
            self.storage.persist(ready.hard_state, ready.entries, ready.snapshot)
            if ready.snapshot is not None:
                self._load(ready.snapshot)
                self.unapplied.clear()
            self.node.persisted(ready.number)
            if ready.snapshot is not None:
                self.node.applied(ready.snapshot.index)
            for message in ready.messages_after_persist:
                if message.kind is Kind.APPEND_RESPONSE and not message.reject:
                    assert self.storage.last_index() >= message.index, "acknowledged before it was durable"
            self.outbox += ready.messages_after_persist

    def apply(self, count: int = 1 << 30) -> None:
        while self.unapplied and count:
            entry = self.unapplied.popleft()
            if entry.kind is EntryKind.CONF_CHANGE:
                self.conf = self.node.apply_conf_change(entry)
            self.state.append(entry)
            self.node.applied(entry.index)
            count -= 1

    def values(self) -> list[bytes]:
        """The commands applied so far; those inside a snapshot too."""
        return [
            entry.data if not entry.index else batch_commands(entry.data) for entry in self.state if _is_value(entry)
        ]

    def snapshot(self, *, keep: int = 0) -> None:
        """Make a snapshot of the state at the applied index and compact the log, but for `keep` entries."""
        index = self.node.log.applied
        self.storage.create_snapshot(index, self.conf, b"|".join(self.values()))
        self.storage.compact(index - keep)


class Cluster:
    """Members 1..n (or the ids given), all voters unless named as learners."""

    def __init__(
        self,
        voters: int | Iterable[int] = 3,
        learners: Iterable[int] = (),
        *,
        outside: Iterable[int] = (),
        **limits: int,
    ) -> None:
        ids = tuple(range(1, voters + 1)) if isinstance(voters, int) else tuple(voters)
        learners = tuple(learners)
        conf = ConfState(ids, learners)
        self.members = {id: Member(id, conf, limits) for id in (*ids, *learners)}
        self.members |= {id: Member(id, conf, limits) for id in outside}  # to be added
        self.wire: deque[Message] = deque()
        self.rules: list[Rule] = []
        self.log: list[Message] = []  # everything that was delivered
        self.leaders: dict[int, int] = {}
        self.down: set[int] = set()

    def __getitem__(self, id: int) -> Node:
        return self.members[id].node

    # -- the network ------------------------------------------------------------------------------------------
    def drop(self, rule: Rule) -> Rule:
        """From now on messages that the rule is true for get lost."""
        self.rules.append(rule)
        return rule

    def isolate(self, *ids: int) -> Rule:
        """These cannot talk to the others, nor they to them."""
        return self.drop(lambda message: (message.to in ids) != (message.sender in ids))

    def heal(self) -> None:
        self.rules.clear()

    def collect(self) -> None:
        """Let every member work; what it sends goes on the wire."""
        for id, member in self.members.items():
            if id not in self.down:
                member.work()
                self.wire += member.outbox
            member.outbox.clear()
        self.check()

    def deliver(self, limit: int = 20_000) -> None:
        """Deliver until nothing happens any more."""
        self.collect()
        while self.wire:
            message = self.wire.popleft()
            if message.to in self.members and message.to not in self.down and not any(r(message) for r in self.rules):
                limit -= 1
                assert limit, "the members never stop talking"
                self.log.append(message)
                self._hand_over(decode_message(encode_message(message)))
            self.collect()

    def _hand_over(self, message: Message) -> None:
        member = self.members[message.to]
        member.node.step(message)
        if message.kind is Kind.SNAPSHOT:
            self.members[message.sender].node.report_snapshot(message.to, delivered=True)

    def sent(self, kind: Kind, **fields: object) -> list[Message]:
        """Delivered messages of a kind whose fields have these values."""
        return [m for m in self.log if m.kind is kind and all(getattr(m, k) == v for k, v in fields.items())]

    # -- events -----------------------------------------------------------------------------------------------
    def tick(self, count: int = 1, *ids: int) -> None:
        """Time passes for these (all that are up), messages flow after every tick."""
        for _ in range(count):
            for id in ids or tuple(self.members):
                if id not in self.down:
                    self.members[id].node.tick()
            self.deliver()

    def elect(self, id: int) -> None:
        self[id].campaign()
        self.deliver()
        assert self[id].is_leader, self[id].status()

    def wait_for_leader(self, *ids: int, ticks: int = 100) -> int:
        """Let time pass until one of these leads all of these; its id."""
        group = ids or tuple(id for id in self.members if id not in self.down)
        for _ in range(ticks):
            leaders = {self[id].leader for id in group}
            if len(leaders) == 1 and (leader := leaders.pop()) in group and self[leader].is_leader:
                return leader
            self.tick(1, *group)
        raise AssertionError(f"no leader after {ticks} ticks: {[self[id].status() for id in group]}")

    def propose(self, id: int, commands: bytes, *, deliver: bool = True) -> int:
        member = self.members[id]
        member.sequence += 1
        member.node.propose(make_batch(id, member.sequence, commands))
        if deliver:
            self.deliver()
        return member.sequence

    def change(self, id: int, change: ConfChange, *, deliver: bool = True) -> int:
        member = self.members[id]
        member.sequence += 1
        member.node.propose_conf_change(change, member.sequence)
        if deliver:
            self.deliver()
        return member.sequence

    def crash(self, id: int) -> None:
        """What was not written is gone."""
        self.down.add(id)
        self.wire = deque(message for message in self.wire if message.sender != id)

    def restart(self, id: int) -> None:
        self.down.discard(id)
        self.members[id].disk_stopped = self.members[id].apply_stopped = False
        self.members[id].start()

    # -- looking ----------------------------------------------------------------------------------------------
    def values(self, id: int) -> list[bytes]:
        return self.members[id].values()

    def leader(self) -> int:
        (leader,) = [id for id in self.members if id not in self.down and self[id].is_leader]
        return leader

    def check(self) -> None:
        applied: dict[int, Entry] = {}
        for id, member in self.members.items():
            node = member.node
            if node.role is Role.LEADER:
                assert self.leaders.setdefault(node.term, id) == id, f"two leaders in term {node.term}"
            for entry in member.state:
                if entry.index:
                    assert applied.setdefault(entry.index, entry) == entry, f"entry {entry.index} differs on {id}"


def storage_with(terms: Iterable[int], voters: Iterable[int], *, term: int, commit: int = 0) -> MemoryStorage:
    """A disk whose log has an entry of each of these terms, as in the paper's figures."""
    storage = MemoryStorage(ConfState(tuple(voters)))
    storage.append([Entry(t, i, EntryKind.NORMAL, make_batch(99, i, b"%d" % t)) for i, t in enumerate(terms, 1)])
    storage.hard_state = HardState(term, 0, commit)
    return storage
