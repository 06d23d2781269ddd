"""`fastkv check`, `fastkv dump` and the command itself, on sound and damaged directories."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastkv import engine, errors
from fastkv.python import log, recovery
from fastkv.rpc.wire import bytes_field, int_field
from node.harness import DEADLINE_S, environment, run_cli


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A store with puts, a delete, a lease and a compaction, closed."""
    path = tmp_path / "data"
    store = engine.load()(str(path), engine.Options())
    store.commit([(engine.LEASE_GRANT, int_field(1, 60) + int_field(2, 0x1234))])
    store.put(b"a", b"1")
    store.put(b"leased", b"v", 0x1234)
    store.put(b"gone", b"\xff")
    store.delete(b"gone")
    store.commit([(engine.COMPACTION, int_field(1, 3))])
    for number in range(20):
        store.commit([(engine.PUT, bytes_field(1, b"k%d" % number) + bytes_field(2, b"v" * 100))])
    store.close()
    return path


def first_segment(directory: Path) -> Path:
    return min((directory / "log").glob("*.log"))


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_check_of_a_sound_directory_changes_nothing(directory: Path) -> None:
    before = contents(directory)
    ran = run_cli("check", str(directory))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "sound; revision 25" in ran.stdout
    assert contents(directory) == before


def test_check_names_the_damage(directory: Path) -> None:
    segment = first_segment(directory)
    data = bytearray(segment.read_bytes())
    at = data.index(b"leased")
    data[at] ^= 1
    segment.write_bytes(data)
    ran = run_cli("check", str(directory))
    assert ran.returncode == 1
    assert str(segment) in ran.stderr


