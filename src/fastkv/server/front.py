"""
The grpcio front end's client port: gRPC and HTTP/1.1 on one socket, told apart by the first bytes.

    client [--TLS--] --"PRI * HTTP/2.0..."--> relay --unix socket, mode 0700 directory--> grpcio
    client [--TLS--] --anything else--------> HttpConnection

grpcio listens for itself and cannot be handed a connection, so its bytes are relayed through a socket that only this
user can reach. The relay copies and never interprets; it stops reading from one side while the other is behind.

Invariants:
* Nothing is accepted before `serve`, nothing is left open after `close`.
* A relayed connection ends on both sides together, after what was received has been handed over.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio

from fastkv.rpc.services import Services
from fastkv.server.call_counts import CallCounts
from fastkv.server.config import Config
from fastkv.server.http import HttpConnection
from fastkv.server.listeners import NOT_HTTP, REJECTED, Acceptor, Listener, address_text, close
from fastkv.server.metrics import Metrics
from fastkv.server.node import Node
from fastkv.server.tls import Contexts
from fastkv.server.tls_config import TlsConfig

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FIRST_BYTES_TIMEOUT_S = 300.0
RELAY_BYTES = 256 << 10
# Who can speak HTTP/1.1 is no gRPC client (those offer h2 alone) but a browser or curl, and gets it.
ALPN = ("http/1.1", "h2")
STOP_GRACE_S = 0.5
# Above etcd's limit by far: requests between the two get etcd's own text, this one only bounds memory.
RECEIVE_BYTES_FACTOR = 16


class Front:
    """Owns the listeners, the gRPC server behind them and every connection."""

    name = "grpcio"

    def __init__(self, node: Node, listeners: list[Listener]) -> None:
        self._node = node
        self._listeners = listeners
        self._directory = Path(tempfile.mkdtemp(prefix="fastkv-"))
        self._socket_path = str(self._directory / "grpc.sock")
        self._acceptors: list[Acceptor] = []
        self._counts = CallCounts()
        node.render_metrics = Metrics(node, self._counts).render
        self._grpc = grpc.aio.server(interceptors=[self._counts], options=_options(node.config))
        self._grpc.add_generic_rpc_handlers((Services(node),))
        self._grpc.add_insecure_port(f"unix:{self._socket_path}")

    async def serve(self, tls: TlsConfig) -> None:
        """From now on clients are answered."""
        speaks_tls = any(listener.tls for listener in self._listeners)
        contexts = Contexts(tls, ALPN, self._node.log) if speaks_tls else None
        await self._grpc.start()
        for listener in self._listeners:
            self._acceptors.append(Acceptor(listener, contexts, self._serve, self._node.log, RELAY_BYTES))

    async def close(self) -> bool:
        """Accept nothing more, let calls under way end within STOP_GRACE_S, then cut."""
        for acceptor in self._acceptors:
            await acceptor.stop()
        await self._grpc.stop(STOP_GRACE_S)
        for acceptor in self._acceptors:
            await acceptor.close()
        close(self._listeners)
        shutil.rmtree(self._directory, ignore_errors=True)
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = b""
        async with asyncio.timeout(FIRST_BYTES_TIMEOUT_S):
            while first != PREFACE and PREFACE.startswith(first):
                more = await reader.read(len(PREFACE) - len(first))
                if not more:
                    return
                first += more
        if first == PREFACE:
            self._counts.connections += 1
            self._counts.connections_total += 1
            try:
                await self._relay(first, reader, writer)
            finally:
                self._counts.connections -= 1
            return

        if self._node.config.listen_client_http_urls:
            address = address_text(writer.get_extra_info("peername"))
            self._node.log.warn(REJECTED, remote_addr=address, error=NOT_HTTP)
            return

        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        await HttpConnection(self._node, reader.read, write).run(first)

    async def _relay(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        grpc_reader, grpc_writer = await asyncio.open_unix_connection(self._socket_path, limit=RELAY_BYTES)
        grpc_writer.write(first)

        def received(size: int) -> None:
            self._counts.received_bytes += size

        def sent(size: int) -> None:
            self._counts.sent_bytes += size

        received(len(first))
        both = (
            asyncio.ensure_future(_copy(reader, grpc_writer, received)),
            asyncio.ensure_future(_copy(grpc_reader, writer, sent)),
        )
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copying in both:
                copying.cancel()
            grpc_writer.close()
            await asyncio.gather(*both, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[int], None]) -> None:
    while data := await reader.read(RELAY_BYTES):
        count(len(data))
        writer.write(data)
        await writer.drain()


def _options(config: Config) -> list[tuple[str, int]]:
    def ms(seconds: float) -> int:
        return int(seconds * 1000)

    options = [
        ("grpc.so_reuseport", 0),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", RECEIVE_BYTES_FACTOR * config.receive_bytes_max),
        ("grpc.max_concurrent_streams", min(config.max_concurrent_streams, (1 << 31) - 1)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", ms(config.keepalive_min_time_s)),
        ("grpc.keepalive_permit_without_calls", 0),
    ]
    if config.keepalive_interval_s > 0 and config.keepalive_timeout_s > 0:
        options.append(("grpc.keepalive_time_ms", ms(config.keepalive_interval_s)))
        options.append(("grpc.keepalive_timeout_ms", ms(config.keepalive_timeout_s)))
    return options
