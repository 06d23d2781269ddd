"""
The native front end: C++ serves the clients (cpp/front), Python hears what it must decide.

    clients <--HTTP/2--> fastkv._front --events, in batches, one wake-up--> NativeNode, NativeFront
                              ^------ propose, send, end -------------------'

Hot methods never come here. What does: calls of all other methods, HTTP/1.1 connections, and of the commands that were
applied those that the node follows. The node's own writes take the same way to the store as the clients'.

Invariants:
* One order of all writes: the C++ committer is the only one who commits.
* An event is handled on the event loop's thread; nothing in C++ waits for Python.
"""

from __future__ import annotations

import asyncio
import socket
import time
from asyncio import Future
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from fastkv import _front
from fastkv.engine import LEASE_GRANT, LEASE_REVOKE
from fastkv.errors import TABLE, Code, Error, GrpcCode, QuotaError, from_code
from fastkv.raft import Entry
from fastkv.rpc.calls import ServerStreaming, Unary, answer
from fastkv.rpc.methods import ABSENT, SERVER_STREAMING, UNARY
from fastkv.rpc.status import absent_method, as_seen, stopped
from fastkv.server.alarms import ALARM_NOSPACE
from fastkv.server.closing import in_time
from fastkv.server.cluster.own import Sequences
from fastkv.server.committer import Outcome, Proposal, Writes
from fastkv.server.config import Config
from fastkv.server.http import HttpConnection
from fastkv.server.lessor import Deadlines
from fastkv.server.listeners import NOT_HTTP, REJECTED, Listener, close
from fastkv.server.log import Log
from fastkv.server.metrics import HELP, MethodCounts, Metrics
from fastkv.server.node import Node, WatchSink
from fastkv.server.tls_config import TlsConfig

HOT_STREAMS = ("RangeStream",)  # answered in C++, like every bidirectional one
READER_THREADS = 2
CHUNK_BYTES = 512 << 10  # of a RangeStream
AT_ONCE_WRITES_MAX = 4  # a turn with no more to do than so many writes commits them itself
WAITING_WRITES_MAX = 50_000  # beyond, clients are told that there are too many requests
DRAIN_S = 0.5
STOP_S = 3600.0  # of a committer whose disk takes long; who waits has a deadline of his own
HTTP_BYTES = 64 << 10


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


class ColdStream:
    """calls.Context of a call that came as an event."""

    def __init__(self, hot: _front.Front, thread: int, call: int) -> None:
        self._hot = hot
        self._thread = thread
        self._call = call
        self._writable = asyncio.Event()

    async def read(self) -> bytes | None:
        """The client of a cold method sends one message, which came with the call."""
        return None

    async def write(self, message: bytes) -> None:
        self._writable.clear()
        self._hot.send(self._thread, self._call, message)
        await self._writable.wait()

    def wake(self) -> None:
        self._writable.set()


