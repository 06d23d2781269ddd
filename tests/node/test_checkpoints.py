"""Lease checkpoints on a clock that the test turns, and on a node."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from fastkv.engine import LEASE_CHECKPOINT
from fastkv.errors import Code, Error
from fastkv.python.wire import LeaseCheckpointRequest
from fastkv.server.checkpoints import BATCH, INTERVAL_S, PAUSE_S, Checkpoints
from fastkv.server.lessor import Lessor
from fastkv.server.log import Log
from node.harness import LEASE, Message, grant, int_field


class Store:
    """What an engine knows of leases, and a clock that moves while others sleep."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.held: dict[int, list[int]] = {}
        self.commands: list[int] = []
        self.code = int(Code.OK)
        self.leads = True
        self.lessor = Lessor()
        self.checkpoints = Checkpoints(
            self,  # type: ignore[arg-type]
            lambda: self.lessor,
            lambda: self.now_s,
            self.propose,
            lambda: self.leads,
            Log(logging.getLogger("checkpoints")),
        )

    def leases(self) -> list[tuple[int, int, int]]:
        return [(lease, ttl, remaining) for lease, (ttl, remaining) in sorted(self.held.items())]

    def grant(self, lease: int, ttl_s: int) -> None:
        self.held[lease] = [ttl_s, 0]
        self.lessor.grant(lease, ttl_s, self.now_s)

    async def propose(self, tag: int, payload: bytes) -> tuple[int, bytes]:
        assert tag == LEASE_CHECKPOINT
        request = LeaseCheckpointRequest.decode(payload)
        self.commands.append(len(request.checkpoints))
        if self.code == Code.OK:
            for checkpoint in request.checkpoints:
                self.held[checkpoint.id][1] = checkpoint.remaining_ttl
        return self.code, b""

    def run(self, for_s: float) -> None:
        until_s = self.now_s + for_s

        async def sleep(seconds: float) -> None:
            if self.now_s + seconds > until_s:
                raise asyncio.CancelledError
            self.now_s += seconds

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(self.checkpoints.run(sleep))

    def remaining(self) -> dict[int, int]:
        return {lease: remaining for lease, _, remaining in self.leases()}


def test_what_is_left_is_written_when_it_differs_by_an_interval() -> None:
    store = Store()
    store.grant(1, 3600)
    store.grant(2, 200)
    store.run(2 * INTERVAL_S)
    assert store.remaining() == {1: 3001, 2: 0}
    assert store.commands == [1, 1]


def test_a_renewal_takes_the_checkpoint_back_first() -> None:
    store = Store()
    store.grant(1, 3600)
    store.run(INTERVAL_S)
    assert store.remaining() == {1: 3301}
    asyncio.run(store.checkpoints.clear(1))
    assert store.remaining() == {1: 0}
    asyncio.run(store.checkpoints.clear(1))
    assert len(store.commands) == 2, "there was nothing to take back"


def test_a_checkpoint_that_cannot_be_taken_back_forbids_the_renewal() -> None:
    store = Store()
    store.grant(1, 3600)
    store.run(INTERVAL_S)
    store.code = int(Code.NO_SPACE)
    with pytest.raises(Error):
        asyncio.run(store.checkpoints.clear(1))
    store.code = int(Code.OK)
    asyncio.run(store.checkpoints.clear(1))
    assert store.remaining() == {1: 0}


def test_a_new_leader_knows_the_checkpoints_of_the_old_one() -> None:
    store = Store()
    store.grant(1, 3600)
    store.held[1][1] = 1000
    store.checkpoints.restore()
    asyncio.run(store.checkpoints.clear(1))
    assert store.remaining() == {1: 0}


def test_who_does_not_lead_writes_nothing() -> None:
    store = Store()
    store.grant(1, 3600)
    store.leads = False
    store.run(3 * INTERVAL_S)
    assert store.commands == []


def test_many_leases_go_in_batches_one_a_second() -> None:
    store = Store()
    for lease in range(1, 2 * BATCH + 11):
        store.grant(lease, 3600)
    store.run(INTERVAL_S + 2 * PAUSE_S)
    assert store.commands == [BATCH, BATCH, 10]


def test_a_node_renews_leases_with_checkpoints_on(start_node: Any) -> None:
    """The way of a renewal is another one then, on the native front: Python is asked."""
    node = start_node("--feature-gates=LeaseCheckpoint=true,LeaseCheckpointPersist=true")
    lease = grant(node, 60).number(2)
    stream = node.stream(LEASE, "LeaseKeepAlive")
    for asked, ttl in ((lease, 60), (4711, 0), (lease, 60)):
        stream.send(int_field(1, asked))
        answer: Message = stream.receive()
        assert (answer.number(2), answer.number(3)) == (asked, ttl)
    stream.close()
