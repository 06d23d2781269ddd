"""Cluster, Maintenance and Health over the wire, alarms and the quota."""

from __future__ import annotations

from collections.abc import Callable

from fastkv.engine import PUT, TXN
from fastkv.python.wire import varint
from fastkv.server.downgrade import Downgrade
from fastkv.server.quota import Quota, cost
from node.harness import (
    CLUSTER,
    HEALTH,
    KV,
    LEASE,
    MAINTENANCE,
    Message,
    NodeProcess,
    bytes_field,
    header_of,
    int_field,
    message_field,
    put_op,
    revision_of,
)

ETCD_HASH = 4199801955
NO_SPACE = (8, "etcdserver: mvcc: database space exceeded")


def test_member_list_names_the_only_member_and_no_revision(node: NodeProcess) -> None:
    """Row 32."""
    listed = node.ok(CLUSTER, "MemberList")
    assert revision_of(listed) == 0 and header_of(listed).number(4) == 2
    (member,) = (Message(member) for member in listed.all(2))
    assert member.unsigned(1) == header_of(listed).unsigned(2)
    assert member.data(2) == b"default"
    assert member.all(3) == [b"http://localhost:2380"]
    assert member.all(4) == [b"http://127.0.0.1:2379"]


def test_status_has_what_etcdctl_shows(node: NodeProcess) -> None:
    revision = node.put(b"status", b"v")
    status = node.ok(MAINTENANCE, "Status")
    assert revision_of(status) == revision
    assert status.data(2).startswith(b"3.7.")
    assert status.number(3) > 0, "etcdctl divides by dbSize"
    assert status.number(9) <= status.number(3)
    assert status.unsigned(4) == header_of(status).unsigned(2)
    assert status.unsigned(5) == status.unsigned(7) > 0
    assert (status.unsigned(6), status.all(8), status.number(12)) == (2, [], 2 << 30)
    assert 13 in status


def test_hash_kv_is_etcds(node: NodeProcess) -> None:
    """Row 38."""
    answer = node.ok(MAINTENANCE, "HashKV")
    assert (answer.number(3), answer.number(4)) == (-1, revision_of(answer))
    future = node.call(MAINTENANCE, "HashKV", int_field(1, 99999))
    assert future[:2] == (11, "etcdserver: mvcc: required revision is a future revision")
    before = node.ok(MAINTENANCE, "Hash").unsigned(2)
    node.put(b"hash", b"changed")
    assert node.ok(MAINTENANCE, "Hash").unsigned(2) != before


def test_hash_kv_of_known_contents(start_node) -> None:
    """What etcd 3.7.3 answers after put a 1, put a 2, put b x, del b."""
    node = start_node()
    node.put(b"a", b"1")
    node.put(b"a", b"2")
    node.put(b"b", b"x")
    node.ok(KV, "DeleteRange", bytes_field(1, b"b"))
    assert node.ok(MAINTENANCE, "HashKV").unsigned(2) == ETCD_HASH


def test_defragment_has_no_header_and_says_that_there_is_nothing_to_do(node: NodeProcess) -> None:
    """Row 37."""
    assert 1 not in node.ok(MAINTENANCE, "Defragment")
    assert node.wait_log("defragment: there is nothing to do, the log and checkpoints of fastkv do not fragment")


def test_what_is_not_there_yet_says_so(node: NodeProcess) -> None:
    assert node.call(MAINTENANCE, "Snapshot")[:2] == (12, f"fastkv: {MAINTENANCE}/Snapshot is not there yet")


def test_a_member_alone_leads_and_stays(node: NodeProcess) -> None:
    own = header_of(node.ok(MAINTENANCE, "Status")).unsigned(2)
    node.ok(MAINTENANCE, "MoveLeader", int_field(1, own))
    assert node.call(MAINTENANCE, "MoveLeader", int_field(1, 5))[:2] == (9, "etcdserver: bad leader transferee")
    assert node.call(CLUSTER, "MemberRemove", int_field(1, 5))[:2] == (5, "etcdserver: member not found")


def test_health(node: NodeProcess) -> None:
    assert node.ok(HEALTH, "Check").number(1) == 1
    assert node.call(HEALTH, "Check", bytes_field(1, b"x"))[:2] == (5, "unknown service")
    (entry,) = node.ok(HEALTH, "List").all(1)
    assert Message(Message(entry).data(2)).number(1) == 1


