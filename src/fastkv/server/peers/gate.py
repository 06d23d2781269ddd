"""
The peer port: listening sockets, TLS, and the strangers that nobody has admitted yet.

Invariants:
* Strangers and TLS handshakes are at most limits.strangers_max; the oldest gives way, so that nobody can keep members
  out by holding connections open.
* After `close` nothing is accepted and nothing that was is left.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from fastkv.server.peers.addresses import Listener
from fastkv.server.peers.context import Context
from fastkv.server.peers.inbound import CLOSES, Inbound
from fastkv.server.peers.reasons import describe
from fastkv.server.peers.tasks import fault

BACKLOG = 128
ACCEPTS = 16  # in one turn of the loop
TLS_SHUTDOWN_S = 1.0  # for the other side's farewell
NO_SOCKETS_PAUSE_S = 0.2  # accept failed, out of file descriptors mostly: give others time to close some


class Gate:
    """Owns the listeners and every accepted connection."""

    def __init__(self, context: Context, listeners: list[Listener], make: Callable[[str, int], Inbound]) -> None:
        self._context = context
        self._listeners = listeners
        self._make = make
        self._closed = False
        self._opening: dict[asyncio.Task[None], None] = {}  # in the order of accepting
        self._inbound: dict[Inbound, None] = {}

    def start(self) -> None:
        for listener in self._listeners:
            listener.socket.listen(BACKLOG)
            self._watch(listener)

    async def close(self) -> None:
        self._closed = True
        for listener in self._listeners:
            self._context.loop.remove_reader(listener.socket)
            listener.socket.close()
        tasks = [*self._opening]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for inbound in list(self._inbound):
            inbound.connection.cut(CLOSES)
        while self._inbound:  # each is told that it is lost in the loop's next turn
            await asyncio.sleep(0)

    def left(self, inbound: Inbound) -> None:
        self._inbound.pop(inbound, None)

    def sweep(self, now: float) -> None:
        """Cut who has been silent, or slow, for too long."""
        for inbound in list(self._inbound):
            inbound.check(now)

    def _watch(self, listener: Listener) -> None:
        if not self._closed:
            self._context.loop.add_reader(listener.socket, self._accept, listener)

    def _accept(self, listener: Listener) -> None:
        loop = self._context.loop
        for _ in range(ACCEPTS):
            try:
                accepted, address = listener.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._context.log.warn("cannot accept on the peer port", reason=describe(error))
                loop.remove_reader(listener.socket)
                loop.call_later(NO_SOCKETS_PAUSE_S, self._watch, listener)
                return
            accepted.setblocking(False)
            self._make_way()
            inbound = self._make(address[0], address[1])
            task = loop.create_task(self._open(inbound, accepted, listener.tls))
            self._opening[task] = None
            task.add_done_callback(partial(self._opened, accepted, inbound))

    def _make_way(self) -> None:
        strangers = [inbound for inbound in self._inbound if inbound.is_stranger]
        if len(strangers) + len(self._opening) < self._context.limits.strangers_max:
            return
        if strangers:
            strangers[0].connection.cut("too many connections that have not said who they are")
            self._inbound.pop(strangers[0], None)
        else:
            next(iter(self._opening)).cancel()

    async def _open(self, inbound: Inbound, accepted: socket.socket, tls: bool) -> None:
        context = self._context
        try:
            if tls and context.server_tls is not None:
                await context.loop.connect_accepted_socket(
                    lambda: inbound.connection, accepted, ssl=context.server_tls(),
                    ssl_handshake_timeout=context.limits.handshake_timeout_s, ssl_shutdown_timeout=TLS_SHUTDOWN_S,
                )  # fmt: skip
            else:
                await context.loop.connect_accepted_socket(lambda: inbound.connection, accepted)
        except OSError as error:
            context.log.warn(
                "refused a connection to the peer port", (inbound.host, describe(error)),
                remote_addr=inbound.address, reason=describe(error),
            )  # fmt: skip
            return
        if context.check_certificate is not None and tls:
            if why_not := await self._why_not(inbound):
                inbound.connection.cut(why_not)
            inbound.connection.resume()
        if not inbound.connection.closing:
            self._inbound[inbound] = None

    async def _why_not(self, inbound: Inbound) -> str:
        """Why its certificate is not let in."""
        check, transport = self._context.check_certificate, inbound.connection.transport
        assert check is not None and transport is not None
        try:
            async with asyncio.timeout(self._context.limits.handshake_timeout_s):
                return await check(transport.get_extra_info("ssl_object"), inbound.host)
        except TimeoutError:
            return "its certificate could not be checked in time"

    def _opened(self, accepted: socket.socket, inbound: Inbound, task: asyncio.Task[None]) -> None:
        del self._opening[task]
        if task.cancelled():
            inbound.connection.cut(CLOSES)
        elif (error := task.exception()) is not None:
            inbound.connection.cut("its certificate could not be checked")
            fault(task, error)
        if inbound.connection.transport is None:  # else it is the transport's
            accepted.close()