class NativeFront:
    """Owns the listeners, the cold calls and the HTTP/1.1 connections; C++ owns the rest."""

    name = "native"

    def __init__(self, node: NativeNode, listeners: list[Listener]) -> None:
        self._node = node
        self._hot = node.hot
        self._listeners = listeners
        self._paths = [listener.path for listener in listeners]
        self._loop = asyncio.get_running_loop()
        self._unary = {f"/{service}/{name}": f for service, table in UNARY.items() for name, f in table.items()}
        self._streaming = {
            f"/{service}/{name}": f for service, table in SERVER_STREAMING.items() for name, f in table.items()
        }
        self._calls: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._streams: dict[tuple[int, int], ColdStream] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._on: dict[int, Callable[..., None]] = {
            _front.CALL: self._on_call,
            _front.WRITABLE: self._on_writable,
            _front.END: self._on_end,
            _front.HTTP1: self._on_http,
            _front.COMMITTED: node.apply_committed,
            _front.SLOW_BATCH: self._on_slow_batch,
            _front.SLOW_CALL: self._on_slow_call,
            _front.LEASES: lambda *_: node.hurry_leases(),
            _front.QUOTA: self._on_quota,
            _front.DIED: self._on_death,
            _front.LOG: lambda thread, call, number, count, text: node.log.warn(text),
            _front.PROPOSALS: lambda *_: node.gathered(),
            _front.READS: lambda *_: node.gathered(),
            _front.RENEW: node.renew,
            _front.WATCH: lambda thread, call, number, count, text: node.wake_watcher(number),
            _front.REJECTED: lambda address, why: node.log.warn(REJECTED, remote_addr=address, error=why),
        }
        self._python_ns = self._python_turns = 0
        node.render_metrics = Metrics(node, self).render
        self._loop.add_reader(self._hot.fileno(), self._on_events)

    async def serve(self, tls: TlsConfig) -> None:
        """From now on clients are answered."""
        config = self._node.config
        self._hot.serve(
            self._listeners,
            tls,
            io_threads=config.io_threads,
            max_concurrent_streams=min(config.max_concurrent_streams, (1 << 32) - 1),
            receive_bytes_max=config.receive_bytes_max,
            keepalive_min_time_s=config.keepalive_min_time_s,
            keepalive_interval_s=config.keepalive_interval_s,
            keepalive_timeout_s=config.keepalive_timeout_s,
        )

    async def close(self) -> bool:
        """
        Accept nothing more, let calls under way end within DRAIN_S, then cut. False: a thread of C++ is in a long
        read or waits for the disk, and the process must end under it.
        """
        await in_time(lambda: self._hot.drain(DRAIN_S), 2 * DRAIN_S)
        ending = [*self._connections, *self._calls.values()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        ended = await in_time(self._hot.stop)
        close(self._listeners)
        for path in filter(None, self._paths):
            path.unlink(missing_ok=True)
        return ended

    # -- events -----------------------------------------------------------------------------------------------
    def _on_events(self) -> None:
        began = time.perf_counter_ns()
        for event in self._hot.take():
            self._on[event[0]](*event[1:])
        self._python_ns += time.perf_counter_ns() - began
        self._python_turns += 1

    # -- metrics.Traffic --------------------------------------------------------------------------------------
    def methods(self) -> dict[str, MethodCounts]:
        return {path: MethodCounts(*counts) for path, counts in self._hot.method_totals().items()}

    def counters(self) -> dict[str, float]:
        known = self._hot.counters()
        return {name: known[name] for name in HELP if name in known} | {
            "calls_open": known["calls"],
            "connections_open": known["connections"],
            "commit_seconds": known["commit_ns"] / 1e9,
            "python_seconds": self._python_ns / 1e9,
            "python_turns": self._python_turns,
        }

    def _on_slow_batch(self, thread: int, call: int, took_ns: int, commands: int, text: str) -> None:
        self._node.log.warn(
            "apply request took too long",
            took=f"{took_ns / 1e6:.3f}ms",
            expected_duration=f"{self._node.config.warning_apply_s * 1000:.0f}ms",
            commands=commands,
        )

    def _on_slow_call(self, thread: int, call: int, took_ns: int, size_bytes: int, path: str) -> None:
        self._node.log.warn("request stats", method=path, time_spent=f"{took_ns / 1e6:.3f}ms", request_size=size_bytes)

    def _on_quota(self, *_: object) -> None:
        quota_bytes = self._node.config.quota_bytes
        self._node.log.warn("message exceeded backend quota; raising alarm", quota_size_bytes=quota_bytes)

    def _on_death(self, thread: int, call: int, number: int, count: int, text: str) -> None:
        self._node.fail(RuntimeError(f"the committer has ended: {text}"))

    # -- cold calls -------------------------------------------------------------------------------------------
    def _on_call(
        self, thread: int, call: int, method: int, path: str, message: bytes, metadata: tuple[tuple[str, Any], ...]
    ) -> None:
        def end(code: int, body: bytes) -> None:
            self._hot.end(thread, call, method, code, body)

        if unary := self._unary.get(path):
            running = self._answer(unary, path, message, end)
        elif streaming := self._streaming.get(path):
            self._streams[thread, call] = ColdStream(self._hot, thread, call)
            running = self._stream(streaming, message, self._streams[thread, call], end)
        else:
            _, service, name = path.split("/")
            error = absent_method(service, name)
            end(error.code, str(error).encode())
            return
        task = self._loop.create_task(running)
        self._calls[thread, call] = task

        def done(task: asyncio.Task[None]) -> None:
            self._calls.pop((thread, call), None)
            self._streams.pop((thread, call), None)
            if not task.cancelled() and (bug := task.exception()) is not None:
                self._node.log.error("a call failed", method=path, error=repr(bug))
                end(GrpcCode.UNKNOWN, f"Unexpected {type(bug)}: {bug}".encode())

        task.add_done_callback(done)

    async def _answer(self, function: Unary, path: str, message: bytes, end: Callable[[int, bytes], None]) -> None:
        try:
            end(0, await answer(self._node, path, function, message))
        except Error as error:
            seen = as_seen(error, is_stream=False)
            end(seen.code, str(seen).encode())

    async def _stream(
        self, function: ServerStreaming, message: bytes, context: ColdStream, end: Callable[[int, bytes], None]
    ) -> None:
        try:
            await function(self._node, message, context)
            end(0, b"")
        except Error as error:
            seen = as_seen(error, is_stream=True)
            end(seen.code, str(seen).encode())

    def _on_writable(self, thread: int, call: int, *_: object) -> None:
        if stream := self._streams.get((thread, call)):
            stream.wake()

    def _on_end(self, thread: int, call: int, *_: object) -> None:
        if task := self._calls.get((thread, call)):
            task.cancel()

    # -- HTTP/1.1 ---------------------------------------------------------------------------------------------
    def _on_http(self, thread: int, call: int, number: int, count: int, address: str) -> None:
        connection = socket.socket(fileno=number)
        if self._node.config.listen_client_http_urls:
            self._node.log.warn(REJECTED, remote_addr=address, error=NOT_HTTP)
            connection.close()
            return
        task = self._loop.create_task(self._serve_http(connection))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve_http(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=connection, limit=HTTP_BYTES)

        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        try:
            if first := await reader.read(HTTP_BYTES):
                await HttpConnection(self._node, reader.read, write).run(first)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the client is gone, silent, or we stop: in each case the connection just ends
        finally:
            writer.close()
