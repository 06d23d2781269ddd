"""
Hundreds of calls on a real etcd 3.7 and on a fastkv node of the same ids: status, text and bytes are equal.

What differs on purpose has a handle in its row of docs/compat.md, and the step that shows it names the handle. A row
whose difference nobody sees any more fails the test as a difference without a row does.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from differential.calls import SUBJECTS
from differential.commands import STORIES
from support.fronts import FRONTS
from support.processes import etcd_binaries
from support.twins import Step, Twins, compat_handles

MODERN = [binary for binary in etcd_binaries() if binary.version >= (3, 7, 0)]
pytestmark = [
    pytest.mark.etcd,
    pytest.mark.node,
    pytest.mark.skipif(not MODERN, reason="no etcd >= 3.7 here: set FASTKV_ETCD37 to a binary"),
]


def differences(steps: list[Step], directory: Path, front: str) -> list[str]:
    etcdctl = MODERN[0].tool("etcdctl")
    assert etcdctl is not None, f"no etcdctl beside {MODERN[0].path}"
    twins = Twins(MODERN[0], etcdctl, directory, front=front)
    try:
        return [difference for step in steps if (difference := twins.step(step))]
    finally:
        twins.close()


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_calls_are_answered_alike(subject: str, front: str, tmp_path: Path) -> None:
    found = differences(SUBJECTS[subject], tmp_path, front)
    assert not found, "\n\n".join(found)


@pytest.mark.parametrize("story", STORIES)
def test_commands_print_alike(story: str, tmp_path: Path) -> None:
    found = differences(STORIES[story], tmp_path, FRONTS[0])
    assert not found, "\n\n".join(found)


def test_every_handle_of_the_compatibility_page_has_a_step_that_shows_it() -> None:
    steps = [step for table in (SUBJECTS, STORIES) for steps in table.values() for step in steps]
    assert {step.differs for step in steps if step.differs} == compat_handles()
