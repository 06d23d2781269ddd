"""Mutual TLS between members: who is right is let in, who is wrong is refused with the reason in the log."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from node.peers_harness import Site, Source, append, heartbeat, run, running, snapshot, until

TIMEOUT_S = 10.0


class Authority:
    """A CA, and contexts that trust only it and show its certificates."""

    def __init__(self) -> None:
        self.ca = trustme.CA()
        self.certificate = self.ca.issue_cert("127.0.0.1", "localhost", "::1")

    def server(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.verify_mode = ssl.CERT_REQUIRED
        self.certificate.configure_cert(context)
        self.ca.configure_trust(context)
        return context

    def client(self, certificate: trustme.LeafCert | None = None, with_certificate: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if with_certificate:
            (certificate or self.certificate).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def ours() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def theirs() -> Authority:
    return Authority()


def secure(member: int, ours: Authority) -> Site:
    return Site(member, scheme="https", client_tls=ours.client(), server_tls=ours.server())


def test_members_with_certificates_of_one_authority_talk(ours: Authority) -> None:
    async def test() -> None:
        one, two = secure(1, ours), secure(2, ours)
        data = bytes(range(256)) * (16 << 10)
        async with running(one, two):
            sent = [append(1, 2, index, data[: index * 20_000]) for index in range(60)]
            one.peers.send(sent)
            one.peers.send([heartbeat(1, 2, 1)])
            await until(lambda: len(two.node.messages) == 61, "all arrived")
            assert [message for message in two.node.messages if message.entries] == sent
            assert await one.peers.ask(2, "x", b"y", TIMEOUT_S) == b"x:y"
            assert await one.peers.send_snapshot(snapshot(1, 2), Source(3 << 20))

    run(test())


def test_a_certificate_of_another_authority_is_refused(ours: Authority, theirs: Authority) -> None:
    async def test() -> None:
        one, two = secure(1, ours), secure(2, ours)
        wrong = theirs.ca.issue_cert("127.0.0.1")
        one.peers._client_tls = ours.client(wrong)
        async with running(one, two, introduce=False):
            one.peers.set_members({2: [two.url]})
            await until(lambda: two.log.has("refused a connection to the peer port", "not trusted"), "said why")
            await until(lambda: one.log.has("cannot connect to a member", two.url), "said that")
            assert not one.connected(2)

    run(test())


def test_a_member_without_a_certificate_is_refused(ours: Authority) -> None:
    async def test() -> None:
        one, two = secure(1, ours), secure(2, ours)
        one.peers._client_tls = ours.client(with_certificate=False)
        async with running(one, two, introduce=False):
            one.peers.set_members({2: [two.url]})
            await until(lambda: two.log.has("refused a connection", "sent no certificate, and one is required"), "said")
            await until(lambda: one.log.has("cannot connect to a member", two.url), "said that")
            assert not one.connected(2)

    run(test())


def test_a_server_of_another_authority_is_refused(ours: Authority, theirs: Authority) -> None:
    async def test() -> None:
        one, two = secure(1, ours), secure(2, theirs)
        async with running(one, two, introduce=False):
            one.peers.set_members({2: [two.url]})
            await until(lambda: one.log.has("cannot connect to a member", "not trusted"), "said why")
            await until(
                lambda: two.log.has("refused a connection to the peer port", "it closed the connection"), "said that"
            )

    run(test())


def test_a_server_certificate_for_another_host_is_refused(ours: Authority) -> None:
    async def test() -> None:
        one, two = secure(1, ours), secure(2, ours)
        server = ours.server()
        ours.ca.issue_cert("elsewhere.example").configure_cert(server)
        two.peers._server_tls = server
        async with running(one, two, introduce=False):
            one.peers.set_members({2: [two.url]})
            await until(lambda: one.log.has("cannot connect", "not trusted", "IP address mismatch"), "said why")

    run(test())


def test_plain_text_on_a_tls_port_is_refused(ours: Authority) -> None:
    async def test() -> None:
        one, two = secure(1, ours), secure(2, ours)
        async with running(one, two, introduce=False):
            one.peers.set_members({2: [two.url.replace("https", "http")]})
            await until(lambda: two.log.has("refused a connection to the peer port", "does not speak TLS"), "said why")
            await until(lambda: one.log.has("cannot connect to a member"), "said that")
            reader, writer = await asyncio.open_connection("127.0.0.1", two.port)
            writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await reader.read() == b""
            writer.close()

    run(test())


def test_tls_on_a_plain_text_port_is_refused(ours: Authority) -> None:
    async def test() -> None:
        one, two = secure(1, ours), Site(2)
        async with running(one, two, introduce=False):
            one.peers.set_members({2: [two.url.replace("http", "https")]})
            await until(lambda: two.log.has("it speaks TLS, but this port is plain text"), "said why")
            await until(lambda: one.log.has("cannot connect to a member"), "said that")

    run(test())


def test_an_https_url_without_certificates_is_said(ours: Authority) -> None:
    async def test() -> None:
        one, two = Site(1), secure(2, ours)
        async with running(one, two, introduce=False):
            one.peers.set_members({2: [two.url]})
            await until(lambda: one.log.has("cannot connect", "this member has no certificates for peers"), "said why")

    run(test())


def test_a_certificate_that_the_node_does_not_let_in_is_refused_before_anything_is_read(ours: Authority) -> None:
    async def test() -> None:
        one, two = secure(1, ours), secure(2, ours)
        checked: list[str] = []
        verdict = "its CommonName is not allowed"

        async def check(session: ssl.SSLObject, address: str) -> str:
            assert session.getpeercert()
            checked.append(address)
            await asyncio.sleep(0)
            return verdict

        two.peers._check_certificate = check
        two.peers.admit = None  # type: ignore[method-assign,assignment]  # whoever asks it fails
        async with running(one, two, introduce=False):
            one.peers.set_members({2: [two.url]})
            await until(lambda: two.log.has("lost a connection to the peer port", verdict), "said why")
            await until(lambda: one.log.has("cannot connect to a member", two.url), "said that")
            del two.peers.admit
            verdict = ""
            await until(lambda: one.connected(2), "let in")
            one.peers.send([heartbeat(1, 2, 1)])
            await until(lambda: two.node.messages, "heard")
        assert set(checked) == {"127.0.0.1"}

    run(test())


def test_a_check_that_fails_or_never_ends_lets_nobody_in_and_leaves_nothing(ours: Authority) -> None:
    async def test() -> None:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
        one, two = secure(1, ours), secure(2, ours)

        async def check(session: ssl.SSLObject, address: str) -> str:
            if len(faults) < 2:
                raise ZeroDivisionError("a fault of the node")
            await asyncio.Event().wait()
            return ""

        two.peers._check_certificate = check
        async with running(one, two, introduce=False):
            one.peers.set_members({2: [two.url]})
            gate = two.peers._gate
            assert gate is not None
            await until(lambda: len(faults) == 2 and len(gate._opening) == 2, "two failed, two wait")
            assert not one.connected(2)
        own = asyncio.current_task()
        await until(lambda: asyncio.all_tasks() == {own}, "no task is left")

    run(test())


def test_contexts_are_asked_for_before_each_handshake(ours: Authority, theirs: Authority) -> None:
    async def test() -> None:
        one, two = secure(1, ours), secure(2, ours)
        now = theirs
        one.peers._client_tls = lambda: now.client()
        async with running(one, two, introduce=False):
            one.peers.set_members({2: [two.url]})
            await until(lambda: one.log.has("cannot connect to a member", "not trusted"), "refused")
            now = ours
            await until(lambda: one.connected(2), "the new files count")

    run(test())


def test_who_never_finishes_the_tls_handshake_is_cut(ours: Authority) -> None:
    async def test() -> None:
        two = secure(2, ours)
        two.peers._limits = two.peers._limits.__class__(handshake_timeout_s=0.2)
        async with running(two, introduce=False):
            reader, writer = await asyncio.open_connection("127.0.0.1", two.port)
            writer.write(b"\x16\x03\x01")
            assert await asyncio.wait_for(reader.read(), TIMEOUT_S) == b""
            writer.close()
            await until(lambda: two.log.has("refused a connection to the peer port"), "said")

    run(test())
