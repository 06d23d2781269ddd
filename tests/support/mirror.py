"""
Two engines as one: every call runs on both, and the first difference in any answer, error or file raises MirrorError.

The slow obvious engine is the specification of the fast one. What the protocol leaves open is not compared: where a
catch-up batch or a chunk of a range ends (what they add up to is), how far compaction has come, the texts of the
world's errors, sizes in bytes, the time of syncs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.text_format import MessageToString

from fastkv import engine as protocol
from fastkv.errors import Code, Error
from support.protos import rpc

STATS = (
    "keys",
    "revision",
    "compact_revision",
    "applied_index",
    "last_index",
    "term",
    "leases",
    "watchers",
    "commands",
)
COMMIT_NAMES = {
    protocol.PUT: "PutRequest",
    protocol.DELETE_RANGE: "DeleteRangeRequest",
    protocol.TXN: "TxnRequest",
    protocol.COMPACTION: "CompactionRequest",
    protocol.LEASE_GRANT: "LeaseGrantRequest",
    protocol.LEASE_REVOKE: "LeaseRevokeRequest",
    protocol.ALARM: "AlarmRequest",
    protocol.LEASE_CHECKPOINT: "LeaseCheckpointRequest",
}


class MirrorError(AssertionError):
    """The engines disagree."""


class MirrorEngine:
    """The calls of the Engine protocol; `first` and `second` are engine classes, each in a directory of its own."""

    name = "mirror"

    def __init__(self, first: type, second: type, path: Path | None, options: protocol.Options) -> None:
        self.path = path
        self._paths = [path / side for side in ("first", "second")] if path else [None, None]
        if path:
            path.mkdir(parents=True, exist_ok=True)
        self._classes = (first, second)
        self._options = options
        self._engines = self._open()

    def _open(self) -> list[Any]:
        return [
            cls(str(where) if where else None, self._options)
            for cls, where in zip(self._classes, self._paths, strict=True)
        ]

    def _both(self, what: str, call: Callable[[Any], Any]) -> Any:
        """The equal outcome of `call` on both; raises what both raise."""
        return self._agreed(what, [_outcome(call, engine) for engine in self._engines])

    def _agreed(self, what: str, outcomes: list[tuple[Any, Any, Error | None]]) -> Any:
        if outcomes[0][:2] != outcomes[1][:2]:
            names = [engine.name for engine in self._engines]
            texts = [f"  {name}: {_show(outcome)}" for name, outcome in zip(names, outcomes, strict=True)]
            raise MirrorError("\n".join([f"{what}:", *texts]))
        _, result, error = outcomes[0]
        if error is not None:
            raise error
        return result

    def __getattr__(self, name: str) -> Any:
        """Calls that must agree to the byte. (Attributes are read with `state`.)"""
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self._both(
            describe(name, arguments), lambda engine: getattr(engine, name)(*arguments)
        )

    def commit(self, commands: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Of a command that is wrong in two places, one of them not being a message, either may be the answer."""

        def same(first: tuple[int, bytes], second: tuple[int, bytes]) -> bool:
            return first == second or (first[0] > 0 and second[0] > 0 and Code.MALFORMED in (first[0], second[0]))

        outcomes = [_outcome(lambda engine: engine.commit(commands), engine) for engine in self._engines]
        if all(kind == "result" for kind, _, _ in outcomes) and all(map(same, outcomes[0][1], outcomes[1][1])):
            return outcomes[0][1]
        return self._agreed(describe("commit", (commands,)), outcomes)

    def state(self) -> dict[str, Any]:
        return self._both(
            "state", lambda engine: (engine.revision, engine.compact_revision, engine.applied_index, engine.closed)
        )

    @property
    def revision(self) -> int:
        return self._both("revision", lambda engine: engine.revision)

    @property
    def compact_revision(self) -> int:
        return self._both("compact_revision", lambda engine: engine.compact_revision)

    def compact_step(self, revisions_max: int) -> bool:
        """Both take a step; how far along each is, is its own business. True when both have nothing left."""
        done = [engine.compact_step(revisions_max) for engine in self._engines]
        return all(done)

    def stats(self) -> dict[str, int]:
        return self._both("stats", lambda engine: {name: engine.stats()[name] for name in STATS})

    def range_chunk(self, request: bytes, limit_bytes: int) -> tuple[bytes, bytes]:
        """All chunks, merged as a client merges them."""

        def whole(engine: Any) -> bytes:
            merged, rest = b"", request
            while True:
                chunk, rest = engine.range_chunk(rest, limit_bytes)
                merged += chunk
                if not rest:
                    return rpc.RangeResponse.FromString(merged).SerializeToString(deterministic=True)

        return self._both(describe("range_chunk", (request, limit_bytes)), whole), b""

    def watch_take(self, watcher: int, bytes_max: int) -> list[protocol.WatchBatch]:
        """Everything pending, as one batch (revision 0: while catching up it depends on the moment)."""

        def drain(engine: Any) -> list[protocol.WatchBatch]:
            batches: list[protocol.WatchBatch] = []
            while (taken := engine.watch_take(watcher, bytes_max)) and not (batches and batches[-1].compact_revision):
                batches += taken
            if not batches:
                return []
            for batch in batches:
                newest = [event.kv.mod_revision for event in rpc.WatchResponse.FromString(batch.events).events][-1:]
                if not (batch.compact_revision or newest[0] <= batch.revision <= engine.revision):
                    raise MirrorError(f"{engine.name}: events up to {newest} under the revision {batch.revision}")
            events = b"".join(batch.events for batch in batches)
            return [protocol.WatchBatch(0, events, batches[-1].compact_revision)]

        return self._both(describe("watch_take", (watcher, bytes_max)), drain)

    def watch_ready(self) -> list[int]:
        return self._both("watch_ready()", lambda engine: sorted(engine.watch_ready()))

    def checkpoint(self) -> int:
        """Both write one; the files are equal to the byte."""
        index = self._both("checkpoint()", lambda engine: engine.checkpoint())
        if self.path and index > 0:  # at index 0 there is nothing to write down, and a file need not be
            self._same_file(f"checkpoint/{index:016x}.ckpt")
        return index

    def _same_file(self, name: str) -> None:
        files = [where / name for where in self._paths if where]
        first, second = (file.read_bytes() if file.exists() else None for file in files)
        if first is None or second is None:
            if first is not second:
                raise MirrorError(f"{name} exists on one side only: {[file.exists() for file in files]}")
        elif first != second:
            at = next(number for number in range(len(first) + 1) if first[: number + 1] != second[: number + 1])
            raise MirrorError(
                f"{name}: {len(first)} and {len(second)} bytes, different from offset {at} on:\n"
                f"  {first[max(0, at - 8) : at + 24].hex(' ')}\n  {second[max(0, at - 8) : at + 24].hex(' ')}"
            )

    def swap(self) -> None:
        """Close both, and open each in the directory of the other: what one has written the other reads."""
        self._both("close()", lambda engine: engine.close())
        self._paths.reverse()
        self._engines = self._open()

    def crash(self) -> None:
        """Open what is in the files at this moment: all that the next process has after kill -9."""
        left = [where.with_name(f"{where.name}+") for where in self._paths if where]
        for where, copy in zip(self._paths, left, strict=True):
            shutil.copytree(where, copy)
        self._both("close()", lambda engine: engine.close())
        for where, copy in zip(self._paths, left, strict=True):
            shutil.rmtree(where)
            copy.rename(where)
        self._engines = self._open()

    def reopen(self) -> None:
        self._both("close()", lambda engine: engine.close())
        self._engines = self._open()


def _outcome(call: Callable[[Any], Any], engine: Any) -> tuple[Any, Any, Error | None]:
    try:
        return "result", call(engine), None
    except Error as error:
        number = int(error.number)
        return "error", (type(error), number, str(error) if number < 100 else ""), error


def _show(outcome: tuple[Any, Any, Error | None]) -> str:
    text = repr(outcome[1])
    return f"{outcome[0]} {text if len(text) <= 2000 else text[:2000] + '...'}"


def describe(name: str, arguments: tuple[Any, ...]) -> str:
    """One call as text; protobuf requests also decoded."""
    decoded = ""
    if name == "commit":
        decoded = "".join(f"\n    {_decode(COMMIT_NAMES.get(tag, ''), payload)}" for tag, payload in arguments[0])
    elif name in ("range", "range_chunk"):
        decoded = f"\n    {_decode('RangeRequest', arguments[0])}"
    return f"{name}({', '.join(map(repr, arguments))}){decoded}"


def _decode(kind: str, payload: bytes) -> str:
    if not kind:
        return "unknown tag"
    try:
        return f"{kind} {{{MessageToString(getattr(rpc, kind).FromString(payload), as_one_line=True)}}}"
    except DecodeError:
        return f"{kind}: not decodable by protobuf"
