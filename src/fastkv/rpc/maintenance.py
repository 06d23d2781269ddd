"""etcdserverpb.Maintenance: how the node is, alarms, hashes. Defragment has nothing to do and says so in the log."""

from __future__ import annotations

from fastkv.engine import ALARM
from fastkv.errors import GrpcCode
from fastkv.rpc.status import RpcError, bad_transferee, text_field
from fastkv.rpc.wire import Message, bytes_field, int_field, message_field
from fastkv.server.alarms import ALARM_NAMES
from fastkv.server.node import Node
from fastkv.server.version import API_VERSION


async def status(node: Node, request: bytes) -> bytes:
    Message(request)
    identity, stats = node.identity, node.engine.stats()
    in_use_bytes = stats["memory_bytes"]
    # etcdctl divides by dbSize and shows dbSizeInUse as a part of it.
    size_bytes = max(stats["log_bytes"] + stats["checkpoint_bytes"], in_use_bytes, 1)
    target = node.downgrade.target_version
    raised = [
        (f"memberID:{member} " if member else "") + f"alarm:{ALARM_NAMES.get(alarm, alarm)}"
        for member, alarm in sorted(node.alarms)
    ]
    if not node.knows_leader:
        raised.insert(0, "etcdserver: no leader")
    return b"".join(
        (
            message_field(1, node.header()),
            bytes_field(2, API_VERSION.encode()),
            int_field(3, size_bytes),
            int_field(4, node.leader),
            int_field(5, node.commit_index),
            int_field(6, identity.term),
            int_field(7, stats["applied_index"]),
            *(message_field(8, text.encode()) for text in raised),
            int_field(9, in_use_bytes),
            int_field(10, node.is_learner),
            bytes_field(11, node.downgrade.cluster_version.encode()),
            int_field(12, node.config.quota_bytes),
            message_field(13, int_field(1, bool(target)) + bytes_field(2, target.encode())),
        )
    )


async def alarm(node: Node, request: bytes) -> bytes:
    return await node.execute(ALARM, request)


async def defragment(node: Node, request: bytes) -> bytes:
    Message(request)
    node.log.info("defragment: there is nothing to do, the log and checkpoints of fastkv do not fragment")
    return b""


async def hash_(node: Node, request: bytes) -> bytes:
    Message(request)
    value = await node.work(node.engine.hash)
    return message_field(1, node.header()) + int_field(2, value)


async def hash_kv(node: Node, request: bytes) -> bytes:
    revision = Message(request).number(1)
    value, compact_revision, hash_revision = await node.work(node.engine.hash_kv, revision)
    hashes = int_field(2, value) + int_field(3, compact_revision) + int_field(4, hash_revision)
    return message_field(1, node.header()) + hashes


async def downgrade(node: Node, request: bytes) -> bytes:
    asked = Message(request)
    action, version, job = asked.number(1), text_field(asked, 2), node.downgrade
    # As in etcd: what the cluster is at now, in the short form.
    response = bytes_field(2, job.cluster_version.removesuffix(".0").encode())
    try:
        match action:
            case 0:
                job.validate(version)
            case 1:
                job.enable(version)
            case 2:
                _cancel(node)
            case _:
                raise RpcError(GrpcCode.UNKNOWN, "etcdserver: unknown method")
    except RpcError as error:
        node.log.warn("reject downgrade request", error=str(error))
        raise
    return message_field(1, node.header()) + response


def _cancel(node: Node) -> None:
    """Never fails: an operator cancels to be sure."""
    try:
        node.downgrade.cancel()
    except RpcError as error:
        node.log.warn("failed to cancel downgrade", error=str(error))


async def move_leader(node: Node, request: bytes) -> bytes:
    target = Message(request).unsigned(1)
    if node.cluster is not None:
        await node.cluster.handover.move(target)
    elif target != node.identity.member_id:
        raise bad_transferee()
    return b""


UNARY = {
    "Alarm": alarm,
    "Status": status,
    "Defragment": defragment,
    "Downgrade": downgrade,
    "Hash": hash_,
    "HashKV": hash_kv,
    "MoveLeader": move_leader,
}
ABSENT = ("Snapshot",)
