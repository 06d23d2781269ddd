"""The examples in the docstring of the package run as they stand, on every engine."""

from __future__ import annotations

import doctest

import pytest

import fastkv


def test_the_examples_of_the_package_docstring(engine_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTKV_ENGINE", engine_name)
    outcome = doctest.testmod(fastkv, optionflags=doctest.ELLIPSIS)
    assert outcome.attempted > 15 and outcome.failed == 0
