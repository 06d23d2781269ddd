"""
The same calls to a real etcd and to a fastkv node that have the same ids, so that answers can be compared byte by byte.

    Twins.step(Step) -> what differs, "" if nothing

Both servers are given the same peer and client URLs to announce, of which their ids are made, so cluster id, member id,
term and revision of every response header are equal without being looked at. What cannot be equal (sizes, times,
indexes, the port that was asked) is masked: by field in a message, by pattern in text.

A step may name a row of docs/compat.md (`differs`): then the answers must differ, and the row must be there.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
from google.protobuf.message import Message

from fastkv.rpc.wire import Message as Fields
from support.processes import REPOSITORY, Binary, Etcd, FastkvNode, Server
from support.protos import UNARY, rpc

TIMEOUT_S = 15.0
URL, PEER_URL = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
SAME = (
    f"--advertise-client-urls={URL}",
    f"--initial-advertise-peer-urls={PEER_URL}",
    f"--initial-cluster=default={PEER_URL}",
)
FORMATS = ("simple", "json", "fields", "table", "protobuf")
KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
BIDIRECTIONAL = ("/etcdserverpb.Watch/Watch", KEEP_ALIVE)
RANGE, RANGE_STREAM = "/etcdserverpb.KV/Range", "/etcdserverpb.KV/RangeStream"
APPEARS, VANISHES = "a key appears", "a key vanishes"
HANDLE = re.compile(r"<!-- differs: ([a-z0-9-]+) -->")
GO_PROTO_WORDS = re.compile(r"proto:.*")
CLIENT_LOG = re.compile(r'^\{"level":.*\n?', re.M)


def compat_handles() -> set[str]:
    """The handles of the rows of docs/compat.md that have one."""
    return set(HANDLE.findall((REPOSITORY / "docs" / "compat.md").read_text()))


class Step(NamedTuple):
    """
    One call. path: the gRPC method, or "etcdctl" with arguments and stdin. requests: messages; of a stream all that are
    sent. count: so many messages, or lines, are awaited in all; then the call is cancelled, etcdctl by SIGINT.
    meanwhile: unary calls made while it is open, once it has answered `first` of them; APPEARS and VANISHES wait for a
    key. masks: names of fields, or patterns of text, that are left out.
    """

    path: str
    requests: tuple[bytes, ...] = ()
    count: int = -1  # of messages; -1: a unary call
    first: int = 0
    meanwhile: tuple[tuple[str, bytes], ...] = ()
    arguments: tuple[str, ...] = ()
    stdin: str = ""
    masks: tuple[str, ...] = ()
    differs: str = ""

    def __str__(self) -> str:
        if self.arguments:
            return "etcdctl " + " ".join(self.arguments)
        return f"{self.path} {[request.hex() for request in self.requests]} {self.meanwhile or ''}"


class Outcome(NamedTuple):
    """code and text: of the gRPC status, or exit status and standard error. output: messages, or standard output."""

    code: int
    text: str
    output: tuple[bytes, ...]


class Side:
    """One server and the ways to it."""

    def __init__(self, server: Server, etcdctl: str) -> None:
        self.server = server
        self._etcdctl = etcdctl
        self._channel = grpc.insecure_channel(
            server.endpoint, options=[("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        )

    def run(self, step: Step) -> Outcome:
        if step.arguments:
            return self._run_etcdctl(step)
        if step.count >= 0:
            return self._run_stream(step)
        return self._run_unary(step.path, step.requests[0] if step.requests else b"", step.masks)

    def _run_unary(self, path: str, request: bytes, masks: tuple[str, ...] = ()) -> Outcome:
        try:
            response = self._channel.unary_unary(path)(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return _refused(error, ())
        return Outcome(0, "", (_masked(path, response, masks),))

    def _run_stream(self, step: Step) -> Outcome:
        """A stream; it is cancelled when so many messages have come, or waited for to its end if it ends before."""
        outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        for request in step.requests:
            outgoing.put(request)
        if step.path not in BIDIRECTIONAL:
            outgoing.put(None)  # Go's server answers only behind it

        def requests() -> Iterator[bytes]:
            while (request := outgoing.get()) is not None:
                yield request

        call = self._channel.stream_stream(step.path)(requests(), timeout=TIMEOUT_S)
        got: list[bytes] = []
        try:
            for response in _up_to(call, step.first):
                got.append(response)
            self._make_calls(step.meanwhile)
            for response in _up_to(call, step.count - step.first):
                got.append(response)
            return Outcome(0, "", (_merged(got),) if step.path == RANGE_STREAM else tuple(got))
        except grpc.RpcError as error:
            return _refused(error, tuple(got))
        finally:
            outgoing.put(None)
            call.cancel()

    def _make_calls(self, calls: tuple[tuple[str, bytes], ...]) -> None:
        for path, request in calls:
            if path in (APPEARS, VANISHES):
                self._await(request, path == APPEARS)
            else:
                self._run_unary(path, request)

    def _await(self, key: bytes, is_there: bool) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        request = rpc.RangeRequest(key=key, count_only=True).SerializeToString()
        while bool(rpc.RangeResponse.FromString(self._channel.unary_unary(RANGE)(request)).count) != is_there:
            assert time.monotonic() < deadline, (key, is_there)

    def _run_etcdctl(self, step: Step) -> Outcome:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("ETCD_", "ETCDCTL_"))}
        process = subprocess.Popen(
            [self._etcdctl, "--endpoints", self.server.endpoint, *step.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=clean,
        )
        guard = threading.Timer(TIMEOUT_S, process.kill)
        guard.start()
        try:
            stdout = self._listen(step, process) if step.count >= 0 else b""
            rest, stderr = process.communicate(None if step.count >= 0 else step.stdin.encode())
        finally:
            guard.cancel()
            process.kill()
            process.wait()
        text = CLIENT_LOG.sub("", self._text(stderr, step.masks))
        # How much more is said before the interrupt is heard is a matter of luck.
        said = self._text(stdout if step.count >= 0 else rest, step.masks)
        return Outcome(process.returncode, text, (said.encode("latin-1"),))

    def _listen(self, step: Step, process: subprocess.Popen[bytes]) -> bytes:
        """The first lines of a command that goes on until it is interrupted, which it then is."""
        assert process.stdin is not None and process.stdout is not None
        if step.stdin:
            process.stdin.write(step.stdin.encode())
            process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(step.first)]
        self._make_calls(step.meanwhile)
        lines += [process.stdout.readline() for _ in range(step.count - step.first)]
        process.send_signal(signal.SIGINT)
        process.wait()  # before its input is closed, which would be another way to end it
        return b"".join(lines)

    def _text(self, output: bytes, masks: tuple[str, ...]) -> str:
        text = output.decode("latin-1").replace(self.server.endpoint, "127.0.0.1:PORT0")
        for mask in masks:
            text = re.sub(mask, "MASKED", text)
        return text

    def close(self) -> None:
        self._channel.close()
        self.server.kill()


class Twins:
    """Both servers, empty at first. revision: the highest that a response has named."""

    revision = 1

    def __init__(
        self, etcd: Binary, etcdctl: str, directory: Path, flags: tuple[str, ...] = (), front: str = "native"
    ) -> None:
        node = FastkvNode(directory / "fastkv", (*SAME, "--unsafe-no-fsync", f"--front={front}", *flags))
        servers: list[Server] = [node, Etcd(etcd, directory / "etcd", (*SAME, *flags))]
        for server in servers:
            server.start()
        for server in servers:
            server.wait_ready()
        self.ours, self.etcd = (Side(server, etcdctl) for server in servers)

    def step(self, step: Step) -> str:
        """What differs, or does not although a row of docs/compat.md says so; "" if all is well."""
        ours, etcd = self.ours.run(step), self.etcd.run(step)
        if etcd.output and not step.arguments:
            self.revision = max(self.revision, revision_of(etcd.output[-1]))
        if bool(step.differs) != (ours == etcd):
            return ""
        if step.differs:
            return f"{step}\nboth: {etcd}\nbut the row {step.differs!r} of docs/compat.md says that they differ"
        return f"{step}\nours: {ours}\netcd: {etcd}"

    def close(self) -> None:
        self.ours.close()
        self.etcd.close()


def revision_of(response: bytes) -> int:
    """Of the header that most responses begin with."""
    return Fields(Fields(response).data(1)).number(3)


def _up_to(call: Iterable[bytes], count: int) -> Iterator[bytes]:
    iterator = iter(call)
    for _ in range(count):
        try:
            yield next(iterator)
        except StopIteration:
            return


def _refused(error: grpc.RpcError, output: tuple[bytes, ...]) -> Outcome:
    # Go's words for what is no message change from build to build, on purpose.
    return Outcome(error.code().value[0], GO_PROTO_WORDS.sub("proto:", error.details() or ""), output)


def _merged(chunks: list[bytes]) -> bytes:
    """What a client makes of the chunks of a RangeStream; where they are cut is the server's affair."""
    merged = rpc.RangeResponse()
    for chunk in chunks:
        merged.MergeFrom(rpc.RangeStreamResponse.FromString(chunk).range_response)
    return merged.SerializeToString(deterministic=True)


CLASSES: dict[str, type[Message]] = {path: response for path, _, response in UNARY.values()}


def _masked(path: str, response: bytes, masks: tuple[str, ...]) -> bytes:
    """The response without the fields that masks names; as it came if there are none."""
    if not masks:
        return response
    message = CLASSES[path].FromString(response)
    for field in masks:
        message.ClearField(field)
    if keys := getattr(message, "keys", None):
        keys.sort()  # in no order
    return message.SerializeToString(deterministic=True)
