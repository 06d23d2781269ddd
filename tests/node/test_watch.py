"""Watch over the wire: golden rows 44-50, order, catch-up, progress, fragments, ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastkv.rpc.watch import fragments
from node.harness import (
    KV,
    WATCH,
    Message,
    NodeProcess,
    Stream,
    bytes_field,
    int_field,
    message_field,
    put_op,
    revision_of,
)

COMPACTED = b"etcdserver: mvcc: required revision has been compacted"


def create(key: bytes, range_end: bytes = b"", start: int = 0, id: int = 0, more: bytes = b"") -> bytes:
    fields = bytes_field(1, key) + bytes_field(2, range_end) + int_field(3, start) + int_field(7, id)
    return message_field(1, fields + more)


def cancel(id: int) -> bytes:
    return message_field(2, int_field(1, id))


PROGRESS = message_field(3, b"")


def events_of(response: Message) -> list[tuple[int, bytes, int]]:
    """(type, key, mod_revision) of each event."""
    events = [Message(event) for event in response.all(11)]
    kvs = [Message(event.data(2)) for event in events]
    return [(event.number(1), kv.data(1), kv.number(3)) for event, kv in zip(events, kvs, strict=True)]


@pytest.fixture
def watch(node: NodeProcess) -> Iterator[Stream]:
    stream = node.stream(WATCH, "Watch")
    yield stream
    stream.close()


def test_ids_count_from_0_and_bad_creates_keep_the_stream_open(node: NodeProcess, watch: Stream) -> None:
    """Row 44."""
    watch.send(create(b"w"))
    watch.send(create(b"w", b"x"))
    for id in (0, 1):
        made = watch.receive()
        assert (made.number(2), made.unsigned(3), made.unsigned(4)) == (id, 1, 0)
        assert revision_of(made) == revision_of(node.get(b"w"))
    watch.send(create(b"w", id=1))
    watch.send(create(b"x", b"a"))
    for reason in (
        b"mvcc: duplicate watch ID provided on the WatchStream",
        b"mvcc: watcher range is empty",
    ):
        refused = watch.receive()
        assert (refused.number(2), refused.unsigned(3), refused.unsigned(4)) == (-1, 1, 1)
        assert refused.data(6) == reason
    watch.send(create(b"w"))
    assert watch.receive().number(2) == 2


def test_catching_up_over_what_others_wrote_needs_no_further_write(node: NodeProcess, watch: Stream) -> None:
    """More records than one look reads, none of them wanted, then the wanted one; the node is idle from then on."""
    first = revision_of(node.get(b"wanted")) + 1
    for number in range(300):
        ops = [put_op(b"other/%d/%d" % (number, op), b"") for op in range(128)]
        node.ok(KV, "Txn", b"".join(message_field(2, op) for op in ops))
    wanted = node.put(b"wanted", b"1")
    watch.send(create(b"wanted", start=first))
    assert watch.receive().unsigned(3) == 1
    assert events_of(watch.receive()) == [(0, b"wanted", wanted)]


def test_an_explicit_id_is_kept_and_skipped_by_automatic_ones(watch: Stream) -> None:
    for request, id in ((create(b"a", id=1), 1), (create(b"a"), 0), (create(b"a"), 2)):
        watch.send(request)
        assert watch.receive().number(2) == id


def test_a_start_below_the_compaction_ends_the_watch(start_node) -> None:
    """Row 45."""
    node = start_node()
    for _ in range(3):
        node.put(b"a", b"v")
    node.ok(KV, "Compact", int_field(1, 3))
    watch = node.stream(WATCH, "Watch")
    watch.send(create(b"a", start=1))
    made, ended = watch.receive(), watch.receive()
    assert (made.unsigned(3), revision_of(made)) == (1, 4)
    assert (ended.unsigned(4), ended.number(5), revision_of(ended), ended.data(6)) == (1, 3, 0, b"")
    watch.send(create(b"a", start=3))
    assert watch.receive().number(2) == 1, "the id of the ended watch was used again"
    assert events_of(watch.receive()) == [(0, b"a", 3), (0, b"a", 4)]
    watch.close()


def test_a_negative_start_is_compacted(watch: Stream) -> None:
    """Row 46."""
    watch.send(create(b"a", start=-1))
    refused = watch.receive()
    assert (refused.number(2), refused.unsigned(3), refused.unsigned(4)) == (-1, 1, 1)
    assert refused.data(6) == COMPACTED


def test_progress_is_answered_only_when_all_watchers_are_synced(node: NodeProcess, watch: Stream) -> None:
    """Row 47; with no watcher and with one that waits for the future nothing comes."""
    watch.send(PROGRESS)
    watch.send(create(b"p/a"))
    assert watch.receive().unsigned(3) == 1
    revision = node.put(b"p/other", b"v")
    watch.send(PROGRESS)
    progress = watch.receive()
    assert (progress.number(2), revision_of(progress), progress.all(11)) == (-1, revision, [])

    watch.send(create(b"p/a", start=revision + 1000))
    watch.send(PROGRESS)
    watch.send(cancel(1))
    assert watch.receive().unsigned(3) == 1
    assert watch.receive().unsigned(4) == 1, "a progress was answered although a watcher waits for the future"
    watch.send(PROGRESS)
    assert watch.receive().number(2) == -1


def test_progress_never_overtakes_events(node: NodeProcess, watch: Stream) -> None:
    watch.send(create(b"o/", b"o0"))
    watch.receive()
    seen = 0
    for number in range(50):
        node.put(b"o/%d" % number, b"v")
        watch.send(PROGRESS)
        while (response := watch.receive()).number(2) != -1:
            seen = max(revision for _, _, revision in events_of(response))
        assert revision_of(response) >= seen
        assert seen == revision_of(node.get(b"o/%d" % number)), "progress came before the event"


def test_cancelling_the_unknown_and_empty_requests_are_ignored(watch: Stream) -> None:
    """Row 48."""
    watch.send(cancel(7))
    watch.send(b"")
    watch.send(create(b"a"))
    assert watch.receive().unsigned(3) == 1
    watch.send(cancel(0))
    gone = watch.receive()
    assert (gone.number(2), gone.unsigned(4), gone.data(6), gone.number(5)) == (0, 1, b"", 0)
    watch.send(cancel(0))
    watch.send(create(b"a"))
    assert watch.receive().number(2) == 1


def test_each_watcher_gets_its_own_response(node: NodeProcess, watch: Stream) -> None:
    """Rows 49 and 50."""
    watch.send(create(b"e", b"f"))
    watch.send(create(b"e1"))
    assert [watch.receive().number(2), watch.receive().number(2)] == [0, 1]
    revision = node.put(b"e1", b"v")
    responses = [watch.receive(), watch.receive()]
    assert sorted(response.number(2) for response in responses) == [0, 1]
    for response in responses:
        assert revision_of(response) == revision
        assert events_of(response) == [(0, b"e1", revision)]
    node.ok(KV, "DeleteRange", bytes_field(1, b"e1"))
    for _ in range(2):
        response = watch.receive()
        tombstone = Message(Message(response.all(11)[0]).data(2))
        assert events_of(response) == [(1, b"e1", revision + 1)]
        assert tombstone.data(5) == b"" and tombstone.number(2) == 0 and tombstone.number(4) == 0
    done = node.ok(KV, "Txn", message_field(2, put_op(b"e2", b"1")) + message_field(2, put_op(b"e3", b"1")))
    response = watch.receive()
    assert (response.number(2), len(response.all(11)), revision_of(response)) == (0, 2, revision_of(done))


def test_catching_up_misses_and_repeats_nothing(node: NodeProcess, watch: Stream) -> None:
    first = node.put(b"c/0", b"v")
    for number in range(1, 200):
        node.put(b"c/%d" % number, b"v")
    watch.send(create(b"c/", b"c0", start=first))
    for number in range(200, 300):
        node.put(b"c/%d" % number, b"v")
    assert watch.receive().unsigned(3) == 1
    seen: list[tuple[int, bytes, int]] = []
    while len(seen) < 300:
        seen += events_of(watch.receive())
    assert seen == [(0, b"c/%d" % number, first + number) for number in range(300)]


def test_filters_and_prev_kv(node: NodeProcess, watch: Stream) -> None:
    watch.send(create(b"f", more=int_field(5, 1) + int_field(6, 1)))  # NODELETE, prev_kv
    watch.send(create(b"f", more=message_field(5, b"\x00")))  # NOPUT, packed
    assert [watch.receive().number(2), watch.receive().number(2)] == [0, 1]
    node.put(b"f", b"1")
    assert watch.receive().number(2) == 0
    node.put(b"f", b"2")
    changed = watch.receive()
    assert changed.number(2) == 0
    assert Message(Message(changed.all(11)[0]).data(3)).data(5) == b"1"
    node.ok(KV, "DeleteRange", bytes_field(1, b"f"))
    gone = watch.receive()
    assert (gone.number(2), [kind for kind, _, _ in events_of(gone)]) == (1, [1])


def test_an_empty_key_with_end_0_watches_everything(node: NodeProcess, watch: Stream) -> None:
    watch.send(create(b"", b"\0"))
    watch.receive()
    revision = node.put(b"\x01", b"v")
    assert events_of(watch.receive()) == [(0, b"\x01", revision)]


def test_a_future_start_waits(node: NodeProcess, watch: Stream) -> None:
    revision = node.put(b"later", b"1")
    watch.send(create(b"later", start=revision + 2))
    watch.receive()
    node.put(b"later", b"2")
    node.put(b"later", b"3")
    assert events_of(watch.receive()) == [(0, b"later", revision + 2)]


def test_a_half_closed_stream_goes_on(node: NodeProcess, watch: Stream) -> None:
    watch.send(create(b"half"))
    watch.receive()
    watch.half_close()
    revision = node.put(b"half", b"v")
    assert events_of(watch.receive()) == [(0, b"half", revision)]


def test_progress_notify_comes_by_itself_when_nothing_happens(start_node) -> None:
    node = start_node("--watch-progress-notify-interval=100ms")
    watch = node.stream(WATCH, "Watch")
    watch.send(create(b"a", more=int_field(4, 1)))
    watch.send(create(b"a"))
    assert [watch.receive().number(2), watch.receive().number(2)] == [0, 1]
    for _ in range(2):
        notice = watch.receive()
        assert (notice.number(2), notice.unsigned(3), notice.all(11), revision_of(notice)) == (0, 0, [], 1)
    watch.close()


def test_a_large_response_is_fragmented_for_those_who_ask(start_node) -> None:
    node = start_node("--max-request-bytes=10000")
    for number in range(80):
        node.put(b"g/%03d" % number, bytes(9000))
    watch = node.stream(WATCH, "Watch")
    watch.send(create(b"g/", b"g0", start=2, more=int_field(8, 1)))
    watch.receive()
    keys: list[bytes] = []
    fragmented = 0
    while len(keys) < 80:
        response = watch.receive()
        fragmented += response.unsigned(7)
        keys += [key for _, key, _ in events_of(response)]
    assert keys == [b"g/%03d" % number for number in range(80)]
    assert fragmented, "no response was fragmented"
    assert response.unsigned(7) == 0, "the last piece says that more follows"
    watch.close()


def test_fragments_hold_at_least_one_event_and_stay_below_the_limit() -> None:
    events = [message_field(11, bytes(size)) for size in (10, 10, 100, 10)]
    pieces = fragments(b"".join(events), 40)
    assert [piece for piece, _ in pieces] == [events[0] + events[1], events[2], events[3]]
    assert [last for _, last in pieces] == [False, False, True]


def test_watchers_of_a_closed_stream_are_forgotten(node: NodeProcess, watch: Stream) -> None:
    """A stream that goes away with many watchers leaves a node that answers the next one."""
    other = node.stream(WATCH, "Watch")
    for _ in range(200):
        other.send(create(b"z", b"zz"))
    for _ in range(200):
        other.receive()
    other.close()
    watch.send(create(b"z", b"zz"))
    watch.receive()
    revision = node.put(b"z", b"v")
    assert events_of(watch.receive()) == [(0, b"z", revision)]


def test_a_stream_ends_unavailable_when_the_node_stops(start_node) -> None:
    node = start_node()
    watch = node.stream(WATCH, "Watch")
    watch.send(create(b"a"))
    watch.receive()
    node.process.terminate()
    assert watch.error()[:2] == (14, "etcdserver: server stopped")
    assert node.end() == 0
