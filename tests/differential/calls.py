"""
The table of gRPC calls that an etcd and a fastkv node must answer with the same bytes: a list of steps a subject.

Steps of a subject follow each other on the same two servers, so each must leave both in the same state.
"""

from __future__ import annotations

from google.protobuf.message import Message

from fastkv.rpc.wire import bytes_field, int_field, message_field
from support.protos import UNARY, rpc
from support.twins import APPEARS, VANISHES, Step

WATCH, KEEP_ALIVE = "/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"
STREAM = "/etcdserverpb.KV/RangeStream"
LOCK, ELECTION, HEALTH = "/v3lockpb.Lock/", "/v3electionpb.Election/", "/grpc.health.v1.Health/"
DOWNGRADE = "/etcdserverpb.Maintenance/Downgrade"
MEMBER = 0x9C7B5D29  # no member's id
LEASE, OTHER, SHORT = 0x7001, 0x7002, 0x7003


def ask(method: str, message: Message | None = None, *masks: str, differs: str = "") -> Step:
    """A unary call of etcd's own services."""
    path, request, _ = UNARY[method]
    body = (message if message is not None else request()).SerializeToString()
    return Step(path, (body,), masks=masks, differs=differs)


def raw(path: str, *fields: bytes, differs: str = "", masks: tuple[str, ...] = ()) -> Step:
    """A unary call of bytes."""
    return Step(path, (b"".join(fields),), masks=masks, differs=differs)


def stream(path: str, count: int, *requests: bytes, first: int = 0, meanwhile: tuple[Step, ...] = ()) -> Step:
    during = tuple((step.path, step.requests[0]) for step in meanwhile)
    return Step(path, requests, count=count, first=first, meanwhile=during)


def put(key: bytes, value: bytes = b"v", **more: object) -> Step:
    return ask("Put", rpc.PutRequest(key=key, value=value, **more))


def get(key: bytes, **more: object) -> Step:
    return ask("Range", rpc.RangeRequest(key=key, **more))


def delete(key: bytes, **more: object) -> Step:
    return ask("DeleteRange", rpc.DeleteRangeRequest(key=key, **more))


def txn(*compares: Message, then: tuple[Message, ...] = (), otherwise: tuple[Message, ...] = ()) -> Step:
    return ask("Txn", rpc.TxnRequest(compare=compares, success=then, failure=otherwise))


def op(**kind: Message) -> Message:
    return rpc.RequestOp(**kind)


def put_op(key: bytes, value: bytes = b"v", **more: object) -> Message:
    return op(request_put=rpc.PutRequest(key=key, value=value, **more))


def get_op(key: bytes, **more: object) -> Message:
    return op(request_range=rpc.RangeRequest(key=key, **more))


def delete_op(key: bytes, **more: object) -> Message:
    return op(request_delete_range=rpc.DeleteRangeRequest(key=key, **more))


def create(key: bytes, **more: object) -> bytes:
    return rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=key, **more)).SerializeToString()


def cancel(id: int) -> bytes:
    return rpc.WatchRequest(cancel_request=rpc.WatchCancelRequest(watch_id=id)).SerializeToString()


PROGRESS = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()).SerializeToString()


def grant(lease: int, ttl: int = 5000) -> Step:
    return ask("LeaseGrant", rpc.LeaseGrantRequest(ID=lease, TTL=ttl))


