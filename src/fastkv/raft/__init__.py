"""
Consensus: a pure function of messages, ticks and proposals.

    step(message) --+                      +--> entries, hard_state, snapshot   to the disk    -> persisted(number)
    tick() ---------+-->  Node  -- ready --+--> messages, messages_after_persist   to the peers
    propose(data) --+                      +--> committed   to the state machine               -> applied(index)
    read_index() ---+                      +--> read_states, soft_state, lost   to the waiting clients

No clock, disk, socket, thread or global randomness: the same calls with the same seed give the same Readys. `core.Node`
is the contract; read its docstring, then messages.py. Each other module owns one concern and works on `state.State`:

    election     terms, votes, pre-votes, the leader's lease         quorum      majorities, joint majorities
    replication  the leader's side of the log                        progress    what the leader knows of one follower
    follower     the follower's side of the log                      log         the tail in memory over the storage
    forwarding   proposals: taken, forwarded, and what became of them
    reads        ReadIndex                                           membership  configurations and their changes
    transfer     handing leadership over                             codec       messages as msgpack
"""

from fastkv.raft.config import Config
from fastkv.raft.core import Node
from fastkv.raft.errors import (
    Compacted,
    ConfChangeRefused,
    DropReason,
    InvariantError,
    ProposalDropped,
    RaftError,
    TooManyReads,
    TransferRefused,
    Unavailable,
)
from fastkv.raft.membership import bootstrap
from fastkv.raft.messages import (
    NO_MEMBER,
    Change,
    ChangeKind,
    ConfChange,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Kind,
    Message,
    ReadState,
    Ready,
    Role,
    Snapshot,
    SoftState,
    Transition,
    batch_commands,
    batch_origin,
    make_batch,
)
from fastkv.raft.storage import MemoryStorage, Storage

__all__ = [
    "Node", "Config", "bootstrap", "Storage", "MemoryStorage",
    "Ready", "SoftState", "HardState", "ReadState", "Role",
    "Message", "Kind", "Entry", "EntryKind", "Snapshot", "NO_MEMBER",
    "make_batch", "batch_origin", "batch_commands",
    "ConfState", "ConfChange", "Change", "ChangeKind", "Transition",
    "RaftError", "ProposalDropped", "DropReason", "ConfChangeRefused", "TransferRefused", "TooManyReads",
    "Compacted", "Unavailable", "InvariantError",
]  # fmt: skip
