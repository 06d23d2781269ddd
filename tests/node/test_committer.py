"""The committer and the node's answer to a failing disk, on an engine whose disk obeys the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fastkv import engine
from fastkv.errors import Code, Error, QuotaError, StorageError, from_code
from fastkv.rpc.wire import bytes_field
from fastkv.server.committer import BATCH_BYTES_MAX, Committer, Outcome, Proposal
from fastkv.server.config import from_command_line
from fastkv.server.log import open_log
from fastkv.server.node import Node

DEADLINE_S = 10.0


class SlowEngine:
    """Commits when told to; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, bytes]]] = []
        self.began = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def commit(self, commands: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        self.batches.append(list(commands))
        self.began.release()
        assert self.go_on.acquire(timeout=DEADLINE_S)
        return [(0, payload) for _, payload in commands]


def proposal(payload: bytes) -> Proposal:
    return Proposal(engine.PUT, payload, asyncio.Future(loop=asyncio.new_event_loop()))


def test_what_comes_during_a_commit_is_one_batch() -> None:
    slow, outcomes = SlowEngine(), list[Outcome]()
    committer = Committer(slow, outcomes.append, lambda: None)  # type: ignore[arg-type]
    committer.start()
    assert committer.submit(proposal(b"0"))
    assert slow.began.acquire(timeout=DEADLINE_S)
    for number in range(1, 6):
        assert committer.submit(proposal(b"%d" % number))
    slow.go_on.release(2)
    assert committer.stop(DEADLINE_S)
    assert [[payload for _, payload in batch] for batch in slow.batches] == [[b"0"], [b"1", b"2", b"3", b"4", b"5"]]
    assert [result for outcome in outcomes for result in outcome.results] == [(0, b"%d" % n) for n in range(6)]
    assert not committer.submit(proposal(b"late")), "accepted although nobody will commit it"


def test_a_batch_is_closed_when_it_is_large() -> None:
    slow = SlowEngine()
    committer = Committer(slow, lambda outcome: None, lambda: None)  # type: ignore[arg-type]
    half = bytes(BATCH_BYTES_MAX // 2)
    for _ in range(5):
        committer.submit(proposal(half))
    slow.go_on.release(3)
    committer.start()
    assert committer.stop(DEADLINE_S)
    assert [len(batch) for batch in slow.batches] == [2, 2, 1]


def test_a_thread_that_dies_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(SlowEngine):
        def commit(self, commands: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
            raise AssertionError("a broken invariant")

    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    ended = threading.Event()
    committer = Committer(Broken(), lambda outcome: None, ended.set)  # type: ignore[arg-type]
    committer.start()
    committer.submit(proposal(b"0"))
    assert ended.wait(DEADLINE_S)


def with_node(tmp_path: Path, use: Callable[[Node], asyncio.Future[None]]) -> None:
    async def run() -> None:
        config = from_command_line({"data-dir": str(tmp_path / "data")}, {})
        node = Node(config, open_log("fatal", outputs=(str(tmp_path / "log"),)))
        await node.start()
        try:
            await use(node)
        finally:
            await node.close()

    asyncio.run(asyncio.wait_for(run(), DEADLINE_S))


class Failing:
    """An engine whose next commits fail."""

    def __init__(self, real: engine.Engine, *failures: Error) -> None:
        self._real = real
        self._failures = list(failures)

    def commit(self, commands: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        if self._failures:
            raise self._failures.pop(0)
        return self._real.commit(commands)


PUT_A = bytes_field(1, b"a") + bytes_field(2, b"1")


def test_a_full_disk_refuses_writes_and_goes_on_with_reads(tmp_path: Path) -> None:
    async def use(node: Node) -> None:
        await node.execute(engine.PUT, PUT_A)
        full = from_code(Code.NO_SPACE, "no space left on the device")
        poisoned = from_code(Code.POISONED)
        node._committer._engine = Failing(node.engine, full, poisoned)  # type: ignore[assignment]
        for _ in range(2):
            with pytest.raises(QuotaError):
                await node.execute(engine.PUT, PUT_A)
        assert not node.stopping.is_set()
        assert node.engine.get(b"a") == b"1"
        await node.execute(engine.PUT, PUT_A)

    with_node(tmp_path, use)  # type: ignore[arg-type]


def test_a_failed_sync_ends_the_node(tmp_path: Path) -> None:
    async def use(node: Node) -> None:
        failed = from_code(Code.IO_ERROR, "cannot sync")
        node._committer._engine = Failing(node.engine, failed)  # type: ignore[assignment]
        with pytest.raises(StorageError):
            await node.execute(engine.PUT, PUT_A)
        assert node.stopping.is_set() and node.failed is failed

    with_node(tmp_path, use)  # type: ignore[arg-type]


def test_a_caller_that_goes_away_changes_nothing_for_the_others(tmp_path: Path) -> None:
    async def use(node: Node) -> None:
        gone = asyncio.ensure_future(node.execute(engine.LEASE_GRANT, b"\x08\x3c\x10\x07"))
        await asyncio.sleep(0)
        gone.cancel()
        await node.execute(engine.PUT, PUT_A)
        assert 7 in node.lessor, "the lease of a caller that went away is not watched over"

    with_node(tmp_path, use)  # type: ignore[arg-type]
