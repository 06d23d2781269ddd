"""
State machines: what the committed batches are applied to.

A Model is a dict, for the many short runs. An EngineMachine is a real engine in memory (native or Python), which gets
the same commands as etcd requests; a Model beside it (the checkers' own) says what every answer must be.

    commands := op id:u64 padding:u16 kind:1 key:1 value:u64 expected:u64 padding bytes

Invariant: equal batches in equal order give equal answers and equal fingerprints, on every member.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgpack

from fastkv import engine, messages

_COMMAND = struct.Struct("<QHBBQQ")
PUT, SWAP, DELETE = 1, 2, 3  # SWAP: put if the key holds `expected` (0: nothing)


class Command(NamedTuple):
    id: int
    kind: int
    key: int
    value: int
    expected: int = 0

    def encode(self, padding: int = 0) -> bytes:
        return _COMMAND.pack(self.id, padding, self.kind, self.key, self.value, self.expected) + bytes(padding)

    @classmethod
    def decode(cls, commands: bytes) -> Command:
        id, _, kind, key, value, expected = _COMMAND.unpack_from(commands)
        return cls(id, kind, key, value, expected)


class Machine(Protocol):
    def apply(self, commands: bytes) -> bool:
        """Apply one batch; whether its command took effect."""

    def read(self, key: int) -> int:
        """The key's value; 0: it has none."""

    def fingerprint(self) -> object:
        """Equal exactly where the states are; may be slow."""

    def save(self) -> bytes: ...
    def load(self, data: bytes) -> None:
        """Take the place of the present state."""

    def close(self) -> None:
        """Checks itself, too. AssertionError."""


class Model:
    """A dict from key to value, and the CRC of all that was ever applied."""

    def __init__(self) -> None:
        self.values: dict[int, int] = {}
        self.applied_crc = 0

    def apply(self, commands: bytes) -> bool:
        self.applied_crc = zlib.crc32(commands, self.applied_crc)
        _, _, kind, key, value, expected = _COMMAND.unpack_from(commands)
        if kind == SWAP and self.values.get(key, 0) != expected:
            return False
        if kind == DELETE:
            return self.values.pop(key, None) is not None
        self.values[key] = value
        return True

    def read(self, key: int) -> int:
        return self.values.get(key, 0)

    def fingerprint(self) -> object:
        return self.applied_crc, sorted(self.values.items())

    def save(self) -> bytes:
        saved: bytes = msgpack.packb((self.applied_crc, sorted(self.values.items())))
        return saved

    def load(self, data: bytes) -> None:
        self.applied_crc, items = msgpack.unpackb(data)
        self.values = dict(items)

    def close(self) -> None:
        pass


@dataclass
class _Watch:
    id: int
    key: bytes
    events: list[Any]


class EngineMachine:
    """An engine in memory. A snapshot of it is the history of its batches, since engines in memory write no checkpoint;
    what is compared is what a checkpoint would hold, and HashKV."""

    def __init__(self, engine_class: Any, *, watch: bool) -> None:
        self._class = engine_class
        self._watches = watch
        self._open()

    def _open(self) -> None:
        self.engine = self._class(None, engine.Options())
        self.history: list[bytes] = []
        self.watched = 0  # events seen
        if self._watches:
            self._watcher = self.engine.watch(b"k", b"l", 1, True, 0)
            self._watched_revision = 1

    def apply(self, commands: bytes) -> bool:
        self.history.append(commands)
        took_effect = False
        for code, answer in self.engine.commit(self._requests(Command.decode(commands)))[:1]:
            assert code == 0, f"an engine refused {commands!r}: {code}"
            took_effect = self._took_effect(Command.decode(commands), answer)
        if self._watches:
            self._take_events()
        return took_effect

    def _requests(self, command: Command) -> list[tuple[int, bytes]]:
        key, value = b"k%d" % command.key, b"%d" % command.value
        put = messages.put_request(key, value)
        if command.kind == PUT:
            requests = [(engine.PUT, put)]
        elif command.kind == DELETE:
            requests = [(engine.DELETE_RANGE, messages.delete_request(key))]
        else:
            target, operand = (3, b"%d" % command.expected) if command.expected else (0, 0)  # value, or version 0
            compare = messages.compare(0, target, key, b"", operand)
            requests = [(engine.TXN, messages.txn_request([compare], [messages.request_op(messages.PUT_OP, put)]))]
        # More commands in the batch, for whose answers nobody asks: they may fail, but alike everywhere.
        if command.id % 5 == 0:
            requests.append((engine.LEASE_GRANT, messages.lease_grant_request(60, command.id)))
            requests.append((engine.PUT, messages.put_request(b"leased", value, command.id)))
        if command.id % 11 == 0:
            requests.append((engine.LEASE_REVOKE, messages.lease_revoke_request(command.id - 1)))
        if command.id % 17 == 0:
            requests.append((engine.COMPACTION, messages.compaction_request(max(self.engine.revision - 5, 1))))
        return requests

    def _took_effect(self, command: Command, answer: bytes) -> bool:
        if command.kind == PUT:
            return True
        if command.kind == DELETE:
            return messages.delete_result(answer).deleted == 1
        return messages.txn_result(answer).succeeded

    def _take_events(self) -> None:
        """Every event since the last time, once, in order, none above what is applied."""
        for batch in self.engine.watch_take(self._watcher, 1 << 20):
            assert not batch.compact_revision, "a live watcher was cancelled by a compaction"
            for event in messages.events(batch.events):
                revision = event.kv.mod_revision
                assert self._watched_revision < revision <= self.engine.revision, (
                    "an event was repeated, or comes early"
                )
                self._watched_revision = revision
                self.watched += 1

    def read(self, key: int) -> int:
        return int(self.engine.get(b"k%d" % key, b"0"))

    def fingerprint(self) -> object:
        return self.engine.revision, self.engine.hash_kv(0), self.engine.hash(), self.engine.leases()

    def save(self) -> bytes:
        saved: bytes = msgpack.packb(self.history)
        return saved

    def load(self, data: bytes) -> None:
        self.close()
        self._open()
        for commands in msgpack.unpackb(data):
            self.apply(commands)

    def close(self) -> None:
        problems = self.engine.check()
        self.engine.close()
        assert problems == [], problems
