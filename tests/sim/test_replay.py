"""A seed is a run: the same again, whatever ran before it; and a failure says how."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from sim.options import FAULTS, draw
from sim.run import KINDS, parse_faults, replay, run
from sim.violation import Violation


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_run(kind: str) -> None:
    first = run(11, kind)
    run(12, kind)
    again = run(11, kind)
    assert (first.trace_hash, first.happened, first.scheduler.calls) == (
        again.trace_hash,
        again.happened,
        again.scheduler.calls,
    )
    assert run(13, kind).trace_hash != first.trace_hash


def test_another_process_and_other_string_hashes_give_the_same_run() -> None:
    expected = run(11).trace_hash
    code = "from sim.run import run; print(run(11).trace_hash)"
    for string_hashes in "1", "2":
        environment = os.environ | {"PYTHONHASHSEED": string_hashes, "PYTHONPATH": os.pathsep.join(sys.path)}
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert int(found.stdout) == expected


def test_the_printed_faults_give_the_same_run_as_the_seed_alone() -> None:
    world = run(11)
    assert run(11, faults=world.options.faults).trace_hash == world.trace_hash


def test_a_failure_says_how_to_replay_it() -> None:
    for seed in range(20):
        try:
            run(seed, canary="uncommitted-applied")
        except Violation as violation:
            assert len(violation.__notes__) == 1
            note = violation.__notes__[0]
            assert note.startswith(f"replay: make sim SEED={seed} KIND=model FAULTS=")
            assert note.endswith(" CANARY=uncommitted-applied")
            return
    pytest.fail("the canary was not caught")


def _command(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "sim", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_command_replays_one_run() -> None:
    right = _command("SEED=11", "FAULTS=partition,crash", "KIND=", "TRACE=1")
    assert right.returncode == 0 and replay(11, "model", ("partition", "crash")) in right.stdout
    assert "<- APPEND " in right.stdout and "fault: partition" in right.stdout
    wrong = _command("SEED=0", "CANARY=uncommitted-applied")
    assert wrong.returncode == 1 and wrong.stdout.startswith("state_machine_safety: ")
    assert wrong.stdout.count("\n") == 1 and "    replay: make sim SEED=0 " in wrong.stdout


def test_the_command_runs_random_seeds_for_a_while() -> None:
    done = _command("SECONDS=1")
    assert done.returncode == 0 and "no failure" in done.stdout


@pytest.mark.parametrize("word", ["FAULTS=crash,gremlins", "KIND=odd", "CANARY=tweety", "SEED=x", "SPEED=9"])
def test_the_command_refuses_what_it_does_not_know(word: str) -> None:
    done = _command(word)
    assert done.returncode == 2 and done.stderr.startswith("sim: ")


def test_faults_are_parsed() -> None:
    assert parse_faults("") is None
    assert parse_faults("none") == ()
    assert parse_faults("crash,loss") == ("crash", "loss")
    with pytest.raises(ValueError, match="gremlins"):
        parse_faults("gremlins")


def test_options_that_are_not_there_are_a_mistake() -> None:
    assert set(draw(random.Random(1)).faults) <= set(FAULTS)
    with pytest.raises(TypeError):
        draw(random.Random(1), gremlins=3)
