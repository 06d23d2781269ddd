"""
Every golden script gives its reviewed answers on every target it names: both engines, a fastkv node, a real etcd.

To write down new answers: pytest tests/scripts --rewrite etcd (or native, python, node), then review the diff.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastkv import engine as protocol
from support.engines import ENGINES, load_engine
from support.fronts import NODES
from support.processes import etcd_binaries
from support.script import Script, Target
from support.targets import LIMITS, EngineTarget, GrpcTarget

FOLDER = Path(__file__).parent
SCRIPTS = [Script(path) for path in sorted(FOLDER.rglob("*.txt"))]


def _cases() -> list[Any]:
    cases = []
    for script in SCRIPTS:
        name = str(script.path.relative_to(FOLDER).with_suffix(""))
        if "engine" in script.places:
            cases += [pytest.param(script, engine, id=f"{name}-{engine}") for engine in ENGINES]
        if "node" in script.places:
            cases += [pytest.param(script, node, id=f"{name}-{node}", marks=pytest.mark.node) for node in NODES]
        if "etcd" in script.places:
            least = script.places["etcd"]
            able = [binary for binary in etcd_binaries() if binary.version >= (*least, 0)]
            cases += [
                pytest.param(script, binary.name, id=f"{name}-{binary.name}", marks=pytest.mark.etcd) for binary in able
            ]
            if not able:
                reason = f"no etcd >= {least[0]}.{least[1]} here: set FASTKV_ETCD37 to a binary"
                cases.append(pytest.param(script, "etcd", id=f"{name}-etcd", marks=pytest.mark.skip(reason=reason)))
    return cases


@pytest.mark.parametrize(("script", "place"), _cases())
def test_golden_script(
    script: Script, place: str, tmp_path: Path, warm_servers: Callable[[str], Any], request: pytest.FixtureRequest
) -> None:
    rewriter = request.config.getoption("--rewrite")
    if rewriter and not place.startswith(rewriter):
        pytest.skip(f"--rewrite {rewriter}")
    target = _target(script, place, tmp_path, warm_servers)
    try:
        answers = script.run(target)
        problems = target.check()
    finally:
        target.close()
    assert problems == []
    if rewriter:
        script.rewrite(answers)
    else:
        difference = script.difference(answers)
        assert not difference, f"{script.path.relative_to(FOLDER)} on {place}:\n{difference}"


def _target(script: Script, place: str, tmp_path: Path, warm_servers: Callable[[str], Any]) -> Target:
    if place in ("native", "python"):
        engine_class = load_engine(place)
        path = tmp_path / "data" if script.needs_directory else None
        return EngineTarget(lambda where: engine_class(where, protocol.Options(**LIMITS)), path)
    return GrpcTarget(warm_servers(place))


def test_there_are_scripts_of_every_kind() -> None:
    """A moved folder must not turn the suite into an empty one."""
    folders = {script.path.parent.name for script in SCRIPTS}
    assert folders >= {"kv", "txn", "lease", "watch", "compaction", "maintenance", "recovery"}
    assert len(SCRIPTS) >= 60
