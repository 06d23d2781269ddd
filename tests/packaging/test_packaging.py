"""
What is handed to users: the source distribution holds everything that is needed to build, the wheel works in an empty
environment, a build that cannot work says what to install, and the version stands in one place.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import fastkv

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the checkout (its objects are cached in build/objects)."""
    directory = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory)
    assert done.returncode == 0, done.stdout[-4000:]
    [path] = directory.glob("*.whl")
    return path


@pytest.mark.timeout(900)
def test_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    assert run(sys.executable, "-m", "venv", environment).returncode == 0
    python = environment / "bin" / "python"
    installed = run(python, "-m", "pip", "install", "--no-index", "--disable-pip-version-check", wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stdout
    done = run(python, "-I", ROOT / "tests" / "smoke" / "smoke.py", cwd=tmp_path, FASTKV_ENGINE="native")
    assert done.returncode == 0, done.stdout
    assert f"fastkv {fastkv.__version__}" in done.stdout


def test_wheel_holds_types_and_the_engine_but_no_sources(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"fastkv/py.typed", "fastkv/_core.pyi", "fastkv/python/engine.py"} <= set(names)
    assert [name for name in names if name.startswith("fastkv/_core.") and name.endswith(".so")]
    assert [name for name in names if name.endswith((".pyx", ".pxd", ".cc", ".cpp", ".h", ".o"))] == []


def test_wheel_asks_for_nothing_at_run_time(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    required = [line for line in archive.read(name).decode().splitlines() if line.startswith("Requires-Dist:")]
    assert required and all("extra ==" in line for line in required), required


def test_source_distribution_holds_all_sources(tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
    [path] = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        str(file.relative_to(ROOT))
        for folder in ("cpp", "src")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in {".cc", ".h", ".txt", ".json", ".pyx", ".pxd", ".pyi", ".py", ".proto"}
        and ".egg-info" not in str(file)
    }
    assert wanted | {"pyproject.toml", "setup.py", "LICENSE", "README.md"} <= packed


def test_unknown_sanitizer_is_refused() -> None:
    done = run(sys.executable, "setup.py", "build_ext", FASTKV_SANITIZE="memory")
    assert done.returncode != 0
    assert "it is address or thread" in done.stdout


def test_import_loads_no_server_library() -> None:
    code = (
        "import fastkv, sys; print(*sorted({'google', 'grpc', 'asyncio', 'ssl', '_ssl', 'msgpack'} & set(sys.modules)))"
    )
    done = run(sys.executable, "-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout
