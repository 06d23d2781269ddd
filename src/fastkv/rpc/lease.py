"""etcdserverpb.Lease: who is attached is the store's business, when a lease ends the lessor's."""

from __future__ import annotations

from fastkv.engine import LEASE_GRANT, LEASE_REVOKE
from fastkv.errors import LeaseExistsError
from fastkv.rpc.calls import Context, read
from fastkv.rpc.wire import Message, int_field, message_field
from fastkv.server.node import Node


async def grant(node: Node, request: bytes) -> bytes:
    asked = Message(request)
    ttl, lease = max(asked.number(1), node.config.lease_ttl_min_s), asked.number(2)
    while True:
        payload = int_field(1, ttl) + int_field(2, lease or node.new_lease_id())
        try:
            return await node.execute(LEASE_GRANT, payload)
        except LeaseExistsError:
            # Two grants in flight may have drawn the same number; a client that chose it must be told.
            if lease:
                raise


async def revoke(node: Node, request: bytes) -> bytes:
    return await node.execute(LEASE_REVOKE, request)


async def keep_alive(node: Node, context: Context) -> None:
    while (request := await read(node, context)) is not None:
        lease = Message(request).number(1)
        ttl = await node.renew_lease(lease)
        await context.write(message_field(1, node.header()) + int_field(2, lease) + int_field(3, ttl))


async def time_to_live(node: Node, request: bytes) -> bytes:
    asked = Message(request)
    lease = asked.number(1)
    found = await node.remaining(lease)
    response = message_field(1, node.header()) + int_field(2, lease)
    if found is None:
        return response + int_field(3, -1)
    remaining_s, granted_s = found
    response += int_field(3, remaining_s) + int_field(4, granted_s)
    if asked.unsigned(2):
        response += b"".join(message_field(5, key) for key in node.engine.lease_keys(lease))
    return response


async def leases(node: Node, request: bytes) -> bytes:
    Message(request)
    await node.confirm_read()
    held = (message_field(2, int_field(1, lease)) for lease in node.lease_ids())
    return message_field(1, node.header()) + b"".join(held)


UNARY = {"LeaseGrant": grant, "LeaseRevoke": revoke, "LeaseTimeToLive": time_to_live, "LeaseLeases": leases}
BIDIRECTIONAL = {"LeaseKeepAlive": keep_alive}