@pytest.mark.parametrize("command", ["check", "dump"])
def test_what_is_no_directory_of_ours_is_refused(command: str, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    for path in (tmp_path / "foreign", tmp_path / "missing"):
        ran = run_cli(command, str(path))
        assert ran.returncode == 1
        assert len(ran.stderr.splitlines()) == 1 and str(path) in ran.stderr
        assert "Traceback" not in ran.stderr


def test_dump_shows_log_and_keys(directory: Path) -> None:
    ran = run_cli("dump", str(directory))
    assert (ran.returncode, ran.stderr) == (0, "")
    for text in (
        "lease grant 0000000000001234 ttl 60 s",
        'put "leased" = "v" lease 0000000000001234',
        r'put "gone" = "\\xff"',
        'delete "gone"',
        "compact 3",
        "clean close",
        "keys at revision 25, compacted at 3",
        '  "a" = "1"  create 2 mod 2 version 1',
        'lease 0000000000001234 ttl 60 s: "leased"',
    ):
        assert text in ran.stdout, text


def test_dump_prints_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07 \x9b31m \x7f \u202e"
    store = engine.load()(str(tmp_path / "data"))
    store.write_meta(evil.encode())
    store.put(evil.encode(), evil.encode())
    store.close()
    ran = run_cli("dump", str(tmp_path / "data"))
    assert ran.returncode == 0
    assert [character for character in ran.stdout if not character.isprintable() and character != "\n"] == []
    assert ran.stdout.count(r"\u001b]0;owned\u0007 \u009b31m \u007f \u202e") >= 4


def test_dump_goes_on_up_to_the_damage(directory: Path) -> None:
    segment = first_segment(directory)
    data = bytearray(segment.read_bytes())
    at = data.index(b"leased")
    data[at] ^= 1
    segment.write_bytes(data)
    ran = run_cli("dump", str(directory))
    assert ran.returncode == 1
    assert 'put "a" = "1"' in ran.stdout
    assert "damaged or torn" in ran.stdout
    assert "compact 3" not in ran.stdout
    assert "the keys cannot be shown" in ran.stderr


@pytest.fixture
def member(tmp_path: Path) -> Path:
    """A member of a cluster, killed: a change of membership, an entry that is not known to be committed."""
    path = tmp_path / "data"
    store = engine.load()(str(path), engine.Options(replicated=True))
    store.write_meta(b"member 7")
    store.set_membership(b"two members")
    put = bytes(16) + bytes((engine.PUT, 6)) + bytes_field(1, b"a") + bytes_field(2, b"1")
    entries = [(3, 1, 0, b"\x07" + put[1:]), (3, 2, 1, b"add 8"), (4, 3, 2, b""), (4, 4, 0, put)]
    store.log_append(entries, (4, 7, 3))
    left = tmp_path / "left"
    shutil.copytree(path, left)
    store.close()
    return left


def test_check_of_a_member_tells_what_is_not_known_to_be_committed(member: Path) -> None:
    ran = run_cli("check", str(member))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("applied index 3; 1 entries behind it are not known to be committed\n")


@pytest.mark.parametrize("name", ["native", "python"])
def test_an_uncommitted_entry_that_is_no_batch_is_damage(name: str, member: Path) -> None:
    """Whose checksum is right: no fastkv has written it."""
    found = recovery.scan(str(member / "log"))
    damaged = log.Log(str(member / "log"), found.end, found.durable, 4, (1 << 20, 1 << 20), False)
    damaged.append_entry(4, 5, b"short")
    damaged.close()
    with pytest.raises(errors.CorruptError, match=r"entry.*is not a batch"):
        engine.load(name)(str(member), engine.Options(readonly=True))
    assert "is not a batch" in run_cli("check", str(member)).stderr
    assert "5 bytes that are no batch" in run_cli("dump", str(member)).stdout


def test_dump_shows_what_a_member_keeps(member: Path) -> None:
    ran = run_cli("dump", str(member))
    assert (ran.returncode, ran.stderr) == (0, "")
    for text in (
        'meta: "member 7"',
        "checkpoint at index 0, term 0",
        'membership: "two members"',
        "entry: term 3, index 1 batch 0 of 7\n",
        'put "a" = "1"\n',
        'entry: term 3, index 2, change of membership: "add 8"',
        "entry: term 4, index 3, empty",
        "entry: term 4, index 4\n",
        "hard state: term 4, vote 7, commit 3\n",
        "keys at revision 2",
    ):
        assert text in ran.stdout, text
    alone = engine.load()(str(member), engine.Options(replicated=True))
    alone.apply([(3, 2, 1, b"add 8"), (4, 3, 2, b"")], b"two members")
    alone.apply(alone.log_entries(4, 5, 1 << 20))
    alone.set_alone(True)
    alone.close()
    assert "hard state: term 4, vote 7, commit 4, alone" in run_cli("dump", str(member)).stdout


def test_the_command_tells_its_version_and_its_subcommands() -> None:
    assert run_cli("--version").stdout.startswith("fastkv ")
    listed = run_cli("--help").stdout
    assert all(name in listed for name in ("serve", "check", "dump"))
    wrong = run_cli("nope")
    assert wrong.returncode == 2 and "No such command" in wrong.stderr


NO_PORT = ("--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://x:1")


@pytest.mark.parametrize(
    ("missing", "arguments", "advice"),
    [
        ("click", ["--version"], 'pip install "fastkv[cli]"'),
        ("grpc", ["serve", "--front=grpcio", *NO_PORT], "[server"),
        ("h11", ["serve", "--front=native", *NO_PORT], "[server"),
    ],
)
def test_a_missing_library_is_named_with_the_remedy(
    missing: str, arguments: list[str], advice: str, tmp_path: Path
) -> None:
    program = (
        "import sys; sys.modules[sys.argv[1]] = None; sys.argv[:2] = ['fastkv'];"
        "from fastkv.cli.main import main; main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, missing, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=tmp_path,
        timeout=DEADLINE_S,
    )
    assert ran.returncode == 1
    assert advice in ran.stderr
    assert "Traceback" not in ran.stderr
