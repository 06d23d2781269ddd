"""
The small HTTP/1.1 surface of the client port: /health, /livez, /readyz, /version, /metrics and /debug/vars, for probes
and people; and of the metrics port, which has less of it.

    bytes -> h11 -> Answer -> h11 -> bytes        one connection, requests in turn, keep-alive as h11 decides

`answer` is the whole behaviour (paths, codes, bodies: etcd's); `HttpConnection` only moves bytes.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, urlsplit

import h11

from fastkv._version import __version__
from fastkv.errors import Error
from fastkv.rpc.wire import int_field, message_field
from fastkv.server.alarms import ALARM_CORRUPT, ALARM_NAMES
from fastkv.server.version import API_VERSION

if TYPE_CHECKING:
    from fastkv.server.node import Node

READ_BYTES = 64 << 10
REQUEST_TIMEOUT_S = 300.0  # for a request to arrive, as Go's ReadHeaderTimeout in etcd
CORS = (
    ("Access-Control-Allow-Headers", "accept, content-type, authorization"),
    ("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE"),
    ("Access-Control-Allow-Origin", "*"),
)
TEXT = "text/plain; charset=utf-8"
CHECKS = {
    "livez": ("serializable_read",),
    "readyz": ("data_corruption", "serializable_read", "linearizable_read", "non_learner"),
}
NOSNIFF = ("X-Content-Type-Options", "nosniff")
# One key, keys only: what a health check reads.
PROBE = message_field(1, b"health") + int_field(3, 1) + int_field(8, 1)


class Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()
    make_body: Callable[[], bytes] | None = None  # takes long: for another thread, instead of `body`


NOT_FOUND = Answer(404, b"404 page not found\n", headers=(NOSNIFF,))

METRICS_PORT_PATHS = frozenset(("metrics", "health", "livez", "readyz"))


async def answer_metrics_port(node: Node, method: str, target: str, accept: str = "") -> Answer:
    """What a request on --listen-metrics-urls gets: /metrics and the probes."""
    if urlsplit(target).path.removeprefix("/").partition("/")[0] not in METRICS_PORT_PATHS:
        return NOT_FOUND
    return await answer(node, method, target, accept)


async def answer(node: Node, method: str, target: str, accept: str = "") -> Answer:
    """What a request gets."""
    try:
        url = urlsplit(target)
    except ValueError:  # "//[": a host that is none
        return Answer(400, b"400 Bad Request")
    query = parse_qs(url.query, keep_blank_values=True)
    path, _, check = url.path.removeprefix("/").partition("/")
    if method == "OPTIONS":
        return Answer(200, b"")
    if path == "metrics" and not check and node.render_metrics is not None:
        make_body, content_type = node.render_metrics(accept)
        return Answer(200, b"", content_type, make_body=make_body)
    found: Answer | None = None
    if path == "debug" and check == "vars":
        found = _vars(node)
    elif path == "version" and not check:
        found = _version(node)
    elif path == "health" and not check:
        found = await _health(node, query)
    elif path in ("livez", "readyz") and check in ("", *CHECKS[path]):
        found = await _probe(node, path, check, query)
    if found is None:
        return NOT_FOUND
    if method != "GET":
        headers = (("Allow", "GET"), ("X-Content-Type-Options", "nosniff"))
        return Answer(405, b"Method Not Allowed\n", headers=headers)
    return found


def _vars(node: Node) -> Answer:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    identity = node.identity
    variables = {
        "cmdline": sys.argv,
        "file_descriptor_limit": soft,
        "raft.status": {
            "id": f"{identity.member_id:x}",
            "term": identity.term,
            "vote": f"{identity.member_id:x}",
            "commit": node.commit_index,
            "lead": f"{node.leader:x}",
            "raftState": "StateLeader" if node.leader == identity.member_id else "StateFollower",
            "applied": node.engine.applied_index,
            "progress": {},
            "leadtransferee": "0",
        },
    }
    return Answer(200, json.dumps(variables).encode() + b"\n", "application/json; charset=utf-8")


def _version(node: Node) -> Answer:
    versions = {
        "etcdserver": API_VERSION,
        "etcdcluster": node.downgrade.cluster_version,
        "storage": node.downgrade.cluster_version,
        "fastkv": __version__,
    }
    return Answer(200, json.dumps(versions, separators=(",", ":")).encode(), "application/json")


async def _health(node: Node, query: dict[str, list[str]]) -> Answer:
    excluded = query.get("exclude", [])
    serializable = query.get("serializable", [""])[0] == "true"
    reason = ""
    for _, alarm in sorted(node.alarms):
        if ALARM_NAMES.get(alarm) not in excluded:
            reason = f"ALARM {ALARM_NAMES.get(alarm, alarm)}"
            break
    if not reason and not serializable and not node.knows_leader:
        reason = "RAFT NO LEADER"
    if not reason and (failure := await _read_failure(node, linearizable=not serializable)):
        reason = f"RANGE ERROR:{failure}"
    body = json.dumps({"health": "false" if reason else "true", "reason": reason}, separators=(",", ":")).encode()
    return Answer(503, body + b"\n") if reason else Answer(200, body)


async def _read_failure(node: Node, *, linearizable: bool) -> str:
    if node.stopping.is_set():
        return "etcdserver: server stopped"
    try:
        if linearizable:
            await node.confirm_read()
        node.engine.range(PROBE)
    except Error as error:
        return str(error)
    return ""


def _corrupt(node: Node) -> str:
    return "alarm activated: CORRUPT" if any(alarm == ALARM_CORRUPT for _, alarm in node.alarms) else ""


async def _check(node: Node, check: str) -> str:
    """Why the check fails, "" if it does not."""
    match check:
        case "data_corruption":
            return _corrupt(node)
        case "non_learner":
            return "not supported for learner" if node.is_learner else ""
        case _:
            return await _read_failure(node, linearizable=check == "linearizable_read")


async def _probe(node: Node, path: str, check: str, query: dict[str, list[str]]) -> Answer:
    excluded = query.get("exclude", [])
    wanted = [check] if check else CHECKS[path]
    checks = {name: await _check(node, name) for name in wanted if name not in excluded}
    failed = any(checks.values())
    lines = [f"[-]{name} failed: {why}\n" if why else f"[+]{name} ok\n" for name, why in checks.items()]
    nosniff = (("X-Content-Type-Options", "nosniff"),)
    if failed:
        return Answer(503, ("".join(lines) + "\n").encode(), headers=nosniff)
    body = "".join(lines) + "ok\n" if "verbose" in query else "ok\n"
    return Answer(200, body.encode(), headers=nosniff)


class HttpConnection:
    """One client. `read` and `write` move its bytes; the first ones may have been read already."""

    def __init__(
        self,
        node: Node,
        read: Callable[[int], Awaitable[bytes]],
        write: Callable[[bytes], Awaitable[None]],
        answer: Callable[[Node, str, str, str], Awaitable[Answer]] = answer,
    ) -> None:
        self._answer = answer
        self._node = node
        self._read = read
        self._write = write
        self._http = h11.Connection(h11.SERVER)

    async def run(self, first: bytes) -> None:
        """Serve until the client closes, goes silent or sends something that is not HTTP."""
        self._http.receive_data(first)
        try:
            while await self._serve_one():
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await self._send(Answer(error.error_status_hint, b"400 Bad Request"), close=True)

    async def _serve_one(self) -> bool:
        """Whether the connection can carry another request."""
        request: h11.Request | None = None
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self._read(READ_BYTES))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.EndOfMessage):
                    break
                elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                    return False
        assert request is not None
        method = request.method.decode("latin-1")
        accept = next((value.decode("latin-1") for name, value in request.headers if name == b"accept"), "")
        reply = await self._answer(self._node, method, request.target.decode("latin-1"), accept)
        if reply.make_body is not None:
            reply = reply._replace(body=await self._node.work(reply.make_body))
        await self._send(reply, with_body=method != "HEAD")
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _send(self, reply: Answer, with_body: bool = True, close: bool = False) -> None:
        headers = [
            *CORS,
            ("Content-Type", reply.content_type),
            ("Date", formatdate(usegmt=True)),
            ("Content-Length", str(len(reply.body))),
            *reply.headers,
        ]
        if close:
            headers.append(("Connection", "close"))
        reason = HTTPStatus(reply.status).phrase.encode()
        out = self._http.send(h11.Response(status_code=reply.status, headers=headers, reason=reason)) or b""
        if with_body:
            out += self._http.send(h11.Data(data=reply.body)) or b""
        out += self._http.send(h11.EndOfMessage()) or b""
        await self._write(out)
