"""
How much the store may hold before it takes no more puts.

    cost (etcd's): put 256 + key + value; lease 64; txn the dearer branch, nested ones included; all else 0

etcd compares the size of its database file, as of its last commit; here it is the memory that records and index take,
looked at every CHECK_INTERVAL_S, because asking costs more than a put, and whenever what came since might pass the
limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from fastkv.engine import LEASE_GRANT, PUT, TXN
from fastkv.errors import InvalidRequestError
from fastkv.python.wire import TXN_DEPTH_MAX, malformed, read_varint

CHECK_INTERVAL_S = 0.1
PUT_COST, LEASE_COST = 256, 64


class Quota:
    """limit_bytes 0: none."""

    def __init__(
        self, limit_bytes: int, stats: Callable[[], dict[str, int]], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit_bytes = limit_bytes
        self._stats = stats
        self._now = now
        self._used_bytes = 0
        self._check_at = float("-inf")

    def look_again(self) -> None:
        """The next question is answered from the size as it is then."""
        self._check_at = float("-inf")

    def is_exceeded_by(self, tag: int, payload: bytes) -> bool:
        """Whether the command would carry the store past the limit."""
        if not self.limit_bytes:
            return False
        # Far from the limit no request needs to be taken apart. An operation has at least 4 bytes: this is not too low.
        highest_bytes = len(payload) + PUT_COST * (len(payload) // 4 + 1)
        now = self._now()
        if now < self._check_at and self._used_bytes + highest_bytes < self.limit_bytes:
            self._used_bytes += highest_bytes
            return False
        self._used_bytes = self._stats()["memory_bytes"]
        self._check_at = now + CHECK_INTERVAL_S
        if self._used_bytes + highest_bytes < self.limit_bytes:
            return False
        command_bytes = cost(tag, payload)
        return command_bytes > 0 and self._used_bytes + command_bytes >= self.limit_bytes


def cost(tag: int, payload: bytes) -> int:
    """What the command may add, in bytes; 0: nothing, also of what the engine will refuse as malformed or too deep.

    Linear in the payload, whatever is nested in what: messages are looked at where they stand, and bodies are not
    copied.
    """
    try:
        if tag == PUT:
            return _put_cost(payload, 0, len(payload))
        if tag == TXN:
            return _txn_cost(payload, 0, len(payload), TXN_DEPTH_MAX)
    except InvalidRequestError:
        return 0
    return LEASE_COST if tag == LEASE_GRANT else 0


def _bytes_fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of each bytes field of the message data[at:end]. InvalidRequestError: it is none."""
    while at < end:
        tag, at = read_varint(data, at)
        length = 0
        match tag & 7:
            case 0:
                _, at = read_varint(data, at)
            case 1:
                length = 8
            case 2:
                length, at = read_varint(data, at)
            case 5:
                length = 4
            case _:
                raise malformed()
        start, at = at, at + length
        if at > end:
            raise malformed()
        if tag & 7 == 2:
            yield tag >> 3, start, at


def _put_cost(data: bytes, at: int, end: int) -> int:
    lengths = {1: 0, 2: 0}  # key and value; of a field that comes twice the last one counts
    for field, start, stop in _bytes_fields(data, at, end):
        if field in lengths:
            lengths[field] = stop - start
    return PUT_COST + sum(lengths.values())


def _txn_cost(data: bytes, at: int, end: int, depth: int) -> int:
    branches = {2: 0, 3: 0}
    for field, start, stop in _bytes_fields(data, at, end):
        if field in branches:
            branches[field] += _operation_cost(data, start, stop, depth)
    return max(branches.values())


def _operation_cost(data: bytes, at: int, end: int, depth: int) -> int:
    last = 0, at, at
    for field in _bytes_fields(data, at, end):
        if 1 <= field[0] <= 4:
            last = field
    match last:
        case 2, start, stop:
            return _put_cost(data, start, stop)
        case 4, start, stop if depth:
            return _txn_cost(data, start, stop, depth - 1)
    return 0
