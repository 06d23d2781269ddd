"""
A node that is one of several: Raft between its front end and its store.

    front --proposals, read rounds--> loop --> raft.Node --+--> engine: log, sync, apply
      ^                                 ^                  +--> peers: messages, snapshots
      +------- answers, releases -------+------------------+

    loop        persist, send, apply, advance: the one place that drives raft.Node
    applying    committed entries to the engine, in order
    storage     what raft.Node reads back from the engine's log
    proposals   batches on their way: kept without a leader, proposed again when lost
    own         the node's own commands and reads, and all of them under grpcio
    reads       linearizable reads: one ReadIndex for all that wait
    membership  who is a member: the value, its bytes, what a change makes of it
    changes     carrying out a change of membership: checks, proposal, answer
    bootstrap   what a start finds: a new cluster, one to join, a directory to go on with
    beginning   the first election, and telling the others who this is
    remote      what running members say of themselves over HTTP
    leases      time of leases: the leader's business
    peering     what other members ask of this one, and it of them; snapshots
    peer_port   its sockets, TLS, and HTTP (peer_http)
    handover    leadership to another member
    cluster     these put together
"""
