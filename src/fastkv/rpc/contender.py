"""
What lock and election stand on: one key per contender under a prefix, and the oldest key owns it.

    name/32695410dcc0ca06   create_revision 7    the owner
    name/32695410dcc0ca0b   create_revision 9    waits for the deletion of 7
    name/32695410dcc0ca11   create_revision 12   waits for the deletion of 9

The key is the prefix and the contender's lease in hex, so that whoever lets his lease end makes room. This is the
recipe of etcd's client library, which etcd itself uses behind these services: its errors therefore reach the caller as
UNKNOWN.

Invariants:
* Who waits watches one key, that with the greatest lower create revision: a release wakes one contender, not all.
* Who has waited looks at his own key again before he is told that he owns: his lease may have ended meanwhile.
* A call that ends before it owns, at whatever stage, leaves no key that it has created.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

from fastkv import messages
from fastkv.engine import NOPUT
from fastkv.errors import Error, GrpcCode
from fastkv.keys import prefix_end
from fastkv.rpc import kv, lease
from fastkv.rpc.calls import Unary
from fastkv.rpc.status import RpcError
from fastkv.rpc.wire import Message, bytes_field, int_field, message_field
from fastkv.server.node import Node
from fastkv.server.watching import Watching

SESSION_TTL_S = 60
RANGE, PUT, DELETE = 1, 2, 3  # members of RequestOp and ResponseOp
EQUAL, CREATE = 0, 1  # Compare
ASCEND, DESCEND, BY_CREATE = 1, 2, 2


@contextmanager
def inner_client() -> Iterator[None]:
    """The store's errors as they come out of a client inside the server: the text as it was, the code lost."""
    try:
        yield
    except RpcError:
        raise
    except Error as error:
        raise RpcError(GrpcCode.UNKNOWN, str(error)) from None


async def call(function: Unary, node: Node, request: bytes) -> Message:
    """What a method of another service answers."""
    with inner_client():
        return Message(await function(node, request))


async def session(node: Node, asked: int) -> int:
    """The lease that a contender's key hangs on: the caller's, or a new one of a minute."""
    if asked:
        return asked
    return (await call(lease.grant, node, int_field(1, SESSION_TTL_S))).number(2)


def first(prefix: bytes) -> bytes:
    """RangeRequest: the owner's key."""
    return _by_create(prefix, ASCEND)


def _last_before(prefix: bytes, revision: int) -> bytes:
    return _by_create(prefix, DESCEND) + int_field(13, revision - 1)


def _by_create(prefix: bytes, order: int) -> bytes:
    bounds = bytes_field(1, prefix) + bytes_field(2, prefix_end(prefix))
    return bounds + int_field(3, 1) + int_field(5, order) + int_field(6, BY_CREATE)


def if_created(key: bytes, revision: int, success: list[bytes], failure: list[bytes] | None = None) -> bytes:
    """TxnRequest: if the key was created at `revision` (0: is not there)."""
    return messages.txn_request([messages.compare(EQUAL, CREATE, key, b"", revision)], success, failure or [])


def revision_of(response: Message) -> int:
    return Message(response.data(1)).number(3)


def kvs_of(response: Message, operation: int) -> list[bytes]:
    """The kvs of the range that was so many operations behind the first of a txn."""
    return Message(Message(response.all(3)[operation]).data(RANGE)).all(2)


class Contender:
    """
    One call that wants to own `prefix`. `key` and `revision`: its key and when that was created, once `enter` has
    returned the response of its txn.
    """

    def __init__(self, node: Node, prefix: bytes, lease: int) -> None:
        self._node = node
        self._prefix = prefix
        self.lease = lease
        self.key = prefix + f"{lease:x}".encode()
        self.revision = 0

    async def enter(self, value: bytes, *operations: bytes) -> Message:
        """Create the key, or find that this session has it already, and do the operations in the same txn."""
        put = messages.request_op(PUT, messages.put_request(self.key, value, self.lease))
        get = messages.request_op(RANGE, messages.range_request(self.key))
        txn = if_created(self.key, 0, [put, *operations], [get, *operations])
        entering = asyncio.ensure_future(call(kv.txn, self._node, txn))
        try:
            response = await asyncio.shield(entering)
        except asyncio.CancelledError:
            self._node.background(self._undo(entering))
            raise
        self.revision = _entered_at(response)
        return response

    async def _undo(self, entering: Awaitable[Message]) -> None:
        """Nobody waits for the key any more that is just being created."""
        try:
            response = await entering
        except Error:
            return
        if response.unsigned(2):
            self.revision = _entered_at(response)
            await self.leave()

    async def wait(self) -> bytes | None:
        """
        Until no older key is left; then the header of a read that saw ours still there, None if it is gone or another
        one by now. Whoever gives up meanwhile, or fails, leaves.
        """
        try:
            while older := (await call(kv.range_, self._node, _last_before(self._prefix, self.revision))).all(2):
                await self._wait_for(Message(older[0]))
            return await self._own_header()
        except asyncio.CancelledError:
            self._node.background(self.leave())
            raise
        except Error:
            await self.leave()
            raise

    async def _wait_for(self, older: Message) -> None:
        # From its last change on: whatever happened to it since is seen.
        async with Watching(self._node, older.data(1), b"", older.number(3) + 1, NOPUT) as watching:
            await watching.events()

    async def _own_header(self) -> bytes | None:
        response = await call(kv.range_, self._node, messages.range_request(self.key))
        held = [Message(found).number(2) for found in response.all(2)]
        return response.data(1) if held == [self.revision] else None

    async def leave(self) -> None:
        """Remove the key, if it is still that one. A store that fails here keeps it until the lease ends."""
        delete = messages.request_op(DELETE, messages.delete_request(self.key))
        try:
            await kv.txn(self._node, if_created(self.key, self.revision, [delete]))
        except Error as error:
            self._node.log.warn("a contender's key stays until its lease ends", key=repr(self.key), error=str(error))


def _entered_at(response: Message) -> int:
    if response.unsigned(2):
        return revision_of(response)
    return Message(kvs_of(response, 0)[0]).number(2)


def headed(response: Message, more: bytes = b"") -> bytes:
    """A response with the header of another one."""
    return message_field(1, response.data(1)) + more
