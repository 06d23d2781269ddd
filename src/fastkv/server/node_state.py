"""
What a node is made of, and the questions about it that need no decision: who leads, what a header says, which watchers
have news. `node.Node` is it with its behaviour.

Thread safety: the event loop's thread.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

from fastkv.raft import NO_MEMBER
from fastkv.rpc import wire
from fastkv.rpc.status import stopped

if TYPE_CHECKING:
    from fastkv.engine import ReplicatedEngine
    from fastkv.server.cluster.bootstrap import Start
    from fastkv.server.cluster.cluster import Cluster
    from fastkv.server.cluster.membership import Member
    from fastkv.server.committer import Writes
    from fastkv.server.config import Config
    from fastkv.server.expiry import Expiry
    from fastkv.server.identity import Identity
    from fastkv.server.lessor import Deadlines
    from fastkv.server.log import Log

Result = TypeVar("Result")


class WatchSink(Protocol):
    """A stream that watches."""

    def wake(self, watcher: int) -> None:
        """The watcher has got something to take."""


class NodeState:
    """cluster: None in a member alone. failed: why the node cannot go on. stopping: it takes nothing more."""

    config: Config
    log: Log
    now: Callable[[], float]
    engine: ReplicatedEngine
    identity: Identity
    start_of_life: Start
    cluster: Cluster | None
    lessor: Deadlines
    stopping: asyncio.Event
    failed: Exception | None
    _loop: asyncio.AbstractEventLoop
    _committer: Writes
    _expiry: Expiry
    _watchers: dict[int, WatchSink]
    _tasks: set[asyncio.Task[None]]
    _workers: ThreadPoolExecutor

    @property
    def request_timeout_s(self) -> float:
        """How long a request waits for what others must do first, as etcd's ReqTimeout."""
        return 5 + 2 * self.config.election_timeout_s

    @property
    def waiting(self) -> int:
        """Commands of this node that are not committed yet."""
        return self._committer.waiting

    @property
    def leader(self) -> int:
        """Its id; 0: none is known."""
        return self.identity.member_id if self.cluster is None else self.cluster.raft.leader

    @property
    def knows_leader(self) -> bool:
        return self.cluster is None or self.cluster.raft.leader != NO_MEMBER

    @property
    def leader_changes(self) -> int:
        """How many leaders it has seen since its start; of a member alone itself."""
        return 1 if self.cluster is None else self.cluster.leader_changes

    @property
    def commit_index(self) -> int:
        return self.engine.applied_index if self.cluster is None else self.cluster.raft.log.commit

    @property
    def is_learner(self) -> bool:
        return self.cluster is not None and self.cluster.is_learner

    def members(self) -> tuple[Member, ...]:
        """As far as this member knows."""
        if self.cluster is not None:
            return self.cluster.membership.members
        (own,) = self.start_of_life.membership.members
        return (own._replace(name=self.config.name, client_urls=self.config.advertise_client_urls),)

    # -- headers -----------------------------------------------------------------------------------------------------
    def header(self, revision: int | None = None) -> bytes:
        """A ResponseHeader message; with the store's revision if none is given."""
        return (
            wire.int_field(1, self.identity.cluster_id)
            + wire.int_field(2, self.identity.member_id)
            + wire.int_field(3, self.engine.revision if revision is None else revision)
            + wire.int_field(4, self.identity.term)
        )

    # -- watchers ----------------------------------------------------------------------------------------------------
    def add_watcher(self, watcher: int, sink: WatchSink) -> None:
        self._watchers[watcher] = sink

    def remove_watcher(self, watcher: int) -> None:
        self._watchers.pop(watcher, None)
        self.engine.watch_cancel(watcher)

    def wake_watchers(self) -> None:
        """Tell each stream which of its watchers have got something."""
        for watcher in self.engine.watch_ready():
            if sink := self._watchers.get(watcher):
                sink.wake(watcher)

    # -- leases ------------------------------------------------------------------------------------------------------
    def new_lease_id(self) -> int:
        """A positive int63 that no lease has."""
        while True:
            lease = secrets.randbits(63)
            if lease and lease not in self.lessor:
                return lease

    def lease_ids(self) -> list[int]:
        """Those that end first in front, where that is known."""
        return self.lessor.ids() if self._expiry.leads else [lease for lease, _, _ in self.engine.leases()]

    def remaining_here(self, lease: int) -> tuple[int, int] | None:
        return self.lessor.remaining(lease, self.now())

    # -- work beside the event loop, and the end ---------------------------------------------------------------------
    async def work(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call what may take long in a worker thread."""
        if self.stopping.is_set():
            raise stopped()
        return await self._loop.run_in_executor(self._workers, function, *arguments)

    def _spawn(self, coroutine: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(coroutine)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def background(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run what nobody waits for."""
        self._spawn(coroutine)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            assert isinstance(failure, Exception)
            self.fail(failure)

    def fail(self, reason: Exception) -> None:
        """The node cannot go on; whoever runs it waits for `stopping`."""
        if self.failed is None:
            self.failed = reason
            self.log.fatal("the store failed; the node ends", error=str(reason))
        self.stopping.set()

    def leave(self, reason: str) -> None:
        """The node is not wanted any more."""
        if not self.stopping.is_set():
            self.log.warn(reason)
            self.stopping.set()
