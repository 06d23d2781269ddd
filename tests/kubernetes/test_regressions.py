"""
What other substitutes for etcd got wrong under a Kubernetes API server, each as a test on the wire, without Kubernetes.

Every test runs on both front ends and, as the judge of the test itself, on a real etcd 3.7. A server is shared by the
file: each test has a prefix of its own, and nothing but `test_the_first_revision_is_1` minds what came before.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.client import Client, Stream
from support.fronts import NODES
from support.processes import Server, etcd_binaries
from support.protos import mvcc, rpc

PUT, DELETE = mvcc.Event.PUT, mvcc.Event.DELETE
OUT_OF_RANGE, INVALID_ARGUMENT, NOT_FOUND = 11, 3, 5
COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE = "etcdserver: mvcc: required revision is a future revision"
_prefixes = itertools.count()


def _places() -> list[Any]:
    places = [pytest.param(node, marks=pytest.mark.node) for node in NODES]
    able = [binary for binary in etcd_binaries() if binary.version >= (3, 7, 0)]
    if able:
        return [*places, pytest.param(able[0].name, marks=pytest.mark.etcd)]
    reason = "no etcd >= 3.7 here: set FASTKV_ETCD37 to a binary"
    return [*places, pytest.param("etcd", marks=pytest.mark.skip(reason=reason))]


@pytest.fixture(scope="module", params=_places())
def server(request: pytest.FixtureRequest, warm_servers: Callable[[str], Server]) -> Iterator[Server]:
    taken = warm_servers(request.param)
    yield taken
    taken.stop()


@pytest.fixture
def api(server: Server) -> Iterator[Api]:
    api = Api(server)
    yield api
    api.close()


class Api:
    """The store's calls in the shapes that an API server uses (its etcd3 storage layer)."""

    def __init__(self, server: Server) -> None:
        self.client = Client(server.endpoint)
        self.prefix = b"/registry/%d/" % next(_prefixes)
        self._streams: list[Stream] = []

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        self.client.close()

    def ok(self, method: str, request: Any) -> Any:
        answer = self.client.call(method, request)
        assert answer.code == 0, answer
        return answer.response

    def create(self, name: bytes, value: bytes = b"{}", lease: int = 0) -> Any:
        """If MOD(k)==0 Then Put(k)."""
        return self._if_revision(name, 0, rpc.PutRequest(value=value, lease=lease))

    def update(self, name: bytes, revision: int, value: bytes, lease: int = 0) -> Any:
        return self._if_revision(name, revision, rpc.PutRequest(value=value, lease=lease), read=True)

    def delete(self, name: bytes, revision: int) -> Any:
        return self._if_revision(name, revision, rpc.DeleteRangeRequest(), read=True)

    def _if_revision(self, name: bytes, revision: int, request: Any, read: bool = False) -> Any:
        key = self.prefix + name
        request.key = key
        compare = rpc.Compare(key=key, target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=revision)
        put = isinstance(request, rpc.PutRequest)
        then = rpc.RequestOp(request_put=request) if put else rpc.RequestOp(request_delete_range=request)
        other = [rpc.RequestOp(request_range=rpc.RangeRequest(key=key))] if read else []
        return self.ok("Txn", rpc.TxnRequest(compare=[compare], success=[then], failure=other))

    def get(self, name: bytes, revision: int = 0) -> Any:
        return self.ok("Range", rpc.RangeRequest(key=self.prefix + name, limit=1, revision=revision))

    def page(self, start: bytes = b"", **fields: Any) -> rpc.RangeRequest:
        """A list of the whole resource, or the rest of it from a continue key on."""
        return rpc.RangeRequest(key=start or self.prefix, range_end=self.prefix[:-1] + b"0", **fields)

    def watch(self, start: int = 0, *, key: bytes = b"", prev_kv: bool = True, create: bool = True) -> Stream:
        stream = self.client.watch()
        self._streams.append(stream)
        if create:
            stream.send(self.watching(start, key=key, prev_kv=prev_kv))
            made = stream.receive()
            assert made.created and made.watch_id == 0 and made.header.revision > 0, made
        return stream

    def watching(self, start: int = 0, *, key: bytes = b"", prev_kv: bool = True, watch_id: int = 0) -> Any:
        end = b"" if key else self.prefix[:-1] + b"0"
        return rpc.WatchRequest(
            create_request=rpc.WatchCreateRequest(
                key=key or self.prefix,
                range_end=end,
                start_revision=start,
                prev_kv=prev_kv,
                progress_notify=True,
                watch_id=watch_id,
            )
        )

    def compact(self, revision: int) -> None:
        self.ok("Compact", rpc.CompactionRequest(revision=revision))


