"""
The native front end's door to a cluster, seen by a gRPC client: a thread does to a replicated engine what a node of
several members does, without the other members.

Owns one Member a test: engine, front, and the one thread that uses them.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fastkv import engine as protocol
from fastkv.errors import TABLE, Code, GrpcCode
from fastkv.server.listeners import Listener
from fastkv.server.tls_config import TlsConfig
from support.client import Answer, Client
from support.protos import rpc

_front = pytest.importorskip("fastkv._front", reason="fastkv._front was not built: the native front end is missing")

MEMBER, TERM = 7, 3
DEADLINE_S = 20.0
Result = TypeVar("Result")


class Member:
    """A front over a replica whose only voter it is. `serving`: proposals are pulled and reads confirmed."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.serving = True
        self.committed: list[tuple[int, int, bytes, int, bytes]] = []
        self.renewals: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_in, self._wake_out = os.pipe()
        self._stopped = False
        engine_options = protocol.Options(replicated=True, sync=False)
        self.engine: Any = protocol.load("native")(str(path), engine_options)
        self.engine.set_identity(1, MEMBER, TERM)
        self.front = _front.Front(
            self.engine,
            **{
                "error_rows": [(int(code), int(cls.code), text) for code, (cls, text) in TABLE.items()],
                "cold": [],
                "io_threads": 2,
                "reader_threads": 1,
                "chunk_bytes": 1 << 16,
                "member_id": MEMBER,
                "quota_bytes": 0,
                "lease_ttl_min_s": 1,
                "request_timeout_s": DEADLINE_S,
                "at_once_writes_max": 4,
                "slow_batch_s": 0,
                "slow_call_s": 0,
                "fragment_bytes": 1 << 20,
                "progress_interval_s": 600,
                "proposer": "raft",
                "first_sequence": 1,
            }
            | options,
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.front.start()
        self.front.serve(
            [Listener(self._listener, plain=True, tls=False)],
            TlsConfig(),
            io_threads=2,
            max_concurrent_streams=1 << 20,
            receive_bytes_max=2 << 20,
            keepalive_min_time_s=5,
            keepalive_interval_s=0,
            keepalive_timeout_s=20,
        )
        self.client = Client(f"127.0.0.1:{self._listener.getsockname()[1]}")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def do(self, function: Callable[[], Result]) -> Result:
        """Call it in the thread of the front."""
        done: Future[Result] = Future()
        self._jobs.put(lambda: done.set_result(function()))
        os.write(self._wake_out, b".")
        return done.result(DEADLINE_S)

    def lead(self) -> None:
        self.front.set_leader(True, True)
        self.front.leases().restore(self.engine.leases(), _front.now(), 0.0)

    def catch_up(self) -> None:
        """What has gathered is applied, what is parked confirmed."""
        while proposal := self.front.take_proposal():
            self.apply(proposal[1])
        while group := self.front.take_reads():
            self.front.release_reads(group)

    def apply(self, data: bytes) -> None:
        entry = (TERM, self.engine.log_last + 1, 0, data)
        self.engine.log_append([entry], (TERM, MEMBER, entry[1]), True)
        self.engine.apply([entry])
        self.front.applied()

    def _run(self) -> None:
        while not self._stopped:
            select.select([self.front.fileno(), self._wake_in], [], [], DEADLINE_S)
            while not self._jobs.empty():
                os.read(self._wake_in, 1)
                self._jobs.get()()
            for event in self.front.take():
                if event[0] == _front.COMMITTED:
                    self.committed += event[3]
                elif event[0] == _front.RENEW:
                    self.renewals.put(event[1])
            if self.serving:
                self.catch_up()

    def close(self) -> None:
        self.client.close()
        self.do(lambda: setattr(self, "_stopped", True))
        self._thread.join(DEADLINE_S)
        self.front.drain(0.0)
        self.front.stop()
        self.front.stop_writes(0.0)
        self._listener.close()
        self.engine.close()
        os.close(self._wake_in)
        os.close(self._wake_out)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Member]]:
    members: list[Member] = []

    def begin(**options: Any) -> Member:
        members.append(Member(tmp_path / f"data{len(members)}", **options))
        return members[-1]

    yield begin
    for member in members:
        member.close()


def later(call: Callable[[], Answer]) -> Future[Answer]:
    """The answer of a call that waits."""
    answer: Future[Answer] = Future()
    threading.Thread(target=lambda: answer.set_result(call()), daemon=True).start()
    return answer


def wait_for(member: Member, take: Callable[[], Result | None]) -> Result:
    """What `take` finds, of a member that does not serve."""
    taken: list[Result] = []

    def look() -> bool:
        if (found := take()) is not None:
            taken.append(found)
        return bool(taken)

    poll(member, look)
    return taken[0]


def poll(member: Member, done: Callable[[], bool]) -> None:
    for _ in range(int(DEADLINE_S / 0.005)):
        if member.do(done):
            return
        threading.Event().wait(0.005)
    raise AssertionError("it did not happen in time")


