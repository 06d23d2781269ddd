"""Which reads run on the event loop: those of one key; a range is read in another thread, however small its limit."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from fastkv.python.wire import bytes_field, int_field
from fastkv.rpc import kv

LIMIT, REVISION, SORT_ORDER, COUNT_ONLY = 3, 4, 5, 9
KEY = bytes_field(1, b"k")
RANGE = KEY + bytes_field(2, b"l")


@pytest.mark.parametrize(
    ("request_", "inline"),
    [
        (KEY, True),
        (KEY + int_field(REVISION, 5), True),
        (KEY + int_field(COUNT_ONLY, 1), True),
        (KEY + int_field(SORT_ORDER, 1) + int_field(LIMIT, 1), True),
        (RANGE, False),
        (RANGE + int_field(LIMIT, 1), False),
        (RANGE + int_field(LIMIT, 1) + int_field(COUNT_ONLY, 1), False),
        (RANGE + int_field(LIMIT, 1) + int_field(REVISION, 5), False),
        (KEY + bytes_field(2, b"\0") + int_field(LIMIT, 1), False),
    ],
)
def test_only_a_read_of_one_key_runs_on_the_event_loop(request_: bytes, inline: bool) -> None:
    threads: list[int] = []

    def range(request: bytes) -> bytes:
        threads.append(threading.get_ident())
        return request

    async def confirm_read() -> None:
        """A member alone needs no confirmation."""

    node: Any = SimpleNamespace(engine=SimpleNamespace(range=range), work=asyncio.to_thread, confirm_read=confirm_read)
    assert asyncio.run(kv.range_(node, request_)) == request_
    assert (threads == [threading.get_ident()]) is inline
