"""
The native engine answers as the Python one does, over a hundred thousand random calls, to the byte: answers, errors,
watch events, hashes, checkpoint files; each also opens what the other has written.

A failure prints its seed and the shortest list of calls that still shows it.
FASTKV_SEED=N replays a run, FASTKV_CALLS=N makes it longer.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from random import SystemRandom
from typing import Any

import pytest

from fastkv import engine as protocol
from fastkv.errors import Error
from support.engines import load_engine
from support.generate import Call, Calls
from support.mirror import MirrorEngine, MirrorError, describe

SEED = int(os.environ.get("FASTKV_SEED") or SystemRandom().randrange(1 << 32))
CALLS = int(os.environ.get("FASTKV_CALLS") or 110_000)
RUNS = 20
SHRINK_S = 30
OPTIONS = protocol.Options(
    sync=False,
    checkpoint_bytes=1 << 40,
    max_txn_ops=128,
    max_request_bytes=1 << 20,
    segment_bytes_first=4096,
    segment_bytes_max=65536,
)
# What cannot go on a store in memory.
NEEDS_DIRECTORY = ("checkpoint", "reopen", "crash", "swap")
# Seeds that once failed.
KEPT = (100, 1000, 5100, 5404)


class Run:
    """One store and the calls made on it."""

    def __init__(self, path: Path | None) -> None:
        self.engine: Any = MirrorEngine(load_engine("native"), load_engine("python"), path, OPTIONS)
        self.on_disk = path is not None
        self.watchers: list[int] = []

    def make(self, call: Call) -> None:
        """Carry it out on both engines; a client's error is an answer like any other."""
        name, arguments = call
        if name in NEEDS_DIRECTORY and not self.on_disk:
            return
        if name in ("watch_take", "watch_progress", "watch_cancel"):
            if not self.watchers:
                return
            ordinal = arguments[0] % len(self.watchers)
            arguments = (self.watchers[ordinal], *arguments[1:])
            if name == "watch_cancel":
                del self.watchers[ordinal]
        try:
            answer = getattr(self.engine, name)(*arguments)
        except Error as error:
            if error.number >= 100:
                raise
            return
        if name == "watch":
            self.watchers.append(answer)
        elif name in ("reopen", "crash", "swap"):
            self.watchers.clear()
        elif name == "check" and answer:
            raise MirrorError(f"check() finds: {answer}")

    def end(self) -> None:
        for name in ("stats", "hash", "leases", "check"):
            self.make((name, ()))
        if self.on_disk:
            self.make(("checkpoint", ()))
            self.make(("swap", ()))
            self.make(("hash", ()))
        self.engine.close()


def replay(calls: list[Call], path: Path | None) -> str:
    """What goes wrong when these calls are made; empty if nothing does."""
    if path is not None:
        shutil.rmtree(path, ignore_errors=True)
    run = Run(path)
    try:
        for call in calls:
            run.make(call)
        run.end()
    except (MirrorError, Error) as problem:
        return f"{type(problem).__name__}: {problem}"
    finally:
        run.engine.close()
    return ""


def shrink(calls: list[Call], path: Path | None) -> list[Call]:
    """Leave out what the same failure does not need: halves, quarters, ... single calls; as far as the time reaches."""
    deadline = time.monotonic() + SHRINK_S
    kind = _kind(replay(calls, path))
    size = len(calls) // 2
    while size and time.monotonic() < deadline:
        at = 0
        while at < len(calls) and time.monotonic() < deadline:
            shorter = calls[:at] + calls[at + size :]
            if _kind(replay(shorter, path)) == kind:
                calls = shorter
            else:
                at += size
        size //= 2
    return calls


def _kind(problem: str) -> str:
    """The call that differs."""
    return problem.partition("(")[0].partition("\n")[0]


def play(seed: int, count: int, path: Path | None) -> int:
    """A run of random calls; returns how many were made."""
    generator = Calls(seed)
    run = Run(path)
    made: list[Call] = []
    try:
        for _ in range(count):
            made.append(generator.next(run.engine.revision))
            run.make(made[-1])
        run.end()
    except (MirrorError, Error) as problem:
        run.engine.close()
        shortest = shrink(made, path)
        lines = [f"  {describe(*call)}" for call in shortest]
        text = "\n".join(
            [
                f"after {len(made)} calls: {type(problem).__name__}: {problem}",
                f"shortest run that fails ({len(shortest)} calls):",
                *lines,
                replay(shortest, path),
                f"replay: FASTKV_SEED={SEED} FASTKV_CALLS={CALLS} pytest tests/differential/test_mirror.py",
            ]
        )
        pytest.fail(text, pytrace=False)
    return len(made)


@pytest.mark.random
@pytest.mark.parametrize("number", range(RUNS))
def test_native_equals_python(number: int, tmp_path: Path) -> None:
    """Goal: no difference. Method: the same random calls on both; every fourth store is in memory."""
    path = None if number % 4 == 3 else tmp_path / "data"
    assert play(SEED + number, CALLS // RUNS, path) == CALLS // RUNS


@pytest.mark.random
@pytest.mark.parametrize("seed", KEPT)
def test_seeds_that_once_failed(seed: int, tmp_path: Path) -> None:
    play(seed, CALLS // RUNS, tmp_path / "data")


@pytest.mark.parametrize("kind", ["answer", "error", "watch", "file"])
def test_the_mirror_sees_a_planted_difference(kind: str, tmp_path: Path) -> None:
    """The canary: an engine with one small lie must be caught by the same runs."""
    honest = load_engine("python")

    class Liar(honest):  # type: ignore[misc, valid-type]
        def get(self, key: bytes, default: bytes | None = None, revision: int = 0) -> bytes | None:
            value = super().get(key, default, revision)
            return value + b"!" if kind == "answer" and value == b"v" else value

        def count(self, start: bytes, end: bytes, revision: int = 0) -> int:
            return super().count(start, end, 0 if kind == "error" else revision)

        def watch(self, key: bytes, range_end: bytes, start_revision: int, prev_kv: bool, filters: int) -> int:
            return super().watch(key, range_end, start_revision, prev_kv and kind != "watch", filters)

        def commit(self, commands: Any) -> Any:
            answers = super().commit(commands)
            if kind == "file" and any(tag == protocol.LEASE_REVOKE for tag, _ in commands):
                super().commit([(protocol.LEASE_GRANT, b"\x08\x05\x10\x63")])
            return answers

    engine: Any = MirrorEngine(honest, Liar, tmp_path / "data", OPTIONS)
    generator = Calls(7)
    run = Run.__new__(Run)
    run.engine, run.on_disk, run.watchers = engine, True, []
    with pytest.raises(MirrorError):
        for _ in range(5000):
            run.make(generator.next(engine.revision))
    for side in engine._engines:
        side.close()
