"""
Peers: the node's one door to the other members.

Owns who the members are, and with that who is let in: a removed member is not, an unknown one of the same cluster is,
because it may be the new leader that will tell this member of itself; it is answered at the URLs that its hello names.

Thread safety: the event loop's thread only.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Iterable, Mapping

from fastkv.raft import Kind, Message
from fastkv.raft.codec import encode_message
from fastkv.server.peers.addresses import Listener
from fastkv.server.peers.connection import Connection
from fastkv.server.peers.context import Context
from fastkv.server.peers.gate import Gate
from fastkv.server.peers.inbound import CLOSES, Inbound, Receiver, judge
from fastkv.server.peers.member import Member
from fastkv.server.peers.reasons import Log, QuietLog
from fastkv.server.peers.snapshot_receive import Arrivals, Receiving
from fastkv.server.peers.streams import LARGE, Messages
from fastkv.server.peers.types import (
    CheckCertificate,
    Http,
    Limits,
    LocalIdentity,
    PeerError,
    PeerEvents,
    SnapshotSource,
    TlsContext,
)
from fastkv.server.peers.wire import Frame, Hello, Refusal, Stream, frame

UNKNOWN_MAX = 16  # members that introduced themselves


def _made(tls: ssl.SSLContext | TlsContext | None) -> TlsContext | None:
    return (lambda: tls) if isinstance(tls, ssl.SSLContext) else tls


class Peers:
    """See `types.PeerEvents` for what it calls, docs/peers.md for what it says to others.

    listeners: bound sockets (addresses.bind); those with TLS need server_tls, https URLs of members need client_tls.
        Both are contexts, or called for one before each handshake.
    check_certificate: what is to be asked of a dialer's certificate beyond OpenSSL's checks.
    http: answers HTTP requests to the peer port: (method, target, body) -> (status, content type, body), or an
        awaitable of that. None: HTTP is not spoken.
    """

    def __init__(
        self,
        identity: LocalIdentity,
        listeners: list[Listener],
        events: PeerEvents,
        log: Log,
        *,
        client_tls: ssl.SSLContext | TlsContext | None = None,
        server_tls: ssl.SSLContext | TlsContext | None = None,
        check_certificate: CheckCertificate | None = None,
        limits: Limits | None = None,
        http: Http | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if any(listener.tls for listener in listeners) and server_tls is None:
            raise ValueError("a listener with TLS needs server_tls")
        self._identity = identity
        self._listeners = listeners
        self._events = events
        self._log = log
        self._client_tls = client_tls
        self._server_tls = server_tls
        self._check_certificate = check_certificate
        self._limits = limits or Limits()
        self._http = http
        self._rng = rng or random.Random()
        self._members: dict[int, Member] = {}
        self._removed: set[int] = set()
        self._inbound: dict[tuple[int, Stream], Inbound] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._context: Context | None = None
        self._gate: Gate | None = None
        self._arrivals: Arrivals | None = None
        self._urls: dict[int, tuple[str, ...]] = {}

    # -- life -------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Listen, and connect to the members that are set already."""
        loop = asyncio.get_running_loop()
        log = QuietLog(self._log, self._limits.log_interval_s, loop.time)
        context = self._context = Context(
            loop, self._identity, self._limits, self._events, log, self._rng, _made(self._client_tls),
            _made(self._server_tls), self._check_certificate,
        )  # fmt: skip
        self._gate = Gate(context, self._listeners, lambda host, port: Inbound(context, self, host, port, self._http))
        self._arrivals = Arrivals(context)
        self._gate.start()
        self._sweeper = loop.create_task(self._sweep())
        self._match()

    async def close(self) -> None:
        """Accept nothing more and cut every connection. Idempotent."""
        if self._sweeper is None or self._gate is None:
            return
        self._sweeper.cancel()
        self._sweeper = None
        for member in self._members.values():
            self._close(member)
        self._members.clear()
        await self._gate.close()
        if self._closing:
            await asyncio.wait(self._closing)
        assert self._arrivals is not None
        await self._arrivals.close()

    def set_members(self, members: Mapping[int, Iterable[str]], removed: Iterable[int] = ()) -> None:
        """
        The members and their peer URLs, this one among them or not. Who was one and is no longer counts as removed from
        now on, as do `removed`: after a start only the node knows those.
        """
        self._removed |= {*self._urls, *removed} - {*members}
        self._removed -= {*members}
        self._urls = {member: tuple(urls) for member, urls in members.items() if member != self._identity.member_id}
        if self._sweeper is not None:
            self._match()

    # -- sending ----------------------------------------------------------------------------------------------
    def send(self, messages: Iterable[Message]) -> None:
        """
        Each to its member, in this order on each of its streams. Never blocks: what finds no connection, or no room, is
        dropped, and events.unreachable(member) is called, once an episode. SNAPSHOTs go by send_snapshot.
        """
        touched: dict[Connection, None] = {}
        for message in messages:
            member = self._members.get(message.to)
            if member is None:
                continue
            assert message.kind is not Kind.SNAPSHOT, "a snapshot needs its bytes"
            link = member.appends if message.kind in LARGE else member.urgent
            if not link.has_room():
                continue
            encoded = frame(Frame.MESSAGE, encode_message(message))
            if len(encoded) > link.send_bytes_max:
                self._too_large(message, len(encoded))
                link.dropped()
                continue
            link.send(encoded)
            assert link.connection is not None
            touched[link.connection] = None
        for connection in touched:
            connection.flush()

    def _too_large(self, message: Message, size: int) -> None:
        assert self._context is not None
        self._context.log.warn(
            "dropped a message that is too large for its receiver", (message.to, message.kind),
            member_id=f"{message.to:x}", kind=message.kind.name, bytes=size,
        )  # fmt: skip

    async def ask(self, member: int, kind: str, body: bytes, timeout_s: float) -> bytes:
        """What the member's events.answer returns; PeerError."""
        target = self._members.get(member)
        if target is None:
            raise PeerError(f"member {member:x} is not known")
        return await target.ask(kind, body, timeout_s)

    async def send_snapshot(self, message: Message, reader: SnapshotSource) -> bool:
        """
        Send a SNAPSHOT message with the state it names; whether the other node took it. Interruptions are survived, see
        limits.snapshot_patience_s. The reader is the caller's to close, behind this call.
        """
        assert message.kind is Kind.SNAPSHOT
        member = self._members.get(message.to)
        return member is not None and await member.send_snapshot(message, reader)

    # -- Door -------------------------------------------------------------------------------------------------
    def admit(self, inbound: Inbound, hello: Hello) -> tuple[Refusal, str] | Receiver:
        assert self._context is not None
        if self._sweeper is None:
            return Refusal.STRANGERS, CLOSES
        verdict = judge(self._context, hello, self._removed.__contains__)
        if verdict is not None:
            return verdict
        if hello.sender not in self._members and not self._introduce(hello):
            return Refusal.STRANGERS, "too many members that this one does not know"
        self._members[hello.sender].hurry()
        stream = Stream(hello.stream)
        before = self._inbound.get((hello.sender, stream))
        if before is not None:
            before.connection.cut("it has connected anew")
        self._inbound[hello.sender, stream] = inbound
        if stream is Stream.SNAPSHOTS:
            assert self._arrivals is not None
            return Receiving(self._context, self._arrivals, inbound, hello.sender)
        return Messages(self._context, inbound, hello.sender, stream)

    def left(self, inbound: Inbound) -> None:
        assert self._gate is not None
        self._gate.left(inbound)
        if inbound.stream is not None and self._inbound.get((inbound.member, inbound.stream)) is inbound:
            del self._inbound[inbound.member, inbound.stream]
            member = self._members.get(inbound.member)
            if member is not None and not member.known and not any(key[0] == member.id for key in self._inbound):
                self._drop(member)

    def _introduce(self, hello: Hello) -> bool:
        unknown = sum(not member.known for member in self._members.values())
        if unknown >= UNKNOWN_MAX:
            return False
        self._add(hello.sender, hello.peer_urls, known=False)
        return True

    # -- members ----------------------------------------------------------------------------------------------
    def _match(self) -> None:
        """Make `_members` what the node has said."""
        for member in list(self._members.values()):
            urls = self._urls.get(member.id)
            if urls == member.urls:
                member.known = True
            elif urls is not None or member.known or member.id in self._removed:
                self._drop(member)
        for inbound in [inbound for key, inbound in self._inbound.items() if key[0] in self._removed]:
            inbound.connection.cut("it is no longer a member")
        for member_id, urls in self._urls.items():
            if member_id not in self._members:
                self._add(member_id, urls, known=True)

    def _add(self, member_id: int, urls: tuple[str, ...], known: bool) -> None:
        assert self._context is not None
        self._members[member_id] = Member(self._context, member_id, urls, known)

    def _drop(self, member: Member) -> None:
        del self._members[member.id]
        self._close(member)

    def _close(self, member: Member) -> None:
        assert self._context is not None
        member.retire()
        task = self._context.loop.create_task(member.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _sweep(self) -> None:
        """Ping, and cut the silent and the slow."""
        assert self._context is not None and self._gate is not None and self._arrivals is not None
        loop = self._context.loop
        while True:
            await asyncio.sleep(self._limits.ping_interval_s)
            now = loop.time()
            self._gate.sweep(now)
            self._arrivals.sweep(now)
            for member in list(self._members.values()):
                member.ping()
