"""
Values of up to 2 GiB, and what is larger. Marked `huge`: some 10 GiB of memory and a few minutes (`make huge`).

On the native engine only: the reference engine has the same limits and would take hours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastkv
from fastkv.engine import PUT, Options
from fastkv.python.wire import varint
from support.engines import load_engine

GIB = 1 << 30
VALUE_BYTES_MAX = 2 * GIB
KEEP_LOG = 1 << 50  # checkpoint_bytes

pytestmark = [pytest.mark.huge, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def value() -> Iterator[bytes]:
    """The largest one. It differs at every place where it could be cut."""
    period = hashlib.shake_128(b"fastkv").digest((1 << 20) + 1)
    yield (period * (VALUE_BYTES_MAX // len(period) + 1))[:VALUE_BYTES_MAX]


@pytest.mark.parametrize("checkpointed", [False, True], ids=["from_the_log", "from_a_checkpoint"])
@pytest.mark.parametrize("bytes_less", [100, 0])
def test_two_gib_are_there_after_a_reopen(bytes_less: int, checkpointed: bool, value: bytes, tmp_path: Path) -> None:
    stored = value[bytes_less:] if bytes_less else value
    engine = load_engine("native")(str(tmp_path / "data"), Options(sync=False, checkpoint_bytes=KEEP_LOG))
    assert engine.put(b"huge", stored) == 2
    assert engine.get(b"huge") == stored
    if checkpointed:
        assert engine.checkpoint() == 1
    del engine  # as if the process had died
    engine = load_engine("native")(str(tmp_path / "data"), Options(readonly=True))
    try:
        assert engine.stats()["checkpoint_index"] == checkpointed
        assert engine.get(b"huge") == stored
    finally:
        engine.close()


def test_a_watcher_gets_two_gib(value: bytes) -> None:
    with fastkv.open(":memory:", engine="native") as db, db.watch(b"huge", timeout=60) as watch:
        db.put(b"huge", value)
        (event,) = next(iter(watch)).events
        assert event.kv.value == value


def test_what_is_larger_is_refused_and_harms_nothing(value: bytes, tmp_path: Path) -> None:
    """A larger value, a batch of more than 2 GiB, and one log record of more than 4 GiB."""
    engine = load_engine("native")(str(tmp_path / "data"), Options(sync=False))
    part = value[:GIB]
    try:
        for larger in (value + bytes(64 << 10), value + value):
            with pytest.raises(fastkv.InvalidRequestError, match="request is too large"):
                engine.put(b"huge", larger)
            del larger
        with pytest.raises(fastkv.InvalidRequestError, match="request is too large"):
            engine.put_many([(b"a", part), (b"b", part), (b"c", part)])
        put = b"\x0a\x01k\x12" + varint(len(part)) + part
        with pytest.raises(fastkv.InvalidRequestError, match="a log record of 4294"):
            engine.commit([(PUT, put)] * 4)
        assert engine.revision == 1
        assert engine.put(b"after", b"1") == 2 and engine.check() == []
    finally:
        engine.close()
