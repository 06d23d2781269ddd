"""
The leader's side of the log: what each follower is sent, what its answers mean, what is committed (§5.3, §5.4).

Nothing is sent while a message is handled: `flush` looks at every follower once a Ready. So one APPEND carries all that
gathered since the last one, and its commit index too.

Invariant: a flush reads at most one message from the storage for each follower.
"""

from __future__ import annotations

from fastkv.raft import transfer
from fastkv.raft.errors import Compacted, InvariantError, Unavailable
from fastkv.raft.messages import Entry, EntryKind, Kind, Message
from fastkv.raft.progress import Pace, Progress
from fastkv.raft.state import State

_EVERYTHING = 1 << 62  # bytes


def append_entry(state: State, kind: EntryKind, data: bytes) -> int:
    """Put one entry at the end of the leader's own log; returns its index."""
    log = state.log
    index = log.last_index + 1
    log.append((Entry(state.term, index, kind, data),))
    state.uncommitted_bytes += len(data)
    return index


def maybe_commit(state: State) -> bool:
    """Commit what a quorum holds. Only an entry of the own term is committed by counting (§5.4.2, figure 8)."""
    log = state.log
    index = state.agreed_match()
    if index <= log.commit or log.term(index) != state.term:
        return False
    for entry in log.entries(max(log.commit + 1, state.term_start), _EVERYTHING, index + 1):
        state.uncommitted_bytes -= len(entry.data)
    log.commit_to(index)
    return True


# -- sending --------------------------------------------------------------------------------------------------
def flush(state: State) -> None:
    """Send every follower what it may have."""
    for member, progress in state.progress.items():
        if member != state.id:
            _send_appends(state, member, progress)


def _send_appends(state: State, to: int, progress: Progress) -> None:
    config, log = state.config, state.log
    while True:
        last = log.last_index
        if progress.pace is Pace.REPLICATE:
            full = progress.full(config.max_inflight_messages, config.max_inflight_bytes)
            news = progress.sent_commit < min(log.commit, progress.next - 1)
            if not (progress.ping or (not full and progress.next <= last) or (news and not full)):
                return
        elif progress.pace is Pace.PROBE:
            full = False
            if progress.probe_sent or progress.match == last:
                return
        else:
            return
        progress.ping = False
        try:
            previous_term = log.term(progress.next - 1)
            # A full window still lets an empty APPEND pass: the refusal of it shows that the window was lost.
            entries = [] if full else log.entries(progress.next, config.max_message_bytes)
        except Compacted:
            send_snapshot(state, to, progress)
            return
        state.send(
            Message(Kind.APPEND, to, state.id, state.term, progress.next - 1, previous_term, log.commit, tuple(entries))
        )
        if entries:
            progress.sent(entries[-1].index, sum([len(entry.data) for entry in entries]))
        elif progress.pace is Pace.PROBE:
            progress.probe_sent = True
        progress.sent_commit = min(log.commit, progress.next - 1)
        if entries and entries[0].index < log.offset:
            return  # Read from the disk: one piece a Ready, or a follower far behind would hold up everybody else.


def send_snapshot(state: State, to: int, progress: Progress) -> None:
    """What it needs is compacted: it gets the newest snapshot (§7). Tried again at its next heartbeat answer."""
    progress.probe_sent = True
    if not progress.active:
        return
    try:
        snapshot = state.log.snapshot()
    except Unavailable:
        return
    state.send(Message(Kind.SNAPSHOT, to, state.id, state.term, snapshot=snapshot))
    progress.become_snapshot(snapshot.index)


# -- answers --------------------------------------------------------------------------------------------------
def handle_append_response(state: State, message: Message) -> None:
    progress = state.progress.get(message.sender)
    if progress is None:
        return
    progress.active = True
    if message.reject:
        # The hint is where the follower's log could match; the leader leaves out its own higher terms too (§5.3).
        probe = message.hint
        if message.log_term > 0:
            probe, _ = state.log.conflict_by_term(min(probe, state.log.last_index), message.log_term)
        if progress.reject(message.index, probe) and progress.pace is Pace.REPLICATE:
            progress.become_probe()
        return
    if message.index > state.log.last_index:
        raise InvariantError(
            f"member {message.sender} holds entry {message.index} in term {state.term}, but its leader's log ends at "
            f"{state.log.last_index}"
        )
    advanced = progress.acknowledge(message.index)
    if progress.pace is Pace.REPLICATE:
        progress.free_to(message.index)
    elif progress.pace is Pace.PROBE:
        if advanced or progress.match == message.index:
            progress.become_replicate()
    elif progress.match + 1 >= state.log.first_index():
        # It caught up with what the log still holds, whatever has become of the snapshot.
        progress.pending_snapshot = 0
        progress.become_probe()
        progress.become_replicate()
    if not advanced:
        return
    maybe_commit(state)
    if state.transferee == message.sender:
        transfer.finish(state)


def handle_heartbeat_response(state: State, message: Message) -> None:
    progress = state.progress.get(message.sender)
    if progress is None:
        return
    progress.active = True
    progress.probe_sent = False
    progress.ping = progress.match < state.log.last_index
    if message.context > progress.read_round:
        progress.read_round = message.context


def report_unreachable(state: State, member: int) -> None:
    progress = state.progress.get(member)
    if state.is_leader and progress is not None and progress.pace is Pace.REPLICATE:
        progress.become_probe()


def report_snapshot(state: State, member: int, delivered: bool) -> None:
    progress = state.progress.get(member)
    if not state.is_leader or progress is None or progress.pace is not Pace.SNAPSHOT:
        return
    if not delivered:
        progress.pending_snapshot = 0
    progress.become_probe()
    # Its answer, or a heartbeat's if that got lost, sets off the next APPEND.
    progress.probe_sent = True
