"""
SIGTERM ends a node within 2 s whatever is under way, and nothing acknowledged is lost by that.

What takes long is made so: a program that runs in the node's process lets a call of its engine hang for a minute.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import deque
from pathlib import Path

import grpc
import pytest

import fastkv
from fastkv.rpc.wire import Message
from node.harness import CHANNEL_OPTIONS, DEADLINE_S, KV, NodeProcess, bytes_field, revision_of

STOP_S = 2.0
UNDER_WAY = "the process ends under a read or a disk that takes long; the log holds every acknowledged write"

SLOW = """
import sys, time
from fastkv.python.engine import PythonEngine

def hang():
    print('{"msg": "hangs"}', file=sys.stderr, flush=True)
    time.sleep(60)

range_of, commit_of = PythonEngine.range, PythonEngine.commit
"""
HANGS = {
    "a_read": """
def slow_range(self, request):
    return hang() if b"slow" in request else range_of(self, request)
PythonEngine.range = slow_range
""",
    "a_read_that_locks_the_engine": """
def slow_range(self, request):
    with self._state:
        return hang() if b"slow" in request else range_of(self, request)
PythonEngine.range = slow_range
""",
    "a_commit": """
def slow_commit(self, commands):
    if any(b"slow" in payload for _, payload in commands):
        hang()
    return commit_of(self, commands)
PythonEngine.commit = slow_commit
""",
}


def stop(node: NodeProcess) -> float:
    """Seconds from SIGTERM to the end; the exit code is 0."""
    began = time.monotonic()
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(DEADLINE_S) == 0
    return time.monotonic() - began


@pytest.mark.parametrize("what", HANGS)
def test_what_hangs_does_not_hold_the_process(start_node, what: str) -> None:
    node = start_node(program=SLOW + HANGS[what])
    node.put(b"a", b"1")
    answers: list[grpc.StatusCode] = []

    def call(method: str, request: bytes) -> None:
        try:
            node.channel.unary_unary(f"/{KV}/{method}")(request, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            answers.append(error.code())

    # An interval: one key would be read on the event loop.
    request = bytes_field(1, b"slow") + bytes_field(2, b"slower")
    method = "Put" if what == "a_commit" else "Range"
    client = threading.Thread(target=call, args=(method, request))
    client.start()
    node.wait_log("hangs")
    assert stop(node) < STOP_S
    assert node.wait_log(UNDER_WAY)
    client.join(DEADLINE_S)
    assert len(answers) == 1, "the call that hung was answered with success"
    assert start_node().value(b"a") == b"1"


def test_connections_that_do_not_end_do_not_hold_the_process(start_node) -> None:
    """Method: the front end's close takes a minute, in a thread as well as on the event loop."""
    node = start_node(
        program="""
import asyncio, time
from fastkv.server.front import Front
async def close(self):
    await asyncio.to_thread(time.sleep, 60)
Front.close = close
"""
    )
    node.put(b"a", b"1")
    assert stop(node) < STOP_S
    assert node.wait_log(UNDER_WAY)
    assert start_node().value(b"a") == b"1"


def test_a_stop_writes_no_checkpoint(start_node, tmp_path: Path) -> None:
    """A log that a library's close would replace by a checkpoint stays as it is, and is replayed."""
    with fastkv.open(tmp_path / "data", sync=False, checkpoint_bytes=1 << 40) as db:
        db.put("first", "1")
    node = start_node()
    taken_over = list((tmp_path / "data" / "checkpoint").iterdir())  # who is a member from now on
    value = bytes(1 << 20)
    for number in range(20):
        node.put(b"%d" % number, value)
    assert stop(node) < STOP_S
    assert list((tmp_path / "data" / "checkpoint").iterdir()) == taken_over
    assert not [line for line in node.lines if line["level"] in ("error", "fatal")]
    node = start_node()
    assert node.value(b"first") == b"1" and node.value(b"19") == value


def test_a_stop_during_a_compaction_is_no_failure(start_node) -> None:
    node = start_node("--compaction-batch-limit=1", "--compaction-sleep-interval=1s")
    for number in range(20):
        node.put(b"a", b"%d" % number)
    node.ok(KV, "Compact", b"\x08\x14")
    assert stop(node) < STOP_S
    assert not [line for line in node.lines if line["level"] in ("error", "fatal")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_end_under_load_loses_no_acknowledged_write(start_node, tmp_path: Path, number: signal.Signals) -> None:
    """
    Writers on several connections put until the node is gone. What was answered is there afterwards, with its
    revision; what was not may be there or not.
    """
    node = start_node()
    writers, in_flight = 4, 8
    acknowledged: list[dict[bytes, int]] = [{} for _ in range(writers)]
    unexpected: list[str] = []
    enough = threading.Event()

    def write(writer: int) -> None:
        with grpc.insecure_channel(node.address, CHANNEL_OPTIONS) as channel:
            put = channel.unary_unary(f"/{KV}/Put")
            calls: deque[tuple[bytes, grpc.Future]] = deque()
            for count in itertools.count():
                key = b"%d/%d" % (writer, count)
                calls.append((key, put.future(bytes_field(1, key) + bytes_field(2, key * 50), timeout=DEADLINE_S)))
                if len(calls) < in_flight:
                    continue
                key, call = calls.popleft()
                error = call.exception()
                if error is None:
                    acknowledged[writer][key] = revision_of(Message(call.result()))
                    if len(acknowledged[writer]) == 50:
                        enough.set()
                elif error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    # The others are still looked at: they may have been answered.
                    for key, call in calls:
                        if call.exception() is None:
                            acknowledged[writer][key] = revision_of(Message(call.result()))
                    return
                else:
                    unexpected.append(f"{error.code()} {error.details()}")
                    return

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    assert enough.wait(DEADLINE_S)
    if number == signal.SIGTERM:
        assert stop(node) < STOP_S
    else:
        node.process.kill()
        node.process.wait(DEADLINE_S)
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert unexpected == []
    after = start_node()
    found = {Message(kv).data(1): Message(kv) for kv in after.get(b"\0", bytes_field(2, b"\0")).all(2)}
    total = 0
    for known in acknowledged:
        for key, revision in known.items():
            assert key in found, f"{key!r} was acknowledged at revision {revision} and is gone"
            assert found[key].number(3) == revision and found[key].data(5) == key * 50
        total += len(known)
    assert total >= 50
