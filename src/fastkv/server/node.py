"""
One member: an engine, its identity, and everything that happens around a command between the wire and the store.

    alone    handlers --propose--> Committer (thread) --commit--> outcome --> answers, leases, alarms, watchers
    several  handlers --propose--> cluster (server/cluster/) --Raft, apply--> the same

Owns the engine, the identity, the lessor, the alarms and the compaction. All methods run on the event loop's thread
unless they say otherwise.

Invariants:
* An answer to a write is given only after the engine returned it: it is on disk, with a quorum of the members if there
  are several, and visible to every read.
* A linearizable read is confirmed first; of a member alone the revision covers every acknowledged write anyway.
* Deadlines of leases, alarms and watchers follow applied commands, also of callers that have gone.
* A failed disk ends the node (`failed` is set); a full one refuses writes, goes on with reads, and takes writes again
  when there is room.
* `close` waits for nobody longer than STOP_STEP_S a step: who still reads then, reads on in a thread of its own.

Left out: authentication.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastkv import engine as engine_module
from fastkv.engine import ALARM, COMPACTION, ReplicatedEngine
from fastkv.errors import Code, Error, GrpcCode, QuotaError, from_code
from fastkv.raft import Entry
from fastkv.rpc import wire
from fastkv.rpc.status import RpcError, stopped, timed_out, too_many_requests
from fastkv.server import compactor as compactors
from fastkv.server.alarms import ALARM_ACTIVATE, ALARM_NOSPACE
from fastkv.server.checkpoints import Checkpoints
from fastkv.server.closing import in_time
from fastkv.server.cluster import bootstrap, following, peer_port
from fastkv.server.cluster.cluster import Cluster
from fastkv.server.cluster.own import OwnCommands, Sequences
from fastkv.server.cluster.peer_http import PeerHttp
from fastkv.server.committer import Committer, Holding, Outcome, Proposal, Writes
from fastkv.server.compaction import Compaction
from fastkv.server.config import Config, ConfigError
from fastkv.server.downgrade import Downgrade
from fastkv.server.expiry import Expiry
from fastkv.server.lessor import Deadlines, Lessor
from fastkv.server.log import Log
from fastkv.server.node_state import NodeState, WatchSink
from fastkv.server.peers import Listener, Peers
from fastkv.server.quota import Quota

# etcd's limit on what is committed but not yet applied.
PROPOSALS_WAITING_MAX = 5000
FULL_DISK_RETRY_S = 0.2

Result = TypeVar("Result")


class Node(NodeState):
    """One member. `cluster`: of several; None: it is alone."""

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
        self._loop = asyncio.get_running_loop()
        self.engine: ReplicatedEngine = engine_module.load()(config.data_dir, self._options())
        try:
            self._peer_tls = peer_port.contexts(config, log)
            self.start_of_life = bootstrap.start(config, self.engine, log, peer_port.client_tls(self._peer_tls))
            self.identity = self.start_of_life.identity
            self._set_identity()
            self.cluster: Cluster | None = None
            self._peers: Peers | None = None
            if self.start_of_life.alone:
                self.engine.set_alone(True)
            else:
                self.cluster = self._make_cluster(peer_port.bind(config))
        except BaseException:
            self.engine.close()
            raise
        self.quota = Quota(config.quota_bytes, self.engine.stats)
        self._watchers: dict[int, WatchSink] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._disk_is_full = False
        self._switching = asyncio.Lock()
        self._workers = ThreadPoolExecutor(thread_name_prefix="worker")
        self.downgrade = Downgrade(self._loop.call_later)
        self.compactor = self._make_compactor()
        self._committer: Writes = self._make_committer()
        self._revocations: Writes = self._committer
        if self.cluster is not None:
            self._revocations = self.cluster.own_commands(self._apply_outcome, bound=True)
        self._compaction = Compaction(self, self._spawn)
        self._expiry = Expiry(
            lambda: self.lessor, log, now, self._propose_revocation, self._may_expire, self.request_timeout_s
        )

        self.checkpoints = Checkpoints(
            self.engine, lambda: self.lessor, now, self.propose, lambda: self._expiry.leads, log
        )

    def _options(self) -> engine_module.Options:
        config, log = self.config, self.log
        return engine_module.Options(
            sync=config.fsync,
            checkpoint_on_close=False,  # a restart replays the log; a stop must not wait for a large checkpoint
            max_txn_ops=config.max_txn_ops,
            max_request_bytes=config.max_request_bytes,
            replicated=True,
            snapshot_count=config.snapshot_count,
            snapshot_catchup_entries=config.snapshot_catchup_entries,
            log=lambda line: log.warn(line),
        )

    def _make_cluster(self, listeners: list[Listener]) -> Cluster:
        cluster = Cluster(
            self.config, self.engine, self.start_of_life, self, self.log, self.now, self.request_timeout_s
        )
        http = PeerHttp(self).answer
        self._peers = peer_port.open_peers(self.identity, listeners, self._peer_tls, cluster.peering, http, self.log)
        return cluster

    def _make_committer(self) -> Writes:
        if self.cluster is not None:
            return self.cluster.own_commands(self._apply_outcome)
        return Committer(
            self.engine,
            lambda outcome: self._call_soon(self._apply_outcome, outcome),
            lambda: self._call_soon(self.fail, RuntimeError("the committer thread died")),
        )

    def _set_identity(self) -> None:
        self.engine.set_identity(self.identity.cluster_id, self.identity.member_id, self.identity.term)

    # -- life -------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Begin to take commands; of several, once there is a leader, or when waiting for one has taken long enough."""
        self._committer.start()
        self.restore()
        self._spawn(self._expiry.run())
        if self.config.lease_checkpoints:
            self._spawn(self.checkpoints.run(asyncio.sleep))
        if self.compactor:
            self._spawn(compactors.run(self.compactor, asyncio.sleep))
        member = f"{self.identity.member_id:x}"
        if self.cluster is None:
            self.log.info(f"raft.node: {member} elected leader {member} at term {self.identity.term}")
            return
        self.set_leader(leads=False, known=False)
        assert self._peers is not None
        await self.cluster.start(self._peers)
        ready = {self._loop.create_task(self.cluster.beginning.ready()), self._loop.create_task(self.stopping.wait())}
        done, pending = await asyncio.wait(ready, timeout=self.request_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if not done:
            self.log.warn("there is no leader yet; clients are served what needs none")

    def restore(self) -> None:
        """What stands beside the store follows from the store as it is now."""
        if self._expiry.leads:
            self._restore_leases()
        self.alarms.clear()
        self.alarms.update(self.engine.alarms())
        if self.engine.compact_revision > 0:
            self._compaction.begin()
        self.wake_watchers()

    def _restore_leases(self) -> None:
        """All leases get their time again, and some more: nobody knows when their clients were last heard."""
        self.lessor.restore(self.engine.leases(), self.now(), self.config.election_timeout_s)
        self.checkpoints.restore()
        self._expiry.hurry()

    async def close(self) -> bool:
        """
        Answer what was proposed, refuse what comes, close the engine. False: something is still under way, a long read
        or a slow disk, and the process must end under it. No acknowledged write is lost by that.
        """
        self.stopping.set()
        self._expiry.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._workers.shutdown(wait=False, cancel_futures=True)
        ended = True
        if self.cluster is not None:
            await self.cluster.close()
            ended = await in_time(self.cluster.end)
        ended = ended and await in_time(self._stop_writes) and await in_time(self.engine.close)
        return ended and await in_time(self._workers.shutdown)

    def _stop_writes(self) -> None:
        """Called in another thread."""
        self._committer.stop()

    async def step_down(self) -> None:
        """This member is about to stop: somebody else is to lead."""
        if self.cluster is not None and self.failed is None:
            await self.cluster.step_down()

    async def several(self) -> Cluster:
        """The cluster, to change who is a member of it; a member that was alone drives Raft from here on."""
        async with self._switching:
            if self.cluster is None:
                await self._end_alone()
            assert self.cluster is not None
            await self.cluster.leader_in_time()
            return self.cluster

    async def _end_alone(self) -> None:
        """From direct commits to Raft, without a restart: what is proposed meanwhile waits."""
        try:
            listeners = peer_port.bind(self.config)
        except ConfigError as reason:
            raise RpcError(GrpcCode.UNAVAILABLE, f"fastkv: {reason}: {reason.fields['error']}") from None
        direct, holding = self._committer, Holding()
        self._committer = holding
        await self._end_direct(direct, Sequences(self.identity.session))
        while True:
            try:
                await self.work(self.engine.set_alone, False)
                break
            except QuotaError as error:
                self.set_disk_full(error)
                await asyncio.sleep(FULL_DISK_RETRY_S)
        membership = await self.work(bootstrap.settle, self.engine, self.start_of_life.membership)
        self.start_of_life = self.start_of_life._replace(alone=False, membership=membership)
        self.cluster = self._make_cluster(listeners)
        self._committer = self._make_committer()
        self._revocations = self.cluster.own_commands(self._apply_outcome, bound=True)
        assert self._peers is not None
        await self.cluster.start(self._peers)
        for proposal in holding.proposals:
            self._committer.submit(proposal)

    async def _end_direct(self, direct: Writes, sequences: Sequences) -> None:
        """Until no direct commit is under way, and none will be."""
        await self.work(direct.stop)

    # -- reads ------------------------------------------------------------------------------------------------
    async def confirm_read(self) -> None:
        """Until a read sees all that was acknowledged by any member."""
        if self.cluster is not None:
            await self.cluster.linearizable.confirm(self.request_timeout_s)

    # -- writes -----------------------------------------------------------------------------------------------
    async def propose(self, tag: int, payload: bytes, writes: Writes | None = None) -> tuple[int, bytes]:
        """Commit one command: (code, response message). Raises what the world does to it, a timeout included."""
        writes = writes or self._committer
        if writes.waiting >= PROPOSALS_WAITING_MAX:
            raise too_many_requests()
        answer: asyncio.Future[tuple[int, bytes]] = self._loop.create_future()
        began = self.now()
        if not writes.submit(Proposal(tag, payload, answer)):
            raise stopped()
        try:
            async with asyncio.timeout(self.request_timeout_s):
                return await answer
        except TimeoutError:
            raise (timed_out() if self.cluster is None else self.cluster.timeout_error(began)) from None

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
        if any(code == Code.OK for code, _ in outcome.results):
            self.set_disk_full(None)
        for proposal, result in zip(outcome.proposals, outcome.results, strict=True):
            if self.cluster is None and result[0] == Code.OK and proposal.tag >= COMPACTION:
                self._follow(proposal, result[1])
            if not proposal.answer.done():
                proposal.answer.set_result(result)
        if self.cluster is None:
            self.wake_watchers()

    def _apply_failure(self, proposals: list[Proposal], error: Error) -> None:
        if isinstance(error, QuotaError):
            self.set_disk_full(error)
            error = from_code(Code.NO_SPACE)  # a client is told what etcd would tell it, and not our paths
        elif self.cluster is None:
            self.fail(error)
        for proposal in proposals:
            if not proposal.answer.done():
                proposal.answer.set_exception(error)

    def set_disk_full(self, error: Error | None) -> None:
        """None: there is room again."""
        if (error is not None) == self._disk_is_full:
            return
        self._disk_is_full = error is not None
        if error is not None:
            text = "the disk is full; reads go on, writes fail until space is freed; no restart is needed"
            self.log.error(text, error=str(error))
        else:
            self.log.info("the disk has room again; writes are taken")

    def _follow(self, proposal: Proposal, response: bytes) -> None:
        """What the node keeps beside the store follows the applied command."""
        match proposal.tag:
            case engine_module.COMPACTION:
                self._compaction.begin()
            case engine_module.LEASE_GRANT:
                granted = wire.Message(response)
                self.lessor.grant(granted.number(2), granted.number(3), self.now())
                self._expiry.hurry()
            case engine_module.LEASE_REVOKE:
                self._lease_is_gone(wire.Message(proposal.payload).number(1))
            case engine_module.ALARM:
                self._alarms_changed()

    def _lease_is_gone(self, lease: int) -> None:
        self.lessor.revoke(lease)
        self._expiry.revoked(lease)

    def _alarms_changed(self) -> None:
        self.alarms.clear()
        self.alarms.update(self.engine.alarms())
        # Who disarms has made room; an old size would raise the alarm again.
        self.quota.look_again()

    # -- what the cluster tells -------------------------------------------------------------------------------
    def set_term(self, term: int) -> None:
        self.identity = self.identity._replace(term=term)
        self._set_identity()

    def set_leader(self, *, leads: bool, known: bool) -> None:
        before = self._expiry.leads
        self._expiry.set_leader(leads)
        if before and not leads:
            self._forget_leases()
        elif leads and not before:
            self._restore_leases()
        if self.compactor:
            self.compactor.paused = not leads

    def _forget_leases(self) -> None:
        """Their time is another's business now."""
        self.lessor = Lessor()

    def set_learner(self, learner: bool) -> None:
        """Whether this member may answer little."""

    def follow_entries(self, entries: Sequence[Entry]) -> None:
        """Own and others' commands are applied: leases, alarms and watchers follow."""
        news = following.news(self.engine, entries, alarmed=bool(self.alarms))
        if news is not None:
            for lease, ttl in news.leases if self._expiry.leads else ():
                if ttl is None:
                    self._lease_is_gone(lease)
                elif lease not in self.lessor:
                    self.lessor.grant(lease, ttl, self.now())
            if news.leases:
                self._expiry.hurry()
            if news.alarms:
                self._alarms_changed()
            if news.compaction:
                self._compaction.begin()
        self.wake_watchers()

    def answer_batch(self, sequence: int, results: list[tuple[int, bytes]]) -> None:
        for writes in (self._committer, self._revocations):
            if isinstance(writes, OwnCommands) and writes.applied(sequence, results):
                return

    def is_busy(self) -> bool:
        return self._committer.waiting > 0

    # -- headers ----------------------------------------------------------------------------------------------
    # -- watch ------------------------------------------------------------------------------------------------
    # -- leases -----------------------------------------------------------------------------------------------
    async def renew_lease(self, lease: int) -> int:
        """The granted TTL, counted anew; 0 if there is no such lease. Of one that is due the revocation is awaited."""
        return await (self.renew_here(lease) if self.cluster is None else self.cluster.leases.renew(lease))

    async def remaining(self, lease: int) -> tuple[int, int] | None:
        """(remaining seconds, granted TTL), None if there is no such lease."""
        return self.remaining_here(lease) if self.cluster is None else await self.cluster.leases.remaining(lease)

    async def renew_here(self, lease: int) -> int:
        await self.checkpoints.clear(lease)
        return await self._expiry.renew(lease)

    def _propose_revocation(self, tag: int, payload: bytes) -> asyncio.Future[tuple[int, bytes]]:
        return asyncio.ensure_future(self.propose(tag, payload, self._revocations))

    async def _may_expire(self) -> bool:
        return self.cluster is None or await self.cluster.leases.may_expire()

    # -- compaction -------------------------------------------------------------------------------------------
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
        await self._compaction.wait()