ASK_PROGRESS = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())


def next_events(stream: Stream) -> Any:
    """The next response that holds events; progress is passed over."""
    while not (response := stream.receive()).events:
        assert not response.canceled, response
    return response


# -- revisions and headers


def test_the_first_revision_is_1(server: Server, warm_servers: Callable[[str], Server]) -> None:
    """Others begin at 2, or at 0: an API server takes revision 0 for "any"."""
    fresh = warm_servers(server.name if server.name.startswith("etcd-") else NODES[0])
    client = Client(fresh.endpoint)
    try:
        assert client.call("Range", rpc.RangeRequest(key=b"/registry/health")).response.header.revision == 1
        assert client.call("Put", rpc.PutRequest(key=b"a")).response.header.revision == 2
    finally:
        client.close()
        fresh.stop()


def test_the_header_names_the_present_revision_also_when_the_past_is_read(api: Api) -> None:
    old = api.create(b"a").header.revision
    new = api.create(b"b").header.revision
    assert api.get(b"a", revision=old).header.revision == new
    answer = api.client.range_stream(api.page(revision=old))
    assert answer.code == 0
    assert answer.response[-1].range_response.header.revision == new


def test_headers_name_cluster_and_member(api: Api) -> None:
    header = api.get(b"absent").header
    assert header.cluster_id != 0 and header.member_id != 0 and header.raft_term > 0


def test_what_changes_nothing_makes_no_revision(api: Api) -> None:
    revision = api.create(b"a").header.revision
    refused = api.create(b"a")
    assert not refused.succeeded and refused.header.revision == revision
    missed = api.delete(b"absent", revision)
    assert not missed.succeeded and missed.header.revision == revision
    nothing = api.ok("DeleteRange", rpc.DeleteRangeRequest(key=api.prefix + b"absent"))
    assert nothing.deleted == 0 and nothing.header.revision == revision


def test_a_failed_update_shows_what_is_there_at_the_present_revision(api: Api) -> None:
    first = api.create(b"a", b"1").header.revision
    second = api.update(b"a", first, b"2").header.revision
    failed = api.update(b"a", first, b"3")
    assert not failed.succeeded and failed.header.revision == second
    [found] = failed.responses[0].response_range.kvs
    assert (found.value, found.mod_revision, found.version) == (b"2", second, 2)
    assert not api.delete(b"gone", first).responses[0].response_range.kvs


def test_a_future_revision_is_refused_with_its_text(api: Api) -> None:
    now = api.create(b"a").header.revision
    answer = api.client.call("Range", api.page(revision=now + 1))
    assert (answer.code, answer.message) == (OUT_OF_RANGE, FUTURE)


# -- lists


def test_get_is_not_a_prefix(api: Api) -> None:
    api.create(b"pod-10")
    assert not api.get(b"pod-1").kvs


def test_a_continue_key_is_inclusive(api: Api) -> None:
    for name in (b"a", b"b", b"c"):
        revision = api.create(name).header.revision
    first = api.ok("Range", api.page(limit=1, revision=revision))
    assert [kv.key for kv in first.kvs] == [api.prefix + b"a"] and first.more and first.count == 3
    rest = api.ok("Range", api.page(first.kvs[0].key + b"\0", revision=revision))
    assert [kv.key for kv in rest.kvs] == [api.prefix + b"b", api.prefix + b"c"] and not rest.more
    again = api.ok("Range", api.page(api.prefix + b"b", revision=revision))
    assert [kv.key for kv in again.kvs] == [api.prefix + b"b", api.prefix + b"c"]


def test_keys_only_and_count_only(api: Api) -> None:
    api.create(b"a", b"value")
    [kv] = api.ok("Range", api.page(keys_only=True)).kvs
    assert kv.key == api.prefix + b"a" and kv.value == b"" and kv.mod_revision > 0
    counted = api.ok("Range", api.page(count_only=True))
    assert counted.count == 1 and not counted.kvs


def test_an_old_list_is_exact(api: Api) -> None:
    """The consistency checker lists at an exact revision and compares."""
    first = api.create(b"a", b"1").header.revision
    api.create(b"b")
    api.delete(b"b", api.get(b"b").kvs[0].mod_revision)
    api.update(b"a", first, b"2")
    kvs = api.ok("Range", api.page(revision=first)).kvs
    assert [(kv.key, kv.value, kv.mod_revision) for kv in kvs] == [(api.prefix + b"a", b"1", first)]


