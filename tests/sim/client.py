"""
Clients: each does one operation after another at a member of its choice, and takes down when it began and ended.

    begin --+--> propose (put, swap, delete) --> applied at this member      answered
            |                               +--> lost: it never happens      refused, or the same operation once more
            |                               +--> uncertain, crash, timeout   unknown: it may happen, even later
            +--> read_index --> ReadState, applied --> read the machine      answered

Every put writes a value of its own, so a read says which write it has seen. The history goes to linearizable.py.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastkv.raft import Entry, ProposalDropped, TooManyReads, make_batch
from sim.machine import DELETE, PUT, SWAP, Command
from sim.scheduler import TICK

if TYPE_CHECKING:
    from sim.cluster import Simulation
    from sim.host import Host


@dataclass(slots=True)
class Operation:
    id: int
    client: int
    command: Command
    read: bool
    began: int
    floor: int  # checkers.floor when it began
    member: int = 0
    ended: int = -1  # -1: no answer
    answer: int = 0  # of a read: the value; of a write: whether it took effect
    refused: bool = False  # it has no effect and never will
    open: bool = field(default=True)  # its client still waits


class Clients:
    def __init__(self, world: Simulation) -> None:
        self.world = world
        self.rng: random.Random = world.rng
        self.history: list[Operation] = []
        self.counts: Counter[str] = Counter()
        self._proposed: dict[tuple[int, int], Operation] = {}  # (member, sequence)
        self._value = 0
        self.stopped = False

    def start(self, count: int) -> None:
        for client in range(count):
            self.world.scheduler.after(self.rng.randrange(1, 10 * TICK), self._next, client)

    # -- one client -------------------------------------------------------------------------------------------
    def _next(self, client: int) -> None:
        if self.stopped:
            return
        hosts = [host for host in self.world.hosts.values() if host.up]
        if not hosts:
            self.world.scheduler.after(TICK, self._next, client)
            return
        self.begin(client, self.rng.choice(hosts))

    def begin(self, client: int, host: Host, *, only_put: bool = False, key: int = -1) -> Operation:
        rng, world = self.rng, self.world
        options = world.options
        self._value += 1
        key = rng.randrange(options.keys) if key < 0 else key
        dice = rng.random()
        read = not only_put and dice < 0.4
        kind, expected = PUT, 0
        if not only_put and dice > 0.85:
            kind, expected = SWAP, world.checkers.truth.model.read(key)
        elif not only_put and dice > 0.8:
            kind = DELETE
        command = Command(len(self.history) + 1, kind, key, self._value, expected)
        operation = Operation(command.id, client, command, read, world.scheduler.now, world.checkers.floor)
        self.history.append(operation)
        world.scheduler.after(rng.randrange(3, 30) * TICK, self._timeout, operation)
        if read:
            self._ask(operation, host)
        else:
            self._propose(operation, host)
        return operation

    def _ask(self, operation: Operation, host: Host) -> None:
        operation.member = host.id
        try:
            host.call(host.node.read_index, (operation, host.number_of_lives))
        except TooManyReads:
            self._refuse(operation)
            return
        host.work_soon()

    def _propose(self, operation: Operation, host: Host) -> None:
        host.sequence += 1
        name = (host.id, host.sequence)
        operation.member = host.id
        self._proposed[name] = operation
        padding = self.rng.choice((0, 0, 0, 30, 200))
        try:
            host.call(host.node.propose, make_batch(*name, operation.command.encode(padding)))
        except ProposalDropped as dropped:
            self.counts[f"dropped: {dropped.reason.name}"] += 1
            del self._proposed[name]
            self.world.checkers.lost_means_lost(name, committed=False)
            self._refuse(operation)
            return
        host.work_soon()

    # -- how it ends ------------------------------------------------------------------------------------------
    def applied(self, member: int, sequence: int, entry: Entry, took_effect: bool) -> None:
        """A member applied a batch of its own."""
        operation = self._proposed.pop((member, sequence), None)
        if operation is None or not operation.open:
            return
        operation.answer = int(took_effect)
        self.world.checkers.linearizable(operation, entry.index, read=False)
        self._answered(operation)

    def may_read(self, member: int, context: object) -> None:
        assert isinstance(context, tuple)
        operation, life = context
        host = self.world.hosts[member]
        assert host.number_of_lives == life, "a read was answered in another life"
        if operation.open:
            operation.answer = host.machine.read(operation.command.key)
            self.world.checkers.linearizable(operation, host.applied, read=True)
            self._answered(operation)

    def lost(self, member: int, sequence: int) -> None:
        self.world.happened["proposal lost"] += 1
        self.world.checkers.lost_means_lost((member, sequence), committed=False)
        operation = self._proposed.pop((member, sequence), None)
        if operation is None or not operation.open:
            return
        hosts = [host for host in self.world.hosts.values() if host.up]
        if hosts and self.rng.random() < 0.5:
            self.counts["proposed again"] += 1
            host = self.rng.choice(hosts)
            self.world.scheduler.after(0, self._propose_again, operation, host, host.number_of_lives)
        else:
            self._refuse(operation)

    def _propose_again(self, operation: Operation, host: Host, life: int) -> None:
        if operation.open and host.up and host.number_of_lives == life:
            self._propose(operation, host)

    def uncertain(self, member: int, sequence: int) -> None:
        self.counts["uncertain"] += 1
        self._proposed.pop((member, sequence), None)

    def member_ended(self, member: int) -> None:
        """Its open proposals: nobody will ever say."""
        for name in [name for name in self._proposed if name[0] == member]:
            del self._proposed[name]

    def _timeout(self, operation: Operation) -> None:
        if operation.open:
            self.counts["timed out"] += 1
            self._done(operation)

    def _refuse(self, operation: Operation) -> None:
        operation.refused = True
        self.counts["refused"] += 1
        self._done(operation)

    def _answered(self, operation: Operation) -> None:
        operation.ended = self.world.scheduler.now
        self.counts["read" if operation.read else "written"] += 1
        self._done(operation)

    def _done(self, operation: Operation) -> None:
        operation.open = False
        if operation.client >= 0:
            self.world.scheduler.after(self.rng.randrange(1, 3 * TICK), self._next, operation.client)

    def burst(self, host: Host, count: int) -> None:
        """Many batches at once, on a key of their own: nobody could search all orders of them."""
        life = host.number_of_lives
        for _ in range(count):
            if host.number_of_lives == life and host.up:
                self.begin(-1, host, only_put=True, key=self.world.options.keys)
