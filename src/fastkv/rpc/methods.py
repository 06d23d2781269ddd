"""
Which method is answered by which function, for both front ends.

A method of etcd's API that is not there yet has its own UNIMPLEMENTED text.
"""

from __future__ import annotations

from fastkv.rpc import cluster, election, health, kv, lease, lock, maintenance, watch

UNARY = {
    "etcdserverpb.KV": kv.UNARY,
    "etcdserverpb.Lease": lease.UNARY,
    "etcdserverpb.Cluster": cluster.UNARY,
    "etcdserverpb.Maintenance": maintenance.UNARY,
    "grpc.health.v1.Health": health.UNARY,
    "v3electionpb.Election": election.UNARY,
    "v3lockpb.Lock": lock.UNARY,
}
SERVER_STREAMING = {
    "etcdserverpb.KV": kv.SERVER_STREAMING,
    "grpc.health.v1.Health": health.SERVER_STREAMING,
    "v3electionpb.Election": election.SERVER_STREAMING,
}
BIDIRECTIONAL = {"etcdserverpb.Lease": lease.BIDIRECTIONAL, "etcdserverpb.Watch": watch.BIDIRECTIONAL}
AUTH = (
    "AuthEnable",
    "AuthDisable",
    "AuthStatus",
    "Authenticate",
    "UserAdd",
    "UserGet",
    "UserList",
    "UserDelete",
    "UserChangePassword",
    "UserGrantRole",
    "UserRevokeRole",
    "RoleAdd",
    "RoleGet",
    "RoleList",
    "RoleDelete",
    "RoleGrantPermission",
    "RoleRevokePermission",
)
ABSENT = {
    "etcdserverpb.Maintenance": maintenance.ABSENT,
    "etcdserverpb.Auth": AUTH,
}
