"""KV over the wire: every method, the errors' codes and exact texts, size limits."""

from __future__ import annotations

import grpc
import pytest

from node.harness import (
    DEADLINE_S,
    KV,
    Message,
    NodeProcess,
    bytes_field,
    int_field,
    message_field,
    put_op,
    revision_of,
)

INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL = 3, 5, 8, 11, 12, 13


def put_request(key: bytes, value: bytes) -> bytes:
    return bytes_field(1, key) + bytes_field(2, value)


def test_put_and_range_answer_as_etcd(node: NodeProcess) -> None:
    first = node.put(b"kv/a", b"1")
    second = node.ok(KV, "Put", put_request(b"kv/a", b"2") + int_field(4, 1))
    assert revision_of(second) == first + 1
    before = Message(second.data(2))
    assert (before.data(5), before.number(2), before.number(3), before.number(4)) == (b"1", first, first, 1)

    found = node.get(b"kv/a")
    kv = Message(found.all(2)[0])
    assert (kv.data(1), kv.data(5), kv.number(2), kv.number(3), kv.number(4)) == (b"kv/a", b"2", first, first + 1, 2)
    assert (found.number(4), found.unsigned(3)) == (1, 0)
    assert Message(node.get(b"kv/a", int_field(4, first)).all(2)[0]).data(5) == b"1"


def test_a_fresh_store_is_at_revision_1_and_term_2(start_node) -> None:
    node = start_node()
    header = Message(node.get(b"a").data(1))
    assert (header.number(3), header.number(4)) == (1, 2)
    assert header.unsigned(1) and header.unsigned(2)


def test_delete_range_counts_and_bumps_only_if_it_deleted(node: NodeProcess) -> None:
    revision = node.put(b"del/a", b"1")
    nothing = node.ok(KV, "DeleteRange", bytes_field(1, b"del/zz"))
    assert (nothing.number(2), revision_of(nothing)) == (0, revision)
    gone = node.ok(KV, "DeleteRange", bytes_field(1, b"del/") + bytes_field(2, b"del0") + int_field(3, 1))
    assert (gone.number(2), revision_of(gone), len(gone.all(3))) == (1, revision + 1, 1)


def test_txn_is_one_revision(node: NodeProcess) -> None:
    revision = node.put(b"txn/a", b"1")
    done = node.ok(KV, "Txn", message_field(2, put_op(b"txn/b", b"1")) + message_field(2, put_op(b"txn/c", b"1")))
    assert (done.unsigned(2), revision_of(done), len(done.all(3))) == (1, revision + 1, 2)


