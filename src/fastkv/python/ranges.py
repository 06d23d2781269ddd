"""
Range: filters, sorting, limit, and what of each key goes into the answer; and RangeStream, the same in pieces.

etcd's order of evaluation: index scan (it stops early only in the default order without filters), filters, sort, limit,
strip. Where etcd's sort leaves ties in no particular order, here they stay in key order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

from fastkv import errors
from fastkv.errors import Code
from fastkv.python import wire
from fastkv.python.wire import RangeRequest, encode_key_value, int_field, message_field
from fastkv.types import KeyValue

_SORT_KEYS: dict[int, Callable[[KeyValue], Any]] = {
    wire.BY_KEY: attrgetter("key"),
    wire.BY_VERSION: attrgetter("version"),
    wire.BY_CREATE: attrgetter("create_revision"),
    wire.BY_MOD: attrgetter("mod_revision"),
    wire.BY_VALUE: attrgetter("value"),
}


@dataclass
class RangeResult:
    kvs: list[KeyValue]
    more: bool
    count: int

    def encode(self) -> bytes:
        """RangeResponse without its header."""
        kvs = b"".join(message_field(2, encode_key_value(kv)) for kv in self.kvs)
        return kvs + int_field(3, self.more) + int_field(4, self.count)


def read_range(request: RangeRequest, live: Iterator[KeyValue]) -> RangeResult:
    """live: the keys of the range at its revision, ascending."""
    if request.count_only:
        return RangeResult([], False, sum(1 for _ in live))
    limit = max(request.limit, 0)
    kvs: list[KeyValue]
    if limit and request.sort_order == wire.NONE and not request.filtered:
        # etcd's quirk: a sort target without an order sorts only the first limit + 1 keys.
        kvs = list(islice(live, limit + 1))
    else:
        kvs = list(live)
    count = len(kvs) + sum(1 for _ in live)
    kvs = [kv for kv in kvs if _passes(kv, request)] if request.filtered else kvs
    if request.sort_target != wire.BY_KEY or request.sort_order == wire.DESCEND:
        kvs.sort(key=_SORT_KEYS[request.sort_target], reverse=request.sort_order == wire.DESCEND)
    more = 0 < limit < len(kvs)
    if more:
        kvs = kvs[:limit]
    return RangeResult([_strip(kv, request) for kv in kvs] if request.keys_only else kvs, more, count)


def _passes(kv: KeyValue, request: RangeRequest) -> bool:
    """0 is no filter."""
    return (
        (request.max_mod_revision == 0 or kv.mod_revision <= request.max_mod_revision)
        and (request.min_mod_revision == 0 or kv.mod_revision >= request.min_mod_revision)
        and (request.max_create_revision == 0 or kv.create_revision <= request.max_create_revision)
        and (request.min_create_revision == 0 or kv.create_revision >= request.min_create_revision)
    )


def _strip(kv: KeyValue, request: RangeRequest) -> KeyValue:
    """keys_only. Since 3.7 etcd takes it from its index, which has no leases, unless it had to sort by value."""
    if request.sort_target == wire.BY_VALUE:
        return kv._replace(value=b"")
    return kv._replace(value=b"", lease=0)


def check_stream(request: RangeRequest) -> None:
    """What RangeStream refuses. etcd answers target VALUE without an order, wrongly: refused with the other sorts."""
    if request.sort_target != wire.BY_KEY or request.sort_order == wire.DESCEND:
        raise errors.from_code(Code.STREAM_SORT)
    if request.filtered:
        raise errors.from_code(Code.STREAM_FILTER)


class Chunk(NamedTuple):
    """next: the request for what follows, None if this is the last piece."""

    result: RangeResult
    next: RangeRequest | None


def read_chunk(request: RangeRequest, live: Iterator[KeyValue], revision: int, limit_bytes: int) -> Chunk:
    """The first keys of a RangeStream: about limit_bytes of them, at least one, at most request.limit."""
    if request.count_only:
        return Chunk(read_range(request, live), None)
    limit = max(request.limit, 0)
    kvs: list[KeyValue] = []
    size_bytes = 0
    following = None
    for kv in live:
        if (limit and len(kvs) == limit) or (kvs and size_bytes >= limit_bytes):
            following = kv
            break
        kvs.append(_strip(kv, request) if request.keys_only else kv)
        size_bytes += len(encode_key_value(kvs[-1]))
    sent = request.sent + len(kvs)
    if following is None or (limit and len(kvs) == limit):
        rest = 0 if following is None else 1 + sum(1 for _ in live)
        return Chunk(RangeResult(kvs, rest > 0, sent + rest), None)
    pending = replace(request, key=following.key, revision=revision, sent=sent, limit=limit - len(kvs) if limit else 0)
    return Chunk(RangeResult(kvs, False, 0), pending)
