"""
HTTP/1.1 on the peer port: what etcd answers there, through a callable of the node's.

    bytes -> h11 -> (method, target, body) -> http -> (status, content type, body) -> h11 -> bytes
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from email.utils import formatdate
from http import HTTPStatus

import h11

from fastkv.server.peers.connection import Connection
from fastkv.server.peers.context import Context
from fastkv.server.peers.tasks import fault
from fastkv.server.peers.types import Http, HttpAnswer

TEXT = "text/plain; charset=utf-8"


class Probes:
    """One HTTP client: its requests in turn, keep-alive as h11 decides."""

    def __init__(self, context: Context, connection: Connection, http: Http) -> None:
        self.waiting_since = context.loop.time()  # for the client's next whole request
        self._context = context
        self._connection = connection
        self._http = http
        self._h11 = h11.Connection(h11.SERVER)
        self._method = ""
        self._target = ""
        self._body = bytearray()
        self._waiting = bytearray()  # came while an answer is being made
        self._answering: asyncio.Task[HttpAnswer] | None = None

    def received(self, data: bytes) -> None:
        self._waiting += data
        if self._answering is None:
            self._continue()

    def _continue(self) -> None:
        data = bytes(self._waiting)
        self._waiting.clear()
        try:
            if data:
                self._h11.receive_data(data)
            self._advance()
        except h11.RemoteProtocolError as error:
            if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self._send((error.error_status_hint, TEXT, b"400 Bad Request"), close=True)
            self._connection.close()

    def lost(self) -> None:
        if self._answering is not None:
            self._answering.cancel()

    def _advance(self) -> None:
        while not self._connection.closing:
            event = self._h11.next_event()
            if isinstance(event, h11.Request):
                self._method, self._target = event.method.decode("latin-1"), event.target.decode("latin-1")
                self._body.clear()
            elif isinstance(event, h11.Data):
                if len(self._body) + len(event.data) > self._context.limits.http_body_max:
                    self._send((413, TEXT, b"413 Request Entity Too Large"), close=True)
                    self._connection.close()
                    return
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                answer = self._http(self._method, self._target, bytes(self._body))
                if isinstance(answer, tuple):
                    self._finish(answer)
                else:
                    self._connection.pause()
                    self._answering = self._context.loop.create_task(_result(answer))
                    self._answering.add_done_callback(self._answered)
                    return
            else:  # more data is needed, or the client is done
                if isinstance(event, h11.ConnectionClosed):
                    self._connection.close()
                return

    def _answered(self, task: asyncio.Task[HttpAnswer]) -> None:
        if task.cancelled():
            return
        self._answering = None
        if (error := task.exception()) is not None:
            fault(task, error)
        if not self._connection.closing:
            self._finish((500, TEXT, b"500 Internal Server Error\n") if error is not None else task.result())
            self._connection.resume()
            self._continue()

    def _finish(self, answer: HttpAnswer) -> None:
        self._send(answer, with_body=self._method != "HEAD")
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self.waiting_since = self._context.loop.time()
        else:
            self._connection.close()

    def _send(self, answer: HttpAnswer, with_body: bool = True, close: bool = False) -> None:
        status, content_type, body = answer
        headers = [
            ("X-Etcd-Cluster-ID", f"{self._context.identity.cluster_id:x}"),
            ("Date", formatdate(usegmt=True)),
        ]
        if status != HTTPStatus.NO_CONTENT:
            headers += [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        if close:
            headers.append(("Connection", "close"))
        reason = HTTPStatus(status).phrase.encode()
        out = self._h11.send(h11.Response(status_code=status, headers=headers, reason=reason)) or b""
        if with_body:
            out += self._h11.send(h11.Data(data=body)) or b""
        out += self._h11.send(h11.EndOfMessage()) or b""
        self._connection.push(out)
        self._connection.flush_soon()


async def _result(awaited: Awaitable[HttpAnswer]) -> HttpAnswer:
    return await awaited