def revoke(lease: int) -> Step:
    return ask("LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))


def time_to_live(lease: int, keys: bool = True) -> Step:
    return ask("LeaseTimeToLive", rpc.LeaseTimeToLiveRequest(ID=lease, keys=keys), "TTL")


def keep_alive(lease: int) -> bytes:
    return rpc.LeaseKeepAliveRequest(ID=lease).SerializeToString()


def alarm(action: int = 0, kind: int = 0, member: int = 0) -> Step:
    return ask("Alarm", rpc.AlarmRequest(action=action, alarm=kind, memberID=member))


def lock(name: bytes, lease: int) -> Step:
    return raw(f"{LOCK}Lock", bytes_field(1, name), int_field(2, lease))


def unlock(name: bytes, lease: int) -> Step:
    return raw(f"{LOCK}Unlock", bytes_field(1, b"%s/%x" % (name, lease)))


def campaign(name: bytes, lease: int, value: bytes) -> Step:
    return raw(f"{ELECTION}Campaign", bytes_field(1, name), int_field(2, lease), bytes_field(3, value))


def leader_key(name: bytes, lease: int, revision: int) -> bytes:
    key = bytes_field(1, name) + bytes_field(2, b"%s/%x" % (name, lease))
    return message_field(1, key + int_field(3, revision) + int_field(4, lease))


def key_of(name: bytes, lease: int) -> bytes:
    return b"%s/%x" % (name, lease)


def during(call: Step, *meanwhile: Step, appears: bytes, answered: bool = True, differs: str = "") -> Step:
    """A call that waits: the others are made when its key is there, then its answer is taken or it is cancelled."""
    calls = ((APPEARS, appears), *((step.path, step.requests[0]) for step in meanwhile))
    return Step(call.path, call.requests, count=int(answered), meanwhile=calls, differs=differs)


def until_gone(key: bytes) -> Step:
    return Step(STREAM, (rpc.RangeRequest(key=key).SerializeToString(),), count=1, meanwhile=((VANISHES, key),))


def downgrade(action: int, version: bytes = b"") -> Step:
    return raw(DOWNGRADE, int_field(1, action), bytes_field(2, version))


ALL = {"range_end": b"\0"}
SORTS = [
    get(b"s", range_end=b"t", sort_order=order, sort_target=target, limit=limit)
    for order in range(3)
    for target in range(5)
    for limit in (0, 2)
]

KV = [
    get(b"absent"),
    get(b""),
    put(b"", b"v"),
    put(b"a", b"1"),
    put(b"a", b"2", prev_kv=True),
    put(b"a", b"", ignore_value=True),
    put(b"a", b"x", ignore_value=True),
    put(b"a", b"x", ignore_lease=True),
    put(b"a", b"x", ignore_lease=True, lease=5),
    put(b"absent", b"", ignore_value=True),
    put(b"absent", b"x", ignore_lease=True),
    put(b"a", b"x", lease=12345),
    *(put(key, value) for key, value in ((b"s3", b"a"), (b"s1", b"c"), (b"s2", b"b"))),
    put(b"s1", b"d"),
    *SORTS,
    get(b"s", range_end=b"t", sort_order=3),
    get(b"s", range_end=b"t", sort_target=5),
    get(b"s", range_end=b"t", sort_order=-1),
    get(b"s", range_end=b"t", count_only=True),
    get(b"s", range_end=b"t", keys_only=True),
    get(b"s", range_end=b"t", keys_only=True, sort_order=1, sort_target=4),
    get(b"s", range_end=b"t", limit=-1),
    get(b"t", range_end=b"s"),
    get(b"\0", **ALL),
    get(b"s1", **ALL),
    get(b"a", revision=2),
    get(b"a", revision=3),
    get(b"a", revision=99),
    get(b"a", revision=-1),
    get(b"a", serializable=True),
    *(get(b"\0", **ALL, **{name: 4}) for name in ("min_mod_revision", "max_mod_revision")),
    *(get(b"\0", **ALL, **{name: 6}) for name in ("min_create_revision", "max_create_revision")),
    get(b"\0", **ALL, min_mod_revision=3, limit=1),
    delete(b""),
    delete(b"absent"),
    delete(b"s1", prev_kv=True),
    get(b"s1"),
    put(b"s1", b"again"),
    delete(b"s", range_end=b"t", prev_kv=True),
    delete(b"t", range_end=b"s"),
    put(b"bytes\x00\xff", b"\x00\xff"),
    get(b"bytes\x00\xff"),
    delete(b"\0", **ALL),
    get(b"\0", **ALL),
    put(b"big", b"x" * 1_572_000),
    put(b"big", b"x" * 1_572_864),
    put(b"big", b"x" * 2_097_153),
    get(b"big", keys_only=True),
]

TXN = [
    txn(),
    txn(then=(put_op(b"a", b"1"), get_op(b"a"), put_op(b"b"), get_op(b"a", **ALL))),
    txn(then=(get_op(b"a"), get_op(b"a", **ALL)), otherwise=(get_op(b"b"),)),
    *(
        txn(
            rpc.Compare(key=b"a", target=target, result=result, **{field: operand}),
            then=(get_op(b"a"),),
            otherwise=(get_op(b"b"),),
        )
        for target, field, operand in (
            (0, "version", 1),
            (1, "create_revision", 2),
            (2, "mod_revision", 3),
            (3, "value", b"1"),
            (4, "lease", 0),
        )
        for result in range(4)
    ),
    *(txn(rpc.Compare(key=key, target=0, version=0), then=(get_op(b"a"),)) for key in (b"absent", b"a")),
    txn(rpc.Compare(key=b"absent", target=3, value=b""), then=(get_op(b"a"),)),
    txn(rpc.Compare(key=b"", target=0), then=(get_op(b"a"),)),
    txn(rpc.Compare(key=b"a", range_end=b"c", target=0, version=1), then=(get_op(b"a"),)),
    txn(rpc.Compare(key=b"a", target=9, version=1), then=(get_op(b"a"),)),
    txn(rpc.Compare(key=b"a", target=0, result=9), then=(get_op(b"a"),)),
    txn(then=(put_op(b"d"), put_op(b"d"))),
    txn(then=(put_op(b"d"), delete_op(b"c", range_end=b"e"))),
    txn(then=(delete_op(b"c", range_end=b"e"), delete_op(b"d"))),
    txn(otherwise=(put_op(b"d"), put_op(b"d"))),
    txn(then=(op(),)),
    txn(then=(put_op(b""),)),
    txn(then=(get_op(b""),)),
    txn(then=(delete_op(b""),)),
    txn(otherwise=(put_op(b"x", lease=999),)),
    txn(then=(put_op(b"x", lease=999),)),
    txn(then=(get_op(b"a", revision=99),)),
    txn(then=(get_op(b"a", sort_order=7),)),
    txn(then=(put_op(b"y", b"", ignore_value=True),)),
    txn(then=(put_op(b"a", b"3", prev_kv=True), delete_op(b"b", prev_kv=True), get_op(b"\0", **ALL))),
    txn(then=(op(request_txn=rpc.TxnRequest(success=[put_op(b"n", b"1"), get_op(b"n")])), get_op(b"n"))),
    txn(then=(op(request_txn=rpc.TxnRequest(success=[op(request_txn=rpc.TxnRequest(success=[get_op(b"n")]))])),)),
    txn(then=tuple(delete_op(b"n%d" % i) for i in range(128))),
    txn(then=tuple(delete_op(b"n%d" % i) for i in range(129))),
    get(b"\0", **ALL),
]

COMPACTION = [
    *(put(b"c", b"%d" % i) for i in range(5)),
    delete(b"c"),
    put(b"c", b"6"),
    ask("HashKV"),
    ask("HashKV", rpc.HashKVRequest(revision=4)),
    ask("HashKV", rpc.HashKVRequest(revision=99)),
    ask("Compact", rpc.CompactionRequest(revision=99)),
    ask("Compact", rpc.CompactionRequest(revision=4, physical=True)),
    ask("Compact", rpc.CompactionRequest(revision=4)),
    ask("Compact", rpc.CompactionRequest(revision=3)),
    ask("Compact", rpc.CompactionRequest(revision=0)),
    ask("Compact", rpc.CompactionRequest(revision=-1)),
    get(b"c", revision=3),
    get(b"c", revision=4),
    get(b"c", revision=5),
    txn(then=(get_op(b"c", revision=3),)),
    ask("HashKV", rpc.HashKVRequest(revision=3)),
    ask("HashKV", rpc.HashKVRequest(revision=5)),
    ask("HashKV"),
    stream(WATCH, 2, create(b"c", start_revision=3)),
    stream(WATCH, 1, create(b"c", start_revision=-1)),
]

RANGE_STREAM = [
    *(put(b"r%d" % i, b"x" * 10) for i in range(5)),
    stream(STREAM, 9, rpc.RangeRequest(key=b"r", range_end=b"s").SerializeToString()),
    stream(STREAM, 9, rpc.RangeRequest(key=b"r", range_end=b"s", limit=2).SerializeToString()),
    stream(STREAM, 9, rpc.RangeRequest(key=b"r", range_end=b"s", count_only=True).SerializeToString()),
    stream(STREAM, 9, rpc.RangeRequest(key=b"r", range_end=b"s", keys_only=True).SerializeToString()),
    stream(STREAM, 9, rpc.RangeRequest(key=b"absent").SerializeToString()),
    stream(STREAM, 9, rpc.RangeRequest(key=b"r", range_end=b"s", revision=3).SerializeToString()),
    stream(STREAM, 9, rpc.RangeRequest(key=b"r", range_end=b"s", revision=99).SerializeToString()),
    stream(STREAM, 9, rpc.RangeRequest().SerializeToString()),
    stream(STREAM, 9, rpc.RangeRequest(key=b"r", range_end=b"s", sort_order=1).SerializeToString()),
    stream(STREAM, 9, rpc.RangeRequest(key=b"r", range_end=b"s", sort_order=2).SerializeToString()),
    stream(STREAM, 9, rpc.RangeRequest(key=b"r", sort_order=1, sort_target=1).SerializeToString()),
    stream(STREAM, 9, rpc.RangeRequest(key=b"r", min_mod_revision=1).SerializeToString()),
    stream(STREAM, 9, rpc.RangeRequest(key=b"r", sort_order=9).SerializeToString()),
]

WATCHES = [
    put(b"w1"),
    put(b"w2"),
    stream(WATCH, 1, create(b"w1")),
    stream(WATCH, 2, create(b"w1"), first=1, meanwhile=(put(b"w1", b"live"),)),
    stream(WATCH, 2, create(b"w1", prev_kv=True), first=1, meanwhile=(put(b"w1", b"more"),)),
    stream(WATCH, 2, create(b"w1", watch_id=7), first=1, meanwhile=(put(b"w2"), put(b"w1"))),
    stream(WATCH, 2, create(b"w", range_end=b"x", filters=[0]), first=1, meanwhile=(put(b"w1"), delete(b"w1"))),
    stream(WATCH, 2, create(b"w", range_end=b"x", filters=[1]), first=1, meanwhile=(delete(b"w2"), put(b"w1"))),
    stream(WATCH, 2, create(b"w", range_end=b"x", prev_kv=True), first=1, meanwhile=(delete(b"w", range_end=b"x"),)),
    stream(WATCH, 2, create(b"w1", start_revision=2)),
    stream(WATCH, 2, create(b"w", range_end=b"x", start_revision=2, prev_kv=True)),
    stream(WATCH, 2, create(b"", range_end=b"\0", start_revision=2)),
    stream(WATCH, 1, create(b"x", range_end=b"w")),
    stream(WATCH, 1, create(b"x", range_end=b"x")),
    stream(WATCH, 2, create(b"w1", watch_id=7), create(b"w2", watch_id=7)),
    stream(WATCH, 3, create(b"w1"), create(b"w2"), create(b"w3", watch_id=1)),
    stream(WATCH, 1, create(b"w1", watch_id=-5)),
    stream(WATCH, 2, create(b"w1"), cancel(0)),
    stream(WATCH, 3, create(b"w1", watch_id=3), cancel(9), cancel(3), create(b"w1", watch_id=3)),
    stream(WATCH, 1, cancel(0), PROGRESS, create(b"w1")),
    stream(WATCH, 1, create(b"w1", start_revision=1000)),
    stream(WATCH, 1, b"", create(b"w1")),
]

LEASES = [
    ask("LeaseLeases"),
    grant(LEASE),
    grant(LEASE),
    grant(OTHER, 0),
    grant(SHORT, 9_000_000_000),
    grant(0x7004, 9_000_000_001),
    grant(-3, -3),
    grant(0x7005, 1),
    ask("LeaseLeases"),
    time_to_live(LEASE),
    time_to_live(999),
    put(b"l/1", b"v", lease=LEASE),
    put(b"l/2", b"v", lease=LEASE),
    get(b"l/1"),
    get(b"l/", range_end=b"l0", keys_only=True),
    time_to_live(LEASE, keys=False),
    put(b"l/1", b"v", lease=SHORT),
    time_to_live(LEASE),
    time_to_live(SHORT),
    put(b"l/1", b"v"),
    time_to_live(SHORT),
    put(b"l/2", b"w", ignore_lease=True),
    time_to_live(LEASE),
    delete(b"l/2"),
    time_to_live(LEASE),
    txn(rpc.Compare(key=b"l/1", target=4, lease=0), then=(put_op(b"l/3", lease=LEASE), put_op(b"l/4", lease=LEASE))),
    stream(KEEP_ALIVE, 4, *map(keep_alive, (LEASE, 999, 0, SHORT))),
    stream(WATCH, 2, create(b"l/", range_end=b"l0", prev_kv=True), first=1, meanwhile=(revoke(LEASE),)),
    revoke(LEASE),
    revoke(0),
    get(b"l/", range_end=b"l0"),
    time_to_live(LEASE),
    put(b"l/5", b"v", lease=LEASE),
    grant(LEASE),
    ask("LeaseGrant", rpc.LeaseGrantRequest(), "ID"),
]

LOCKS = [
    lock(b"absent", 999),
    lock(b"", 999),
    grant(LEASE),
    grant(OTHER),
    lock(b"m", LEASE),
    lock(b"m", LEASE),
    get(b"m/", range_end=b"m0"),
    time_to_live(LEASE),
    unlock(b"m", LEASE),
    unlock(b"m", LEASE),
    lock(b"m", OTHER),
    unlock(b"m", OTHER),
    lock(b"", LEASE),
    lock(b"name/with/slashes", LEASE),
    lock(b"\xff\xff", OTHER),
    get(b"\0", **ALL),
    raw(f"{LOCK}Unlock"),
    raw(f"{LOCK}Unlock", bytes_field(1, b"not/a/lock")),
    raw(f"{LOCK}Lock", b"\xff"),
    raw(f"{LOCK}Nothing"),
    stream(WATCH, 2, create(b"m/", range_end=b"m0"), first=1, meanwhile=(lock(b"m", LEASE),)),
    revoke(LEASE),
    lock(b"m", LEASE),
    lock(b"m", OTHER),
    get(b"m/", range_end=b"m0"),
]

CONTENTION = [
    *(grant(lease) for lease in (LEASE, OTHER, SHORT)),
    lock(b"m", LEASE),
    during(lock(b"m", OTHER), unlock(b"m", LEASE), appears=key_of(b"m", OTHER)),
    get(b"m/", range_end=b"m0"),
    during(lock(b"m", LEASE), answered=False, appears=key_of(b"m", LEASE)),
    until_gone(key_of(b"m", LEASE)),
    during(lock(b"m", SHORT), revoke(SHORT), unlock(b"m", OTHER), appears=key_of(b"m", SHORT)),
    get(b"m/", range_end=b"m0"),
    grant(SHORT),
    lock(b"m", LEASE),
    during(lock(b"m", OTHER), delete(key_of(b"m", OTHER)), unlock(b"m", LEASE), appears=key_of(b"m", OTHER)),
    lock(b"m", LEASE),
    during(lock(b"m", OTHER), revoke(LEASE), appears=key_of(b"m", OTHER)),
    grant(LEASE),
    put(b"n/zzz", b"not a lease"),
    during(lock(b"n", OTHER), put(b"n/zzz", b"again"), delete(b"n/zzz"), appears=key_of(b"n", OTHER)),
    campaign(b"e", LEASE, b"first"),
    during(
        campaign(b"e", OTHER, b"second"),
        raw(f"{ELECTION}Resign", leader_key(b"e", LEASE, 21)),
        delete(key_of(b"e", LEASE)),
        appears=key_of(b"e", OTHER),
    ),
    get(b"e/", range_end=b"e0"),
    during(campaign(b"e", LEASE, b"third"), answered=False, appears=key_of(b"e", LEASE)),
    until_gone(key_of(b"e", LEASE)),
    during(
        campaign(b"e", SHORT, b"fourth"),
        revoke(SHORT),
        delete(key_of(b"e", OTHER)),
        appears=key_of(b"e", SHORT),
        differs="campaign-lost",
    ),
    get(b"e/", range_end=b"e0"),
]

ELECTIONS = [
    raw(f"{ELECTION}Leader", bytes_field(1, b"e")),
    campaign(b"e", 999, b"v"),
    raw(f"{ELECTION}Proclaim"),
    raw(f"{ELECTION}Resign"),
    raw(f"{ELECTION}Proclaim", message_field(1, b"")),
    raw(f"{ELECTION}Resign", message_field(1, b"")),
    grant(LEASE),
    grant(OTHER),
    campaign(b"e", LEASE, b"first"),
    raw(f"{ELECTION}Leader", bytes_field(1, b"e")),
    campaign(b"e", LEASE, b"first"),
    campaign(b"e", LEASE, b"second"),
    get(b"e/", range_end=b"e0"),
    raw(f"{ELECTION}Proclaim", leader_key(b"e", LEASE, 2), bytes_field(2, b"third")),
    raw(f"{ELECTION}Proclaim", leader_key(b"e", LEASE, 9), bytes_field(2, b"fourth")),
    raw(f"{ELECTION}Proclaim", leader_key(b"e", OTHER, 2), bytes_field(2, b"fifth")),
    stream(f"{ELECTION}Observe", 1, bytes_field(1, b"e")),
    stream(
        f"{ELECTION}Observe",
        2,
        bytes_field(1, b"e"),
        first=1,
        meanwhile=(raw(f"{ELECTION}Proclaim", leader_key(b"e", LEASE, 2), bytes_field(2, b"sixth")),),
    ),
    stream(
        f"{ELECTION}Observe",
        2,
        bytes_field(1, b"e"),
        first=1,
        meanwhile=(
            raw(f"{ELECTION}Resign", leader_key(b"e", LEASE, 2)),
            campaign(b"e", OTHER, b"next"),
        ),
    ),
    raw(f"{ELECTION}Leader", bytes_field(1, b"e")),
    raw(f"{ELECTION}Resign", leader_key(b"e", LEASE, 2)),
    revoke(OTHER),
    raw(f"{ELECTION}Leader", bytes_field(1, b"e")),
    raw(f"{ELECTION}Leader"),
    raw(f"{ELECTION}Campaign", b"\xff"),
    stream(f"{ELECTION}Observe", 1, b"\xff"),
]

MAINTENANCE = [
    alarm(),
    ask("Status", None, "dbSize", "raftIndex", "raftAppliedIndex", "dbSizeInUse"),
    ask("MemberList"),
    ask("MemberList", rpc.MemberListRequest(linearizable=True)),
    put(b"m"),
    ask("Defragment"),
    ask("Hash", None, "hash"),
    ask("HashKV"),
    alarm(1, 0),
    alarm(1, 2, MEMBER),
    alarm(1, 2, MEMBER),
    alarm(),
    alarm(0, 1),
    alarm(0, 2),
    alarm(0, 0, MEMBER),
    alarm(0, 0, MEMBER + 1),
    put(b"m", b"corrupt"),
    get(b"m"),
    delete(b"m"),
    grant(LEASE),
    ask("Compact", rpc.CompactionRequest(revision=2)),
    alarm(2, 2, MEMBER + 1),
    alarm(2, 2, MEMBER),
    alarm(2, 2, MEMBER),
    put(b"m", b"sound"),
    alarm(1, 1, MEMBER),
    put(b"m", b"full"),
    delete(b"m"),
    grant(LEASE),
    txn(then=(put_op(b"m"),)),
    txn(then=(get_op(b"m"),)),
    lock(b"full", LEASE),
    alarm(2, 1, MEMBER),
    alarm(0, 9, MEMBER),
    *(
        downgrade(0, version)
        for version in (b"3.6", b"3.6.0", b"3.7", b"3.8", b"3.5", b"", b"x", b"3", b"3.6.1.2", b"v3.6")
    ),
    *(downgrade(0, version) for version in (b"3.6.0-rc.1", b"3.6.0+meta", b"3.06.0", b"-3.6.0", b"3.6.-1", b"4.0.0")),
    downgrade(2),
    downgrade(1, b"3.5"),
    downgrade(1, b"3.6.4"),
    downgrade(0, b"3.6"),
    downgrade(2),
    downgrade(5, b"3.6"),
    raw(DOWNGRADE, bytes_field(2, b"\xff")),
]

# On servers whose quota is full: what goes on and what does not; then, when they have been compacted, how it ends.
FULL = [
    put(b"full"),
    put(b"fill"),
    txn(then=(put_op(b"full"),)),
    txn(then=(get_op(b"fill"),)),
    txn(then=(delete_op(b"nothing"),)),
    txn(then=(get_op(b"fill"),), otherwise=(put_op(b"full"),)),
    grant(LEASE),
    lock(b"full", LEASE),
    campaign(b"full", LEASE, b"v"),
    get(b"fill"),
    get(b"fill", serializable=True),
    revoke(LEASE),
    stream(KEEP_ALIVE, 1, keep_alive(LEASE)),
    ask("LeaseLeases"),
    ask("HashKV"),
    ask("MemberList"),
    downgrade(0, b"3.6"),
    alarm(),
    alarm(0, 1),
    delete(b"fill"),
    put(b"full"),
]
DISARMED = [
    put(b"full"),
    ask("Defragment"),
    put(b"full"),
    Step("etcdctl", arguments=("alarm", "disarm")),
    put(b"full"),
]

OTHERS = [
    raw(f"{HEALTH}Check"),
    raw(f"{HEALTH}Check", bytes_field(1, b"etcd")),
    raw(f"{HEALTH}List"),
    stream(f"{HEALTH}Watch", 1, b""),
    stream(f"{HEALTH}Watch", 1, bytes_field(1, b"etcd")),
    raw("/etcdserverpb.KV/Nothing"),
    raw("/etcdserverpb.Nothing/Range"),
    raw("/nothing"),
    raw("/"),
    raw("/a/b/c"),
    raw("/etcdserverpb.KV/Range/more"),
    raw("/etcdserverpb.kv/Range"),
]

SUBJECTS: dict[str, list[Step]] = {
    "kv": KV,
    "txn": TXN,
    "compaction": COMPACTION,
    "range_stream": RANGE_STREAM,
    "watch": WATCHES,
    "lease": LEASES,
    "lock": LOCKS,
    "contention": CONTENTION,
    "election": ELECTIONS,
    "maintenance": MAINTENANCE,
    "others": OTHERS,
}
