"""
The sockets between members: Raft messages, questions, snapshots, and etcd's HTTP endpoints on the same port.

    node -- send, ask, send_snapshot --> peers.Peers --> member.Member --> link.Link (one a stream) --> dial.Outgoing
                                                                                                             |
                                                                                                    connection.Connection
                                                                                                             |
    node <- events.received, answer, snapshot_begin ... <- streams, snapshots <- inbound.Inbound (gate.Gate accepts)

`types` is the contract with the node, `wire` the bytes, docs/peers.md both in prose. A member dials every other one and
sends on what it has dialled: APPENDS and URGENT stand all the time, SNAPSHOTS while there is one. What flows back on a
connection only answers what came on it.
"""

from fastkv.server.peers.addresses import Listener, bind, parse
from fastkv.server.peers.peers import Peers
from fastkv.server.peers.types import (
    CheckCertificate,
    Http,
    HttpAnswer,
    Limits,
    LocalIdentity,
    PeerError,
    PeerEvents,
    SnapshotSink,
    SnapshotSource,
    TlsContext,
)

__all__ = [
    "Peers", "PeerEvents", "PeerError", "LocalIdentity", "Limits", "Listener", "bind", "parse", "Http", "HttpAnswer",
    "SnapshotSink", "SnapshotSource", "TlsContext", "CheckCertificate",
]  # fmt: skip
