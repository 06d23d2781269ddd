"""
One accepted connection: who it is, and what it brings.

    first bytes --MAGIC--> HELLO --admitted--> WELCOME, then the frames of its stream, to its Receiver
         |                   +----refused----> REFUSE, closed
         +------A..Z--> HTTP (probes.py)
         +------else--> cut, with a guess at what it was

Until it is admitted it is a stranger: the gate bounds how many there are and how long they may take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fastkv.raft.codec import DecodeError
from fastkv.server.peers.connection import Connection
from fastkv.server.peers.context import Context
from fastkv.server.peers.probes import Probes
from fastkv.server.peers.reasons import describe, looks_like_tls
from fastkv.server.peers.types import Http
from fastkv.server.peers.wire import (
    HELLO_BYTES_MAX,
    VERSION,
    Frame,
    Hello,
    Refusal,
    Stream,
    WireError,
    control,
    decode_hello,
    decode_nothing,
    frame,
)

PONG = frame(Frame.PONG)
CLOSES = "this member closes"
BEHIND_BYTES_MAX = 16 << 20  # answers that a member does not take in


class Receiver(Protocol):
    """Takes one admitted stream's frames."""

    def batch(self, frames: list[tuple[int, memoryview]]) -> None:
        """(kind, body) of all that one read has brought. WireError and DecodeError cut the connection."""

    def lost(self) -> None: ...


class Door(Protocol):
    """Who decides about a hello."""

    def admit(self, inbound: Inbound, hello: Hello) -> tuple[Refusal, str] | Receiver: ...
    def left(self, inbound: Inbound) -> None: ...


class Inbound:
    """The owner of an accepted connection."""

    def __init__(self, context: Context, door: Door, host: str, port: int, http: Http | None) -> None:
        self.host = host
        self.address = f"{host}:{port}"
        self.member = 0
        self.stream: Stream | None = None
        self.began_at = context.loop.time()
        self.connection = Connection(self, context.loop, HELLO_BYTES_MAX, accepted=True)
        self._context = context
        self._door = door
        self._http = http
        self._probes: Probes | None = None
        self._receiver: Receiver | None = None

    @property
    def is_stranger(self) -> bool:
        return self._receiver is None

    def check(self, now: float) -> None:
        """To be called every limits.ping_interval_s: cut it if it is silent, or slow."""
        limits, connection = self._context.limits, self.connection
        if self._probes is not None:
            if now > self._probes.waiting_since + limits.http_timeout_s:
                connection.cut("it sent no request")
        elif self.is_stranger:
            if now > self.began_at + limits.handshake_timeout_s:
                connection.cut("it did not say who it is")
        else:
            silence_s, frame_timeout_s = limits.silence_s, limits.frame_timeout_s
            if self.stream is Stream.SNAPSHOTS:  # what is not read because a disk is slow says nothing about the sender
                silence_s = max(silence_s, limits.snapshot_patience_s)
                frame_timeout_s = max(frame_timeout_s, limits.snapshot_patience_s)
            if connection.is_silent(limits.ping_interval_s, silence_s):
                connection.cut("it has gone silent")
            elif connection.frame_since is not None and now > connection.frame_since + frame_timeout_s:
                connection.cut("it takes too long over one frame")

    # -- Owner ------------------------------------------------------------------------------------------------
    def opened(self, connection: Connection) -> None:
        assert connection.transport is not None
        if self._context.check_certificate is not None and connection.transport.get_extra_info("ssl_object"):
            connection.pause()  # nothing is read before the gate has had its certificate checked

    def foreign(self, connection: Connection, data: bytes) -> None:
        if self._probes is None and self._http is not None and data[:1].isalpha() and data[:1].isupper():
            self._probes = Probes(self._context, connection, self._http)
        if self._probes is not None:
            self._probes.received(data)
        elif looks_like_tls(data):
            connection.cut("it speaks TLS, but this port is plain text")
        else:
            connection.cut("it speaks neither fastkv's peer protocol nor HTTP")

    def frames(self, connection: Connection, frames: list[memoryview]) -> None:
        try:
            if self._receiver is None:
                self._greet(frames[0])
                frames = frames[1:]
            batch = []
            for view in frames:
                kind, body = view[0], view[1:]
                if kind == Frame.PING:
                    decode_nothing(body)
                    connection.push(PONG)
                    connection.flush_soon()
                else:
                    batch.append((kind, body))
            if batch and self._receiver is not None:
                self._receiver.batch(batch)
            if connection.waiting_bytes > BEHIND_BYTES_MAX:
                connection.cut("it does not take in what it asked for")
        except (WireError, DecodeError) as error:
            connection.cut(f"it sent what it must not: {error}")

    def lost(self, connection: Connection, reason: str | Exception | None) -> None:
        if self._probes is not None:
            self._probes.lost()
        self._door.left(self)
        if self._receiver is not None:
            self._receiver.lost()
        if reason not in (None, CLOSES) and self._probes is None:
            self._context.log.warn(
                "lost a connection to the peer port", (self.host, describe(reason)),
                remote_addr=self.address, member_id=f"{self.member:x}", reason=describe(reason),
            )  # fmt: skip

    # -- the handshake ----------------------------------------------------------------------------------------
    def _greet(self, view: memoryview) -> None:
        if view[0] != Frame.HELLO:
            raise WireError(f"a frame of kind {view[0]} instead of a hello")
        hello = decode_hello(view[1:])
        identity = self._context.identity
        verdict = self._door.admit(self, hello)
        if isinstance(verdict, tuple):
            refusal, text = verdict
            self._context.log.warn(
                "refused a member's connection", (hello.sender, text), remote_addr=self.address,
                member_id=f"{hello.sender:x}", reason=text,
            )  # fmt: skip
            self.connection.push(control(Frame.REFUSE, refusal, text, identity.cluster_id, identity.member_id))
            self.connection.close()
            return
        self.member, self.stream = hello.sender, Stream(hello.stream)
        limits = self._context.limits
        self.connection.frame_bytes_max = {
            Stream.APPENDS: limits.message_bytes_max,
            Stream.URGENT: limits.urgent_bytes_max,
            Stream.SNAPSHOTS: max(limits.urgent_bytes_max, limits.snapshot_chunk_bytes + 1),
        }[self.stream]
        self._receiver = verdict
        self.connection.push(control(Frame.WELCOME, identity.cluster_id, identity.member_id, identity.api_version))
        self.connection.flush_soon()


