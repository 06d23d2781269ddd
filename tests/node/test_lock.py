"""Lock over the wire: who owns, who waits, what is left of a call that ends before it owns."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest

from node.harness import (
    DEADLINE_S,
    KV,
    LEASE,
    Message,
    NodeProcess,
    bytes_field,
    grant,
    int_field,
    revision_of,
)

LOCK = "v3lockpb.Lock"
SHORT = ("--heartbeat-interval=10", "--election-timeout=50")  # leases of one second
UNKNOWN = 2


def request(name: bytes, lease: int) -> bytes:
    return bytes_field(1, name) + int_field(2, lease)


def begin(node: NodeProcess, name: bytes, lease: int, timeout_s: float = DEADLINE_S) -> Any:
    """A Lock under way."""
    call = node.channel.unary_unary(f"/{LOCK}/Lock").future(request(name, lease), timeout=timeout_s)
    wait_keys(node, name, lambda keys: b"%s/%x" % (name, lease) in keys)
    return call


def keys(node: NodeProcess, name: bytes) -> list[bytes]:
    listed = node.get(name + b"/", bytes_field(2, name + b"0")).all(2)
    return [Message(kv).data(1) for kv in listed]


def wait_keys(node: NodeProcess, name: bytes, is_so: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so(found := keys(node, name)):
        assert time.monotonic() < deadline, found


def locked(call: Any) -> bytes:
    """The key that a Lock was answered with."""
    return Message(call.result(DEADLINE_S)).data(2)


def refused(call: Any) -> tuple[int, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call.result(DEADLINE_S)
    return caught.value.code().value[0], caught.value.details()


def unlock(node: NodeProcess, key: bytes) -> Message:
    return node.ok(LOCK, "Unlock", bytes_field(1, key))


def test_a_free_lock_is_taken_and_taken_again_by_its_session(node: NodeProcess) -> None:
    lease = grant(node, 60).number(2)
    taken = node.ok(LOCK, "Lock", request(b"free", lease))
    key = b"free/%x" % lease
    assert taken.data(2) == key
    assert Message(node.get(key).all(2)[0]).number(2) == revision_of(taken)
    again = node.ok(LOCK, "Lock", request(b"free", lease))
    assert (again.data(2), revision_of(again)) == (key, revision_of(taken))
    assert revision_of(unlock(node, key)) == revision_of(taken) + 1
    assert keys(node, b"free") == []


def test_without_a_lease_the_lock_gets_one_of_a_minute(node: NodeProcess) -> None:
    key = node.ok(LOCK, "Lock", bytes_field(1, b"leased")).data(2)
    lease = int(key.removeprefix(b"leased/"), 16)
    assert node.ok(LEASE, "LeaseTimeToLive", int_field(1, lease)).number(4) == 60
    assert Message(node.get(key).all(2)[0]).number(6) == lease


def test_contenders_get_the_lock_in_the_order_of_their_coming(node: NodeProcess) -> None:
    leases = [grant(node, 60).number(2) for _ in range(4)]
    calls = [begin(node, b"queue", lease) for lease in leases]
    for place, call in enumerate(calls):
        key = locked(call)
        assert key == b"queue/%x" % leases[place]
        assert not any(later.done() for later in calls[place + 1 :])
        unlock(node, key)


def test_one_who_leaves_the_queue_lets_the_next_wait_for_the_one_before(node: NodeProcess) -> None:
    """The third waits for the second's key; when that goes the first one still owns."""
    leases = [grant(node, 60).number(2) for _ in range(3)]
    first, second, third = (begin(node, b"gap", lease) for lease in leases)
    key = locked(first)
    second.cancel()
    wait_keys(node, b"gap", lambda found: len(found) == 2)
    assert not third.done()
    unlock(node, key)
    assert locked(third) == b"gap/%x" % leases[2]


@pytest.mark.parametrize("how", ["cancelled", "out of time"])
def test_a_call_that_ends_while_it_waits_leaves_no_key(node: NodeProcess, how: str) -> None:
    name = how.replace(" ", "-").encode()
    held = node.ok(LOCK, "Lock", request(name, grant(node, 60).number(2))).data(2)
    waiting = begin(node, name, grant(node, 60).number(2), timeout_s=DEADLINE_S if how == "cancelled" else 1.0)
    if how == "cancelled":
        waiting.cancel()
    wait_keys(node, name, lambda found: found == [held])


def test_the_end_of_the_owners_lease_lets_the_next_one_in(start_node: Any) -> None:
    node = start_node(*SHORT)
    first = node.ok(LOCK, "Lock", request(b"dies", grant(node, 1).number(2))).data(2)
    second = begin(node, b"dies", lease := grant(node, 60).number(2))
    assert locked(second) == b"dies/%x" % lease
    assert first not in keys(node, b"dies")


def test_one_whose_own_lease_has_ended_meanwhile_is_told(node: NodeProcess) -> None:
    """He waits on: it is only when the lock is free that his own key is looked for."""
    held = node.ok(LOCK, "Lock", request(b"lost", grant(node, 60).number(2))).data(2)
    waiting = begin(node, b"lost", lease := grant(node, 60).number(2))
    node.ok(LEASE, "LeaseRevoke", int_field(1, lease))
    assert keys(node, b"lost") == [held] and not waiting.done()
    unlock(node, held)
    assert refused(waiting) == (UNKNOWN, "mutex: session is expired")


def test_what_the_store_refuses_is_unknown(node: NodeProcess) -> None:
    gone = node.call(LOCK, "Lock", request(b"gone", 4711))
    assert gone[:2] == (UNKNOWN, "etcdserver: requested lease not found")
    assert keys(node, b"gone") == []
    assert node.call(LOCK, "Unlock")[:2] == (UNKNOWN, "etcdserver: key is not provided")
    assert revision_of(unlock(node, b"never/there")) == revision_of(node.get(b"any"))
    assert node.call(LOCK, "Lock", b"\xff").code == 13


def test_a_compaction_past_the_wait_is_not_the_end_of_it(node: NodeProcess) -> None:
    held = node.ok(LOCK, "Lock", request(b"compacted", grant(node, 60).number(2))).data(2)
    waiting = begin(node, b"compacted", grant(node, 60).number(2))
    revision = node.put(b"other", b"v")
    node.ok(KV, "Compact", int_field(1, revision))
    unlock(node, held)
    assert locked(waiting)


def test_a_node_that_stops_answers_who_waits(start_node: Any) -> None:
    node = start_node()
    node.ok(LOCK, "Lock", request(b"stop", grant(node, 60).number(2)))
    waiting = begin(node, b"stop", grant(node, 60).number(2))
    node.process.terminate()
    assert refused(waiting) == (14, "etcdserver: server stopped")