def test_a_stream_of_ten_thousand_is_the_list(api: Api) -> None:
    ops = [
        rpc.RequestOp(request_put=rpc.PutRequest(key=api.prefix + b"%05d" % n, value=b"x" * 200)) for n in range(10_000)
    ]
    for at in range(0, len(ops), 100):
        api.ok("Txn", rpc.TxnRequest(success=ops[at : at + 100]))
    unary = api.ok("Range", api.page())
    streamed = api.client.range_stream(api.page())
    merged = rpc.RangeResponse()
    for message in streamed.response:
        merged.MergeFrom(message.range_response)
    assert len(unary.kvs) == 10_000
    assert merged.kvs == unary.kvs and merged.count == unary.count and not merged.more


def test_a_message_of_three_megabytes_comes_back(api: Api) -> None:
    """Responses may be far larger than gRPC's usual 4 MiB; requests may not, and the text is compared."""
    for n in range(5):
        api.create(b"%d" % n, b"x" * (1 << 20))
    assert sum(len(kv.value) for kv in api.ok("Range", api.page()).kvs) == 5 << 20
    refused = api.client.call("Put", rpc.PutRequest(key=api.prefix + b"large", value=b"x" * (1600 << 10)))
    assert (refused.code, refused.message) == (INVALID_ARGUMENT, "etcdserver: request is too large")


# -- compaction


def test_compact_rev_key_keeps_its_value_and_version(api: Api) -> None:
    """The compactors race through VERSION() of this key and read its value as a number."""
    key = api.prefix + b"compact_rev_key"
    for version, value in enumerate((b"0", b"17", b"42")):
        compare = rpc.Compare(key=key, target=rpc.Compare.VERSION, result=rpc.Compare.EQUAL, version=version)
        read = rpc.RequestOp(request_range=rpc.RangeRequest(key=key))
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))
        request = rpc.TxnRequest(compare=[compare], success=[put], failure=[read])
        assert api.ok("Txn", request).succeeded
        lost = api.ok("Txn", request)
        [found] = lost.responses[0].response_range.kvs
        assert not lost.succeeded and (found.value, found.version) == (value, version + 1)
    watch = api.watch(key=key, prev_kv=False)
    api.ok("Put", rpc.PutRequest(key=key, value=b"43"))
    assert next_events(watch).events[0].kv.value == b"43"


def test_reads_below_the_compact_revision_say_so(api: Api) -> None:
    first = api.create(b"a").header.revision
    second = api.update(b"a", first, b"2").header.revision
    api.compact(second)
    answer = api.client.call("Range", api.page(revision=first))
    assert (answer.code, answer.message) == (OUT_OF_RANGE, COMPACTED)
    assert api.ok("Range", api.page(revision=second)).kvs[0].value == b"2"
    answer = api.client.range_stream(api.page(revision=first))
    assert (answer.code, answer.message) == (OUT_OF_RANGE, COMPACTED)


def test_a_compacted_watch_is_made_and_then_cancelled_with_the_revision(api: Api) -> None:
    """One that is only cancelled is taken for another error, and the cache never lists again."""
    first = api.create(b"a").header.revision
    second = api.update(b"a", first, b"2").header.revision
    api.compact(second)
    watch = api.watch(first)
    ended = watch.receive()
    assert ended.canceled and ended.watch_id == 0 and ended.compact_revision == second and not ended.events


def test_a_negative_start_is_refused_and_the_stream_goes_on(api: Api) -> None:
    watch = api.watch()
    watch.send(api.watching(-1))
    refused = watch.receive()
    assert refused.created and refused.canceled and refused.watch_id == -1 and refused.compact_revision == 0
    assert refused.cancel_reason == COMPACTED
    revision = api.create(b"b").header.revision
    assert [event.kv.mod_revision for event in next_events(watch).events] == [revision]


# -- events


def test_events_carry_what_an_api_server_needs(api: Api) -> None:
    watch = api.watch()
    made = api.create(b"a", b"1").header.revision
    changed = api.update(b"a", made, b"2").header.revision
    deleted = api.delete(b"a", changed).header.revision
    again = api.create(b"a", b"3").header.revision
    events: list[Any] = []
    while len(events) < 4:
        events += next_events(watch).events
    create, update, delete, recreate = events
    assert (create.type, create.kv.create_revision, create.kv.mod_revision) == (PUT, made, made)
    assert not create.HasField("prev_kv")
    assert (update.kv.value, update.kv.mod_revision, update.kv.create_revision) == (b"2", changed, made)
    assert (update.prev_kv.value, update.prev_kv.mod_revision) == (b"1", made)
    assert (delete.type, delete.kv.key, delete.kv.mod_revision) == (DELETE, api.prefix + b"a", deleted)
    assert delete.kv.value == b"" and delete.kv.create_revision == 0 and delete.kv.version == 0
    assert (delete.prev_kv.value, delete.prev_kv.mod_revision) == (b"2", changed)
    assert recreate.kv.create_revision == recreate.kv.mod_revision == again and recreate.kv.version == 1
    assert not recreate.HasField("prev_kv")


