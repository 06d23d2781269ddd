"""Peers on loopback in one event loop, the node's side of them, a proxy that cuts wires, waiting with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastkv.raft import ConfState, Entry, EntryKind, Kind, Message, Snapshot, make_batch
from fastkv.server.peers import Http, Limits, LocalIdentity, PeerError, Peers, SnapshotSink, bind

DEADLINE_S = 20.0
CLUSTER = 0xC1
QUICK = Limits(backoff_min_s=0.005, backoff_max_s=0.05, ping_interval_s=0.1, handshake_timeout_s=10.0, silence_s=15.0)
TOOK_NOTHING = "within the deadline it did not happen: "


def run(test: Coroutine[Any, Any, None]) -> None:
    """A test that is a coroutine. What a task or callback lets escape fails it."""

    async def main() -> None:
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        async with asyncio.timeout(3 * DEADLINE_S):
            await test
        assert not faults, faults

    asyncio.run(main())


async def until(happened: Callable[[], Any], what: str = "") -> None:
    """Wait for it, DEADLINE_S at most."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not happened():
        assert loop.time() < deadline, TOOK_NOTHING + what
        await asyncio.sleep(0.002)


class Lines:
    """A log that keeps its lines, as text."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, **fields: object) -> None:
        self.lines.append(" ".join(("info", message, *(f"{key}={value}" for key, value in fields.items()))))

    def warn(self, message: str, **fields: object) -> None:
        self.lines.append(" ".join(("warn", message, *(f"{key}={value}" for key, value in fields.items()))))

    def has(self, *parts: str) -> bool:
        return any(all(part in line for part in parts) for line in self.lines)


class Sink:
    """A snapshot in memory."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.aborted = False

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data

    def abort(self) -> None:
        self.aborted = True


class Source:
    """A snapshot of so many random bytes."""

    def __init__(self, size: int) -> None:
        self.data = random.Random(size).randbytes(size)
        self.reads: list[int] = []

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append(offset)
        return self.data[offset : offset + length]


class FakeNode:
    """PeerEvents that remembers."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.calls = 0
        self.lost: list[int] = []
        self.active_since: dict[int, float | None] = {}
        self.activity: list[tuple[int, bool]] = []
        self.asked: list[tuple[int, str, bytes]] = []
        self.was_removed = 0
        self.sinks: list[Sink] = []
        self.wants_snapshots = True
        self.finished: list[tuple[Message, SnapshotSink]] = []
        self.hold = asyncio.Event()  # "wait" is answered when it is set

    def received(self, messages: list[Message]) -> None:
        self.calls += 1
        self.messages += messages

    def unreachable(self, member: int) -> None:
        self.lost.append(member)

    async def answer(self, member: int, kind: str, body: bytes) -> bytes:
        self.asked.append((member, kind, body))
        if kind == "wait":
            await self.hold.wait()
        elif kind == "refuse":
            raise PeerError("not a primary lessor")
        elif kind == "large":
            return bytes(int(body))
        elif kind == "fault":
            raise ZeroDivisionError("a fault of the node")
        return kind.encode() + b":" + body

    def make_sink(self) -> Sink:
        return Sink()

    def snapshot_begin(self, message: Message) -> SnapshotSink | None:
        if not self.wants_snapshots:
            return None
        self.sinks.append(self.make_sink())
        return self.sinks[-1]

    async def snapshot_done(self, message: Message, sink: SnapshotSink) -> bool:
        self.finished.append((message, sink))
        return True

    def active(self, member: int, since: float | None) -> None:
        self.active_since[member] = since
        self.activity.append((member, since is not None))

    def removed(self) -> None:
        self.was_removed += 1


class Site:
    """One member: its Peers, what its node saw, what it logged."""

    def __init__(
        self,
        member: int,
        limits: Limits = QUICK,
        *,
        cluster: int = CLUSTER,
        version: str = "3.7.3",
        scheme: str = "http",
        host: str = "127.0.0.1",
        client_tls: ssl.SSLContext | None = None,
        server_tls: ssl.SSLContext | None = None,
        http: Http | None = None,
        node: FakeNode | None = None,
    ) -> None:
        self.id = member
        listener = bind(f"{scheme}://{host}:0")
        self.port: int = listener.socket.getsockname()[1]
        self.url = f"{scheme}://{host}:{self.port}"
        self.node = node or FakeNode()
        self.log = Lines()
        self.peers = Peers(
            LocalIdentity(cluster, member, version, (self.url,)), [listener], self.node, self.log,
            client_tls=client_tls, server_tls=server_tls, limits=limits, http=http,
        )  # fmt: skip

    def connected(self, *others: int) -> bool:
        return all(self.node.active_since.get(other) is not None for other in others)


@contextlib.asynccontextmanager
async def running(*sites: Site, introduce: bool = True) -> AsyncIterator[None]:
    """Started, and unless told otherwise each knowing and connected to each other."""
    for site in sites:
        await site.peers.start()
    try:
        if introduce:
            for site in sites:
                site.peers.set_members({other.id: [other.url] for other in sites})
            for site in sites:
                others = [other.id for other in sites if other is not site]
                await until(lambda: site.connected(*others), f"{site.id} connected to {others}")  # noqa: B023
        yield
    finally:
        for site in sites:
            await site.peers.close()


class Proxy:
    """Between a dialer and an acceptor: relays, cuts, or goes silent without closing anything."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.relayed_bytes = 0
        self.connections = 0
        self.cut_after_bytes = 0  # once, 0: never
        self.url = ""

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Every connection, with a reset."""
        for writer in self._writers:
            writer.transport.abort()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers |= {writer, far_writer}
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._copy(reader, far_writer))
                    group.create_task(self._copy(far_reader, writer))
            except* OSError:
                pass
            finally:
                self._writers -= {writer, far_writer}
                writer.transport.abort()
                far_writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(64 << 10):
            await self.flowing.wait()
            self.relayed_bytes += len(data)
            if self.cut_after_bytes and self.relayed_bytes >= self.cut_after_bytes:
                self.cut_after_bytes = 0
                self.cut()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError("the other side is done")


# -- messages -------------------------------------------------------------------------------------------------
def append(sender: int, to: int, index: int, data: bytes = b"", count: int = 1) -> Message:
    entries = tuple(
        Entry(1, index + place + 1, EntryKind.NORMAL, make_batch(sender, index + place + 1, data))
        for place in range(count)
    )
    return Message(Kind.APPEND, to, sender, 1, index, 1 if index else 0, 0, entries)


def heartbeat(sender: int, to: int, context: int) -> Message:
    return Message(Kind.HEARTBEAT, to, sender, 1, context=context)


def snapshot(sender: int, to: int, index: int = 100, term: int = 5) -> Message:
    return Message(Kind.SNAPSHOT, to, sender, term, snapshot=Snapshot(index, 4, ConfState((1, 2, 3))))
