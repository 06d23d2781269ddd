"""The README tells the truth: its Python example runs as it stands, and its links and make targets exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs_as_it_stands(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[number], f"README example {number}", "exec"), {})
    assert (tmp_path / "data" / "FASTKV").exists()


def test_there_is_an_example() -> None:
    assert EXAMPLES


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets and [target for target in targets if not (ROOT / target).exists()] == []


def test_make_targets_that_documents_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set()
    for document in ("README.md", "CONTRIBUTING.md"):
        for line in re.findall(r"^ {4}make ([a-z][a-z ]*)|`make ([a-z]+)", (ROOT / document).read_text(), re.MULTILINE):
            named |= set(" ".join(line).split())
    assert named and [name for name in named if f"\n{name}:" not in makefile] == []
