"""
The fields of one member that every module works on, and what all of them need: roles, quorums, sending.

Who changes what: terms, votes and roles only `election`; the configuration only `membership`; progress `replication`
and `membership`; everything may `send`.
"""

from __future__ import annotations

import random

from fastkv.raft import quorum
from fastkv.raft.config import Config
from fastkv.raft.forwarding import Proposals
from fastkv.raft.log import RaftLog
from fastkv.raft.messages import NO_MEMBER, Kind, Message, Role
from fastkv.raft.progress import Progress
from fastkv.raft.reads import Reads
from fastkv.raft.storage import Storage

# Promises: they count for as long as the receiver remembers them, so they must outlive a crash of the sender. A request
# for a vote is one because a grant of it, come late, must not be counted by a later life with a shorter log.
_PROMISES = frozenset((Kind.APPEND_RESPONSE, Kind.VOTE, Kind.VOTE_RESPONSE))
_ASKS_FOR_TERM = frozenset((Kind.PRE_VOTE, Kind.PRE_VOTE_RESPONSE))


class State:
    """One member's state; `core.Node` is it with its methods."""

    __slots__ = (
        "conf",  # the configuration as of the applied entries, or of a snapshot that is being installed
        "config",
        "durable_term",  # what the disk knows of term and vote
        "durable_vote",
        "election_elapsed",  # ticks since: follower: a leader was heard or a vote given; leader: CheckQuorum
        "election_timeout",  # randomized: when a follower campaigns
        "heartbeat_elapsed",
        "id",
        "leader",
        "log",
        "messages",
        "messages_after_persist",
        "overtaken",  # (index of the newest snapshot taken, the configuration as of what is being applied before it)
        "pending_conf_index",  # leader: no other change of membership until this is applied (it may be no change)
        "progress",  # of every member of the configuration, whatever the role; meaningful in a leader
        "proposals",
        "reads",
        "rng",
        "role",
        "summoned",  # the term in which this member was told to campaign but could not yet
        "term",
        "term_start",  # leader: the index of its no-op
        "transfer_elapsed",
        "transferee",  # leader: who is to lead; 0 = nobody
        "uncommitted_bytes",  # leader: proposed in this term and not committed
        "vote",
        "votes",
    )

    def __init__(self, config: Config, storage: Storage, rng: random.Random) -> None:
        hard_state, conf = storage.initial_state()
        self.config = config
        self.id = config.id
        self.rng = rng
        self.log = RaftLog(storage, config.applied, max(hard_state.commit, config.applied), config.tail_bytes)
        # A torn write may have left entries of a term without the hard state behind them: it promised nothing in that
        # term.
        term, vote = max(hard_state[:2], (self.log.last_term, NO_MEMBER))
        self.term = self.durable_term = term
        self.vote = self.durable_vote = vote
        self.role = Role.FOLLOWER
        self.leader = NO_MEMBER
        self.conf = conf
        self.progress: dict[int, Progress] = {}
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.election_timeout = self.draw_timeout()
        self.votes: dict[int, bool] = {}
        self.transferee = NO_MEMBER
        self.transfer_elapsed = 0
        self.overtaken = (0, conf)
        self.pending_conf_index = 0
        self.summoned = 0
        self.term_start = 0
        self.uncommitted_bytes = 0
        self.messages: list[Message] = []
        self.messages_after_persist: list[Message] = []
        self.proposals = Proposals(config.session)
        self.reads = Reads(config.session)

    def draw_timeout(self) -> int:
        """Between one and two election timeouts, so that split votes are rare (§5.2)."""
        return self.config.election_ticks + self.rng.randrange(self.config.election_ticks)

    def send(self, message: Message) -> None:
        """Queue a message: at once, or behind the disk if it is a promise or its term is not durable here."""
        kind = message.kind
        if (kind in _PROMISES and not message.reject) or (
            self.durable_term != self.term and kind not in _ASKS_FOR_TERM
        ):
            self.messages_after_persist.append(message)
        else:
            self.messages.append(message)

    # -- the configuration ------------------------------------------------------------------------------------
    @property
    def is_leader(self) -> bool:
        return self.role is Role.LEADER

    def is_voter(self, member: int) -> bool:
        return member in self.conf.voters or member in self.conf.voters_outgoing

    def is_alone(self) -> bool:
        """Whether this member is a quorum by itself."""
        return self.conf.voters == (self.id,) and not self.conf.voters_outgoing

    def agreed_match(self) -> int:
        """The last index that a quorum holds durably; learners do not count."""
        progress = self.progress
        return quorum.agreed(self.conf.voters, self.conf.voters_outgoing, lambda member: progress[member].match)

    def quorum_has(self, votes: dict[int, bool]) -> quorum.Outcome:
        return quorum.decided(self.conf.voters, self.conf.voters_outgoing, votes)
