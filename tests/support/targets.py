"""
What a golden script or a random test runs on, all with one face: an engine in this process, or a server over gRPC.

`call(method, request)` gives the Answer (gRPC code, text, message) for each of etcd's unary methods. Watches have
names. An engine is asked for the work that a node would do for it: compaction is carried through at once.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import Message

from fastkv import engine as protocol
from fastkv.errors import TABLE, Code, Error
from support.client import STREAM_TIMEOUT_S, Answer, Client, Stream
from support.processes import Server
from support.protos import rpc

# A node's limits, which etcd has too.
LIMITS = {"max_txn_ops": 128, "max_request_bytes": 1536 * 1024}
COMPACT_SLICE = 100


class Taken(NamedTuple):
    """One batch of a watch: header revision, events; compact_revision > 0 ends the watch."""

    revision: int
    events: list[Any]
    compact_revision: int


class EngineTarget:
    """An engine in this process; path None = in memory."""

    COMMANDS = {
        "Put": (protocol.PUT, rpc.PutResponse),
        "DeleteRange": (protocol.DELETE_RANGE, rpc.DeleteRangeResponse),
        "Txn": (protocol.TXN, rpc.TxnResponse),
        "Compact": (protocol.COMPACTION, rpc.CompactionResponse),
        "LeaseGrant": (protocol.LEASE_GRANT, rpc.LeaseGrantResponse),
        "LeaseRevoke": (protocol.LEASE_REVOKE, rpc.LeaseRevokeResponse),
        "Alarm": (protocol.ALARM, rpc.AlarmResponse),
    }

    def __init__(self, make: Callable[[str | None], Any], path: Path | None) -> None:
        self._make = make
        self.path = path
        self.engine = make(str(path) if path else None)
        self.watchers: dict[str, int] = {}

    def call(self, method: str, request: Message) -> Answer:
        if method in self.COMMANDS:
            tag, response_class = self.COMMANDS[method]
            return self.commit(tag, request.SerializeToString(), response_class)
        try:
            return Answer(0, "", getattr(self, f"_{method}")(request))
        except Error as error:
            return Answer(int(error.code), str(error), None)

    def commit(self, tag: int, payload: bytes, response_class: type[Message]) -> Answer:
        [(number, message)] = self.engine.commit([(tag, payload)])
        if number == Code.CLUSTER_CORRUPT and tag == protocol.TXN:
            # A server answers a txn that only reads without a commit.
            try:
                message = self.engine.read_txn(payload)
            except Error as error:
                return Answer(int(error.code), str(error), None)
            number = number if message is None else 0
        if number:
            cls, text = TABLE[Code(number)]
            assert not message, f"an error came with a message: {message!r}"
            return Answer(int(cls.code), text, None)
        if tag == protocol.COMPACTION:
            while not self.engine.compact_step(COMPACT_SLICE):
                pass
        return Answer(0, "", response_class.FromString(message))

    def _Range(self, request: Message) -> Message:
        return rpc.RangeResponse.FromString(self.engine.range(request.SerializeToString()))

    def _LeaseTimeToLive(self, request: Any) -> Message:
        granted = {lease: ttl for lease, ttl, _ in self.engine.leases()}
        response = rpc.LeaseTimeToLiveResponse(ID=request.ID, TTL=granted.get(request.ID, -1))
        response.header.revision = self.engine.revision
        if request.ID in granted:
            response.grantedTTL = granted[request.ID]
            response.keys.extend(self.engine.lease_keys(request.ID) if request.keys else [])
        return response

    def _LeaseLeases(self, request: Message) -> Message:
        response = rpc.LeaseLeasesResponse(leases=[rpc.LeaseStatus(ID=lease) for lease, _, _ in self.engine.leases()])
        response.header.revision = self.engine.revision
        return response

    def _HashKV(self, request: Any) -> Message:
        value, compact_revision, hash_revision = self.engine.hash_kv(request.revision)
        response = rpc.HashKVResponse(hash=value, compact_revision=compact_revision, hash_revision=hash_revision)
        response.header.revision = self.engine.revision
        return response

    def range_stream(self, request: Any) -> Answer:
        """RangeStream in chunks of 64 bytes, merged as clients do."""
        merged, rest = rpc.RangeResponse(), request.SerializeToString()
        try:
            while True:
                chunk, rest = self.engine.range_chunk(rest, 64)
                merged.MergeFromString(chunk)
                if not rest:
                    break
        except Error as error:
            return Answer(int(error.code), str(error), None)
        return Answer(0, "", merged)

    # -- watch ------------------------------------------------------------------------------------------------
    def watch(self, name: str, create: Any) -> Answer:
        filters = 0
        for item in create.filters:
            filters |= protocol.NOPUT if item == rpc.WatchCreateRequest.NOPUT else protocol.NODELETE
        self.watchers[name] = self.engine.watch(
            create.key, create.range_end, create.start_revision, create.prev_kv, filters
        )
        response = rpc.WatchResponse(created=True)
        response.header.revision = self.engine.revision
        return Answer(0, "", response)

    def take(self, name: str) -> list[Taken]:
        taken: list[Taken] = []
        while batches := self.engine.watch_take(self.watchers[name], 1 << 20):
            for revision, events, compact_revision in batches:
                taken.append(Taken(revision, list(rpc.WatchResponse.FromString(events).events), compact_revision))
                if compact_revision:
                    return taken
        return taken

    def progress(self, name: str) -> int:
        return self.engine.watch_progress(self.watchers[name])

    def cancel(self, name: str) -> None:
        self.engine.watch_cancel(self.watchers.pop(name))

    # -- life -------------------------------------------------------------------------------------------------
    def reopen(self) -> None:
        self.engine.close()
        self.watchers.clear()
        self.engine = self._make(str(self.path))

    def crash(self) -> None:
        """What is in the files at this moment is all that the next process gets, as after kill -9."""
        assert self.path is not None
        left = self.path.with_name(self.path.name + "+")
        shutil.copytree(self.path, left)
        self.engine.close()
        self.watchers.clear()
        self.path = left
        self.engine = self._make(str(left))

    def checkpoint(self) -> None:
        self.engine.checkpoint()

    def check(self) -> list[str]:
        return self.engine.check()

    def close(self) -> None:
        self.engine.close()


class GrpcTarget:
    """A server over gRPC; it is stopped by close(). Each named watch has a stream of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = Client(server.endpoint)
        self.revision = 1
        self.watchers: dict[str, tuple[Stream, int]] = {}
        self.streams: dict[str, Stream] = {}

    def call(self, method: str, request: Message) -> Answer:
        answer = self.client.call(method, request)
        self._see(answer.response)
        return answer

    def _see(self, response: Any) -> None:
        if response is not None and response.header.revision:
            self.revision = max(self.revision, response.header.revision)

    def range_stream(self, request: Any) -> Answer:
        answer = self.client.range_stream(request)
        if answer.code:
            return answer
        merged = rpc.RangeResponse()
        for message in answer.response:
            merged.MergeFrom(message.range_response)
        return Answer(0, "", merged)

    def keep_alive(self, lease: int) -> Any:
        stream = self.client.keep_alive()
        try:
            stream.send(rpc.LeaseKeepAliveRequest(ID=lease))
            return stream.receive()
        finally:
            stream.close()

    # -- watch ------------------------------------------------------------------------------------------------
    def watch(self, name: str, create: Any) -> Answer:
        stream = self.client.watch()
        stream.send(rpc.WatchRequest(create_request=create))
        response = stream.receive()
        if isinstance(response, Answer):
            return response
        self.watchers[name] = (stream, create.start_revision)
        self._see(response)
        return Answer(0, "", response)

    def take(self, name: str) -> list[Taken]:
        """All events up to the newest revision seen: a progress response that has reached it stands behind them."""
        stream, start_revision = self.watchers[name]
        deadline = time.monotonic() + STREAM_TIMEOUT_S
        taken: list[Taken] = []
        # A watcher that waits for the future keeps every progress request unanswered.
        waits = start_revision > self.revision
        while True:
            if not waits:
                stream.send(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
            while (response := stream.poll(0.0 if waits else 0.3)) is not None:
                assert not isinstance(response, Answer), f"the watch stream ended: {response}"
                if response.watch_id == -1 and not response.events:
                    if response.header.revision >= self.revision:
                        return taken
                elif response.canceled:
                    return [*taken, Taken(0, [], response.compact_revision)]
                else:
                    taken.append(Taken(response.header.revision, list(response.events), 0))
            if waits:
                return taken
            assert time.monotonic() < deadline, f"watch {name} did not reach revision {self.revision}: {taken}"

    def progress(self, name: str) -> int:
        """The revision of a progress response; -1 if the watcher cannot have one yet."""
        stream, start_revision = self.watchers[name]
        if start_revision > self.revision:
            return -1
        stream.send(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
        while (response := stream.receive()).header.revision < self.revision or response.events:
            assert not isinstance(response, Answer), f"the watch stream ended: {response}"
        return response.header.revision

    def cancel(self, name: str) -> None:
        stream, _ = self.watchers.pop(name)
        stream.send(rpc.WatchRequest(cancel_request=rpc.WatchCancelRequest(watch_id=0)))
        while not (response := stream.receive()).canceled:
            pass
        if not response.compact_revision:
            assert response.watch_id == 0 and not response.cancel_reason, response
            assert response.header.revision == self.revision, response
        stream.close()

    # -- life -------------------------------------------------------------------------------------------------
    def reopen(self) -> None:
        self._restart(signal.SIGTERM)

    def crash(self) -> None:
        self._restart(signal.SIGKILL)

    def _restart(self, signal_number: int) -> None:
        self._close_streams()
        self.client.close()
        self.server.restart(signal_number)
        self.client = Client(self.server.endpoint)

    def checkpoint(self) -> None:
        """A server decides for itself when to write one."""

    def check(self) -> list[str]:
        return []

    def _close_streams(self) -> None:
        for stream in (*(stream for stream, _ in self.watchers.values()), *self.streams.values()):
            stream.close()
        self.watchers.clear()
        self.streams.clear()

    def close(self) -> None:
        self._close_streams()
        self.client.close()
        self.server.kill()
