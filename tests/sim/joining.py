"""
Changes of membership, as operators make them: members join as learners or at once, are promoted, demoted, replaced and
removed, one at a time or through a joint configuration that is left automatically or by hand.

A new member has a new id and an empty disk. A removed one goes on until the voters of its last configuration know on
their disks that the removal is committed. One that exits sooner can take its vote from a member that, after a power
loss, knows only the configuration before: the commit index alone is written without a sync.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.raft import Change, ChangeKind, ConfChange, ConfChangeRefused, ConfState, ProposalDropped, Transition
from sim.scheduler import TICK

if TYPE_CHECKING:
    from sim.cluster import Simulation
    from sim.host import Host

_MEMBERS_MAX = 8


def members(conf: ConfState) -> set[int]:
    return {*conf.voters, *conf.learners, *conf.voters_outgoing, *conf.learners_next}


def change(world: Simulation) -> None:
    """Propose one to somebody."""
    rng, conf = world.rng, world.conf()
    hosts = [host for host in world.hosts.values() if host.up]
    leaders = [host for host in hosts if host.node.is_leader]
    if not hosts:
        return
    host = rng.choice(leaders) if leaders and rng.random() < 0.7 else rng.choice(hosts)
    propose(world, host, _draw(world, conf))


def propose(world: Simulation, host: Host, change: ConfChange) -> None:
    host.sequence += 1
    try:
        host.call(host.node.propose_conf_change, change, host.sequence)
    except ConfChangeRefused:
        world.happened["change of membership refused"] += 1
    except ProposalDropped:
        world.happened["change of membership dropped"] += 1
    else:
        world.happened["change of membership proposed"] += 1
    host.work_soon()


def _draw(world: Simulation, conf: ConfState) -> ConfChange:
    rng = world.rng
    transition = rng.choice((Transition.AUTO, Transition.AUTO, Transition.JOINT_AUTO, Transition.JOINT_EXPLICIT))
    if conf.voters_outgoing and rng.random() < 0.7:
        return ConfChange()
    changes: list[Change] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        dice = rng.random()
        present = sorted(members(conf))
        if dice < 0.25 and len(present) < _MEMBERS_MAX:
            changes.append(Change(ChangeKind.ADD_LEARNER, world.new_host()))
        elif dice < 0.4 and len(present) < _MEMBERS_MAX:
            changes.append(Change(ChangeKind.ADD_VOTER, world.new_host()))
        elif dice < 0.65 and conf.learners:
            changes.append(Change(ChangeKind.ADD_VOTER, rng.choice(conf.learners)))
        elif dice < 0.75 and conf.voters:
            changes.append(Change(ChangeKind.ADD_LEARNER, rng.choice(conf.voters)))
        elif present:
            changes.append(Change(ChangeKind.REMOVE, rng.choice(present)))
    return ConfChange(tuple(changes), transition)


def applied(world: Simulation, host: Host, before: ConfState) -> None:
    """A member has applied a change."""
    world.happened["change of membership applied"] += 1
    if host.conf.voters_outgoing:
        world.happened["joint configuration"] += 1
    if host.id in members(before) and host.id not in members(host.conf):
        world.happened["member removed itself"] += 1
        world.scheduler.after(world.rng.randrange(1, 10 * TICK), _exit, world, host, host.number_of_lives, host.applied)


def _exit(world: Simulation, host: Host, life: int, index: int) -> None:
    if host.number_of_lives != life or host.id in members(host.conf):
        return
    voters = [world.hosts[id] for id in host.conf.voters]
    if all(voter.disk.durable.hard_state.commit >= index for voter in voters):
        world.happened["removed member exited"] += 1
        host.stop(power_loss=False, for_good=True)
    else:
        world.scheduler.after(5 * TICK, _exit, world, host, life, index)
