"""HTTP/1.1 on the peer port: what the node answers to probes and tools, beside the members' own protocol."""

from __future__ import annotations

import asyncio
import dataclasses

from fastkv.server.peers import HttpAnswer
from node.peers_harness import CLUSTER, QUICK, Site, heartbeat, run, running, until

TIMEOUT_S = 10.0


class Endpoints:
    """The node's callable."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        self.hold = asyncio.Event()

    def __call__(self, method: str, target: str, body: bytes) -> HttpAnswer | asyncio.Future[HttpAnswer]:
        self.requests.append((method, target, body))
        if target.startswith("/members/promote/"):
            return asyncio.ensure_future(self.promote())
        if target == "/fault":
            return asyncio.ensure_future(self.fail())
        if target == "/raft/snapshot":
            return 204, "", b""
        if target == "/version":
            return 200, "application/json", b'{"etcdserver":"3.7.3"}'
        return 404, "text/plain; charset=utf-8", b"404 page not found\n"

    async def fail(self) -> HttpAnswer:
        raise ZeroDivisionError("a fault of the node")

    async def promote(self) -> HttpAnswer:
        await self.hold.wait()
        return 412, "text/plain; charset=utf-8", b"learner not ready"


async def receive(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(TIMEOUT_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def test_requests_are_answered_in_turn_on_one_connection() -> None:
    async def test() -> None:
        endpoints = Endpoints()
        one = Site(1, http=endpoints)
        async with running(one, introduce=False):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\nPOST /raft HTTP/1.1\r\nHost: x\r\n")
            status, headers, body = await receive(reader)
            assert (status, body) == (200, b'{"etcdserver":"3.7.3"}')
            assert headers["content-type"] == "application/json"
            assert headers["x-etcd-cluster-id"] == f"{CLUSTER:x}"
            writer.write(b"Content-Length: 5\r\n\r\nab")
            writer.write(b"cde")
            assert (await receive(reader))[0] == 404
            writer.write(b"HEAD /version HTTP/1.0\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(), TIMEOUT_S)).endswith(b"\r\n\r\n"), "no body, then closed"
            assert endpoints.requests == [
                ("GET", "/version", b""),
                ("POST", "/raft", b"abcde"),
                ("HEAD", "/version", b""),
            ]
            writer.close()

    run(test())


def test_an_answer_may_take_its_time() -> None:
    async def test() -> None:
        endpoints = Endpoints()
        one, two = Site(1, http=endpoints), Site(2)
        async with running(one, two):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(b"POST /members/promote/5 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: endpoints.requests, "asked")
            two.peers.send([heartbeat(2, 1, 1)])
            await until(lambda: one.node.messages, "members go on meanwhile")
            assert len(endpoints.requests) == 1
            endpoints.hold.set()
            assert (await receive(reader))[0] == 412
            assert (await receive(reader))[0] == 200
            writer.close()

    run(test())


def test_a_fault_of_the_node_is_an_answer_and_is_not_silent() -> None:
    async def test() -> None:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
        one = Site(1, http=Endpoints())
        async with running(one, introduce=False):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(b"GET /fault HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await receive(reader))[0] == 500
            writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await receive(reader))[0] == 200
            writer.close()
        assert len(faults) == 1 and isinstance(faults[0], ZeroDivisionError)

    run(test())


def test_an_answer_without_content() -> None:
    async def test() -> None:
        one = Site(1, http=Endpoints())
        async with running(one, introduce=False):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(b"POST /raft/snapshot HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT_S)
            assert head.startswith(b"HTTP/1.1 204 ") and b"ontent-" not in head
            writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await receive(reader))[0] == 200, "the connection goes on"
            writer.close()

    run(test())


def test_a_client_that_leaves_takes_its_question_with_it() -> None:
    async def test() -> None:
        endpoints = Endpoints()
        one = Site(1, http=endpoints)
        async with running(one, introduce=False):
            _, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(b"POST /members/promote/5 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            await until(lambda: endpoints.requests, "asked")
            writer.transport.abort()
        own = asyncio.current_task()
        await until(lambda: asyncio.all_tasks() == {own}, "no task is left")

    run(test())


def test_bad_and_large_requests_are_refused() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, http_body_max=1000)
        endpoints = Endpoints()
        one = Site(1, limits, http=endpoints)
        async with running(one, introduce=False):
            for request, status in (
                (b"GET / HTTP/9\r\n\r\n", 400),
                (b"NONSENSE\r\n\r\n", 400),
                (b"GET /" + b"x" * (1 << 20), 431),
                (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n" + bytes(1001), 413),
            ):
                reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
                writer.write(request)
                found, headers, _ = await receive(reader)
                assert (found, headers["connection"]) == (status, "close"), request[:40]
                writer.close()
            assert endpoints.requests == []

    run(test())


def test_a_silent_client_is_cut() -> None:
    async def test() -> None:
        limits = dataclasses.replace(QUICK, http_timeout_s=0.2)
        one = Site(1, limits, http=Endpoints())
        async with running(one, introduce=False):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(b"GET /ver")
            assert await asyncio.wait_for(reader.read(), TIMEOUT_S) == b""
            writer.close()

    run(test())


def test_without_endpoints_http_is_refused() -> None:
    async def test() -> None:
        one = Site(1)
        async with running(one, introduce=False):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await asyncio.wait_for(reader.read(), TIMEOUT_S) == b""
            writer.close()
            await until(lambda: one.log.has("it speaks neither fastkv's peer protocol nor HTTP"), "said")

    run(test())
