"""
The node behind the native front end: writes are gathered, and leases timed, in C++.

    alone      NativeCommitter: the node's own proposals join the clients' in the C++ committer
    several    NativeSource: the cluster pulls what has gathered; the node's own are batches of their own

Invariants:
* One order of all writes: alone the C++ committer is the only one who commits, in a cluster the log decides.
* The clock of the leases holds leases only in a member that is alone or leads.

Thread safety: the event loop's thread, but where it says otherwise.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Sequence
from contextlib import suppress

from fastkv import _front
from fastkv.engine import LEASE_GRANT, LEASE_REVOKE
from fastkv.errors import TABLE, Code, Error, QuotaError, from_code
from fastkv.raft import Entry
from fastkv.rpc.methods import ABSENT, SERVER_STREAMING, UNARY
from fastkv.rpc.status import stopped
from fastkv.server.alarms import ALARM_NOSPACE
from fastkv.server.cluster.own import Sequences
from fastkv.server.committer import Outcome, Proposal, Writes
from fastkv.server.config import Config
from fastkv.server.lessor import Deadlines
from fastkv.server.log import Log
from fastkv.server.node import Node
from fastkv.server.node_state import WatchSink

HOT_STREAMS = ("RangeStream",)  # answered in C++, like every bidirectional one
READER_THREADS = 2
CHUNK_BYTES = 512 << 10  # of a RangeStream
AT_ONCE_WRITES_MAX = 4  # a turn with no more to do than so many writes commits them itself
WAITING_WRITES_MAX = 50_000  # beyond, clients are told that there are too many requests
STOP_S = 3600.0  # of a committer whose disk takes long; who waits has a deadline of his own


class NativeNode(Node):
    """A Node whose commands are committed, and whose leases are timed, in C++."""

    hot: _front.Front

    def __init__(self, config: Config, log: Log) -> None:
        self._direct: NativeCommitter | None = None
        super().__init__(config, log, _front.now)
        self._clock: Deadlines = self.hot.leases()
        self.lessor = self._clock

    def _make_committer(self) -> Writes:
        if self._direct is None:
            self.hot = self._make_front()
            self._direct = NativeCommitter(self.hot, self._loop)
        if self.cluster is None:
            return self._direct
        source = NativeSource(self.hot)
        self.cluster.proposals.add_source(source)
        self.cluster.linearizable.source = source
        return super()._make_committer()

    def _make_front(self) -> _front.Front:
        config = self.config
        return _front.Front(
            self.engine,
            error_rows=[(int(code), int(cls.code), text) for code, (cls, text) in TABLE.items()],
            cold=cold_methods().items(),
            io_threads=config.io_threads,
            reader_threads=READER_THREADS,
            chunk_bytes=min(CHUNK_BYTES, config.max_request_bytes),
            member_id=self.identity.member_id,
            quota_bytes=config.quota_bytes,
            lease_ttl_min_s=config.lease_ttl_min_s,
            request_timeout_s=self.request_timeout_s,
            at_once_writes_max=AT_ONCE_WRITES_MAX,
            waiting_writes_max=WAITING_WRITES_MAX,
            slow_batch_s=config.warning_apply_s,
            slow_call_s=config.warning_request_s,
            fragment_bytes=config.receive_bytes_max,
            progress_interval_s=config.progress_interval_s,
            renewals_outside=config.lease_checkpoints,
            proposer="direct" if self.cluster is None else "raft",
            first_sequence=0 if self.cluster is None else self.cluster.sequences.front,
            election_timeout_s=config.election_timeout_s,
        )

    async def start(self) -> None:
        if self.cluster is not None:
            self.hot.start()
        await super().start()

    def _stop_writes(self) -> None:
        assert self._direct is not None
        self._direct.stop()

    def restore(self) -> None:
        super().restore()
        self.hot.set_quota_alarm((self.identity.member_id, ALARM_NOSPACE) in self.alarms)

    def wake_watchers(self) -> None:
        self.hot.wake_watchers()

    # The clients' watchers are C++'s; these are the node's own.
    def add_watcher(self, watcher: int, sink: WatchSink) -> None:
        super().add_watcher(watcher, sink)
        self.hot.add_watcher(watcher)

    def remove_watcher(self, watcher: int) -> None:
        self.hot.remove_watcher(watcher)
        super().remove_watcher(watcher)

    def wake_watcher(self, watcher: int) -> None:
        if sink := self._watchers.get(watcher):
            sink.wake(watcher)

    def apply_committed(self, number: int, text: str, commands: list[tuple[int, int, bytes, int, bytes]]) -> None:
        """Follow what C++ has committed, or seen applied, and answer those who proposed it here."""
        assert self._direct is not None
        proposals = [self._direct.take(token, tag, payload) for token, tag, payload, _, _ in commands]
        results = [(code, response) for _, _, _, code, response in commands]
        outcome = Outcome(proposals, results, from_code(number, text) if number else None, 0.0)
        if self.cluster is not None:
            for proposal, (code, response) in zip(proposals, results, strict=False):
                if code == Code.OK:
                    self._follow(proposal, response)
        self._apply_outcome(outcome)

    def _follow(self, proposal: Proposal, response: bytes) -> None:
        # The clock of the leases has been told where the command was applied.
        if proposal.tag not in (LEASE_GRANT, LEASE_REVOKE):
            super()._follow(proposal, response)

    def hurry_leases(self) -> None:
        """A lease ends earlier than any did before."""
        self._expiry.hurry()

    # -- in a cluster -----------------------------------------------------------------------------------------
    async def _end_direct(self, direct: Writes, sequences: Sequences) -> None:
        await self.work(self.hot.use_raft, sequences.front)

    def set_leader(self, *, leads: bool, known: bool) -> None:
        self.hot.set_leader(leads, known)
        super().set_leader(leads=leads, known=known)

    def set_learner(self, learner: bool) -> None:
        self.hot.set_learner(learner)

    def _forget_leases(self) -> None:
        """C++ has forgotten them by itself."""

    def follow_entries(self, entries: Sequence[Entry]) -> None:
        # What they mean beside the store comes as events.
        self.hot.applied()

    def is_busy(self) -> bool:
        return False  # C++ gathers while Python waits

    def gathered(self) -> None:
        """There is something to propose, or to confirm."""
        if self.cluster is not None:
            self.cluster.loop.kick()

    def renew(self, leases: list[int]) -> None:
        """Clients renew these here, but the leader times them, or a checkpoint may stand in the way."""
        self._spawn(self._renew(leases))

    async def _renew(self, leases: list[int]) -> None:
        with suppress(Error):  # who is not answered is told when its time is up
            if self.cluster is not None:
                self.hot.renewed(await self.cluster.leases.renew_all(leases))
                return
            ttls = await asyncio.gather(*map(self.renew_here, leases))
            self.hot.renewed(zip(leases, ttls, strict=True))


class NativeSource:
    """proposals.Source and reads.ReadSource of what gathers in C++."""

    bound = False

    def __init__(self, hot: _front.Front) -> None:
        self.take = hot.take_proposal
        self.take_reads = hot.take_reads
        self._hot = hot

    def settle(self, sequence: int, error: Error) -> None:
        self._hot.settle(sequence, int(Code.NO_SPACE if isinstance(error, QuotaError) else error.number))

    def release_reads(self, group: int, error: Error | None) -> None:
        self._hot.release_reads(group, 0 if error is None else int(error.number))


class NativeCommitter:
    """The node's own proposals on their way to the C++ committer: all of one turn of the event loop together."""

    def __init__(self, hot: _front.Front, loop: asyncio.AbstractEventLoop) -> None:
        self._hot = hot
        self._loop = loop
        self._waiting: list[tuple[int, int, bytes]] = []
        self._proposals: dict[int, Proposal] = {}  # by token
        self._tokens = 0
        self._stopped = False
        self._nobody: Future[tuple[int, bytes]] = loop.create_future()
        self._nobody.set_result((0, b""))

    @property
    def waiting(self) -> int:
        return len(self._proposals)

    def start(self) -> None:
        self._hot.start()

    def submit(self, proposal: Proposal) -> bool:
        if self._stopped:
            return False
        self._tokens += 1
        self._proposals[self._tokens] = proposal
        self._waiting.append((self._tokens, proposal.tag, proposal.payload))
        if len(self._waiting) == 1:
            self._loop.call_soon(self._propose)
        return True

    def _propose(self) -> None:
        commands, self._waiting = self._waiting, []
        if commands and not self._hot.propose(commands):
            for token, _, _ in commands:
                proposal = self._proposals.pop(token)
                if not proposal.answer.done():
                    proposal.answer.set_exception(stopped())

    def take(self, token: int, tag: int, payload: bytes) -> Proposal:
        """The proposal of that token; of a client's command (0) one that nobody waits for."""
        return self._proposals.pop(token) if token else Proposal(tag, payload, self._nobody)

    def stop(self, timeout_s: float | None = None) -> bool:
        """Called in another thread."""
        self._stopped = True
        self._propose()
        return self._hot.stop_writes(STOP_S if timeout_s is None else timeout_s)


def cold_methods() -> dict[str, bool]:
    """Path -> whether the server streams, of every method that is not answered in C++."""
    methods = {
        f"/{service}/{method}": False for service, table in (*UNARY.items(), *ABSENT.items()) for method in table
    }
    for service, table in SERVER_STREAMING.items():
        methods |= {f"/{service}/{method}": True for method in table if method not in HOT_STREAMS}
    return methods
