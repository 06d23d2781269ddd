"""
A request that is no message of its type is refused as a real etcd refuses it, whatever the method.

Code and text are compared up to what the protobuf library says about the bytes: Go's words for that change from build
to build, on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from support.fronts import NODES
from support.processes import etcd_binaries
from support.protos import UNARY

BAD = (
    b"\xff",
    b"\x08",  # a number that is cut off
    b"\x0a\x05a",  # shorter than its length says
    b"\x0f\x01",  # wire type 7
    b"\x00\x00",  # field 0
    b"\x0a\x01a\x0b",  # a group that does not end
)
NESTED = (
    ("/etcdserverpb.KV/Txn", b"\x0a\x01\xff"),
    ("/etcdserverpb.KV/Txn", b"\x12\x01\xff"),
    ("/etcdserverpb.KV/Txn", b"\x1a\x03\x12\x01\xff"),
    ("/grpc.health.v1.Health/Check", b"\x0a\x01\xff"),  # not UTF-8
)
METHODS = (*(name for name, _, _ in UNARY.values()), "/grpc.health.v1.Health/Check")
STREAMS = ("/etcdserverpb.KV/RangeStream", "/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive")
CALLS = [(name, bad) for name in (*METHODS, *STREAMS) for bad in BAD] + [*NESTED]
MODERN = [binary for binary in etcd_binaries() if binary.version >= (3, 7, 0)]
TIMEOUT_S = 20.0


def refusals(channel: grpc.Channel) -> Iterator[tuple[str, bytes, int, str]]:
    """What each call is refused with; code 0 if it is not."""
    for name, request in CALLS:
        code, text = 0, ""
        try:
            if name in STREAMS:
                list(channel.stream_stream(name)(iter([request]), timeout=TIMEOUT_S))
            else:
                channel.unary_unary(name)(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            code, text = error.code().value[0], error.details()
        yield name, request, code, text.partition("proto:")[0]


@pytest.mark.etcd
@pytest.mark.node
@pytest.mark.skipif(not MODERN, reason="no etcd >= 3.7 here: set FASTKV_ETCD37 to a binary")
@pytest.mark.parametrize("node", NODES)
def test_what_is_no_message_is_refused_as_by_etcd(node: str, warm_servers: Callable[[str], Any]) -> None:
    answers = []
    for name in (node, MODERN[0].name):
        server = warm_servers(name)
        with grpc.insecure_channel(server.endpoint, options=[("grpc.enable_http_proxy", 0)]) as channel:
            answers.append(list(refusals(channel)))
        server.stop()
    ours, etcd = answers
    assert ours == etcd
    assert {code for _, _, code, _ in etcd} == {13}


@pytest.mark.node
@pytest.mark.parametrize("node", NODES)
def test_what_is_no_message_is_an_internal_error(node: str, warm_servers: Callable[[str], Any]) -> None:
    server = warm_servers(node)
    with grpc.insecure_channel(server.endpoint, options=[("grpc.enable_http_proxy", 0)]) as channel:
        for name, request, code, text in refusals(channel):
            stream = "failed to unmarshal the received message: " in text
            assert (code, stream) == (13, name in STREAMS), (name, request, text)
            assert text.startswith("grpc: "), (name, request, text)
    server.stop()
