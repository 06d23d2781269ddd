"""
Connecting to a member: TCP, TLS, hello, welcome.

    connect --HELLO--> --WELCOME--> an Outgoing that carries its stream's frames, both ways, until it is lost
                       --REFUSE---> Refusal: logged in the other side's words

Owns one attempt; who tries again, and when, is the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastkv.raft.codec import DecodeError
from fastkv.server.peers import addresses
from fastkv.server.peers.connection import SOCKET_BEHIND_BYTES, Connection
from fastkv.server.peers.context import Context
from fastkv.server.peers.reasons import describe, looks_like_tls
from fastkv.server.peers.wire import (
    HELLO_BYTES_MAX,
    MAGIC,
    VERSION,
    Frame,
    Hello,
    Refusal,
    Stream,
    WireError,
    decode_nothing,
    decode_refused,
    decode_welcome,
    frame,
    hello,
)

SNAPSHOT_BEHIND_BYTES = 64 << 10  # not 0: the TLS transport of asyncio would never write again
PING = frame(Frame.PING)
Receive = Callable[[int, memoryview], None]  # (kind, body)


class ConnectError(Exception):
    """It could not be had; the text says why. `removed`: because this member is no longer one."""

    def __init__(self, text: str, removed: bool = False) -> None:
        super().__init__(text)
        self.removed = removed


class Outgoing:
    """One connection to a member. `receive` gets what the other side says behind its WELCOME, but for PONG.

    receive may raise WireError and DecodeError, which cut the connection.
    """

    def __init__(self, context: Context, member: int, stream: Stream, receive: Receive) -> None:
        self._context = context
        self._member = member
        self._receive = receive
        self.stream = stream
        # A snapshot that waits in the transport is encrypted and written in one go: little at a time.
        behind_bytes = SNAPSHOT_BEHIND_BYTES if stream is Stream.SNAPSHOTS else SOCKET_BEHIND_BYTES
        self.connection = Connection(self, context.loop, HELLO_BYTES_MAX, accepted=False, behind_bytes=behind_bytes)
        self.ended: asyncio.Future[str] = context.loop.create_future()  # why
        self._welcomed: asyncio.Future[None] | None = context.loop.create_future()

    async def connect(self, url: str, frame_bytes_max: int) -> None:
        """ConnectError."""
        limits, identity = self._context.limits, self._context.identity
        try:
            address = addresses.parse(url)
        except ValueError as error:
            raise ConnectError(str(error)) from None
        contexts = self._context.client_tls
        if address.tls and contexts is None:
            raise ConnectError("its URL says https, but this member has no certificates for peers")
        tls = contexts() if address.tls and contexts is not None else None
        try:
            async with asyncio.timeout(limits.handshake_timeout_s):
                await self._context.loop.create_connection(
                    lambda: self.connection,
                    address.host,
                    address.port,
                    ssl=tls,
                    server_hostname=address.host if tls else None,
                )
            own = Hello(
                VERSION, self.stream, identity.cluster_id, identity.member_id, self._member, identity.api_version,
                identity.peer_urls,
            )  # fmt: skip
            self.connection.push(MAGIC + hello(own))
            self.connection.flush()
            welcomed = self._welcomed
            assert welcomed is not None
            async with asyncio.timeout(limits.handshake_timeout_s):
                await asyncio.wait((welcomed, self.ended), return_when=asyncio.FIRST_COMPLETED)
            if welcomed.done():
                welcomed.result()
            else:
                raise ConnectError(self.ended.result())
        except OSError as error:  # TimeoutError is one
            self.connection.cut("not connected in time")
            raise ConnectError(describe(error)) from None
        except BaseException:
            self.connection.cut("not connected")
            raise
        self._welcomed = None
        self.connection.frame_bytes_max = frame_bytes_max

    def ping(self) -> None:
        self.connection.push(PING)
        self.connection.flush()

    # -- Owner ------------------------------------------------------------------------------------------------
    def opened(self, connection: Connection) -> None:
        pass

    def foreign(self, connection: Connection, data: bytes) -> None:
        raise AssertionError("only what is accepted can be foreign")

    def frames(self, connection: Connection, frames: list[memoryview]) -> None:
        try:
            for view in frames:
                kind, body = view[0], view[1:]
                if kind == Frame.PONG:
                    decode_nothing(body)
                elif self._welcomed is not None and not self._welcomed.done():
                    self._greeted(kind, body)
                else:
                    self._receive(kind, body)
                if connection.closing:
                    return
        except (WireError, DecodeError) as error:
            connection.cut(f"it sent what it must not: {error}")

    def lost(self, connection: Connection, reason: str | Exception | None) -> None:
        text = describe(reason)
        if self._welcomed is not None and (reason is None or isinstance(reason, ConnectionError)):
            text = "it closed the connection during the handshake; its own log says why"
        if self._welcomed is not None and looks_like_tls(connection.unread()):
            text = "it speaks TLS, but its URL says http"
        if not self.ended.done():
            self.ended.set_result(text)

    def _greeted(self, kind: int, body: memoryview) -> None:
        assert self._welcomed is not None
        identity = self._context.identity
        if kind == Frame.WELCOME:
            welcome = decode_welcome(body)
            if (welcome.cluster_id, welcome.member_id) != (identity.cluster_id, self._member):
                raise WireError(f"the welcome of member {welcome.member_id:x} of cluster {welcome.cluster_id:x}")
            self._welcomed.set_result(None)
        elif kind == Frame.REFUSE:
            refused = decode_refused(body)
            ours = (refused.cluster_id, refused.member_id) == (identity.cluster_id, self._member)
            removed = refused.refusal == Refusal.REMOVED and ours
            self._welcomed.set_exception(ConnectError(f"it refuses us: {refused.text}", removed))
        else:
            raise WireError(f"a frame of kind {kind} instead of a welcome")
