"""
Hundreds of calls on a real etcd 3.7 and on a fastkv node of the same ids: status, text and bytes are equal.

What differs on purpose has a handle in its row of docs/compat.md, and the step that shows it names the handle. A row
whose difference nobody sees any more fails the test as a difference without a row does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random, SystemRandom

import pytest

from differential.calls import DISARMED, FULL, SUBJECTS, ask, get, put
from differential.commands import STORIES
from differential.generated import Generated
from support.fronts import FRONTS
from support.processes import etcd_binaries
from support.protos import rpc
from support.twins import Step, Twins, compat_handles, revision_of

SEED = int(os.environ.get("FASTKV_SEED") or SystemRandom().randrange(1 << 32))
CALLS = int(os.environ.get("FASTKV_REQUESTS") or 400)
MODERN = [binary for binary in etcd_binaries() if binary.version >= (3, 7, 0)]
pytestmark = [
    pytest.mark.etcd,
    pytest.mark.node,
    pytest.mark.skipif(not MODERN, reason="no etcd >= 3.7 here: set FASTKV_ETCD37 to a binary"),
]


@pytest.fixture
def twins(tmp_path: Path) -> Iterator[Callable[[str], Twins]]:
    """twins(front, *flags): an etcd and a node, both empty."""
    made: list[Twins] = []

    def make(front: str, *flags: str) -> Twins:
        etcdctl = MODERN[0].tool("etcdctl")
        assert etcdctl is not None, f"no etcdctl beside {MODERN[0].path}"
        made.append(Twins(MODERN[0], etcdctl, tmp_path, flags, front))
        return made[-1]

    yield make
    for pair in made:
        pair.close()


def differences(steps: list[Step], pair: Twins) -> list[str]:
    return [difference for step in steps if (difference := pair.step(step))]


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_calls_are_answered_alike(subject: str, front: str, twins: Callable[[str], Twins]) -> None:
    found = differences(SUBJECTS[subject], twins(front))
    assert not found, "\n\n".join(found)


@pytest.mark.parametrize("story", STORIES)
def test_commands_print_alike(story: str, twins: Callable[[str], Twins]) -> None:
    found = differences(STORIES[story], twins(FRONTS[0]))
    assert not found, "\n\n".join(found)


@pytest.mark.parametrize("front", FRONTS)
def test_a_quota_that_is_full_refuses_alike(front: str, twins: Callable[..., Twins]) -> None:
    """Goal: the same goes on and the same is refused. Method: each is filled until it refuses."""
    pair = twins(front, "--quota-backend-bytes=1000000")
    full = put(b"fill", bytes(30_000))
    for side in (pair.ours, pair.etcd):
        for _ in range(3000):  # etcd sees its size grow ten times a second
            if (answer := side.run(full)).code:
                break
        assert answer[:2] == (8, "etcdserver: mvcc: database space exceeded")
    # The revisions are no more the same; what is refused, and with which words, is.
    assert [pair.ours.run(step)[:2] for step in FULL] == [pair.etcd.run(step)[:2] for step in FULL]
    for side in (pair.ours, pair.etcd):
        revision = revision_of(side.run(get(b"fill")).output[0])
        side.run(ask("Compact", rpc.CompactionRequest(revision=revision, physical=True)))
    disarmed = [pair.ours.run(step)[:2] for step in DISARMED]
    assert disarmed == [pair.etcd.run(step)[:2] for step in DISARMED]
    assert disarmed[-1] == (0, "")


@pytest.mark.random
@pytest.mark.parametrize("front", FRONTS)
def test_random_calls_are_answered_alike(front: str, twins: Callable[[str], Twins]) -> None:
    """Goal: no difference in any answer. Method: one random session, call by call."""
    pair, generated = twins(front), Generated(Random(SEED))
    for number in range(CALLS):
        difference = pair.step(generated.next(pair.revision))
        assert not difference, (
            f"call {number} on {front}:\n{difference}\n"
            f"replay: FASTKV_SEED={SEED} FASTKV_REQUESTS={CALLS} pytest {__file__} -k random"
        )


def test_every_handle_of_the_compatibility_page_has_a_step_that_shows_it() -> None:
    steps = [step for table in (SUBJECTS, STORIES) for steps in table.values() for step in steps]
    assert {step.differs for step in steps if step.differs} == compat_handles()
