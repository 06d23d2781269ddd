"""
How much the store may hold before it takes no more puts.

    cost (etcd's): put 256 + key + value; lease 64; txn the dearer branch, nested ones included; all else 0

etcd compares the size of its database file, as of its last commit; here it is the memory that records and index take,
looked at every CHECK_INTERVAL_S, because asking costs more than a put, and whenever what came since might pass the
limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fastkv.engine import LEASE_GRANT, PUT, TXN
from fastkv.rpc.wire import Message

CHECK_INTERVAL_S = 0.1
PUT_COST, LEASE_COST = 256, 64
TXN_DEPTH_MAX = 128


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
        command_bytes = cost(tag, payload)
        return command_bytes > 0 and self._used_bytes + command_bytes >= self.limit_bytes


def cost(tag: int, payload: bytes) -> int:
    """What the command may add, in bytes; 0: nothing."""
    if tag == PUT:
        return _put_cost(Message(payload))
    if tag == TXN:
        return _txn_cost(Message(payload), TXN_DEPTH_MAX)
    return LEASE_COST if tag == LEASE_GRANT else 0


def _put_cost(put: Message) -> int:
    return PUT_COST + len(put.data(1)) + len(put.data(2))


def _txn_cost(txn: Message, depth: int) -> int:
    return max(sum(_operation_cost(Message(op), depth) for op in txn.all(branch)) for branch in (2, 3))


def _operation_cost(op: Message, depth: int) -> int:
    if 2 in op:
        return _put_cost(Message(op.data(2)))
    if 4 in op and depth:
        return _txn_cost(Message(op.data(4)), depth - 1)
    return 0
