"""
The sockets that clients connect to, bound before anything else is begun (a port that is taken is told at once), and how
Python accepts from them.

http:// and https:// URLs of one address share its socket: the first byte tells which of the two a client speaks.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fastkv.server.config import Config
from fastkv.server.flags import split_url
from fastkv.server.log import Log
from fastkv.server.tls import HANDSHAKE_TIMEOUT_S, Contexts

BACKLOG = 1024
FIRST_BYTE_TIMEOUT_S = 30.0
ACCEPT_RETRY_S = 0.1  # when the process has no descriptor left
REJECTED = "rejected connection on client endpoint"
NOT_HTTP = "the client does not speak HTTP/2; HTTP/1.1 is served at --listen-client-http-urls"
TLS_HANDSHAKE = b"\x16"  # the first byte of every TLS session


class Listener(NamedTuple):
    """A bound socket and what may be spoken on it."""

    socket: socket.socket
    plain: bool
    tls: bool

    @property
    def path(self) -> Path | None:
        """Of a unix socket."""
        return Path(self.socket.getsockname()) if self.socket.family == socket.AF_UNIX else None

    @property
    def address(self) -> str:
        """host:port or the path."""
        name = self.socket.getsockname()
        if isinstance(name, str):
            return name
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


class Ports(NamedTuple):
    """All that a node listens on for clients."""

    client: list[Listener]
    http: list[Listener]
    metrics: list[Listener]

    def close(self) -> None:
        close([*self.client, *self.http, *self.metrics])


def bind_ports(config: Config) -> Ports:
    """OSError names the address that cannot be had."""
    bound: list[list[Listener]] = []
    try:
        for urls in (config.listen_client_urls, config.listen_client_http_urls, config.listen_metrics_urls):
            bound.append(bind(urls, config.reuse_port))
    except OSError:
        close(listener for listeners in bound for listener in listeners)
        raise
    return Ports(*bound)


def bind(urls: Sequence[str], reuse_port: bool) -> list[Listener]:
    """Bound sockets for all URLs; OSError names the address that cannot be had."""
    schemes: dict[str, tuple[str, set[str]]] = {}
    for url in urls:
        parts = split_url(url)
        where = parts.netloc + parts.path
        if parts.netloc.endswith(":0"):
            where = url  # each its own: the kernel chooses
        schemes.setdefault(where, (url, set()))[1].add(parts.scheme)
    bound: list[Listener] = []
    try:
        for url, spoken in schemes.values():
            plain, tls = bool(spoken & {"http", "unix"}), bool(spoken & {"https", "unixs"})
            bound.append(Listener(_bind(url, reuse_port), plain, tls))
    except OSError:
        close(bound)
        raise
    return bound


def close(listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        listener.socket.close()


def hosts(urls: Iterable[str]) -> list[str]:
    """The hosts of http and https URLs, each once."""
    netlocs = [split_url(url).netloc for url in urls if url.startswith("http")]
    return list(dict.fromkeys(netloc.rpartition(":")[0].strip("[]") for netloc in netlocs))


def _bind(url: str, reuse_port: bool) -> socket.socket:
    parts = split_url(url)
    if parts.scheme in ("unix", "unixs"):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address: str | tuple[str, int] = parts.netloc + parts.path
        Path(parts.netloc + parts.path).unlink(missing_ok=True)
    else:
        host, _, port = parts.netloc.rpartition(":")
        host = host.strip("[]").replace("localhost", "127.0.0.1")
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        address = (host, int(port))
    try:
        listener.bind(address)
    except OSError as reason:
        listener.close()
        raise OSError(
            reason.errno, f"listen {parts.netloc or parts.path}: {(reason.strerror or str(reason)).lower()}"
        ) from None
    listener.setblocking(False)
    return listener


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Acceptor:
    """
    Accepts from one listener into asyncio's streams: TLS or not by the first byte, each connection a task that runs
    `serve`. Who is refused is logged with the reason, and closed without a word, as etcd does.
    """

    def __init__(
        self,
        listener: Listener,
        contexts: Contexts | None,
        serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        log: Log,
        buffer_bytes: int,
    ) -> None:
        self._listener = listener
        self._contexts = contexts
        self._serve = serve
        self._log = log
        self._buffer_bytes = buffer_bytes
        self._loop = asyncio.get_running_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._path = listener.path
        listener.socket.listen(BACKLOG)
        self._accepting = self._loop.create_task(self._accept())

    async def stop(self) -> None:
        """Accept nothing more."""
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.socket.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def close(self) -> None:
        """Stop, and end every connection."""
        await self.stop()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            try:
                connection, address = await self._loop.sock_accept(self._listener.socket)
            except OSError as reason:
                if reason.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    continue  # the client was gone before we came to it
                self._log.warn("cannot accept a connection", error=reason.strerror)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            task = self._loop.create_task(self._run(connection, address_text(address)))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _run(self, connection: socket.socket, address: str) -> None:
        writer: asyncio.StreamWriter | None = None
        try:
            if (streams := await self._open(connection, address)) is not None:
                reader, writer = streams
                await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the client is gone, silent, or we stop: in each case the connection just ends
        finally:
            if writer is not None:
                writer.close()
            else:
                connection.close()

    async def _open(self, connection: socket.socket, address: str) -> Streams | None:
        context: ssl.SSLContext | None = None
        if self._contexts is not None and self._listener.tls:
            async with asyncio.timeout(FIRST_BYTE_TIMEOUT_S):
                first = await self._peek(connection)
            if first == TLS_HANDSHAKE:
                context = self._contexts.server()
            elif first and not self._listener.plain:
                why = f"the client does not speak TLS (its first byte is {first[0]}), this listener does only"
                self._reject(address, why)
            if not first or (context is None and not self._listener.plain):
                return None
        reader = asyncio.StreamReader(limit=self._buffer_bytes)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if context else None,
            )
        except (OSError, TimeoutError) as reason:  # ssl.SSLError is an OSError
            self._reject(address, f"TLS handshake: {_words(reason)}")
            return None
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        session = transport.get_extra_info("ssl_object")
        if session is not None and self._contexts is not None and (why := self._contexts.refusal(session)):
            self._reject(address, why)
            transport.abort()
            return None
        return reader, writer

    async def _peek(self, connection: socket.socket) -> bytes:
        while True:
            try:
                return connection.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                pass
            await self._readable(connection)

    async def _readable(self, connection: socket.socket) -> None:
        readable = asyncio.Event()
        self._loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(connection)

    def _reject(self, address: str, why: str) -> None:
        self._log.warn(REJECTED, remote_addr=address, error=why)


def _words(reason: OSError | TimeoutError) -> str:
    if isinstance(reason, ssl.SSLError):
        return reason.reason.lower().replace("_", " ") if reason.reason else str(reason)
    return reason.strerror or str(reason) or "it took too long"


def address_text(address: object) -> str:
    if isinstance(address, tuple):
        return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
    return str(address) or "unix"