def test_alarms_are_raised_listed_kept_and_disarmed(start_node) -> None:
    node = start_node()
    member = header_of(node.ok(MAINTENANCE, "Status")).unsigned(2)
    corrupt = int_field(2, member) + int_field(3, 2)
    raised = node.ok(MAINTENANCE, "Alarm", int_field(1, 1) + corrupt)
    assert [Message(alarm).unsigned(1) for alarm in raised.all(2)] == [member]
    assert len(node.ok(MAINTENANCE, "Alarm").all(2)) == 1
    assert b"alarm:CORRUPT" in node.ok(MAINTENANCE, "Status").all(8)[0]
    assert node.http("GET", "/health")[:2] == (503, b'{"health":"false","reason":"ALARM CORRUPT"}\n')
    assert node.http("GET", "/readyz").status == 503
    assert node.http("GET", "/livez").status == 200
    assert node.end() == 0
    node = start_node()
    assert len(node.ok(MAINTENANCE, "Alarm").all(2)) == 1, "the alarm was lost"
    assert node.http("GET", "/health").status == 503
    node.ok(MAINTENANCE, "Alarm", int_field(1, 2) + corrupt)
    assert node.ok(MAINTENANCE, "Alarm").all(2) == []
    of_nobody = int_field(3, 2)  # as etcd's text of the message: a zero is left out
    node.ok(MAINTENANCE, "Alarm", int_field(1, 1) + of_nobody)
    assert node.ok(MAINTENANCE, "Status").all(8) == [b"alarm:CORRUPT"]
    node.ok(MAINTENANCE, "Alarm", int_field(1, 2) + of_nobody)
    assert node.http("GET", "/health").status == 200


def test_a_full_quota_refuses_what_grows_until_it_is_disarmed(start_node) -> None:
    """Row 57."""
    node = start_node("--quota-backend-bytes=300000")
    value = bytes_field(1, b"q") + bytes_field(2, bytes(20_000))
    answers = [node.call(KV, "Put", value)[:2] for _ in range(40)]
    assert answers[0] == (0, "") and answers[-1] == NO_SPACE
    assert node.call(KV, "Txn", message_field(2, put_op(b"q", b"1")))[:2] == NO_SPACE
    assert node.call(LEASE, "LeaseGrant", int_field(1, 100))[:2] == NO_SPACE
    assert b"alarm:NOSPACE" in node.ok(MAINTENANCE, "Status").all(8)[0]
    assert node.http("GET", "/health").status == 503
    assert node.http("GET", "/health?exclude=NOSPACE").status == 200
    assert node.http("GET", "/readyz").status == 200

    node.ok(KV, "DeleteRange", bytes_field(1, b"q"))
    current = revision_of(node.get(b"q"))
    node.ok(KV, "Compact", int_field(1, current) + int_field(2, 1))
    assert node.call(KV, "Put", bytes_field(1, b"q"))[:2] == NO_SPACE, "the alarm went away by itself"
    (alarm,) = node.ok(MAINTENANCE, "Alarm").all(2)
    node.ok(MAINTENANCE, "Alarm", int_field(1, 2) + alarm_fields(alarm))
    node.put(b"q", b"v")


def alarm_fields(member: bytes) -> bytes:
    """An AlarmMember as the fields of an AlarmRequest."""
    fields = Message(member)
    return int_field(2, fields.unsigned(1)) + int_field(3, fields.number(2))


def test_costs_are_etcds() -> None:
    put = bytes_field(1, b"key") + bytes_field(2, b"value")
    nested = message_field(4, message_field(2, message_field(2, put)))
    assert cost(PUT, put) == 256 + 8
    assert cost(TXN, message_field(2, message_field(2, put)) * 2 + message_field(3, message_field(2, put))) == 528
    assert cost(TXN, message_field(2, nested)) == 264
    assert cost(TXN, message_field(2, message_field(3, bytes_field(1, b"key")))) == 0


