"""
Ports that speak HTTP/1.1 and no gRPC: --listen-metrics-urls (/metrics and the probes, for those who shall not reach the
client port) and --listen-client-http-urls (everything but gRPC, which then has the client port for itself).

https:// asks what the client port asks of its clients; http:// is open, as probes want it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastkv.server.http import READ_BYTES, Answer, HttpConnection
from fastkv.server.listeners import Acceptor, Listener, close
from fastkv.server.node import Node
from fastkv.server.tls import Contexts
from fastkv.server.tls_config import TlsConfig


class HttpPort:
    """Owns the listeners and their connections. `answer` says what a request gets: server/http.py."""

    def __init__(
        self,
        node: Node,
        listeners: list[Listener],
        tls: TlsConfig,
        answer: Callable[[Node, str, str, str], Awaitable[Answer]],
    ) -> None:
        self._node = node
        self._listeners = listeners
        self._answer = answer
        contexts = Contexts(tls, ("http/1.1",), node.log) if any(listener.tls for listener in listeners) else None
        self._acceptors = [Acceptor(listener, contexts, self._serve, node.log, READ_BYTES) for listener in listeners]

    async def close(self) -> None:
        for acceptor in self._acceptors:
            await acceptor.close()
        close(self._listeners)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        if first := await reader.read(READ_BYTES):
            await HttpConnection(self._node, reader.read, write, self._answer).run(first)
