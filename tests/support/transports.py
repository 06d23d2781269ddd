"""A transport without a socket, for protocols that are tested byte by byte."""

from __future__ import annotations

import asyncio
from typing import Any

from fastkv.server.peers.connection import Connection


class FakeTransport(asyncio.Transport):
    """Takes up to `room` bytes at once; the rest is its write buffer."""

    def __init__(self, room: int = 1 << 40) -> None:
        super().__init__()
        self.room = room
        self.written: list[bytes] = []
        self.behind = 0
        self.protocol: Connection | None = None
        self.ended = ""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high or 0

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))
        taken = min(self.room, len(data))
        self.room -= taken
        self.behind += len(data) - taken
        if self.behind > self.high:
            assert self.protocol is not None
            self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self.behind

    def abort(self) -> None:
        self.ended = "aborted"

    def close(self) -> None:
        self.ended = "closed"


def feed(target: Connection, data: bytes) -> None:
    """As a transport does: as much at once as the protocol has room for."""
    view = memoryview(data)
    while len(view):
        buffer = target.get_buffer(-1)
        assert len(buffer) > 0
        count = min(len(buffer), len(view))
        buffer[:count] = view[:count]
        target.buffer_updated(count)
        view = view[count:]