@pytest.mark.parametrize(
    ("method", "request_bytes", "code", "text"),
    [
        ("Range", b"", INVALID_ARGUMENT, "etcdserver: key is not provided"),
        ("Put", b"", INVALID_ARGUMENT, "etcdserver: key is not provided"),
        ("DeleteRange", b"", INVALID_ARGUMENT, "etcdserver: key is not provided"),
        ("Put", bytes_field(1, b"none") + int_field(5, 1), INVALID_ARGUMENT, "etcdserver: key not found"),
        ("Put", put_request(b"a", b"v") + int_field(5, 1), INVALID_ARGUMENT, "etcdserver: value is provided"),
        ("Put", put_request(b"a", b"v") + int_field(3, 12345), NOT_FOUND, "etcdserver: requested lease not found"),
        ("Range", bytes_field(1, b"a") + int_field(5, 9), INVALID_ARGUMENT, "etcdserver: invalid sort option"),
        (
            "Range",
            bytes_field(1, b"a") + int_field(4, 1 << 40),
            OUT_OF_RANGE,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        (
            "Txn",
            message_field(2, put_op(b"x", b"1")) * 2,
            INVALID_ARGUMENT,
            "etcdserver: duplicate key given in txn request",
        ),
        (
            "Txn",
            message_field(2, message_field(1, bytes_field(1, b"x"))) * 129,
            INVALID_ARGUMENT,
            "etcdserver: too many operations in txn request",
        ),
        ("Txn", message_field(2, b""), INVALID_ARGUMENT, "etcdserver: key not found"),
        (
            "Compact",
            int_field(1, 1 << 40),
            OUT_OF_RANGE,
            "etcdserver: mvcc: required revision is a future revision",
        ),
    ],
)
def test_errors_have_etcds_code_and_text(
    node: NodeProcess, method: str, request_bytes: bytes, code: int, text: str
) -> None:
    before = revision_of(node.get(b"any"))
    answer = node.call(KV, method, request_bytes)
    assert (answer.code, answer.text) == (code, text)
    assert revision_of(node.get(b"any")) == before


def test_a_request_above_the_limits_is_refused_in_two_stages(node: NodeProcess) -> None:
    """Golden row 41: above --max-request-bytes the store refuses, above 512 KiB more the transport."""
    answer = node.call(KV, "Put", put_request(b"big", bytes(1_572_864)))
    assert (answer.code, answer.text) == (INVALID_ARGUMENT, "etcdserver: request is too large")
    request = put_request(b"big", bytes(2_200_000))
    answer = node.call(KV, "Put", request)
    text = f"grpc: received message larger than max ({len(request)} vs. 2097152)"
    assert (answer.code, answer.text) == (RESOURCE_EXHAUSTED, text)


def test_compaction_forgets_what_is_below(start_node) -> None:
    node = start_node()
    for value in (b"1", b"2", b"3"):
        node.put(b"a", value)
    assert revision_of(node.ok(KV, "Compact", int_field(1, 3) + int_field(2, 1))) == 4
    compacted = (OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
    assert node.call(KV, "Compact", int_field(1, 3))[:2] == compacted
    assert node.call(KV, "Range", bytes_field(1, b"a") + int_field(4, 2))[:2] == compacted
    assert Message(node.get(b"a", int_field(4, 3)).all(2)[0]).data(5) == b"2"
    assert node.wait_log("finished scheduled compaction")["compact-revision"] == 3


def range_stream(node: NodeProcess, request: bytes) -> list[Message]:
    call = node.channel.unary_stream(f"/{KV}/RangeStream")(request, timeout=DEADLINE_S)
    return [Message(Message(response).data(1)) for response in call]


def test_range_stream_is_the_range_in_pieces(start_node) -> None:
    node = start_node("--max-request-bytes=20000")
    for number in range(60):
        node.put(b"s/%03d" % number, bytes(4000))
    everything = bytes_field(1, b"s/") + bytes_field(2, b"s0")
    pieces = range_stream(node, everything)
    assert len(pieces) > 2, "the answer came in one piece"
    assert [kv for piece in pieces for kv in piece.all(2)] == node.ok(KV, "Range", everything).all(2)
    assert all(1 not in piece and 4 not in piece for piece in pieces[:-1])
    assert (revision_of(pieces[-1]), pieces[-1].number(4)) == (61, 60)


def test_range_stream_believes_no_place_that_a_client_claims(node: NodeProcess) -> None:
    """Fields 1000 and 1001 are the engine's own, between two chunks."""
    node.put(b"claimed", b"v")
    request = bytes_field(1, b"claimed") + bytes_field(2, b"claimee")
    asked = range_stream(node, request)
    claimed = range_stream(node, request + int_field(1000, 77) + int_field(1001, 99))
    assert len(asked) == len(claimed) == 1
    assert (revision_of(claimed[0]), claimed[0].number(4)) == (revision_of(asked[0]), 1)


def test_a_message_far_above_the_limit_is_refused_by_grpcio_in_its_words(node: NodeProcess, front: str) -> None:
    """What docs/compat.md says; up to there, and on the native front end, the text is etcd's."""
    words = {"grpcio": "SERVER: Received message larger than max", "native": "grpc: received message larger than max"}
    code, text, _ = node.call(KV, "Put", bytes_field(2, bytes(33 << 20)))
    assert (code, text.startswith(words[front])) == (RESOURCE_EXHAUSTED, True), text
    code, text, _ = node.call(KV, "Put", bytes_field(2, bytes(31 << 20)))
    assert (code, text.startswith("grpc: received message larger than max")) == (RESOURCE_EXHAUSTED, True), text


def test_range_stream_refuses_what_it_cannot_order(node: NodeProcess) -> None:
    for more, text in (
        (int_field(5, 2), "RangeStream does not support custom sort orders"),
        (int_field(10, 5), "RangeStream does not support revision filters"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            range_stream(node, bytes_field(1, b"a") + more)
        assert (caught.value.code().value[0], caught.value.details()) == (UNIMPLEMENTED, text)


def test_range_stream_of_nothing_is_one_message_with_a_header(node: NodeProcess) -> None:
    (piece,) = range_stream(node, bytes_field(1, b"nothing/there"))
    assert revision_of(piece) >= 1
    assert piece.all(2) == []


def test_unknown_names_are_told_apart(node: NodeProcess) -> None:
    for service, method, text in (
        (KV, "Nope", "unknown method Nope for service etcdserverpb.KV"),
        ("no.Such", "Nope", "unknown service no.Such"),
        ("etcdserverpb.Auth", "UserList", "fastkv: etcdserverpb.Auth/UserList is not there yet"),
    ):
        assert node.call(service, method)[:2] == (UNIMPLEMENTED, text)


def test_bytes_that_are_no_message_are_refused(node: NodeProcess) -> None:
    for method in ("Range", "Put", "DeleteRange", "Txn", "Compact"):
        code, text, _ = node.call(KV, method, b"\x0a\xff")
        assert (code, text.startswith("grpc: error unmarshalling request: ")) == (INTERNAL, True), text


def test_concurrent_puts_all_get_their_own_revision(node: NodeProcess) -> None:
    put = node.channel.unary_unary(f"/{KV}/Put")
    before = revision_of(node.get(b"any"))
    calls = [put.future(put_request(b"many/%d" % n, b"v"), timeout=DEADLINE_S) for n in range(300)]
    revisions = sorted(revision_of(Message(call.result())) for call in calls)
    assert revisions == list(range(before + 1, before + 301))
