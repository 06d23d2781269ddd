"""What Peers is made from and what it talks to: identity, limits, the node's side of the contract, the one error."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fastkv.raft import Message

HttpAnswer = tuple[int, str, bytes]  # status, content type, body
Http = Callable[[str, str, bytes], HttpAnswer | Awaitable[HttpAnswer]]  # (method, target, body)


class LocalIdentity(NamedTuple):
    """Who this member is to others. `peer_urls`: where they reach it, for those that do not know it yet."""

    cluster_id: int
    member_id: int
    api_version: str
    peer_urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and times; tests shrink them. A member's own limits hold for what it sends and for what it takes.

    message_bytes_max: one frame of the append stream, so one Raft message.
    urgent_bytes_max: one frame of the urgent stream: small messages, and the bodies of ask and of its answer.
    queue_bytes_max, queue_messages_max: what may wait for one stream to one member; one message always may.
    asks_max: questions to, and from, one member that are not answered yet.
    snapshot_bytes_s: rate of a snapshot that is sent, 0 = as fast as it goes; snapshot_chunk_bytes: one frame of it.
    snapshot_patience_s: a snapshot that has got no byte further for so long is given up, by either side.
    strangers_max: accepted connections that have not said who they are, or speak HTTP; the oldest gives way.
    handshake_timeout_s: connecting, TLS, hello, each; frame_timeout_s: from a frame's first byte to its last.
    ping_interval_s: how often each connection is asked for a sign of life; silence_s: without one it is closed.
    backoff_min_s, backoff_max_s: pauses between attempts to connect; at once after a connection that lasted.
    http_timeout_s, http_body_max: one HTTP request. log_interval_s: the same sentence is logged once in so long.
    """

    message_bytes_max: int = 64 << 20
    urgent_bytes_max: int = 4 << 20
    queue_bytes_max: int = 64 << 20
    queue_messages_max: int = 4096
    asks_max: int = 256
    snapshot_bytes_s: int = 64 << 20
    snapshot_chunk_bytes: int = 128 << 10
    snapshot_patience_s: float = 60.0
    strangers_max: int = 128
    handshake_timeout_s: float = 5.0
    frame_timeout_s: float = 60.0
    ping_interval_s: float = 1.0
    silence_s: float = 5.0
    backoff_min_s: float = 0.1
    backoff_max_s: float = 2.0
    http_timeout_s: float = 30.0
    http_body_max: int = 1 << 20
    log_interval_s: float = 10.0


TlsContext = Callable[[], ssl.SSLContext]  # asked before each handshake: files may have changed
# (session, the dialer's IP) -> why its certificate, which OpenSSL has verified, is not let in; "" if it is.
CheckCertificate = Callable[[ssl.SSLObject, str], Awaitable[str]]


class PeerError(Exception):
    """A question that got no answer: not connected, timed out, too many at once, or the other member's own refusal."""


class SnapshotSource(Protocol):
    """What send_snapshot reads; the engine's SnapshotReader is one. Called from a thread, one call at a time."""

    @property
    def size(self) -> int: ...
    def read(self, offset: int, length: int) -> bytes: ...


class SnapshotSink(Protocol):
    """What a snapshot is written to; the engine's SnapshotWriter is one. Called from a thread, one call at a time."""

    @property
    def size(self) -> int: ...
    def write(self, data: bytes) -> None: ...
    def abort(self) -> None: ...


class PeerEvents(Protocol):
    """The node's side. All are called in the event loop and, but for the coroutines, must be quick."""

    def received(self, messages: list[Message]) -> None:
        """From one member, in the order in which it sent them on that stream."""

    def unreachable(self, member: int) -> None:
        """Messages to it were lost, or may have been; once an episode, and never from within `send`."""

    async def answer(self, member: int, kind: str, body: bytes) -> bytes:
        """Another member's `ask`. PeerError's text is what the asker's PeerError says."""

    def snapshot_begin(self, message: Message) -> SnapshotSink | None:
        """A snapshot is on its way; None: not wanted."""

    async def snapshot_done(self, message: Message, sink: SnapshotSink) -> bool:
        """All its bytes are in the sink, which is the node's from now on; whether it could be used."""

    def active(self, member: int, since: float | None) -> None:
        """Both streams to it stand since this moment of time.monotonic(); None: no longer."""

    def removed(self) -> None:
        """Another member says that this one has been removed from the cluster, for good. Told at every attempt."""
