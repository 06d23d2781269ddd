"""The benchmark measures and verifies: a small run of the real program, and its verdicts on made-up numbers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCH))
    spec = importlib.util.spec_from_file_location("bench_embedded", BENCH / "embedded.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_small_run_measures_every_group_and_draws_a_plot(tmp_path: Path) -> None:
    output, plot = tmp_path / "out.json", tmp_path / "out.svg"
    command = [sys.executable, str(BENCH / "embedded.py"), "--keys", "1000", "--durable-ops", "20", "--rounds", "1"]
    command += [
        "--only",
        "fastkv,python,sqlite3,dict",
        "--json",
        str(output),
        "--svg",
        str(plot),
        "--dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())["medians"]
    everything = {"get", "scan100", "scan", "batch", "put", "durable", "threads4", "threads8", "memory", "open"}
    assert set(found["fastkv"]) == set(found["python"]) == set(found["sqlite3"]) == everything
    assert set(found["dict"]) == {"get", "scan", "batch", "put", "memory"}
    assert "get >= 10x python" in done.stdout
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.svg"]


def test_a_missed_target_is_called_a_miss(embedded) -> None:
    found = {"fastkv": {"get": 199.0, "memory": 251e6, "open": 0.4}, "lmdb": {"get": 100.0}}
    verdicts = embedded.targets(found, keys=1_000_000)
    assert verdicts == [
        "MISS  get >= 2x lmdb: 1.99x",
        "MISS  memory <= 250 MB for 1,000,000 keys: 251 MB",
        "hit   open <= 0.500 s for 1,000,000 keys: 0.400 s",
    ]


@pytest.mark.parametrize(
    ("threads", "writes", "honest"), [(1, 3, False), (1, 100, True), (4, 20, False), (4, 25, True)]
)
def test_durable_puts_that_never_reached_the_device_are_called_out(embedded, threads, writes, honest) -> None:
    use = {"threads": threads, "puts": 100, "writes": writes, "flushes": writes, "process_bytes": 0}
    [line] = embedded.device_report([{"store": "fastkv", "device": [use]}], ["fastkv"])
    assert ("NOT durable" in line) is not honest
