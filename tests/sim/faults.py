"""
The nemesis: from time to time it makes one of the run's faults happen, and most of them end after a while.

One function a fault; what it does to a Simulation is counted in `happened`, for a fault that never happens tests
nothing. Everything here may be done to a correct cluster: no disk forgets what was synced, nobody lies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastkv.raft import TransferRefused
from sim import joining
from sim.host import Host
from sim.scheduler import TICK

if TYPE_CHECKING:
    from sim.cluster import Simulation


class Nemesis:
    def __init__(self, world: Simulation) -> None:
        self.world = world
        self.quiet = False

    def start(self) -> None:
        if self.world.options.faults:
            self._later()

    def _later(self) -> None:
        gap = self.world.options.fault_gap_ticks * TICK
        self.world.scheduler.after(self.world.rng.randrange(1, 2 * gap), self._strike)

    def _strike(self) -> None:
        if not self.quiet:
            fault = self.world.rng.choice(self.world.options.faults)
            self.world.say(f"fault: {fault}")
            FUNCTIONS[fault](self.world)
            self._later()


def _ticks(world: Simulation, least: int, most: int) -> int:
    """A span of time in units."""
    return world.rng.randrange(least * TICK, most * TICK)


def _someone(world: Simulation) -> Host | None:
    """A process that is up; the leader more often than others, because more breaks there."""
    up = [host for host in world.hosts.values() if host.up]
    leaders = [host for host in up if host.node.is_leader]
    if leaders and world.rng.random() < 0.4:
        return world.rng.choice(leaders)
    return world.rng.choice(up) if up else None


# -- the network ----------------------------------------------------------------------------------------------
def _for_a_while(world: Simulation, name: str, value: object, calm: object, most: int = 20) -> None:
    setattr(world.network, name, value)
    world.scheduler.after(_ticks(world, 1, most), setattr, world.network, name, calm)


def loss(world: Simulation) -> None:
    _for_a_while(world, "loss", world.rng.choice((0.02, 0.1, 0.3, 0.6)), 0.0)


def duplicate(world: Simulation) -> None:
    _for_a_while(world, "duplicate", world.rng.choice((0.05, 0.3)), 0.0)


def reorder(world: Simulation) -> None:
    _for_a_while(world, "reorder", True, False)


def delay(world: Simulation) -> None:
    """Slow links: all of them, or those of one member, so that what it hears is old news."""
    world.network.delayed = world.rng.choice((0, *world.hosts))
    _for_a_while(world, "extra_delay", world.rng.choice((100, 400, 1500)), 0)


def _cut(world: Simulation, links: set[tuple[int, int]], name: str) -> None:
    world.happened[name] += 1
    world.network.cut |= links
    world.scheduler.after(_ticks(world, 3, 40), world.network.cut.difference_update, links)


def partition(world: Simulation) -> None:
    """Two sides that hear nothing of each other."""
    ids = list(world.hosts)
    world.rng.shuffle(ids)
    size = 1 if world.rng.random() < 0.3 else world.rng.randrange(1, len(ids) + 1)
    side = set(ids[:size])
    _cut(world, {(a, b) for a in ids for b in ids if (a in side) != (b in side)}, "two-way partition")


def oneway(world: Simulation) -> None:
    """Some links carry nothing in one direction; or one member hears everything and is heard by nobody, or the
    reverse."""
    ids, rng = list(world.hosts), world.rng
    links = {(a, b) for a in ids for b in ids if a != b}
    dice, victim = rng.random(), rng.choice(ids)
    if dice < 0.3:
        links = {link for link in links if link[0] == victim}
    elif dice < 0.6:
        links = {link for link in links if link[1] == victim}
    else:
        links = {link for link in sorted(links) if rng.random() < 0.3}
    _cut(world, links, "one-way partition")


def unreachable(world: Simulation) -> None:
    """The transport says that a connection broke."""
    host = _someone(world)
    if host is not None:
        world.happened["reported unreachable"] += 1
        host.call(host.node.report_unreachable, world.rng.choice(list(world.hosts)))
        host.work_soon()


# -- processes ------------------------------------------------------------------------------------------------
def _end(world: Simulation, *, power_loss: bool) -> None:
    hosts = [_someone(world)]
    if world.rng.random() < 0.15:
        hosts = list(world.hosts.values())  # everybody at once: only what is on disks is left
    for host in hosts:
        if host is not None and host.up:
            world.happened["power loss" if power_loss else "kill -9"] += 1
            host.stop(power_loss=power_loss)
            world.start_later(host)


def crash(world: Simulation) -> None:
    _end(world, power_loss=True)


def kill(world: Simulation) -> None:
    _end(world, power_loss=False)


def pause(world: Simulation) -> None:
    host = _someone(world)
    if host is not None:
        world.happened["pause"] += 1
        host.pause()
        world.scheduler.after(_ticks(world, 2, 50), host.resume)


def slowapply(world: Simulation) -> None:
    host = _someone(world)
    if host is not None:
        world.happened["slow state machine"] += 1
        host.slow_apply = True
        world.scheduler.after(_ticks(world, 5, 60), setattr, host, "slow_apply", False)


# -- disks ----------------------------------------------------------------------------------------------------
def slowdisk(world: Simulation) -> None:
    host = _someone(world)
    if host is not None:
        world.happened["slow disk"] += 1
        host.slow_disk = True
        world.scheduler.after(_ticks(world, 5, 60), setattr, host, "slow_disk", False)


def faildisk(world: Simulation) -> None:
    host = _someone(world)
    if host is not None:
        host.disk.fail_next_sync()


def compact(world: Simulation) -> None:
    """Snapshots and compacted logs; sometimes while a member is cut off, which then has to be sent a snapshot."""
    rng = world.rng
    if rng.random() < 0.5:
        victim = rng.choice(list(world.hosts))
        links = {link for id in world.hosts for link in ((id, victim), (victim, id))}
        span = _ticks(world, 5, 25)
        world.happened["lagging member"] += 1
        world.network.cut |= links
        world.scheduler.after(span, world.network.cut.difference_update, links)
        world.scheduler.after(span - 1, _compact_all, world)
    host = _someone(world)
    if host is not None and host.save_snapshot(rng.choice((0, 1, 5))):
        world.happened["compaction"] += 1


def _compact_all(world: Simulation) -> None:
    for host in world.hosts.values():
        if host.up and host.save_snapshot(0):
            world.happened["compaction"] += 1


# -- clocks ---------------------------------------------------------------------------------------------------
def skew(world: Simulation) -> None:
    host = _someone(world)
    if host is not None:
        world.happened["clock skew"] += 1
        host.tick_units = world.rng.choice((TICK // 3, TICK * 2 // 3, TICK * 3 // 2, TICK * 3))


def jump(world: Simulation) -> None:
    """A clock that jumps forward: many ticks at once; sometimes somebody who just decides to campaign."""
    host = _someone(world)
    if host is None:
        return
    world.happened["clock jump"] += 1
    if world.rng.random() < 0.2:
        host.call(host.node.campaign)
        host.work_soon()
        return
    life = host.number_of_lives
    for _ in range(world.rng.randrange(2, 30)):
        if host.number_of_lives == life:
            host.tick()


# -- what operators do ----------------------------------------------------------------------------------------
def transfer(world: Simulation) -> None:
    host = _someone(world)
    voters = world.conf().voters
    if host is None or not voters:
        return
    try:
        host.call(host.node.transfer_leadership, world.rng.choice(voters))
    except TransferRefused:
        world.happened["transfer refused"] += 1
        return
    world.happened["leadership transfer"] += 1
    host.work_soon()


def burst(world: Simulation) -> None:
    """Many proposals at once; half of the time they follow a transfer, during which nothing is taken."""
    host = _someone(world)
    if host is not None:
        world.happened["burst"] += 1
        if world.rng.random() < 0.5:
            transfer(world)
        if host.up:
            world.clients.burst(host, world.rng.randrange(5, 25))


FUNCTIONS: dict[str, Callable[[Simulation], None]] = {
    "loss": loss, "duplicate": duplicate, "reorder": reorder, "delay": delay, "partition": partition,
    "oneway": oneway, "crash": crash, "kill": kill, "slowdisk": slowdisk, "faildisk": faildisk, "pause": pause,
    "skew": skew, "jump": jump, "membership": joining.change, "transfer": transfer, "compact": compact,
    "slowapply": slowapply, "unreachable": unreachable, "burst": burst,
}  # fmt: skip