def test_an_empty_value_is_not_a_delete(api: Api) -> None:
    watch = api.watch()
    api.create(b"a", b"")
    [event] = next_events(watch).events
    assert event.type == PUT and event.kv.version == 1
    assert len(api.get(b"a").kvs) == 1


def test_a_watch_from_the_next_revision_is_made_at_once_and_misses_nothing(api: Api) -> None:
    """Every reflector starts so: at the revision of its list plus one, which is still the future."""
    listed = api.create(b"a").header.revision
    watch = api.watch(listed + 1)
    revision = api.create(b"b").header.revision
    response = next_events(watch)
    assert [(event.kv.key, event.kv.mod_revision) for event in response.events] == [(api.prefix + b"b", revision)]


def test_a_txn_is_one_response_across_prefixes(api: Api) -> None:
    """One order for all keys: a log per prefix has none."""
    other = api.prefix + b"other/"
    watch = api.watch()
    ops = [rpc.RequestOp(request_put=rpc.PutRequest(key=key)) for key in (api.prefix + b"a", other + b"b")]
    revision = api.ok("Txn", rpc.TxnRequest(success=ops)).header.revision
    response = next_events(watch)
    assert [event.kv.mod_revision for event in response.events] == [revision, revision]


def test_revisions_on_a_watch_never_go_back(api: Api) -> None:
    """Also while progress is asked for between a hundred writes: no event at or below a revision already told."""
    watch = api.watch()
    told, seen, wanted = 0, 0, 100
    for n in range(wanted):
        api.create(b"%03d" % n)
        if n % 10 == 0:
            watch.send(ASK_PROGRESS)
    while seen < wanted:
        response = watch.receive()
        assert response.header.revision >= told, "the header went back"
        for event in response.events:
            assert event.kv.mod_revision > told, "an event at a revision that progress had covered"
        told = response.header.revision if not response.events else max(told, response.events[-1].kv.mod_revision)
        seen += len(response.events)
    assert seen == wanted


# -- progress


def test_progress_on_an_idle_store_reaches_the_present(api: Api) -> None:
    """A consistent read from the cache waits for this: the revision of a Range, told to a watch; nobody writes."""
    api.create(b"a")
    watch = api.watch()
    api.ok("Put", rpc.PutRequest(key=b"/elsewhere" + api.prefix))
    revision = api.get(b"absent").header.revision
    deadline = itertools.count()
    while True:
        watch.send(ASK_PROGRESS)
        response = watch.receive()
        assert response.watch_id == -1 and not response.events and not response.created and not response.canceled
        assert response.header.revision > 0, "a progress of revision 0 stalls every cache"
        if response.header.revision >= revision:
            break
        assert next(deadline) < 100, f"progress stays at {response.header.revision}, the store is at {revision}"


def test_the_cancel_of_an_unknown_watch_is_ignored(api: Api) -> None:
    watch = api.watch()
    watch.send(rpc.WatchRequest(cancel_request=rpc.WatchCancelRequest(watch_id=77)))
    revision = api.create(b"a").header.revision
    assert next_events(watch).events[0].kv.mod_revision == revision


def test_many_watches_share_a_stream(api: Api) -> None:
    watch = api.watch(create=False)
    for n in range(50):
        watch.send(api.watching(key=api.prefix + b"%d" % n))
        made = watch.receive()
        assert made.created and made.watch_id == n
    for n in range(50):
        api.create(b"%d" % n)
    seen = {}
    while len(seen) < 50:
        response = next_events(watch)
        seen[response.watch_id] = response.events[0].kv.key
    assert seen == {n: api.prefix + b"%d" % n for n in range(50)}


def test_a_refused_watch_leaves_the_stream_to_the_others(api: Api) -> None:
    watch = api.watch()
    end = rpc.WatchCreateRequest(key=b"b", range_end=b"a")
    watch.send(rpc.WatchRequest(create_request=end))
    refused = watch.receive()
    assert refused.created and refused.canceled and refused.watch_id == -1 and refused.cancel_reason
    revision = api.create(b"a").header.revision
    assert next_events(watch).events[0].kv.mod_revision == revision