def test_writes_and_reads_go_through_the_log(start: Callable[..., Member]) -> None:
    member = start()
    member.do(member.lead)
    watch = member.client.watch()
    watch.send(rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=b"a")))
    assert watch.receive().created
    put = member.client.call("Put", rpc.PutRequest(key=b"a", value=b"1"))
    assert (put.response.header.revision, put.response.header.raft_term) == (2, TERM)
    assert watch.receive().events[0].kv.value == b"1"
    read = member.client.call("Range", rpc.RangeRequest(key=b"a"))
    assert read.response.kvs[0].value == b"1"
    assert member.client.range_stream(rpc.RangeRequest(key=b"a", range_end=b"b")).response
    assert member.engine.applied_index == member.engine.log_last == 1
    watch.close()


def test_a_batch_whose_leader_is_gone_is_answered_with_its_fate(start: Callable[..., Member]) -> None:
    member = start()
    member.serving = False
    answer = later(lambda: member.client.call("Put", rpc.PutRequest(key=b"a", value=b"1")))
    sequence, data = wait_for(member, member.front.take_proposal)
    assert data[:16] == MEMBER.to_bytes(8, "little") + sequence.to_bytes(8, "little")
    assert member.do(lambda: member.front.settle(sequence, Code.LEADER_CHANGED))
    assert answer.result(DEADLINE_S)[:2] == (GrpcCode.UNAVAILABLE, "etcdserver: leader changed")
    assert not member.do(lambda: member.front.settle(sequence, Code.LEADER_CHANGED))
    member.do(lambda: member.apply(data))
    assert member.engine.revision == 2, "it was proposed again and is applied, for nobody"


def test_a_linearizable_read_waits_and_a_serializable_one_does_not(start: Callable[..., Member]) -> None:
    member = start()
    member.serving = False
    assert member.client.call("Range", rpc.RangeRequest(key=b"a", serializable=True)).code == 0
    answer = later(lambda: member.client.call("Range", rpc.RangeRequest(key=b"a")))
    group = wait_for(member, member.front.take_reads)
    assert not answer.done()
    assert member.do(lambda: member.front.release_reads(group, Code.TIMED_OUT))
    assert answer.result(DEADLINE_S)[:2] == (GrpcCode.UNAVAILABLE, "etcdserver: request timed out")
    assert not member.do(lambda: member.front.release_reads(group))


def test_what_waits_is_bounded_as_clients_know_it(start: Callable[..., Member]) -> None:
    member = start(waiting_writes_max=3)
    member.serving = False
    waiting = [later(lambda: member.client.call("Put", rpc.PutRequest(key=b"a"))) for _ in range(3)]
    poll(member, lambda: member.front.method_totals()["/etcdserverpb.KV/Put"][0] == len(waiting))
    refused = member.client.call("Put", rpc.PutRequest(key=b"a"))
    assert refused[:2] == (GrpcCode.UNKNOWN, "etcdserver: too many requests")
    member.do(member.catch_up)
    assert [answer.result(DEADLINE_S).code for answer in waiting] == [0, 0, 0]
    member.serving = True
    assert member.client.call("Put", rpc.PutRequest(key=b"a")).code == 0


def test_a_follower_has_leases_renewed_and_a_leader_renews_them(start: Callable[..., Member]) -> None:
    member = start()
    member.do(lambda: member.front.set_leader(False, True))
    lease = member.client.call("LeaseGrant", rpc.LeaseGrantRequest(TTL=60)).response.ID
    assert len(member.front.leases()) == 0
    alive = member.client.keep_alive()
    alive.send(rpc.LeaseKeepAliveRequest(ID=lease))
    assert member.renewals.get(timeout=DEADLINE_S) == [lease]
    member.do(lambda: member.front.renewed([(lease, 59)]))
    assert alive.receive().TTL == 59
    member.do(member.lead)
    alive.send(rpc.LeaseKeepAliveRequest(ID=lease))
    assert alive.receive().TTL == 60
    alive.close()


def test_the_commands_of_all_members_are_followed(start: Callable[..., Member]) -> None:
    member = start()
    member.do(member.lead)
    for _ in range(3):
        member.client.call("Put", rpc.PutRequest(key=b"a"))
    compaction = rpc.CompactionRequest(revision=3).SerializeToString()
    foreign = (9).to_bytes(8, "little") + (1).to_bytes(8, "little")
    foreign += bytes((protocol.COMPACTION, len(compaction))) + compaction
    member.do(lambda: member.apply(foreign))
    poll(member, lambda: bool(member.committed))
    assert [row[:4] for row in member.committed] == [(0, protocol.COMPACTION, compaction, Code.OK)]


def test_a_member_alone_becomes_one_of_several_while_it_serves(start: Callable[..., Member]) -> None:
    member = start(proposer="direct", first_sequence=0)
    assert member.client.call("Range", rpc.RangeRequest(key=b"a")).code == 0
    member.do(lambda: member.front.use_raft(40))
    put = member.client.call("Put", rpc.PutRequest(key=b"a", value=b"1"))
    assert put.response.header.revision == 2
    assert member.client.call("Range", rpc.RangeRequest(key=b"a")).response.count == 1
    entries = member.engine.log_entries(1, 2, 1 << 20)
    assert entries[0][3][:16] == MEMBER.to_bytes(8, "little") + (40).to_bytes(8, "little")


def test_a_proposer_that_does_not_exist_is_refused(start: Callable[..., Member]) -> None:
    with pytest.raises(ValueError, match="'raft' with first_sequence 0"):
        start(first_sequence=0)
