"""
The native front end: C++ serves the clients (cpp/front), Python hears what it must decide.

    clients <--HTTP/2--> fastkv._front --events, in batches, one wake-up--> NativeNode, NativeFront
                              ^------ propose, send, end -------------------'

Hot methods never come here. What does: calls of all other methods, HTTP/1.1 connections, and of the commands that were
applied those that the node follows. The node's own writes take the same way to the store as the clients'.

Invariant: an event is handled on the event loop's thread; nothing in C++ waits for Python.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from fastkv import _front
from fastkv.errors import Error, GrpcCode
from fastkv.rpc.calls import ServerStreaming, Unary, answer
from fastkv.rpc.methods import SERVER_STREAMING, UNARY
from fastkv.rpc.status import absent_method, as_seen
from fastkv.server.closing import in_time
from fastkv.server.http import HttpConnection
from fastkv.server.listeners import NOT_HTTP, REJECTED, Listener, close
from fastkv.server.metrics import HELP, MethodCounts, Metrics
from fastkv.server.native_node import NativeNode
from fastkv.server.tls_config import TlsConfig

DRAIN_S = 0.5
HTTP_BYTES = 64 << 10


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
            _front.RENEW: lambda leases: node.renew(leases),
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
