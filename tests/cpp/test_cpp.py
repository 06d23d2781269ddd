"""
The core's own tests, without Python: every GoogleTest program, and every fuzz target for a few seconds.

Built here by CMake (cpp/CMakePresets.json) into build/cpp, so that a plain `pytest` runs them too. What is missing on
the machine is named in the skip; in CI it is a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CPP = ROOT / "cpp"
FUZZ_SECONDS = int(os.environ.get("FASTKV_FUZZ_SECONDS", "4"))

TESTS = sorted(path.stem for path in (CPP / "tests").glob("*_test.cc"))
FUZZ_TARGETS = sorted(path.stem for path in (CPP / "fuzz").glob("*_fuzz.cc"))


def run(command: list[str], timeout_s: float, cwd: Path = ROOT) -> str:
    """The command's output; a failed command fails the test with it."""
    done = subprocess.run(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        errors="replace",
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)} ended with status {done.returncode}\n{done.stdout[-6000:]}", pytrace=False)
    return done.stdout


def build(preset: str, programs: tuple[str, ...]) -> Path:
    """Configure and build one preset; returns the directory with its programs."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        message = f"{', '.join(missing)} not installed: tools/system.sh test"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    run(["cmake", "--preset", preset], timeout_s=60, cwd=CPP)
    jobs = os.environ.get("FASTKV_JOBS", str(os.cpu_count() or 1))
    run(["cmake", "--build", f"build/cpp/{preset}", "-j", jobs], timeout_s=900)
    return ROOT / "build" / "cpp" / preset


def program(directory: Path, name: str) -> str:
    """The built program; those of the front end are left out where its libraries are missing."""
    path = directory / name
    if not path.exists() and name.startswith(("front_", "grpc_")):
        message = "built without the native front end: nghttp2, asio or OpenSSL is missing (tools/system.sh build)"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return str(path)


@pytest.fixture(scope="session")
def test_programs() -> Path:
    return build("tests", ("cmake", "make"))


@pytest.fixture(scope="session")
def fuzz_programs() -> Path:
    return build("fuzz", ("cmake", "make", "clang++"))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", TESTS)
def test_core_unit_tests_pass(name: str, test_programs: Path) -> None:
    output = run([program(test_programs, name), "--gtest_brief=1"], timeout_s=240)
    assert "[  PASSED  ]" in output and "[  PASSED  ] 0 tests" not in output, output


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", FUZZ_TARGETS)
def test_decoder_survives_hostile_bytes(name: str, fuzz_programs: Path, tmp_path: Path) -> None:
    """A few seconds from scratch under AddressSanitizer: no crash, no leak, no hang. `make fuzz SECONDS=...` for
    longer.
    """
    flags = [f"-max_total_time={FUZZ_SECONDS}", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]
    output = run([program(fuzz_programs, name), *flags, f"-artifact_prefix={tmp_path}/"], timeout_s=60 + FUZZ_SECONDS)
    executed = next(line for line in output.splitlines() if "number_of_executed_units" in line)
    assert int(executed.split()[-1]) > 100, output
