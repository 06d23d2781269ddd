"""
Which method is answered by which function.

A method of etcd's API that is not there yet, an unknown method and an unknown service each get their own
UNIMPLEMENTED text; the last two are those of a Go server, which clients match.
"""

from __future__ import annotations

import grpc

from fastkv.rpc import cluster, health, kv, lease, maintenance, watch
from fastkv.rpc.calls import bidirectional_handler, refusing_handler, server_streaming_handler, unary_handler
from fastkv.rpc.status import absent_method, unknown_method, unknown_service
from fastkv.server.node import Node

Handler = grpc.RpcMethodHandler

UNARY = {
    "etcdserverpb.KV": kv.UNARY,
    "etcdserverpb.Lease": lease.UNARY,
    "etcdserverpb.Cluster": cluster.UNARY,
    "etcdserverpb.Maintenance": maintenance.UNARY,
    "grpc.health.v1.Health": health.UNARY,
}
SERVER_STREAMING = {"etcdserverpb.KV": kv.SERVER_STREAMING, "grpc.health.v1.Health": health.SERVER_STREAMING}
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
    "etcdserverpb.Cluster": cluster.ABSENT,
    "etcdserverpb.Maintenance": maintenance.ABSENT,
    "etcdserverpb.Auth": AUTH,
    "v3lockpb.Lock": ("Lock", "Unlock"),
    "v3electionpb.Election": ("Campaign", "Proclaim", "Leader", "Observe", "Resign"),
}


class Services(grpc.GenericRpcHandler):
    """Every method of the node's API."""

    def __init__(self, node: Node) -> None:
        self._handlers: dict[str, Handler] = {}
        for service, unary in UNARY.items():
            for method, function in unary.items():
                self._handlers[f"/{service}/{method}"] = unary_handler(node, f"/{service}/{method}", function)
        for service, streaming in SERVER_STREAMING.items():
            for method, stream in streaming.items():
                self._handlers[f"/{service}/{method}"] = server_streaming_handler(node, stream)
        for service, bidirectional in BIDIRECTIONAL.items():
            for method, both in bidirectional.items():
                self._handlers[f"/{service}/{method}"] = bidirectional_handler(node, both)
        for service, absent in ABSENT.items():
            for method in absent:
                self._handlers[f"/{service}/{method}"] = refusing_handler(absent_method(service, method))
        self._services = {path.split("/")[1] for path in self._handlers}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        if handler := self._handlers.get(handler_call_details.method):
            return handler
        service, _, method = handler_call_details.method.removeprefix("/").partition("/")
        known = service in self._services
        return refusing_handler(unknown_method(service, method) if known else unknown_service(service))
