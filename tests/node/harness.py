"""
A node as a child process and a client that speaks raw message bytes: what came over the wire, nothing decoded for us.

Every wait has a deadline and fails naming what it waited for. Processes are ended by the fixture that made them.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from fastkv.rpc.wire import Message, bytes_field, int_field, message_field

DEADLINE_S = 30.0
SOURCE = Path(__file__).resolve().parents[2] / "src"

INSECURELY = "serving client traffic insecurely; this is strongly discouraged!"
SECURELY = "serving client traffic securely"
CHANNEL_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]

KV, WATCH, LEASE = "etcdserverpb.KV", "etcdserverpb.Watch", "etcdserverpb.Lease"
CLUSTER, MAINTENANCE, HEALTH = "etcdserverpb.Cluster", "etcdserverpb.Maintenance", "grpc.health.v1.Health"


class Answer(NamedTuple):
    """code: the gRPC code's number, 0 = OK; text: the error's; message: the response, empty on error."""

    code: int
    text: str
    message: Message


class Reply(NamedTuple):
    """An HTTP response."""

    status: int
    body: bytes
    headers: dict[str, str]


def environment(**extra: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ETCD_")}
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    return kept | {"PYTHONPATH": path} | extra


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fastkv", *arguments]


def run_cli(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """`fastkv` with arguments, to its end."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=DEADLINE_S, env=environment(**extra)
    )


class NodeProcess:
    """
    `fastkv serve` on a port that the kernel chose. program: Python that runs first, with the Python engine, to make
    something fail or hang. credentials: the node serves TLS (flags say with what), and `channel` trusts and shows
    these.
    """

    def __init__(
        self, data_dir: Path, *flags: str, program: str = "", credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        self.data_dir = data_dir
        self.lines: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._ended = False
        urls = [f"--listen-client-urls={'https' if credentials else 'http'}://127.0.0.1:0"]
        if any(flag.startswith("--listen-client-urls=") for flag in flags):
            urls.clear()
        urls.append("--advertise-client-urls=http://127.0.0.1:2379")
        arguments = command("serve", f"--data-dir={data_dir}", *urls, *flags)
        if program:
            arguments[1:3] = ["-c", f"{program}\nfrom fastkv.cli.main import main\nmain()"]
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**({"FASTKV_ENGINE": "python"} if program else {})),
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.wait_log("ready to serve client requests")
        running = self.wait_log("starting an etcd server")["front"]
        for flag in flags:
            assert not flag.startswith("--front=") or flag == f"--front={running}", f"{running} runs, not {flag}"
        self.address: str = self.wait_log(SECURELY if credentials else INSECURELY)["address"]
        self.channel = (
            grpc.secure_channel(self.target, credentials, CHANNEL_OPTIONS)
            if credentials
            else grpc.insecure_channel(self.target, CHANNEL_OPTIONS)
        )

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            line = json.loads(text) if text.startswith("{") else {"level": "raw", "msg": text.rstrip()}
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def target(self) -> str:
        """As grpc names it."""
        return f"unix:{self.address}" if "/" in self.address else self.address

    def wait_log(self, message: str, since: int = 0) -> dict[str, Any]:
        """The first log line with that message, from the line `since` on."""
        return self.wait_line(lambda line: line["msg"] == message, since, message)

    def wait_line(self, wanted: Callable[[dict[str, Any]], bool], since: int = 0, name: str = "") -> dict[str, Any]:
        """The first wanted log line, from the line `since` on."""
        deadline = time.monotonic() + DEADLINE_S
        with self._news:
            while True:
                for line in self.lines[since:]:
                    if wanted(line):
                        return line
                if self._ended or not self._news.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no log line {name!r} in {self.lines}")

    def call(self, service: str, method: str, request: bytes = b"") -> Answer:
        """One unary call."""
        try:
            response = self.channel.unary_unary(f"/{service}/{method}")(request, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            return Answer(error.code().value[0], error.details(), Message(b""))
        return Answer(0, "", Message(response))

    def ok(self, service: str, method: str, request: bytes = b"") -> Message:
        """The response of a call that must succeed."""
        answer = self.call(service, method, request)
        assert answer.code == 0, answer
        return answer.message

    def put(self, key: bytes, value: bytes, more: bytes = b"") -> int:
        """The revision of a put."""
        return revision_of(self.ok(KV, "Put", bytes_field(1, key) + bytes_field(2, value) + more))

    def get(self, key: bytes, more: bytes = b"") -> Message:
        return self.ok(KV, "Range", bytes_field(1, key) + more)

    def value(self, key: bytes) -> bytes | None:
        """The key's value, None if it is not there."""
        kvs = self.get(key).all(2)
        return Message(kvs[0]).data(5) if kvs else None

    def stream(self, service: str, method: str) -> Stream:
        return Stream(self.channel, f"/{service}/{method}")

    def http(self, method: str, path: str) -> Reply:
        connection = http.client.HTTPConnection(self.address, timeout=DEADLINE_S)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return Reply(response.status, response.read(), dict(response.getheaders()))
        finally:
            connection.close()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal; the exit status. A process that has ended already is fine."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(DEADLINE_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._reader.join(DEADLINE_S)


class Stream:
    """A bidirectional stream."""

    def __init__(self, channel: grpc.Channel, path: str) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._responses: queue.SimpleQueue[Message | Answer] = queue.SimpleQueue()
        self._call = channel.stream_stream(path)(self._outgoing())
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def _outgoing(self) -> Iterator[bytes]:
        while (request := self._requests.get()) is not None:
            yield request

    def _receive(self) -> None:
        try:
            for response in self._call:
                self._responses.put(Message(response))
        except grpc.RpcError as error:
            self._responses.put(Answer(error.code().value[0], error.details(), Message(b"")))

    def send(self, request: bytes) -> None:
        self._requests.put(request)

    def receive(self) -> Message:
        """The next response."""
        response = self._next()
        assert isinstance(response, Message), response
        return response

    def error(self) -> Answer:
        """What the stream ended with."""
        response = self._next()
        assert isinstance(response, Answer), "a response came where the stream should have ended"
        return response

    def _next(self) -> Message | Answer:
        try:
            return self._responses.get(timeout=DEADLINE_S)
        except queue.Empty:
            raise AssertionError(f"nothing came on the stream in {DEADLINE_S} s") from None

    def half_close(self) -> None:
        self._requests.put(None)

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._thread.join(DEADLINE_S)


def header_of(response: Message) -> Message:
    return Message(response.data(1))


def revision_of(response: Message) -> int:
    """The revision of the response's header."""
    return header_of(response).number(3)


def put_op(key: bytes, value: bytes) -> bytes:
    """A RequestOp."""
    return message_field(2, bytes_field(1, key) + bytes_field(2, value))


def grant(node: NodeProcess, ttl: int, lease: int = 0) -> Message:
    return node.ok(LEASE, "LeaseGrant", int_field(1, ttl) + int_field(2, lease))
