"""
The bytes between two members: preamble, frames, and the control frames' bodies. docs/peers.md says the same in prose.

    connection := magic frame*         the dialer's side; the acceptor's is frame*
    frame      := length:u32 kind:u8 body[length - 1]         little-endian; length >= 1

    HELLO    [version, stream, cluster, sender, receiver, api, [peer url ...]]      first frame of the dialer
    WELCOME  [cluster, member, api]   REFUSE [refusal, text, cluster, member]       first frame of the acceptor
    PING, PONG                        empty; the dialer asks, the acceptor answers
    MESSAGE  raft.codec's message     on the streams APPENDS and URGENT
    ASK      [number, timeout ms, kind, body]   ANSWER [number, ok, body]           on URGENT; not ok: the reason
    SNAPSHOT raft.codec's message, RESUME [offset], DATA bytes, END [size], DONE [delivered]        on SNAPSHOTS

Bodies are msgpack, strictly: WireError and nothing else for anything but what stands here.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, NamedTuple, NoReturn

import msgpack

VERSION = 1
MAGIC = b"\xfffkvpeer"  # no HTTP method and no TLS record begins with this byte
LENGTH = struct.Struct("<I")
HELLO_BYTES_MAX = 16 << 10  # also of WELCOME and REFUSE: what a stranger may make us keep
URLS_MAX = 16
TEXT_MAX = 1024
_FIELDS_MAX = 16
_U64 = 1 << 64


class Frame(IntEnum):
    HELLO = 1
    WELCOME = 2
    REFUSE = 3
    PING = 4
    PONG = 5
    MESSAGE = 6
    ASK = 7
    ANSWER = 8
    SNAPSHOT = 9
    RESUME = 10
    DATA = 11
    END = 12
    DONE = 13


class Stream(IntEnum):
    APPENDS = 1
    URGENT = 2
    SNAPSHOTS = 3


class Refusal(IntEnum):
    VERSION = 1
    CLUSTER = 2
    RECEIVER = 3
    API = 4
    REMOVED = 5
    STREAM = 6
    STRANGERS = 7  # too many members that the receiver does not know


class WireError(ValueError):
    """These bytes are not what the peer protocol allows here."""


class Hello(NamedTuple):
    version: int
    stream: int
    cluster_id: int
    sender: int
    receiver: int
    api_version: str
    peer_urls: tuple[str, ...]


class Welcome(NamedTuple):
    cluster_id: int
    member_id: int
    api_version: str


class Refused(NamedTuple):
    refusal: int
    text: str
    cluster_id: int
    member_id: int


class Ask(NamedTuple):
    number: int
    timeout_ms: int
    kind: str
    body: bytes


class Answer(NamedTuple):
    number: int
    ok: bool
    body: bytes


def frame(kind: Frame, body: bytes = b"") -> bytes:
    """One frame, to be sent as it is."""
    return b"%b%c%b" % (LENGTH.pack(1 + len(body)), kind, body)


def control(kind: Frame, *fields: object) -> bytes:
    """A frame whose body is a list of these."""
    return frame(kind, msgpack.packb(fields))


def hello(fields: Hello) -> bytes:
    return control(Frame.HELLO, *fields)


# -- decoding -------------------------------------------------------------------------------------------------
def decode_hello(body: bytes | memoryview) -> Hello:
    """Of another version only the version is looked at: all behind it may mean something else there."""
    fields = _unpack(body)
    if not fields:
        _fail("an empty HELLO")
    version = _number(fields[0])
    if version != VERSION:
        return Hello(version, 0, 0, 0, 0, "", ())
    _, stream, cluster_id, sender, receiver, api_version, urls = _exactly(fields, 7)
    if type(urls) is not list or len(urls) > URLS_MAX:
        _fail("peer URLs that are no short list")
    return Hello(
        version, _number(stream), _number(cluster_id), _number(sender), _number(receiver), _text(api_version),
        tuple(_text(url) for url in urls),
    )  # fmt: skip


def decode_welcome(body: bytes | memoryview) -> Welcome:
    cluster_id, member_id, api_version = _exactly(_unpack(body), 3)
    return Welcome(_number(cluster_id), _number(member_id), _text(api_version))


def decode_refused(body: bytes | memoryview) -> Refused:
    refusal, text, cluster_id, member_id = _exactly(_unpack(body), 4)
    return Refused(_number(refusal), _text(text), _number(cluster_id), _number(member_id))


def decode_ask(body: bytes | memoryview) -> Ask:
    number, timeout_ms, kind, question = _exactly(_unpack(body), 4)
    return Ask(_number(number), _number(timeout_ms), _text(kind), _bytes(question))


def decode_answer(body: bytes | memoryview) -> Answer:
    number, ok, data = _exactly(_unpack(body), 3)
    return Answer(_number(number), _flag(ok), _bytes(data))


def decode_number(body: bytes | memoryview) -> int:
    """RESUME, END."""
    (number,) = _exactly(_unpack(body), 1)
    return _number(number)


def decode_flag(body: bytes | memoryview) -> bool:
    """DONE."""
    (flag,) = _exactly(_unpack(body), 1)
    return _flag(flag)


def decode_nothing(body: bytes | memoryview) -> None:
    """PING, PONG."""
    if len(body):
        _fail("bytes in an empty frame")


def _fail(what: str) -> NoReturn:
    raise WireError(what)


def _unpack(body: bytes | memoryview) -> list[Any]:
    try:
        # The bounds hold for every level: a list's length is believed, and memory taken for it, before its items come.
        value = msgpack.unpackb(body, use_list=True, raw=False, max_array_len=_FIELDS_MAX, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError(f"no msgpack: {type(error).__name__}: {str(error)[:200]}") from error
    if type(value) is not list:
        _fail("a body that is no list")
    return value


def _exactly(fields: list[Any], count: int) -> list[Any]:
    if len(fields) != count:
        _fail(f"{len(fields)} fields, not {count}")
    return fields


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _U64:
        _fail("a field that is no unsigned number")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        _fail("a field that is neither true nor false")
    return value


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > TEXT_MAX:
        _fail("a field that is no short text")
    return value


def _bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        _fail("a field that is no byte string")
    return value
