"""
One run: a cluster is born, faults strike while clients work, then all is quiet and it must converge.

    |-- chaos_ticks: clients and nemesis --|-- quiet: everybody is up, every link works --|
                                                       converged within converge_ticks, or a Violation of `liveness`

Converged: one leader that everybody follows; every member of the configuration, learners too, has the same log,
committed and applied to its end, and no proposal or read that it still owes an answer; a batch proposed in the quiet is
applied.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from fastkv.engine import load
from fastkv.raft import Change, ChangeKind, ConfChange, ConfState, Entry, Message, batch_commands, bootstrap
from fastkv.raft.codec import decode_conf_change
from sim import joining, linearizable
from sim.checkers import Checkers
from sim.client import Clients, Operation
from sim.faults import Nemesis
from sim.host import Host
from sim.life import Life
from sim.log_disk import LogDisk
from sim.machine import EngineMachine, Machine, Model
from sim.model_disk import ModelDisk
from sim.network import Network
from sim.options import Options
from sim.scheduler import TICK, Scheduler, Storm
from sim.violation import Violation

_CALLS_MAX = 5_000  # a burst and what was piled up behind a partition; then 100 a tick and member (20 are normal)


class Simulation:
    def __init__(self, rng: random.Random, options: Options, narrate: Callable[[str], None] | None = None) -> None:
        self.rng = rng
        self.narrate = narrate
        self.options = options
        self.happened: Counter[str] = Counter()
        self.scheduler = Scheduler()
        self.hosts: dict[int, Host] = {}
        self.checkers = Checkers(self.hosts)
        self.clients = Clients(self)
        self.network = Network(self.scheduler, rng, self.happened, encoded=options.encoded)
        self.network.deliver = self._deliver
        self.network.tell = self._snapshot_ended
        self.network.unreachable = self._unreachable
        self.nemesis = Nemesis(self)
        self.quiet = False
        self._refused: dict[int, bool] = {}  # by index
        self.trace_hash = 0
        self.converged_after = -1  # ticks
        self._engine_class: Any = None if options.machine == "model" else load(options.machine)
        self._next_id = 1

    # -- the parts --------------------------------------------------------------------------------------------
    def new_machine(self) -> Machine:
        if self._engine_class is None:
            return Model()
        return EngineMachine(self._engine_class, watch=self.options.watch)

    def _new_disk(self) -> ModelDisk | LogDisk:
        return LogDisk(self.rng) if self.options.disk == "log" else ModelDisk(self.rng)

    def new_host(self) -> int:
        """A member with an empty disk that knows nobody; its id."""
        id = self._next_id
        self._next_id += 1
        host = self.hosts[id] = Host(self, id, self._new_disk())
        if id > self.options.voters + self.options.learners:
            host.start()
        return id

    def _found(self) -> None:
        """The first members, with the first configuration in their logs."""
        voters, learners = self.options.voters, self.options.learners
        kinds = [ChangeKind.ADD_VOTER] * voters + [ChangeKind.ADD_LEARNER] * learners
        changes = [ConfChange((Change(kind, member),)) for member, kind in enumerate(kinds, 1)]
        for _ in kinds:
            self.hosts[self.new_host()].disk.format(*bootstrap(changes))
        for host in self.hosts.values():
            host.start()

    def conf(self) -> ConfState:
        """The newest configuration that anybody has applied."""
        truth = self.checkers.truth
        return truth.conf[truth.conf_indexes[-1]]

    def start_later(self, host: Host) -> None:
        most = 3 if self.quiet else self.options.restart_ticks
        self.scheduler.after(self.rng.randrange(TICK, most * TICK), self._start, host)

    def _start(self, host: Host) -> None:
        if host.life is Life.DOWN:
            self.happened["restart"] += 1
            self.say(f"member {host.id} starts again")
            host.start()

    def sync_units(self, host: Host) -> int:
        return self.rng.randrange(100, 2000) if host.slow_disk else self.rng.randrange(25)

    def refuses(self, entry: Entry) -> bool:
        """Whether the state machines refuse this change: a removed member must not come back under its id. (They know
        whom they have seen; here that is read off the truth.)"""
        known = self._refused.get(entry.index)
        if known is None:
            then = [
                self.checkers.truth.conf[index] for index in self.checkers.truth.conf_indexes if index < entry.index
            ]
            gone = set[int]().union(*map(joining.members, then)) - joining.members(then[-1])
            changes = decode_conf_change(batch_commands(entry.data)).changes
            known = any(change.member in gone for change in changes if change.kind is not ChangeKind.REMOVE)
            self._refused[entry.index] = known
        return known

    def trace(self, *numbers: int) -> None:
        """Something happened that a run with the same seed must repeat. Hashes of integers are the same everywhere."""
        self.trace_hash = hash((self.trace_hash, self.scheduler.now, *numbers))

    def say(self, what: str) -> None:
        """For who reads along (`make sim SEED=... TRACE=1`)."""
        if self.narrate is not None:
            self.narrate(f"{self.scheduler.now / TICK:8.2f}  {what}")

    # -- the network's other end ------------------------------------------------------------------------------
    def _deliver(self, message: Message) -> bool:
        return self.hosts[message.to].receive(message)

    def _snapshot_ended(self, sender: int, receiver: int, delivered: bool) -> None:
        host = self.hosts[sender]
        if host.life is Life.PAUSED:
            host.inbox.append((self._snapshot_ended, (sender, receiver, delivered)))
        elif host.up:
            host.call(host.node.report_snapshot, receiver, delivered=delivered)
            host.work_soon()

    def _unreachable(self, sender: int, receiver: int) -> None:
        host = self.hosts[sender]
        if host.up:
            host.call(host.node.report_unreachable, receiver)
            host.work_soon()

    # -- a run ------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Raises Violation."""
        self._found()
        if self.rng.random() < 0.5:
            first = self.hosts[1]
            first.call(first.node.campaign)
            first.work_soon()
        self.clients.start(self.options.clients)
        self.nemesis.start()
        while self.scheduler.now < self.options.chaos_ticks * TICK:
            self._pass(10)
        self._calm()
        self._converge()
        self._check_history()
        for host in self.hosts.values():
            if host.up:
                self.checkers.states_agree(host)
                host.machine.close()

    def _pass(self, ticks: int) -> None:
        """Let time pass. What one member's message sets off must not grow with every round trip: `bounded_chatter`."""
        try:
            self.scheduler.run_until(self.scheduler.now + ticks * TICK, _CALLS_MAX + ticks * len(self.hosts) * 100)
        except Storm as storm:
            raise Violation("bounded_chatter", str(storm)) from storm

    def _calm(self) -> None:
        """No more faults; who is down comes back."""
        self.say("quiet: no more faults")
        self.quiet = self.nemesis.quiet = self.clients.stopped = True
        self.network.calm()
        careful = self.options.config["pre_vote"] and self.options.config["check_quorum"]
        removed = set[int]().union(*map(joining.members, self.checkers.truth.conf.values())) - joining.members(
            self.conf()
        )
        for host in list(self.hosts.values()):
            host.slow_disk = host.slow_apply = False
            host.tick_units = TICK
            host.resume()
            if host.life is Life.DOWN:
                self.start_later(host)
            elif host.up and not careful and host.id in removed:
                host.stop(power_loss=False, for_good=True)  # Nothing but those two keeps the removed from disturbing.

    def _converge(self) -> None:
        start = self.scheduler.now
        limit = start + self.options.converge_ticks * TICK
        probe: Operation | None = None
        why = "there was no time"
        while self.scheduler.now < limit:
            self._pass(3)
            self.network.calm()  # What the nemesis began may have ended by turning a fault on or off.
            conf = self.conf()
            if conf.voters_outgoing and not conf.auto_leave:
                self._leave_joint()
            members = [self.hosts[id] for id in sorted(joining.members(conf))]
            if probe is None or (not probe.open and probe.ended < 0):
                up = [host for host in members if host.up]
                if up:
                    probe = self.clients.begin(-1, self.rng.choice(up), only_put=True)
                why = "no batch was taken"
                continue
            why = self._not_converged(members, probe)
            if not why:
                self.converged_after = (self.scheduler.now - start) // TICK
                return
        raise Violation("liveness", f"after {self.options.converge_ticks} quiet ticks: {why}")

    def _leave_joint(self) -> None:
        leaders = [host for host in self.hosts.values() if host.up and host.node.is_leader]
        if leaders and leaders[0].node.conf.voters_outgoing:
            joining.propose(self, leaders[0], ConfChange())

    def _not_converged(self, members: list[Host], probe: Operation) -> str:
        """What is still missing; empty if nothing is."""
        if probe.ended < 0:
            return f"the batch proposed at member {probe.member} has no answer"
        if self.conf().voters_outgoing:
            return f"the configuration is still {self.conf()}"
        if down := [host.id for host in members if not host.up]:
            return f"members {down} are down"
        leaders = [host for host in members if host.node.is_leader]
        if len(leaders) != 1:
            return f"members {[host.id for host in leaders]} lead"
        leader = leaders[0].node
        for host in members:
            node = host.node
            if (node.term, node.leader) != (leader.term, leader.id):
                return f"member {host.id} follows {node.leader} in term {node.term}, not {leader.id} in {leader.term}"
            last = leader.log.last_index
            at = (host.applied, node.log.applied, node.log.commit, node.log.last_index, host.disk.durable.last_index())
            if at != (last,) * 5:
                return f"member {host.id} applied {host.applied} of {last} (node, commit, last, disk: {at[1:]})"
            if node.log.last_term != leader.log.last_term:
                return f"member {host.id} ends with an entry of term {node.log.last_term}, not {leader.log.last_term}"
            if node.proposals.open:
                return f"member {host.id} owes an answer to its proposals {list(node.proposals.open)}"
            if node.reads.count:
                return f"member {host.id} owes an answer to {node.reads.count} reads"
        return ""

    def _check_history(self) -> None:
        """The clients' history alone, key by key."""
        for key in range(self.options.keys):
            steps = linearizable.steps(self.clients.history, key)
            try:
                if not linearizable.is_linearizable(steps):
                    raise Violation("linearizable", f"no order explains the {len(steps)} operations on key {key}")
            except linearizable.TooLong:
                self.happened["history too long to search"] += 1
            else:
                self.happened["history searched"] += 1
