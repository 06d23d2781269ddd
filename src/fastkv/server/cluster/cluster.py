"""
One member of several: raft.Node with everything that it needs around it, and the answers that the node needs from it.

    Node (server/node.py) --propose, confirm, renew, membership--> Cluster --> Loop, Proposals, Reads, Changes, Peering

Owns who leads as far as the node is concerned: terms in response headers, whose clock ends leases, who waits for one.

Invariants:
* What the node keeps beside the store (leases, alarms, membership) follows applied entries, and is read anew from the
  store after a snapshot.
* A member that was removed serves nobody for longer than LINGER_S; then its process ends.

Thread safety: the event loop's thread.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from fastkv.engine import ReplicatedEngine
from fastkv.errors import Error, GrpcCode
from fastkv.raft import (
    NO_MEMBER,
    Config,
    Entry,
    EntryKind,
    Message,
    Node,
    ReadState,
    Role,
    Snapshot,
    SoftState,
    batch_commands,
)
from fastkv.raft.codec import decode_conf_change
from fastkv.rpc import status
from fastkv.server import config as configs
from fastkv.server.cluster import leases
from fastkv.server.cluster import membership as memberships
from fastkv.server.cluster.applying import Answers
from fastkv.server.cluster.beginning import Beginning
from fastkv.server.cluster.bootstrap import Start
from fastkv.server.cluster.changes import Changes
from fastkv.server.cluster.handover import Handover
from fastkv.server.cluster.loop import Loop
from fastkv.server.cluster.membership import Member, Membership
from fastkv.server.cluster.own import Limits, OwnCommands, Sequences
from fastkv.server.cluster.peering import Peering
from fastkv.server.cluster.proposals import Proposals
from fastkv.server.cluster.reads import Reads
from fastkv.server.cluster.storage import EngineStorage
from fastkv.server.log import Log
from fastkv.server.peers import PeerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.server.peers import Peers

LINGER_S = 1.0  # as etcd: for the others to learn what this member knows


class Follows(leases.Lessor, Protocol):
    """The node, as far as the cluster tells it something."""

    def set_term(self, term: int) -> None: ...
    def set_leader(self, *, leads: bool, known: bool) -> None:
        """Whether this member is the leader, and whether there is one."""

    def set_learner(self, learner: bool) -> None: ...

    def follow_entries(self, entries: Sequence[Entry]) -> None:
        """These have been applied; watchers wait."""

    def restore(self) -> None:
        """The store holds another state now."""

    def answer_batch(self, sequence: int, results: list[tuple[int, bytes]]) -> None: ...
    def set_disk_full(self, error: Error | None) -> None: ...
    def is_busy(self) -> bool:
        """Whether clients wait for the event loop."""

    def fail(self, reason: Exception) -> None: ...
    def leave(self, reason: str) -> None:
        """End the process, not as a failure."""


class Cluster:
    def __init__(
        self,
        config: configs.Config,
        engine: ReplicatedEngine,
        start: Start,
        node: Follows,
        log: Log,
        now: Callable[[], float],
        timeout_s: float,
    ) -> None:
        identity = start.identity
        self.config = config
        self._engine = engine
        self._node = node
        self._log = log
        self._now = now
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._storage = EngineStorage(engine, start.membership.base)
        self.sequences = Sequences(identity.session)
        self.raft = Node(
            Config(
                identity.member_id,
                session=identity.session,
                applied=engine.applied_index,
                election_ticks=config.election_ticks,
                pre_vote=config.pre_vote,
            ),
            self._storage,
            random.Random(),
        )
        self.loop = Loop(engine, self.raft, self, self._loop, node.fail, sync=config.fsync)
        kick = self.loop.kick
        self.peering = Peering(engine, self.raft, self._storage, log, kick, node.fail, self._was_removed)
        self.proposals = Proposals(self.raft, [], now, timeout_s)
        self.linearizable = Reads(self.raft, kick, now, config.heartbeat_interval_ms / 1000)
        self.changes = Changes(
            self.raft, self.sequences, self.peering, kick, timeout_s, config.max_learners,
            strict=config.strict_reconfig_check,
        )  # fmt: skip
        self.handover = Handover(self.raft, kick, self.leader_changed, config.election_timeout_s)
        self.leases = leases.ClusterLeases(
            self.raft, node, self.linearizable.confirm, self.peering.ask, self.leader_known, timeout_s
        )
        self.peering.answers |= {
            leases.RENEW: self.leases.answer_renew,
            leases.REMAINING: self.leases.answer_remaining,
            "promote": self._answer_promote,
        }
        self.beginning = Beginning(
            config, self.raft, self.changes, self.peering, self.leader_known, self._news_wait, kick, log
        )
        self.peering.on_active = self.beginning.hurry_election
        self.changes.membership = start.membership
        self.leader_changes = 0  # seen since the start
        self._remotes = identity.remotes
        self._changed: list[tuple[Entry, Error | None]] = []
        self._news = asyncio.Event()
        self._leader = NO_MEMBER
        self._leading = NO_MEMBER, False  # as the node was told
        self._removed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_tick = 0.0
        self._ticker: asyncio.TimerHandle | None = None
        self.led_since = 0.0  # when the present leader was first seen

    # -- life -------------------------------------------------------------------------------------------------
    def own_commands(self, answer: Callable[..., None], *, bound: bool = False) -> OwnCommands:
        """A way for the node's own commands, in front of the clients'."""
        commands = OwnCommands(
            self._engine,
            Limits(self.config.max_txn_ops, self.config.max_request_bytes),
            self.raft.id,
            self.sequences,
            self.loop.kick,
            answer,
            bound=bound,
        )
        self.proposals.add_source(commands)
        return commands

    async def start(self, peers: Peers) -> None:
        """Begin: to listen to the others, and to take part."""
        self.peering.open(peers)
        self._connect()
        await peers.start()
        if self.raft.is_alone():
            self.raft.campaign()
        self._node.set_learner(self.is_learner)
        self._next_tick = self._loop.time()
        self._tick()
        self._spawn(self.beginning.publish())

    def _connect(self) -> None:
        members = self.membership
        if not members.members:
            # Who joins knows only whom it asked, until the log tells it.
            met = tuple(Member(id, "", urls) for id, urls in self._remotes)
            members = Membership(met)
        self.peering.set_members(members)

    @property
    def membership(self) -> Membership:
        return self.changes.membership

    @property
    def leads(self) -> bool:
        return self.raft.is_leader

    @property
    def is_learner(self) -> bool:
        own = self.membership.get(self.raft.id)
        return own is None or own.learner

    def _tick(self) -> None:
        """One tick a beat, however late it is: who was stopped must hear the others before it judges them."""
        beat_s = self.config.heartbeat_interval_ms / 1000
        self._next_tick = max(self._next_tick + beat_s, self._loop.time() + beat_s / 2)
        self._ticker = self._loop.call_at(self._next_tick, self._tick)
        self.raft.tick()
        self.proposals.tick()
        self.loop.write_commit(sync=False)
        self.loop.kick()

    async def close(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.leases.close()
        stopped = status.stopped()
        self.changes.close(stopped)
        self.linearizable.close(stopped)
        self.proposals.close(stopped)
        await self.peering.close()

    def end(self) -> None:
        """Wait for the disk. Not on the event loop's thread."""
        self.loop.close()
        self._storage.close()

    # -- leaders ----------------------------------------------------------------------------------------------
    async def leader_known(self) -> None:
        while self.raft.leader == NO_MEMBER:
            await self._news_wait()

    async def leader_in_time(self) -> None:
        """As leader_known, within a request's time."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self.leader_known()
        except TimeoutError:
            raise status.timed_out() from None

    async def leader_changed(self) -> None:
        leader, term = self.raft.leader, self.raft.term
        while (leader, term) == (self.raft.leader, self.raft.term):
            await self._news_wait()

    async def _news_wait(self) -> None:
        await self._news.wait()

    def _tell_news(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def step_down(self) -> None:
        """Hand leadership over, if this member has it and somebody can take it."""
        to = self.handover.successor()
        if to == NO_MEMBER:
            return
        self._log.info("leadership transfer starting", local_member_id=f"{self.raft.id:x}", transferee=f"{to:x}")
        try:
            await self.handover.move(to)
        except Error as error:
            self._log.warn("leadership transfer failed", error=str(error))

    def timeout_error(self, began: float) -> Error:
        """Why a request that began then was not answered in time, in etcd's words."""
        raft, timeout_s = self.raft, self.config.election_timeout_s
        if self.led_since - 2 * timeout_s < began < self.led_since:
            return status.timed_out_leader_failed()
        if raft.leader == NO_MEMBER:
            return status.deadline_exceeded()
        others = [raft.leader] if not raft.is_leader else [m.id for m in self.membership.voters() if m.id != raft.id]
        there = sum(self.peering.active_since(member) is not None for member in others)
        if there < (1 if not raft.is_leader else len(self.membership.voters()) // 2):
            return status.timed_out_connection_lost()
        return status.timed_out()

    # -- what operators ask for -------------------------------------------------------------------------------
    async def promote(self, id: int) -> Membership:
        """By the leader, wherever it is; the checks that need no leader are made here."""
        await self.leader_in_time()
        if self.leads:
            return await self.changes.promote(id)
        try:
            answer = await self.peering.ask(self.raft.leader, "promote", id.to_bytes(8, "big"), self._timeout_s)
        except PeerError:
            raise status.timed_out() from None
        if answer:
            code, _, text = answer.decode().partition(" ")
            raise status.RpcError(GrpcCode(int(code)), text)
        await self.linearizable.confirm(self._timeout_s)
        return self.membership

    async def _answer_promote(self, member: int, body: bytes) -> bytes:
        try:
            await self.changes.promote(int.from_bytes(body, "big"))
        except Error as error:
            return f"{int(error.code)} {error}".encode()
        return b""

    # -- loop.Parts -------------------------------------------------------------------------------------------
    def pull(self) -> None:
        self.proposals.pull(syncing=self.loop.syncing)
        self.linearizable.pull()

    def is_idle(self) -> bool:
        return not self._node.is_busy()

    def send(self, messages: list[Message]) -> None:
        self.peering.send(messages)

    def soft_state(self, state: SoftState) -> None:
        self._node.set_term(state.term)
        self.proposals.new_term()
        own = f"{self.raft.id:x}"
        if state.leader != self._leader:
            before, self._leader = self._leader, state.leader
            if state.leader == NO_MEMBER:
                self._log.info(f"raft.node: {own} lost leader {before:x} at term {state.term}")
            else:
                self.led_since = self._now()
                self.leader_changes += 1
                if state.role is Role.LEADER:
                    self._log.info(f"{own} became leader at term {state.term}")
                what = "elected" if before == NO_MEMBER else f"changed leader from {before:x} to"
                leader = f"leader {state.leader:x}" if before == NO_MEMBER else f"{state.leader:x}"
                self._log.info(f"raft.node: {own} {what} {leader} at term {state.term}")
        leading = state.leader, state.role is Role.LEADER
        if leading != self._leading:
            self._leading = leading
            self._node.set_leader(leads=leading[1], known=state.leader != NO_MEMBER)
        self._tell_news()

    def committed(self, entries: list[Entry]) -> None:
        self.proposals.committed(entries)

    def change(self, entry: Entry) -> bytes | None:
        change = decode_conf_change(batch_commands(entry.data))
        after, why_not = memberships.applied(self.membership, change)
        self.raft.apply_conf_change(entry, refuse=why_not is not None)
        self._changed.append((entry, why_not))
        if why_not is not None:
            return None
        self.changes.membership = after
        return memberships.encode(after)

    def applied(self, entries: list[Entry], answers: Answers) -> None:
        for sequence, results in answers:
            self._node.answer_batch(sequence, results)
        self._node.follow_entries(entries)
        self.linearizable.applied(entries[-1].index)
        if entries[0].kind is EntryKind.CONF_CHANGE:
            self._after_change()

    def _after_change(self) -> None:
        # Who leaves may be waited for by those who stay, until their disks know that it has left.
        self.loop.write_commit(sync=True)
        changed, self._changed = self._changed, []
        for entry, why_not in changed:
            self.changes.applied(entry, why_not)
        self._tell_news()
        self._node.set_learner(self.is_learner)
        if self.raft.id in self.membership.removed:
            self._was_removed()
        else:
            self.peering.set_members(self.membership)

    def reads(self, states: list[ReadState]) -> None:
        self.linearizable.states(states)

    def fates(self, lost: list[int], uncertain: list[int]) -> None:
        self.proposals.lost(lost)
        self.changes.lost(lost)
        self.proposals.uncertain(uncertain)
        self.changes.uncertain(uncertain)

    def install(self, snapshot: Snapshot, done: Callable[[], None]) -> None:
        def installed() -> None:
            self.changes.membership = memberships.decode(self._engine.membership)
            self._node.restore()
            self._node.set_learner(self.is_learner)
            done()
            self.linearizable.applied(snapshot.index)
            self._connect()
            self._tell_news()
            if self.raft.id in self.membership.removed:
                self._was_removed()

        self.peering.install(snapshot, installed)

    def disk_is_full(self, error: Error | None) -> None:
        self._node.set_disk_full(error)
        self.proposals.refuse_with = error
        if error is not None and (to := self.handover.successor()) != NO_MEMBER:
            # Somebody with room leads better; this member's clients are refused meanwhile.
            self.raft.transfer_leadership(to)

    # -- removed ----------------------------------------------------------------------------------------------
    def _was_removed(self) -> None:
        if not self._removed:
            self._removed = True
            self._spawn(self._end_removed())

    async def _end_removed(self) -> None:
        await asyncio.sleep(LINGER_S)
        self._node.leave("the member has been permanently removed from the cluster")

    def _spawn(self, coroutine: object) -> None:
        task: asyncio.Task[None] = self._loop.create_task(coroutine)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            assert isinstance(failure, Exception)
            self._node.fail(failure)
