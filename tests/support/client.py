"""
A raw gRPC client: what a server answered, code and text and message, with nothing retried, hidden or renamed.

Owns one channel. Every wait has a deadline; running into one raises AssertionError naming what was awaited.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message

from support.protos import UNARY, rpc

CALL_TIMEOUT_S = 20.0
STREAM_TIMEOUT_S = 10.0


class Answer(NamedTuple):
    """code: the gRPC code's number; message: its text; response: None unless code is 0."""

    code: int
    message: str
    response: Any


class Client:
    """One channel to one server."""

    def __init__(self, endpoint: str) -> None:
        self.channel = grpc.insecure_channel(
            endpoint,
            options=[
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 200),
                ("grpc.enable_http_proxy", 0),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
            ],
        )
        self._calls: dict[str, Any] = {}

    def call(self, method: str, request: Message, timeout_s: float = CALL_TIMEOUT_S, wait: bool = False) -> Answer:
        """One unary call; with wait=True a server that is not up yet is waited for."""
        if method not in self._calls:
            name, _, response_class = UNARY[method]
            self._calls[method] = self.channel.unary_unary(
                name,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=response_class.FromString,
            )
        try:
            return Answer(0, "", self._calls[method](request, timeout=timeout_s, wait_for_ready=wait))
        except grpc.RpcError as error:
            return Answer(error.code().value[0], error.details(), None)

    def range_stream(self, request: Message) -> Answer:
        """KV/RangeStream; response is the list of RangeStreamResponse messages."""
        call = self.channel.unary_stream(
            "/etcdserverpb.KV/RangeStream",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=rpc.RangeStreamResponse.FromString,
        )
        try:
            return Answer(0, "", list(call(request, timeout=CALL_TIMEOUT_S)))
        except grpc.RpcError as error:
            return Answer(error.code().value[0], error.details(), None)

    def watch(self) -> Stream:
        return Stream(self.channel, "/etcdserverpb.Watch/Watch", rpc.WatchResponse.FromString)

    def keep_alive(self) -> Stream:
        return Stream(self.channel, "/etcdserverpb.Lease/LeaseKeepAlive", rpc.LeaseKeepAliveResponse.FromString)

    def close(self) -> None:
        self.channel.close()


class Stream:
    """One bidirectional stream: requests go out as sent, responses are taken in order."""

    def __init__(self, channel: grpc.Channel, name: str, decode: Callable[[bytes], Message]) -> None:
        self._requests: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._responses: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._call = channel.stream_stream(
            name, request_serializer=lambda message: message.SerializeToString(), response_deserializer=decode
        )(self._outgoing())
        self._reader = _reader(self._call, self._responses)

    def _outgoing(self) -> Iterator[Message]:
        while (message := self._requests.get()) is not None:
            yield message

    def send(self, message: Message) -> None:
        self._requests.put(message)

    def receive(self, timeout_s: float = STREAM_TIMEOUT_S) -> Any:
        """The next response; an Answer with the error once the stream has ended; AssertionError when nothing comes."""
        response = self.poll(timeout_s)
        assert response is not None, f"no response on the stream within {timeout_s} s"
        return response

    def poll(self, timeout_s: float = 0.0) -> Any:
        """The next response, or None if there is none within the time."""
        try:
            return self._responses.get(timeout=timeout_s) if timeout_s > 0 else self._responses.get_nowait()
        except queue.Empty:
            return None

    def half_close(self) -> None:
        self._requests.put(None)

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._reader.join(timeout=STREAM_TIMEOUT_S)


def _reader(call: Any, responses: queue.SimpleQueue[Any]) -> threading.Thread:
    def run() -> None:
        try:
            for message in call:
                responses.put(message)
            responses.put(Answer(0, "", None))
        except grpc.RpcError as error:
            responses.put(Answer(error.code().value[0], error.details(), None))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
