"""The control frames between members: what is valid survives, nothing else gets through, and nothing takes memory."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkv.server.peers import wire
from fastkv.server.peers.wire import Answer, Ask, Frame, Hello, Refused, Welcome, WireError

U64 = st.integers(0, 2**64 - 1)
TEXT = st.text(max_size=40)
HELLO = [wire.VERSION, 1, 2, 3, 4, "3.7.3", ["http://a:1"]]
DECODERS: list[tuple[Callable[[bytes], Any], list[Any]]] = [
    (wire.decode_hello, HELLO),
    (wire.decode_welcome, [1, 2, "3.7.3"]),
    (wire.decode_refused, [1, "no", 2, 3]),
    (wire.decode_ask, [1, 2, "kind", b"body"]),
    (wire.decode_answer, [1, True, b"body"]),
    (wire.decode_number, [7]),
    (wire.decode_flag, [True]),
]


def body(whole: bytes, kind: Frame) -> bytes:
    (length,) = wire.LENGTH.unpack_from(whole)
    assert length == len(whole) - wire.LENGTH.size and whole[wire.LENGTH.size] == kind
    return whole[wire.LENGTH.size + 1 :]


@given(U64, U64, U64, U64, TEXT, st.lists(TEXT, max_size=wire.URLS_MAX))
def test_a_hello_survives(stream: int, cluster: int, sender: int, receiver: int, api: str, urls: list[str]) -> None:
    hello = Hello(wire.VERSION, stream, cluster, sender, receiver, api, tuple(urls))
    assert wire.decode_hello(body(wire.hello(hello), Frame.HELLO)) == hello


@given(U64, U64, TEXT, st.binary(max_size=100), st.booleans())
def test_the_other_frames_survive(one: int, two: int, text: str, data: bytes, flag: bool) -> None:
    control = wire.control
    assert wire.decode_welcome(body(control(Frame.WELCOME, one, two, text), Frame.WELCOME)) == Welcome(one, two, text)
    refused = Refused(one, text, two, one)
    assert wire.decode_refused(body(control(Frame.REFUSE, *refused), Frame.REFUSE)) == refused
    assert wire.decode_ask(body(control(Frame.ASK, one, two, text, data), Frame.ASK)) == Ask(one, two, text, data)
    assert wire.decode_answer(body(control(Frame.ANSWER, one, flag, data), Frame.ANSWER)) == Answer(one, flag, data)
    assert wire.decode_number(body(control(Frame.END, one), Frame.END)) == one
    assert wire.decode_flag(body(control(Frame.DONE, flag), Frame.DONE)) is flag


def test_a_hello_of_another_version_tells_only_that() -> None:
    for fields in ([2], [2, "anything", b"at", None, []], [wire.VERSION + 1, *HELLO[1:]]):
        assert wire.decode_hello(msgpack.packb(fields)) == Hello(fields[0], 0, 0, 0, 0, "", ())


@pytest.mark.parametrize(("decode", "fields"), DECODERS, ids=lambda value: getattr(value, "__name__", ""))
def test_each_field_is_checked(decode: Callable[[bytes], Any], fields: list[Any]) -> None:
    decode(msgpack.packb(fields))
    for bad in ([], fields[:-1], [*fields, 0], None, 5, b"x", "x", {}):
        if bad != fields:
            with pytest.raises(WireError):
                decode(msgpack.packb(bad))
    wrong: tuple[Any, ...] = (None, -1, 1.5, {}, [[]], "x" * 2000, ["x" * 2000], ["u"] * 17)
    for place in range(len(fields)):
        for value in wrong:
            with pytest.raises(WireError):
                decode(msgpack.packb([*fields[:place], value, *fields[place + 1 :]]))
    packed = msgpack.packb(fields)
    for cut in range(len(packed)):
        with pytest.raises(WireError):
            decode(packed[:cut])
    with pytest.raises(WireError):
        decode(packed + b"\xc0")


def test_an_empty_frame_has_no_bytes() -> None:
    wire.decode_nothing(b"")
    with pytest.raises(WireError):
        wire.decode_nothing(b"\x90")


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes_raise_a_wire_error_and_nothing_else(data: bytes) -> None:
    for decode, _ in DECODERS:
        with contextlib.suppress(WireError):
            decode(data)


def test_mutated_frames_raise_a_wire_error_or_are_other_frames() -> None:
    """20,000 mutations a decoder, seeded."""
    rng = random.Random(20261123)
    for decode, fields in DECODERS:
        valid = msgpack.packb(fields)
        for _ in range(20_000):
            data = bytearray(valid)
            for _ in range(rng.randint(1, 3)):
                match rng.randrange(3):
                    case 0:
                        data[rng.randrange(len(data))] = rng.randrange(256)
                    case 1:
                        data.insert(rng.randrange(len(data) + 1), rng.randrange(256))
                    case 2 if len(data) > 1:
                        del data[rng.randrange(len(data))]
            with contextlib.suppress(WireError):
                decode(bytes(data))


def test_lengths_that_promise_more_than_there_is_take_no_memory() -> None:
    bombs = [first + (1 << 24).to_bytes(4, "big") for first in (b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9")]
    tracemalloc.start()
    try:
        for bomb in (*bombs, *(bomb * 1000 for bomb in bombs), b"\xdc\x00\x10" * 5000, b"\x91" * 50_000):
            for decode, _ in DECODERS:
                with pytest.raises(WireError):
                    decode(bomb.ljust(1 << 16, b"\x90"))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
