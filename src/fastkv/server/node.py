"""
One member: an engine, its identity, and everything that happens around a command between the wire and the store.

    handlers --propose--> Committer (thread) --commit--> outcome --> event loop: answers, leases, alarms, watchers

Owns the engine, the identity, the lessor, the alarms and the compaction task. All methods run on the event loop's
thread unless they say otherwise.

Invariants:
* An answer to a write is given only after `engine.commit` returned it: it is on disk and visible to every read.
* A read needs no confirmation: the only member's revision covers every acknowledged write.
* Deadlines of leases, alarms and watchers follow applied commands, also of callers that have gone.
* A failed disk ends the node (`failed` is set); a full one refuses writes, goes on with reads, and takes writes again
  when there is room.
* `close` waits for nobody longer than STOP_STEP_S a step: who still reads then, reads on in a thread of its own.

Left out: other members, authentication.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from fastkv import engine as engine_module
from fastkv.engine import ALARM, COMPACTION, LEASE_REVOKE, Engine
from fastkv.errors import Code, Error, QuotaError, from_code
from fastkv.rpc import wire
from fastkv.rpc.status import stopped, timed_out, too_many_requests
from fastkv.server import compactor as compactors
from fastkv.server import identity as identities
from fastkv.server.committer import Committer, Outcome, Proposal, Writes
from fastkv.server.config import Config
from fastkv.server.downgrade import Downgrade
from fastkv.server.lessor import Deadlines, Lessor
from fastkv.server.log import Log
from fastkv.server.quota import Quota

ALARM_GET, ALARM_ACTIVATE, ALARM_DEACTIVATE = 0, 1, 2
ALARM_NONE, ALARM_NOSPACE, ALARM_CORRUPT = 0, 1, 2
ALARM_NAMES = {ALARM_NOSPACE: "NOSPACE", ALARM_CORRUPT: "CORRUPT"}

# Expired leases are revoked at most this many at a time, this often: 1000 a second, as etcd does.
REVOKE_BATCH, REVOKE_PAUSE_S = 500, 0.5
REVOKE_RETRY_S = 1.0

# etcd's limit on what is committed but not yet applied.
PROPOSALS_WAITING_MAX = 5000
# Of each step of `close`: together with the front's they stay below 2 s.
STOP_STEP_S = 0.5

Result = TypeVar("Result")


class WatchSink(Protocol):
    """A stream that watches."""

    def wake(self, watcher: int) -> None:
        """The watcher has got something to take."""


class Node:
    """One member of one."""

    def __init__(self, config: Config, log: Log, now: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.log = log
        self.now = now
        self.stopping = asyncio.Event()
        self.failed: Exception | None = None
        self.alarms: set[tuple[int, int]] = set()  # (member id, alarm)
        self.lessor: Deadlines = Lessor()
        # What /metrics answers to an Accept header: (what makes the body in any thread, content type). The front end
        # sets it.
        self.render_metrics: Callable[[str], tuple[Callable[[], bytes], str]] | None = None
        options = engine_module.Options(
            sync=config.fsync,
            checkpoint_on_close=False,  # a restart replays the log; a stop must not wait for a large checkpoint
            max_txn_ops=config.max_txn_ops,
            max_request_bytes=config.max_request_bytes,
            log=lambda line: log.warn(line),
        )
        self.engine: Engine = engine_module.load()(config.data_dir, options)
        self.identity = self._identify()
        self.quota = Quota(config.quota_bytes, self.engine.stats)
        self._watchers: dict[int, WatchSink] = {}
        self._expiring: dict[int, asyncio.Future[None]] = {}
        self._deadline_moved = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._compaction: asyncio.Task[None] | None = None
        self._compaction_wanted = False
        self._disk_is_full = False
        self._workers = ThreadPoolExecutor(thread_name_prefix="worker")
        self._loop = asyncio.get_running_loop()
        self.downgrade = Downgrade(self._loop.call_later)
        self.compactor = self._make_compactor()
        self._committer = self._make_committer()

    def _make_committer(self) -> Writes:
        return Committer(
            self.engine,
            lambda outcome: self._call_soon(self._apply_outcome, outcome),
            lambda: self._call_soon(self.fail, RuntimeError("the committer thread died")),
        )

    def _identify(self) -> identities.Identity:
        try:
            if meta := self.engine.read_meta():
                identity = self._renew_term(identities.decode(meta))
            else:
                identity = identities.bootstrap(self.config)
                self.engine.write_meta(identities.encode(identity))
        except BaseException:
            self.engine.close()
            raise
        self.engine.set_identity(identity.cluster_id, identity.member_id, identity.term)
        return identity

    def _renew_term(self, known: identities.Identity) -> identities.Identity:
        identity = known._replace(term=known.term + 1)
        try:
            self.engine.write_meta(identities.encode(identity))
        except QuotaError as full:
            # The only member's term orders nothing: what is there can be read all the same.
            self.log.error("the disk is full; the term stays as it was, reads go on", error=str(full))
            return known
        return identity

    async def start(self) -> None:
        """Begin to take commands."""
        self._committer.start()
        self.lessor.restore(self.engine.leases(), self.now(), self.config.election_timeout_s)
        self._spawn(self._expire_leases())
        self.alarms.update(self.engine.alarms())
        if self.engine.compact_revision > 0:
            self._compact()
        if self.compactor:
            self._spawn(compactors.run(self.compactor, asyncio.sleep))
        member = f"{self.identity.member_id:x}"
        self.log.info(f"raft.node: {member} elected leader {member} at term {self.identity.term}")

    async def close(self) -> bool:
        """
        Answer what was proposed, refuse what comes, close the engine. False: something is still under way, a long read
        or a slow disk, and the process must end under it. No acknowledged write is lost by that.
        """
        self.stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._workers.shutdown(wait=False, cancel_futures=True)
        ended = await self._in_time(self._committer.stop) and await self._in_time(self.engine.close)
        return ended and await self._in_time(self._workers.shutdown)

    async def _in_time(self, step: Callable[[], object]) -> bool:
        """Call it in a thread of its own; whether it has ended within STOP_STEP_S. Raises what it raises."""
        closer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="closer")
        try:
            await asyncio.wait_for(self._loop.run_in_executor(closer, step), STOP_STEP_S)
        except TimeoutError:
            return False
        finally:
            closer.shutdown(wait=False)
        return True

    async def work(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call what may take long in a worker thread."""
        if self.stopping.is_set():
            raise stopped()
        return await self._loop.run_in_executor(self._workers, function, *arguments)

    def fail(self, reason: Exception) -> None:
        """The node cannot go on; whoever runs it waits for `stopping`."""
        if self.failed is None:
            self.failed = reason
            self.log.fatal("the store failed; the node ends", error=str(reason))
        self.stopping.set()

    @property
    def request_timeout_s(self) -> float:
        """How long a request waits for what others must do first, as etcd's ReqTimeout."""
        return 5 + 2 * self.config.election_timeout_s

    @property
    def waiting(self) -> int:
        """Commands of this node that are not committed yet."""
        return self._committer.waiting

    # -- writes -----------------------------------------------------------------------------------------------
    async def propose(self, tag: int, payload: bytes) -> tuple[int, bytes]:
        """Commit one command: (code, response message). Raises what the world does to it, a timeout included."""
        if self._committer.waiting >= PROPOSALS_WAITING_MAX:
            raise too_many_requests()
        answer: asyncio.Future[tuple[int, bytes]] = self._loop.create_future()
        if not self._committer.submit(Proposal(tag, payload, answer)):
            raise stopped()
        try:
            async with asyncio.timeout(self.request_timeout_s):
                return await answer
        except TimeoutError:
            raise timed_out() from None

    async def execute(self, tag: int, payload: bytes) -> bytes:
        """Commit one command; the response message, or the client's error raised."""
        if self.quota.is_exceeded_by(tag, payload) and (self.identity.member_id, ALARM_NOSPACE) not in self.alarms:
            self.log.warn("message exceeded backend quota; raising alarm", quota_size_bytes=self.config.quota_bytes)
            await self.set_alarm(ALARM_ACTIVATE, self.identity.member_id, ALARM_NOSPACE)
        code, response = await self.propose(tag, payload)
        if code != Code.OK:
            raise from_code(code)
        return response

    async def set_alarm(self, action: int, member: int, alarm: int) -> bytes:
        request = wire.int_field(1, action) + wire.int_field(2, member) + wire.int_field(3, alarm)
        code, response = await self.propose(ALARM, request)
        if code != Code.OK:
            raise from_code(code)
        return response

    def _call_soon(self, function: Callable[..., None], argument: object) -> None:
        """Called in the committer's thread."""
        self._loop.call_soon_threadsafe(function, argument)

    def _apply_outcome(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            self._apply_failure(outcome.proposals, outcome.error)
            return
        if outcome.took_s > self.config.warning_apply_s > 0:
            self.log.warn(
                "apply request took too long",
                took=f"{outcome.took_s * 1000:.3f}ms",
                expected_duration=f"{self.config.warning_apply_s * 1000:.0f}ms",
                commands=len(outcome.proposals),
            )
        if self._disk_is_full and any(code == Code.OK for code, _ in outcome.results):
            self._disk_is_full = False
            self.log.info("the disk has room again; writes are taken")
        for proposal, result in zip(outcome.proposals, outcome.results, strict=True):
            if result[0] == Code.OK and proposal.tag >= COMPACTION:
                self._follow(proposal, result[1])
            if not proposal.answer.done():
                proposal.answer.set_result(result)
        self.wake_watchers()

    def _apply_failure(self, proposals: list[Proposal], error: Error) -> None:
        if isinstance(error, QuotaError):
            if not self._disk_is_full:
                self._disk_is_full = True
                text = "the disk is full; reads go on, writes fail until space is freed; no restart is needed"
                self.log.error(text, error=str(error))
            error = from_code(Code.NO_SPACE)  # a client is told what etcd would tell it, and not our paths
        else:
            self.fail(error)
        for proposal in proposals:
            if not proposal.answer.done():
                proposal.answer.set_exception(error)

    def _follow(self, proposal: Proposal, response: bytes) -> None:
        """What the node keeps beside the store follows the applied command."""
        match proposal.tag:
            case engine_module.COMPACTION:
                self._compact()
            case engine_module.LEASE_GRANT:
                granted = wire.Message(response)
                self.lessor.grant(granted.number(2), granted.number(3), self.now())
                self._deadline_moved.set()
            case engine_module.LEASE_REVOKE:
                lease = wire.Message(proposal.payload).number(1)
                self.lessor.revoke(lease)
                if waiting := self._expiring.pop(lease, None):
                    waiting.set_result(None)
            case engine_module.ALARM:
                action = wire.Message(proposal.payload).number(1)
                if action == ALARM_ACTIVATE:
                    self.alarms.update(read_alarms(response))
                elif action == ALARM_DEACTIVATE:
                    self.alarms.difference_update(read_alarms(response))
                    # Who disarms has made room; an old size would raise the alarm again.
                    self.quota.look_again()

    # -- headers ----------------------------------------------------------------------------------------------
    def header(self, revision: int | None = None) -> bytes:
        """A ResponseHeader message; with the store's revision if none is given."""
        return (
            wire.int_field(1, self.identity.cluster_id)
            + wire.int_field(2, self.identity.member_id)
            + wire.int_field(3, self.engine.revision if revision is None else revision)
            + wire.int_field(4, self.identity.term)
        )

    # -- watch ------------------------------------------------------------------------------------------------
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

    # -- leases -----------------------------------------------------------------------------------------------
    def new_lease_id(self) -> int:
        """A positive int63 that no lease has."""
        while True:
            lease = secrets.randbits(63)
            if lease and lease not in self.lessor:
                return lease

    async def renew_lease(self, lease: int) -> int:
        """The granted TTL, counted anew; 0 if there is no such lease. Of one that is due the revocation is awaited."""
        if self.lessor.is_expired(lease, self.now()):
            self._deadline_moved.set()
            waiting = self._expiring.setdefault(lease, self._loop.create_future())
            try:
                async with asyncio.timeout(self.request_timeout_s):
                    await asyncio.shield(waiting)
            except TimeoutError:
                raise timed_out() from None
            return 0
        return self.lessor.renew(lease, self.now())

    async def _expire_leases(self) -> None:
        while True:
            self._deadline_moved.clear()
            deadline = self.lessor.next_deadline()
            try:
                async with asyncio.timeout(None if deadline is None else max(0.0, deadline - self.now())):
                    await self._deadline_moved.wait()
            except TimeoutError:
                pass
            due = self.lessor.expired(self.now(), REVOKE_BATCH)
            for lease in due:
                self._spawn(self._revoke(lease))
            if len(due) == REVOKE_BATCH:
                await asyncio.sleep(REVOKE_PAUSE_S)

    async def _revoke(self, lease: int) -> None:
        try:
            code, _ = await self.propose(LEASE_REVOKE, wire.int_field(1, lease))
            if code not in (Code.OK, Code.LEASE_NOT_FOUND):
                raise from_code(code)
        except Error as error:
            self.log.warn("failed to revoke lease", lease_id=f"{lease:016x}", error=str(error))
            await asyncio.sleep(REVOKE_RETRY_S)
            self.lessor.retry(lease)
            self._deadline_moved.set()
            return
        if code == Code.LEASE_NOT_FOUND and (waiting := self._expiring.pop(lease, None)):
            waiting.set_result(None)

    # -- compaction -------------------------------------------------------------------------------------------
    def _compact(self) -> None:
        self._compaction_wanted = True
        if self._compaction is None or self._compaction.done():
            self._compaction = self._spawn(self._run_compaction())

    async def _run_compaction(self) -> None:
        while self._compaction_wanted and not self.stopping.is_set():
            self._compaction_wanted = False
            began, revision = self.now(), self.engine.compact_revision
            while not await self.work(self.engine.compact_step, self.config.compaction_batch_limit):
                await asyncio.sleep(self.config.compaction_sleep_s)
                if self.stopping.is_set():
                    return
            self.wake_watchers()
            self.log.info(
                "finished scheduled compaction", compact_revision=revision, took=f"{(self.now() - began) * 1000:.3f}ms"
            )

    def _make_compactor(self) -> compactors.Compactor | None:
        config, revision = self.config, lambda: self.engine.revision
        if config.compaction_period_s > 0:
            return compactors.Periodic(config.compaction_period_s, revision, self._compact_to, self.now, self.log)
        if config.compaction_revisions > 0:
            return compactors.Revisions(config.compaction_revisions, revision, self._compact_to, self.now, self.log)
        return None

    async def _compact_to(self, revision: int) -> None:
        await self.execute(COMPACTION, wire.int_field(1, revision))

    async def wait_compaction(self) -> None:
        """Until everything that a compaction has released is removed."""
        if self._compaction is not None:
            await asyncio.shield(self._compaction)

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


def read_alarms(response: bytes) -> set[tuple[int, int]]:
    """The (member id, alarm) pairs of an AlarmResponse."""
    members = (wire.Message(alarm) for alarm in wire.Message(response).all(2))
    return {(member.unsigned(1), member.number(2)) for member in members}
