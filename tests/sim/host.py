"""
One member's process: drives a Node exactly as core.py asks, on a disk and a state machine that may be slow or fail.

    message, tick, proposal --> Node --> ready --+--> messages            to the network at once
                                 ^   ^           +--> write --> sync -->  persisted, messages_after_persist
                                 |   +-----------+--> committed --------> machine, clients
                                 +--- persisted, applied

Every call of the Node is followed by a look of the checkers. A process is up, paused (SIGSTOP: what comes for it piles
up), down (it will be started again on what its disk holds), or gone (its member was removed).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastkv.raft import (
    Config,
    ConfState,
    Entry,
    EntryKind,
    InvariantError,
    Message,
    Node,
    ReadState,
    Ready,
    batch_commands,
    batch_origin,
)
from sim import joining
from sim.life import Life
from sim.model_disk import Disk, DiskFailed
from sim.scheduler import TICK
from sim.violation import Violation

if TYPE_CHECKING:
    from sim.cluster import Simulation


def brief(message: Message) -> str:
    """What is not empty in it."""
    fields = [f"{name}={value}" for name, value in message._asdict().items() if value and name not in ("kind", "to")]
    return f"{message.kind.name} {' '.join(fields)}"


class Host:
    def __init__(self, world: Simulation, id: int, disk: Disk) -> None:
        self.world = world
        self.id = id
        self.disk = disk
        self.life = Life.DOWN
        self.number_of_lives = 0  # also the session
        self.sequence = 0  # of this member's batches, over all lives
        self.tick_units = TICK  # how long this member takes one tick to be
        self.slow_disk = False
        self.slow_apply = False
        self.node: Node
        self.conf = ConfState()

    @property
    def up(self) -> bool:
        return self.life is Life.UP

    # -- lives ------------------------------------------------------------------------------------------------
    def start(self) -> None:
        world, options = self.world, self.world.options
        self.disk.recover()
        self.number_of_lives += 1
        self.life = Life.UP
        self.machine = world.new_machine()
        storage = self.disk.durable
        snapshot = storage.newest
        self.applied = snapshot.index
        self.conf = snapshot.conf
        if snapshot.index:
            self.machine.load(snapshot.data)
        self.inbox: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []  # what came while paused
        self.unsynced: deque[Ready] = deque()
        self.syncing = False
        self.committed: deque[Entry] = deque()
        self.applying = False
        self.working = False
        self.seen_commit = self.seen_written = snapshot.index
        self.seen_role: tuple[int, int] = (0, 0)
        self.readers: list[ReadState] = []
        config = Config(self.id, session=self.number_of_lives, applied=snapshot.index, **options.config)
        world.checkers.restored(self)
        try:
            self.node = Node(config, storage, random.Random(world.rng.getrandbits(64)))
        except InvariantError as error:
            raise Violation("core_invariant", f"member {self.id}, at its start: {error}") from error
        world.checkers.look(self)
        world.scheduler.after(world.rng.randrange(1, self.tick_units), self._tick, self.number_of_lives)

    def stop(self, *, power_loss: bool, for_good: bool = False) -> None:
        """The process ends without a word."""
        if self.life in (Life.DOWN, Life.GONE):
            return
        self.world.say(
            f"member {self.id} ends{', its power lost' if power_loss else ''}{' for good' if for_good else ''}"
        )
        if power_loss:
            self.disk.lose_power()
        else:
            self.disk.end_process()
        self.life = Life.GONE if for_good else Life.DOWN
        self.number_of_lives += 1  # calls that were made for this life find another one
        self.machine.close()
        self.world.clients.member_ended(self.id)

    def pause(self) -> None:
        if self.up:
            self.world.say(f"member {self.id} is paused")
            self.life = Life.PAUSED

    def resume(self) -> None:
        if self.life is not Life.PAUSED:
            return
        self.world.say(f"member {self.id} goes on")
        self.life = Life.UP
        inbox, self.inbox = self.inbox, []
        life = self.number_of_lives
        for call, args in inbox:
            if self.number_of_lives == life and self.up:
                call(*args)

    def _not_now(self, life: int, call: Callable[..., None], *args: Any) -> bool:
        """Whether the process that this was meant for has ended, or is paused and does it later."""
        if life != self.number_of_lives:
            return True
        if self.life is Life.PAUSED:
            self.inbox.append((call, args))
            return True
        return False

    # -- input ------------------------------------------------------------------------------------------------
    def call(self, method: Any, *args: Any, **named: Any) -> Any:
        """One call of the Node, and a look at it."""
        try:
            result = method(*args, **named)
        except InvariantError as error:
            raise Violation("core_invariant", f"member {self.id}: {error}") from error
        self.world.checkers.look(self)
        return result

    def receive(self, message: Message) -> bool:
        """Whether there is a process that takes it."""
        if self.life is Life.PAUSED:
            self.inbox.append((self.receive, (message,)))
            return True
        if self.life is not Life.UP:
            return False
        world = self.world
        world.trace(self.id, message.kind, message.sender, message.term, message.index)
        if world.narrate is not None:
            world.say(f"member {self.id} <- {brief(message)}")
        self.call(self.node.step, message)
        self.work_soon()
        return True

    def _tick(self, life: int) -> None:
        if life != self.number_of_lives:
            return
        self.world.scheduler.after(self.tick_units, self._tick, life)
        if self.life is Life.UP:  # a timer that runs out in a stopped process has run out once when it goes on
            self.tick()

    def tick(self) -> None:
        self.call(self.node.tick)
        self.work_soon()

    # -- the loop ---------------------------------------------------------------------------------------------
    def work_soon(self) -> None:
        """Now, or as a busy loop does: a little later, for all that has come until then."""
        lag = self.world.options.loop_lag
        if not lag:
            self.work()
        elif not self.working:
            self.working = True
            self.world.scheduler.after(self.world.rng.randrange(lag), self._work_now, self.number_of_lives)

    def _work_now(self, life: int) -> None:
        if self._not_now(life, self._work_now, life):
            return
        self.working = False
        self.work()

    def work(self) -> None:
        """Take what is ready and do it."""
        node, world = self.node, self.world
        life = self.number_of_lives
        while life == self.number_of_lives and self.call(node.has_ready):
            ready = self.call(node.ready)
            world.checkers.wrote(self, ready)
            self._send(ready.messages)
            self.committed += ready.committed
            self.readers += ready.read_states
            for sequence in ready.lost:
                world.clients.lost(self.id, sequence)
            for sequence in ready.uncertain:
                world.clients.uncertain(self.id, sequence)
            self.unsynced.append(ready)
            try:
                self.disk.write(ready)
            except DiskFailed:
                self._disk_failed()
                return
            self._sync()
            if life == self.number_of_lives:
                self._apply()
        if life == self.number_of_lives:
            self._serve_reads()

    def _send(self, messages: list[Message]) -> None:
        world = self.world
        for message in messages:
            world.checkers.sent(self, message)
            world.network.send(message)

    # -- the disk ---------------------------------------------------------------------------------------------
    def _sync(self) -> None:
        """Start a sync of all that waits, unless one is under way; what has nothing to write waits for it too."""
        if self.syncing or not self.unsynced:
            return
        if not any(ready.must_sync for ready in self.unsynced):
            self._persisted(self.unsynced[-1].number)
            return
        self.syncing = True
        delay = self.world.sync_units(self)
        if delay:
            self.world.scheduler.after(delay, self._synced, self.number_of_lives, self.unsynced[-1].number)
        else:
            self._synced(self.number_of_lives, self.unsynced[-1].number)

    def _synced(self, life: int, number: int) -> None:
        if self._not_now(life, self._synced, life, number):
            return
        self.syncing = False
        try:
            self.disk.sync(number)
        except DiskFailed:
            self._disk_failed()
            return
        self._persisted(number)
        self.work_soon()
        self._sync()

    def _disk_failed(self) -> None:
        """Nobody knows what is on the disk now, and the process must not guess."""
        self.world.happened["disk failed"] += 1
        self.stop(power_loss=True)
        self.world.start_later(self)

    def _persisted(self, number: int) -> None:
        done: list[Ready] = []
        while self.unsynced and self.unsynced[0].number <= number:
            done.append(self.unsynced.popleft())
        for ready in done:
            if ready.snapshot is not None:
                self.machine.load(ready.snapshot.data)
                self.committed.clear()
                self.applied = ready.snapshot.index
                self.conf = ready.snapshot.conf
                self.world.checkers.restored(self)
        self.call(self.node.persisted, number)
        for ready in done:
            if ready.snapshot is not None:
                self.world.happened["snapshot installed"] += 1
                self.call(self.node.applied, ready.snapshot.index)
            self._send(ready.messages_after_persist)

    # -- the state machine ------------------------------------------------------------------------------------
    def _apply(self) -> None:
        if self.applying or not self.committed:
            return
        if self.slow_apply:
            self.applying = True
            delay = self.world.rng.randrange(10, 800)
            self.world.scheduler.after(delay, self._applied, self.number_of_lives)
        else:
            while self.up and self.committed:
                self._apply_one()

    def _applied(self, life: int) -> None:
        if self._not_now(life, self._applied, life):
            return
        self.applying = False
        if self.committed:
            for _ in range(self.world.rng.randrange(1, len(self.committed) + 1)):
                self._apply_one()
        self.work_soon()
        self._apply()

    def _apply_one(self) -> None:
        entry = self.committed.popleft()
        checkers = self.world.checkers
        checkers.applies(self, entry)
        self.applied = entry.index
        took_effect, before = False, self.conf
        if entry.kind is EntryKind.CONF_CHANGE:
            self.conf = self.call(self.node.apply_conf_change, entry, refuse=self.world.refuses(entry))
        elif entry.kind is EntryKind.NORMAL:
            took_effect = self.machine.apply(batch_commands(entry.data))
        checkers.applied(self, entry, took_effect)
        self.world.trace(self.id, entry.index, entry.term)
        self.call(self.node.applied, entry.index)
        origin, sequence = batch_origin(entry.data)
        if origin == self.id:
            self.world.clients.applied(self.id, sequence, entry, took_effect)
        if entry.kind is EntryKind.CONF_CHANGE:
            joining.applied(self.world, self, before)

    def _serve_reads(self) -> None:
        waiting: list[ReadState] = []
        for state in self.readers:
            if state.index <= self.applied:
                self.world.clients.may_read(self.id, state.context)
            else:
                waiting.append(state)
        self.readers = waiting

    def save_snapshot(self, keep: int) -> bool:
        """Make a snapshot of the state and drop the log behind it, but for `keep` entries."""
        if self.node.log.pending_snapshot is not None or self.applied <= self.disk.durable.newest.index:
            return False
        try:
            self.disk.save_snapshot(self.applied, self.conf, self.machine.save(), keep)
        except DiskFailed:
            self._disk_failed()
            return False
        return True