def test_the_cost_of_a_hostile_txn_is_found_in_one_pass() -> None:
    put = bytes_field(1, b"key") + bytes_field(2, b"value")

    def nested(levels: int) -> bytes:
        backwards = bytearray(reversed(message_field(2, message_field(2, put))))
        for _ in range(levels):
            for tag in (4 << 3 | 2, 2 << 3 | 2):
                backwards += varint(len(backwards))[::-1]
                backwards.append(tag)
        backwards.reverse()
        return bytes(backwards)

    assert cost(TXN, nested(128)) == 264
    for levels in (129, 1000, 300_000):  # the engine refuses them
        assert cost(TXN, nested(levels)) == 0
    assert cost(TXN, message_field(2, message_field(2, put) + message_field(1, b""))) == 0  # the last member counts
    assert cost(TXN, message_field(2, message_field(2, put)) * 20_000) == 264 * 20_000
    for malformed in (b"\x12", b"\x12\x05ab", b"\x13", b"\xff" * 11, message_field(2, b"\x12\x7f")):
        assert cost(TXN, malformed) == 0 and cost(PUT, b"\x12\x05ab") == 0


def test_the_quota_looks_at_the_store_now_and_then_and_near_the_limit() -> None:
    used, looks, time_s = 0, 0, 0.0

    def stats() -> dict[str, int]:
        nonlocal looks
        looks += 1
        return {"memory_bytes": used}

    quota = Quota(1_000_000, stats, lambda: time_s)
    put = bytes_field(1, b"k") + bytes_field(2, bytes(100))
    assert not quota.is_exceeded_by(PUT, put)
    assert not quota.is_exceeded_by(PUT, put)
    assert looks == 1, "it asks for the size at every put"
    used = 999_999
    assert quota.is_exceeded_by(PUT, bytes_field(2, bytes(900_000))), "it did not look before passing the limit"
    assert not quota.is_exceeded_by(TXN, b"")
    used = 0
    assert quota.is_exceeded_by(PUT, bytes_field(2, bytes(1_000_000)))
    time_s, used = 1.0, 999_999
    assert quota.is_exceeded_by(PUT, put)
    assert not Quota(0, lambda: {"memory_bytes": 1 << 60}).is_exceeded_by(PUT, put)


def test_a_downgrade_is_validated_enabled_reported_and_cancelled(start_node) -> None:
    """What etcd 3.7.3 answers."""
    node = start_node()

    def ask(action: int, version: bytes = b"") -> tuple[int, str]:
        answer = node.call(MAINTENANCE, "Downgrade", int_field(1, action) + bytes_field(2, version))
        return answer.code, answer.text or answer.message.data(2).decode()

    validate, enable, cancel = 0, 1, 2
    for version in (b"3.6", b"3.6.0", b"3.6.9-rc.1", b"3.06.0"):
        assert ask(validate, version) == (0, "3.7")
    for version in (b"3.7", b"3.8", b"3.5", b"2.6"):
        assert ask(validate, version) == (3, "etcdserver: invalid downgrade target version")
    for version in (b"", b"abc", b"3", b"3.6.1.2", b"v3.6.0"):
        assert ask(enable, version) == (3, "etcdserver: wrong downgrade target version format")
    assert ask(cancel) == (0, "3.7")
    assert node.wait_log("failed to cancel downgrade")["error"] == "etcdserver: no inflight downgrade job"
    assert ask(enable, b"3.6.1") == (0, "3.7")
    info = Message(node.ok(MAINTENANCE, "Status").data(13))
    assert (info.number(1), info.data(2)) == (1, b"3.6.0")
    assert ask(enable, b"3.6") == (9, "etcdserver: cluster has a downgrade job in progress")
    assert ask(cancel) == (0, "3.7")
    assert node.ok(MAINTENANCE, "Status").data(13) == b""
    assert node.call(MAINTENANCE, "Downgrade", bytes_field(2, b"\xff")).code == 13


def test_the_reported_versions_follow_a_downgrade() -> None:
    later: list[Callable[[], None]] = []
    job = Downgrade(lambda _, function: later.append(function))
    job.enable("3.6")
    assert (job.cluster_version, job.target_version) == ("3.7.0", "3.6.0")
    later.pop()()
    assert job.cluster_version == "3.6.0"
    job.cancel()
    assert (job.cluster_version, job.target_version) == ("3.6.0", "")
    later.pop()()
    assert job.cluster_version == "3.7.0"