def test_opening_and_closing_watches_does_not_disturb_one_that_stays(api: Api) -> None:
    stays = api.watch()
    for n in range(100):
        api.watch().close()
        api.create(b"%03d" % n)
    names: list[bytes] = []
    while len(names) < 100:
        names += [event.kv.key for event in next_events(stays).events]
    assert names == [api.prefix + b"%03d" % n for n in range(100)]


# -- leases


def test_lease_ids_differ_and_keys_go_with_their_lease(api: Api) -> None:
    """An id that is the TTL is shared by all who ask for the same one."""
    ids = {api.ok("LeaseGrant", rpc.LeaseGrantRequest(TTL=3660)).ID for _ in range(10)}
    assert len(ids) == 10 and all(lease > 0 for lease in ids)
    lease = ids.pop()
    api.create(b"event", lease=lease)
    watch = api.watch()
    api.ok("LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
    [event] = next_events(watch).events
    assert (event.type, event.kv.key) == (DELETE, api.prefix + b"event")
    assert not api.get(b"event").kvs


def test_an_update_with_another_lease_moves_the_key(api: Api) -> None:
    one, two = (api.ok("LeaseGrant", rpc.LeaseGrantRequest(TTL=3660)).ID for _ in range(2))
    first = api.create(b"a", lease=one).header.revision
    second = api.update(b"a", first, b"2", lease=two).header.revision
    api.ok("LeaseRevoke", rpc.LeaseRevokeRequest(ID=one))
    assert api.get(b"a").kvs[0].mod_revision == second
    api.update(b"a", second, b"3")
    api.ok("LeaseRevoke", rpc.LeaseRevokeRequest(ID=two))
    assert api.get(b"a").kvs[0].lease == 0


def test_a_short_lease_expires_and_is_seen(api: Api) -> None:
    lease = api.ok("LeaseGrant", rpc.LeaseGrantRequest(TTL=1)).ID
    watch = api.watch()
    api.create(b"a", lease=lease)
    assert next_events(watch).events[0].type == PUT
    assert next_events(watch).events[0].type == DELETE
    put = rpc.PutRequest(key=api.prefix + b"b", lease=lease)
    answer = api.client.call("Put", put)
    assert (answer.code, answer.message) == (NOT_FOUND, "etcdserver: requested lease not found")


# -- faults


def test_what_was_acknowledged_is_there_after_a_kill_and_watches_go_on_from_their_revision(server: Server) -> None:
    api = Api(server)
    made = [api.create(b"%03d" % n, b"%d" % n).header.revision for n in range(50)]
    lease = api.ok("LeaseGrant", rpc.LeaseGrantRequest(TTL=3660)).ID
    last = api.create(b"leased", lease=lease).header.revision
    api.close()
    server.restart(signal.SIGKILL)
    api.client = Client(server.endpoint)
    try:
        listed = api.ok("Range", api.page())
        assert [kv.mod_revision for kv in listed.kvs] == [*made, last]
        assert listed.header.revision >= last
        watch = api.watch(made[0])
        events: list[Any] = []
        while len(events) < 51:
            events += next_events(watch).events
        assert [event.kv.mod_revision for event in events] == [*made, last]
        left = api.ok("LeaseTimeToLive", rpc.LeaseTimeToLiveRequest(ID=lease, keys=True))
        assert left.grantedTTL == 3660 and list(left.keys) == [api.prefix + b"leased"]
    finally:
        api.close()


def test_an_answer_is_what_its_header_says(api: Api) -> None:
    """The list and its revision are one picture: a watch from the next revision completes it."""
    watch = api.watch()
    for n in range(20):
        api.create(b"%02d" % n)
        listed = api.ok("Range", api.page())
        assert max(kv.mod_revision for kv in listed.kvs) <= listed.header.revision
        assert len(listed.kvs) == n + 1
    seen = 0
    while seen < 20:
        seen += len(next_events(watch).events)


def test_the_version_is_one_that_an_api_server_accepts(api: Api) -> None:
    """RequestWatchProgress is used from 3.4.31, 3.5.13 and 3.6 on, by what Status says."""
    status = api.ok("Status", rpc.StatusRequest())
    assert tuple(map(int, status.version.split(".")[:2])) == (3, 7)
    assert status.dbSize > 0 and status.leader == status.header.member_id
