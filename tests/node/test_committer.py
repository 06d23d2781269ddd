"""The committer and the node's answer to a failing disk, on an engine whose disk obeys the test."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

import pytest

from fastkv import engine
from fastkv.errors import Code, Error, GrpcCode, QuotaError, StorageError, from_code
from fastkv.rpc.wire import bytes_field
from fastkv.server.committer import BATCH_BYTES_MAX, Committer, Outcome, Proposal
from fastkv.server.config import from_command_line
from fastkv.server.log import open_log
from fastkv.server.node import Node
from support.syscalls import WRITES, failing

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


def with_node(tmp_path: Path, use: Callable[[Node], Coroutine[None, None, None]], **flags: str) -> None:
    async def run() -> None:
        config = from_command_line({"data-dir": str(tmp_path / "data"), **flags}, {})
        node = Node(config, open_log("info", outputs=(str(tmp_path / "log"),)))
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


class FullDisk:
    """An engine that finds no space while `full`."""

    def __init__(self, real: engine.Engine) -> None:
        self._real = real
        self.full = True

    def commit(self, commands: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        if not self.full:
            return self._real.commit(commands)
        return failing(dict.fromkeys(WRITES, errno.ENOSPC), lambda: self._real.commit(commands))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["native", "python"])
@pytest.mark.parametrize("flag", ["", "unsafe-no-fsync"])
def test_a_full_disk_refuses_writes_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, flag: str
) -> None:
    monkeypatch.setenv("FASTKV_ENGINE", name)
    large = bytes_field(1, b"a") + bytes_field(2, bytes(1 << 20))  # a segment of its own

    async def use(node: Node) -> None:
        await node.execute(engine.PUT, PUT_A)
        disk = FullDisk(node.engine)
        node._committer._engine = disk  # type: ignore[assignment]
        for _ in range(3):
            with pytest.raises(QuotaError, match=r"^etcdserver: mvcc: database space exceeded$"):
                await node.execute(engine.PUT, large)
            assert node.engine.get(b"a") == b"1"
        assert not node.stopping.is_set()
        disk.full = False
        await node.execute(engine.PUT, large)
        await node.execute(engine.PUT, PUT_A)

    with_node(tmp_path, use, **({flag: "true"} if flag else {}))
    lines = [line["msg"] for line in map(json.loads, (tmp_path / "log").read_text().splitlines())]
    assert lines.count("the disk is full; reads go on, writes fail until space is freed; no restart is needed") == 1
    assert lines.count("the disk has room again; writes are taken") == 1

    async def look(node: Node) -> None:
        assert (node.engine.get(b"a"), node.engine.revision) == (b"1", 4)

    with_node(tmp_path, look)


@pytest.mark.parametrize("name", ["native", "python"])
def test_a_node_starts_on_a_full_disk_and_answers_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("FASTKV_ENGINE", name)

    async def write(node: Node) -> None:
        await node.execute(engine.PUT, PUT_A)
        await node.set_alarm(1, 7, 1)

    async def read(node: Node) -> None:
        assert node.engine.get(b"a") == b"1" and node.alarms == {(7, 1)} and node.identity.term == 2
        with pytest.raises(QuotaError):
            await node.execute(engine.DELETE_RANGE, bytes_field(1, b"a"))

    with_node(tmp_path, write)
    failing(dict.fromkeys(WRITES, errno.ENOSPC), lambda: with_node(tmp_path, read))


def test_a_sync_that_fails_after_a_full_disk_ends_the_node(tmp_path: Path) -> None:
    async def use(node: Node) -> None:
        full, poisoned = from_code(Code.NO_SPACE, "no space left on the device"), from_code(Code.POISONED)
        node._committer._engine = Failing(node.engine, full, poisoned)  # type: ignore[assignment]
        with pytest.raises(QuotaError):
            await node.execute(engine.PUT, PUT_A)
        assert not node.stopping.is_set()
        with pytest.raises(StorageError):
            await node.execute(engine.PUT, PUT_A)
        assert node.stopping.is_set() and node.failed is poisoned

    with_node(tmp_path, use)


def test_too_many_requests_are_refused_and_the_others_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastkv.server.node.PROPOSALS_WAITING_MAX", 3)

    async def use(node: Node) -> None:
        slow = SlowEngine()
        node._committer._engine = slow  # type: ignore[assignment]
        taken = asyncio.ensure_future(node.propose(engine.PUT, b"0"))
        await asyncio.to_thread(slow.began.acquire, timeout=DEADLINE_S)
        waiting = [asyncio.ensure_future(node.propose(engine.PUT, b"%d" % number)) for number in range(1, 4)]
        await asyncio.sleep(0)
        with pytest.raises(Error, match=r"^etcdserver: too many requests$") as refused:
            await node.propose(engine.PUT, b"4")
        assert refused.value.code == GrpcCode.UNKNOWN
        slow.go_on.release(3)
        assert await asyncio.gather(taken, *waiting) == [(0, b"%d" % number) for number in range(4)]
        assert await node.propose(engine.PUT, b"5") == (0, b"5")

    with_node(tmp_path, use)


def test_a_renewal_waits_for_a_revocation_no_longer_than_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Node, "request_timeout_s", 0.05)

    async def use(node: Node) -> None:
        slow = SlowEngine()
        node._committer._engine = slow  # type: ignore[assignment]
        node.lessor.grant(7, 0, node.now())
        with pytest.raises(Error, match=r"^etcdserver: request timed out$"):
            await node.renew_lease(7)
        slow.go_on.release(10)

    with_node(tmp_path, use)


def test_a_revocation_that_is_refused_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the CORRUPT alarm is on no lease can end; when it is off the overdue ones do."""
    monkeypatch.setattr("fastkv.server.expiry.REVOKE_RETRY_S", 0.01)

    async def use(node: Node) -> None:
        await node.execute(engine.LEASE_GRANT, b"\x08\x3c\x10\x07")
        await node.set_alarm(1, 0, 2)
        node.lessor.grant(7, 0, node.now())  # it is over now
        node._expiry.hurry()
        while "failed to revoke lease" not in (tmp_path / "log").read_text():
            await asyncio.sleep(0.01)
        assert 7 in node.lessor
        await node.set_alarm(2, 0, 2)
        assert await node.renew_lease(7) == 0
        assert node.engine.leases() == [] and 7 not in node.lessor

    with_node(tmp_path, use)


def test_a_failed_sync_ends_the_node(tmp_path: Path) -> None:
    async def use(node: Node) -> None:
        failed = from_code(Code.IO_ERROR, "cannot sync")
        node._committer._engine = Failing(node.engine, failed)  # type: ignore[assignment]
        with pytest.raises(StorageError):
            await node.execute(engine.PUT, PUT_A)
        assert node.stopping.is_set() and node.failed is failed

    with_node(tmp_path, use)


def test_a_caller_that_goes_away_changes_nothing_for_the_others(tmp_path: Path) -> None:
    async def use(node: Node) -> None:
        gone = asyncio.ensure_future(node.execute(engine.LEASE_GRANT, b"\x08\x3c\x10\x07"))
        await asyncio.sleep(0)
        gone.cancel()
        await node.execute(engine.PUT, PUT_A)
        assert 7 in node.lessor, "the lease of a caller that went away is not watched over"

    with_node(tmp_path, use)
