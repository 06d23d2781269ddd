"""
The load generator of the server benchmark: it measures a node that answers rightly and fails on one that does not.

The lying server is grpcio's with handlers that speak raw bytes, so that each lie is one field.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from fastkv.rpc.wire import bytes_field, int_field, message_field

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.append(str(BENCH))

from loadgen import Generator, WorkloadFailed  # noqa: E402
from rows import MEASURES, Plan, bulk, compact, creates, lists, memory, puts, ranges, watch  # noqa: E402
from server import table, verdict  # noqa: E402
from servers import serving  # noqa: E402

TINY = {"connections": 3, "streams": 4, "seconds": 1, "warmup": 0}


@pytest.fixture(scope="module")
def generator() -> Generator:
    if shutil.which("g++") is None or not any(Path("/usr/include").rglob("nghttp2/nghttp2.h")):
        pytest.skip("the load generator needs g++ and libnghttp2's headers")
    return Generator()


def header(revision: int) -> bytes:
    return message_field(1, int_field(3, revision))


class Store:
    """Just enough of a KV service; `lie` is what it does wrong."""

    def __init__(self, lie: str) -> None:
        self.lie, self.revision, self.answered = lie, 1, 0

    def put(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.answered += 1
        if self.lie == "status" and self.answered == 20:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
        if not (self.lie == "lost" and self.answered == 20):
            self.revision += 1
        if self.lie == "stale" and self.answered == 20:
            return header(2)
        return header(self.revision)

    def range(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.answered += 1
        key = request[2:10]
        value = b"another value" if self.lie == "value" else b""
        kv = message_field(2, bytes_field(1, key) + bytes_field(5, value))
        return header(self.revision) + kv + int_field(4, 1)

    def txn(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.revision += 1
        return header(self.revision)  # not succeeded


@contextmanager
def answering(store: Store) -> Iterator[str]:
    calls: dict[str, Callable[..., Any]] = {"Put": store.put, "Range": store.range, "Txn": store.txn}
    handlers = {name: grpc.unary_unary_rpc_method_handler(call) for name, call in calls.items()}
    server = grpc.server(futures.ThreadPoolExecutor(1))  # one thread: the store needs no lock
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("etcdserverpb.KV", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_a_store_that_keeps_its_promises_passes(generator: Generator) -> None:
    store = Store("")
    with answering(store) as target:
        result = generator.run("put", target, **TINY)
    assert result["writes"] == store.revision - 1 == result["revision"] - 1
    assert 0 < result["count"] <= result["writes"]
    assert 0 < result["p50_us"] <= result["p99_us"] <= result["max_us"]


@pytest.mark.parametrize(
    ("lie", "workload", "text"),
    [
        ("status", "put", "grpc-status 8: etcdserver: mvcc: database space exceeded"),
        ("stale", "put", "a revision that was taken"),
        ("lost", "put", "a revision that was taken|the same revision|were acknowledged"),
        ("value", "range", "did not give its one key with its value"),
        ("", "txn-create", "found a key that was not there"),
        ("", "watch", "grpc-status 12"),
    ],
)
def test_a_wrong_answer_ends_the_run(generator: Generator, lie: str, workload: str, text: str) -> None:
    with answering(Store(lie)) as target, pytest.raises(WorkloadFailed, match=text):
        generator.run(workload, target, **TINY)


def test_a_server_that_is_not_there_fails_the_run(generator: Generator) -> None:
    with pytest.raises(WorkloadFailed, match="cannot connect"):
        generator.run("put", "127.0.0.1:1", **TINY)


def test_every_measure_of_a_group_comes_from_a_real_node(generator: Generator, tmp_path: Path) -> None:
    """Each group on a node with very little data: the options fit the generator, the values are positive."""
    plan = Plan(seconds=1, warmup=0, size=0.002, rate=50, inflights=(2,))
    for group in (puts, creates, ranges, lists, bulk, compact, watch, memory):
        with serving("grpcio", tmp_path / group.__name__, generator) as server:
            values, _ = group(server, plan)
        assert set(values) <= set(MEASURES)
        assert all(value > 0 for value in values.values()), (group.__name__, values)


def rows_of(*values: tuple[int, str, str, float]) -> list[dict[str, Any]]:
    return [
        {"round": turn, "server": name, "group": "g", "values": {what: value}} for turn, name, what, value in values
    ]


@pytest.mark.parametrize(
    ("measure", "ratio", "missed"),
    [
        ("put", 5.0, False),
        ("put", 4.99, True),
        ("memory", 0.5, False),
        ("memory", 0.51, True),
        ("watch_p50", 9.0, False),
    ],
)
def test_a_missed_goal_is_called_missed(measure: str, ratio: float, missed: bool) -> None:
    assert ("missed" in verdict(ratio, measure)) is missed


def test_the_table_compares_within_a_round_and_names_what_failed() -> None:
    """Ratios are 2, 4 and 4: their median is 4, the ratio of the medians would be 2. A failed group has no value."""
    rows = rows_of(
        *(
            (0, "etcd", "put", 100.0),
            (0, "native", "put", 200.0),
            (1, "etcd", "put", 50.0),
            (1, "native", "put", 200.0),
        ),
        *((2, "etcd", "put", 100.0), (2, "native", "put", 400.0)),
    )
    rows.append({"round": 0, "server": "native", "group": "idle", "values": {}, "failure": "the server went away"})
    text = table(rows, ["etcd", "native"])
    assert f"| {MEASURES['put'].title}, /s | 100 | 200 | 4.00x | >= 5x: **missed** |" in text
    assert text.endswith("failed: idle on native")