def judge(context: Context, hello: Hello, removed: Callable[[int], bool]) -> tuple[Refusal, str] | None:
    """Why this hello is refused, whoever is a member; None if it is not. The order matters: who is of another cluster
    must not learn that a member of ours was removed."""
    own = context.identity
    if hello.version != VERSION:
        return Refusal.VERSION, f"peer protocol {hello.version}, this member speaks {VERSION}"
    if hello.cluster_id != own.cluster_id:
        return Refusal.CLUSTER, f"cluster ID mismatch: {hello.cluster_id:x}, this member's is {own.cluster_id:x}"
    if hello.receiver != own.member_id:
        return Refusal.RECEIVER, f"it wants member {hello.receiver:x}, this is member {own.member_id:x}"
    if hello.sender in (0, own.member_id):
        return Refusal.RECEIVER, f"it says that it is member {hello.sender:x}"
    if hello.stream not in Stream.__members__.values():
        return Refusal.STREAM, f"unknown stream {hello.stream}"
    if not _compatible(hello.api_version, own.api_version):
        return Refusal.API, f"incompatible version: {hello.api_version!r:.40}, this member's is {own.api_version}"
    if removed(hello.sender):
        return Refusal.REMOVED, "the member has been permanently removed from the cluster"
    return None


def _compatible(one: str, other: str) -> bool:
    """Members may be one minor version apart: a rolling upgrade."""
    try:
        (major, minor), (major_too, minor_too) = ([int(part) for part in text.split(".")[:2]] for text in (one, other))
    except ValueError:
        return False
    return major == major_too and abs(minor - minor_too) <= 1
