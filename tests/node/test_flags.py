"""Flags, environment and their refusals: texts and exit codes are those of etcd 3.7.3."""

from __future__ import annotations

import json

import pytest

from fastkv.cli.serve import go_dialect
from fastkv.server.config import Config, ConfigError, UsageError, from_command_line
from fastkv.server.flags import FLAGS, GROUPS, parse_bool, parse_duration_s, parse_int, parse_urls, parse_value
from fastkv.server.gates import parse_gates
from node.harness import environment, run_cli

INVALID_GATE = 'invalid value "%s" for flag -feature-gates: %s'
NO_PAIR = "TLS key/cert (--cert-file, --key-file) must be provided for"
INVALID_URL = 'invalid value "%s" for flag -listen-client-urls: '


def config(**flags: str) -> Config:
    return from_command_line({name.replace("_", "-"): text for name, text in flags.items()}, {})


def refusal(**flags: str) -> str:
    with pytest.raises((ConfigError, UsageError)) as caught:
        config(**flags)
    return str(caught.value)


def test_defaults_are_etcds() -> None:
    made = config()
    assert (made.name, made.data_dir) == ("default", "default.etcd")
    assert made.listen_client_urls == made.advertise_client_urls == ("http://localhost:2379",)
    assert made.initial_cluster == "default=http://localhost:2380"
    assert (made.max_txn_ops, made.max_request_bytes, made.receive_bytes_max) == (128, 1_572_864, 2_097_152)
    assert (made.quota_bytes, made.lease_ttl_min_s, made.progress_interval_s) == (2 << 30, 2, 600.0)
    assert made.fsync and made.notes == ()


def test_the_name_goes_into_directory_and_cluster() -> None:
    made = config(name="n", initial_advertise_peer_urls="http://127.0.0.1:1")
    assert (made.data_dir, made.initial_cluster) == ("n.etcd", "n=http://127.0.0.1:1")


def test_every_default_can_be_read() -> None:
    for flag in FLAGS.values():
        parse_value(flag, flag.default)
    assert sum(map(len, GROUPS.values())) == len(FLAGS), "a flag stands in two groups"


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"nope": "1"}, "flag provided but not defined: -nope"),
        ({"quota_backend_bytes": "x"}, 'invalid value "x" for flag -quota-backend-bytes: parse error'),
        ({"max_txn_ops": "-1"}, 'invalid value "-1" for flag -max-txn-ops: parse error'),
        (
            {"strict_reconfig_check": "foo"},
            'invalid boolean value "foo" for -strict-reconfig-check: parse error',
        ),
        (
            {"initial_cluster_state": "foo"},
            'invalid value "foo" for flag -initial-cluster-state: invalid value',
        ),
        (
            {"listen_client_urls": "ftp://x:1"},
            INVALID_URL % "ftp://x:1" + "URL scheme must be http, https, unix, or unixs: ftp://x:1",
        ),
        (
            {"listen_client_urls": "http://127.0.0.1"},
            INVALID_URL % "http://127.0.0.1" + 'URL address does not have the form "host:port": http://127.0.0.1',
        ),
        (
            {"listen_client_urls": "http://127.0.0.1:1"},
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            {"listen_client_urls": "http://example.com:1", "advertise_client_urls": "http://x:1"},
            "expected IP in URL for binding (http://example.com:1)",
        ),
        (
            {"election_timeout": "200"},
            "--election-timeout[200ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (
            {"election_timeout": "60000"},
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        ({"heartbeat_interval": "0"}, "--heartbeat-interval must be >0 (set to 0ms)"),
        ({"log_format": "foo"}, "unknown log format: foo, supported values json, console"),
        ({"auto_compaction_mode": "x"}, 'unknown auto-compaction-mode "x"'),
        (
            {"v2_deprecation": "not-yet"},
            'invalid value "not-yet" for flag -v2-deprecation: invalid value "not-yet"',
        ),
        ({"auto_compaction_mode": ""}, "undefined auto-compaction-mode"),
        ({"auto_compaction_retention": "-1h"}, "--auto-compaction-retention must not be negative (set to -1h)"),
        ({"compact_hash_check_time": "0s"}, "--compact-hash-check-time must be >0 (set to 0s)"),
        ({"compact_hash_check_time": "-90s"}, "--compact-hash-check-time must be >0 (set to -1m30s)"),
        ({"corrupt_check_time": "-1s"}, "--corrupt-check-time must not be negative (set to -1s)"),
        ({"cert_file": "x"}, "KeyFile and CertFile must both be present[key: , cert: x]"),
        (
            {"listen_client_urls": "https://127.0.0.1:1", "advertise_client_urls": "https://127.0.0.1:1"},
            f"{NO_PAIR} client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (
            {"feature_gates": "Nope=true"},
            'invalid value "Nope=true" for flag -feature-gates: unrecognized feature gate: Nope',
        ),
        (
            {"feature_gates": "CompactHashCheck"},
            'invalid value "CompactHashCheck" for flag -feature-gates: missing bool value for CompactHashCheck',
        ),
        (
            {"feature_gates": "CompactHashCheck=maybe"},
            INVALID_GATE % ("CompactHashCheck=maybe", "invalid value of CompactHashCheck=maybe, ")
            + 'err: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
        ({"key_file": "x"}, "KeyFile and CertFile must both be present[key: x, cert: ]"),
        ({"tls_min_version": "TLS1.1"}, 'unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)'),
        (
            {"tls_min_version": "TLS1.3", "tls_max_version": "TLS1.2"},
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            {"tls_min_version": "TLS1.3", "cipher_suites": "TLS_RSA_WITH_AES_128_CBC_SHA"},
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        ({"cipher_suites": "FOO"}, 'unexpected TLS cipher suite "FOO"'),
        ({"cipher_suites": ""}, 'unexpected TLS cipher suite ""'),
        (
            {"auto_tls": "true", "self_signed_cert_validity": "0"},
            "selfSignedCertValidity is invalid,it should be greater than 0",
        ),
        (
            {"peer_cert_allowed_cn": "a", "peer_cert_allowed_hostname": "b"},
            "AllowedCN and AllowedHostname are mutually exclusive (cns=['a'], hostnames=['b'])",
        ),
        ({"client_cert_allowed_cn": "a"}, "flag provided but not defined: -client-cert-allowed-cn"),
        (
            {"feature_gates": "LeaseCheckpointPersist=true"},
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
    ],
)
def test_refusals(flags: dict[str, str], text: str) -> None:
    assert refusal(**flags) == text


def test_what_has_no_effect_is_accepted_and_noted() -> None:
    made = config(
        max_wals="7", heartbeat_interval="50", raft_read_timeout="1s", experimental_initial_corrupt_check="true"
    )
    noted = [name for _, fields in made.notes for field, name in fields.items() if field != "reason"]
    assert noted == ["max-wals", "raft-read-timeout", "InitialCorruptCheck"]
    assert config(experimental_watch_progress_notify_interval="5s").progress_interval_s == 5.0
    assert config(vv="1").notes == (("deprecated flag is ignored", {"flag": "vv"}),)


def test_cluster_flags_are_taken() -> None:
    made = config(
        name="b", initial_cluster="a=http://127.0.0.1:1,b=http://127.0.0.1:3,b=http://127.0.0.1:2",
        initial_cluster_state="existing", heartbeat_interval="50", election_timeout="600", snapshot_count="7",
        snapshot_catchup_entries="3", pre_vote="false", strict_reconfig_check="false", max_learners="4",
        initial_election_tick_advance="false", force_new_cluster="true",
    )  # fmt: skip
    assert made.initial_members == {"a": ("http://127.0.0.1:1",), "b": ("http://127.0.0.1:2", "http://127.0.0.1:3")}
    assert (made.initial_cluster_state, made.heartbeat_interval_ms, made.election_ticks) == ("existing", 50, 12)
    assert (made.snapshot_count, made.snapshot_catchup_entries, made.max_learners) == (7, 3, 4)
    assert not (made.pre_vote or made.strict_reconfig_check or made.hurry_first_election) and made.force_new_cluster


def test_the_environment_counts_unless_the_flag_is_given_too() -> None:
    variables = {"ETCD_NAME": "x", "ETCD_MAX_TXN_OPS": "5", "PATH": "/", "ETCD_SERVICE_HOST": "h"}
    made = from_command_line({}, variables)
    assert (made.name, made.max_txn_ops) == ("x", 5)
    unknown = ("unrecognized environment variable", {"environment-variable": "ETCD_SERVICE_HOST=h"})
    assert made.notes == (unknown,)
    with pytest.raises(ConfigError) as caught:
        from_command_line({"name": "x"}, variables)
    assert str(caught.value) == (
        "conflicting environment variable is shadowed by corresponding command-line flag "
        "(either unset environment variable or disable flag))"
    )
    assert (caught.value.level, caught.value.fields) == ("fatal", {"environment-variable": "ETCD_NAME"})
    with pytest.raises(ConfigError, match='invalid value "abc" for ETCD_MAX_TXN_OPS: parse error'):
        from_command_line({}, {"ETCD_MAX_TXN_OPS": "abc"})


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["-name", "n"], ["--name=n"]),
        (["--name", "-n"], ["--name=-n"]),
        (["--unsafe-no-fsync", "--name=n"], ["--unsafe-no-fsync=true", "--name=n"]),
        (["-pre-vote=false"], ["--pre-vote=false"]),
        (["--pre-vote", "false"], ["--pre-vote=true", "false"]),
        (["-h"], ["--help"]),
        (["word", "--name=n"], ["word", "--name=n"]),
        (["--quota-backend-bytes", "-1"], ["--quota-backend-bytes=-1"]),
        (["--name"], ["--name"]),
    ],
)
def test_gos_dialect(given: list[str], read: list[str]) -> None:
    assert go_dialect(given) == read


def test_values_as_go_reads_them() -> None:
    assert [parse_bool(word) for word in ("1", "T", "true", "0", "f", "FALSE")] == [True] * 3 + [False] * 3
    assert parse_duration_s("1h1m1.5s") == 3661.5
    assert parse_duration_s("-100ms") == -0.1
    assert parse_duration_s("0") == 0.0
    assert parse_int("-5", -10, 10) == -5
    assert parse_urls("http://127.0.0.1:2,http://127.0.0.1:1") == ("http://127.0.0.1:1", "http://127.0.0.1:2")
    assert parse_urls("http://[::1]:2,unix:///a/b") == ("http://[::1]:2", "unix:///a/b")
    for parse, text in (
        (parse_bool, "yes"),
        (parse_duration_s, "5"),
        (parse_duration_s, "5s3"),
        (parse_duration_s, ""),
        (parse_urls, "http://a:1/path"),
        (parse_urls, "http://a:99999"),
    ):
        with pytest.raises(ValueError):
            parse(text)
    with pytest.raises(ValueError, match="value out of range"):
        parse_int("11", -10, 10)


def test_exit_codes_and_where_it_is_said() -> None:
    undefined = run_cli("serve", "--nope")
    assert undefined.returncode == 2
    assert undefined.stderr.startswith("flag provided but not defined: -nope\nUsage:")
    needs = run_cli("serve", "--name")
    assert (needs.returncode, needs.stderr.splitlines()[0]) == (2, "flag needs an argument: -name")
    word = run_cli("serve", "foo")
    line = json.loads(word.stderr)
    assert word.returncode == 1
    assert (line["level"], line["msg"], line["error"]) == (
        "warn",
        "failed to verify flags",
        '"foo" is not a valid flag',
    )
    conflict = run_cli("serve", "--name=x", ETCD_NAME="x")
    assert (conflict.returncode, json.loads(conflict.stderr)["level"]) == (1, "fatal")


def test_version_has_four_lines_and_help_names_every_flag() -> None:
    version = run_cli("serve", "--version")
    lines = version.stdout.splitlines()
    assert version.returncode == 0
    assert [line.split(":")[0] for line in lines] == ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch"]
    assert lines[0].startswith("etcd Version: 3.7.")
    shown = run_cli("serve", "--help")
    assert shown.returncode == 0
    assert all(f"--{name} " in shown.stdout for name in FLAGS)
    assert environment(ETCD_X="1")["ETCD_X"] == "1"


@pytest.mark.parametrize(
    ("mode", "retention", "period_s", "revisions"),
    [
        ("periodic", "0", 0, 0),
        ("periodic", "", 0, 0),
        ("periodic", "24", 24 * 3600, 0),
        ("periodic", "10m", 600, 0),
        ("periodic", "1h30m", 5400, 0),
        ("revision", "1000", 0, 1000),
        ("revision", "2us", 0, 2000),  # a duration, of which etcd takes the nanoseconds
    ],
)
def test_retention_is_read_as_etcd_reads_it(mode: str, retention: str, period_s: float, revisions: int) -> None:
    made = config(auto_compaction_mode=mode, auto_compaction_retention=retention)
    assert (made.compaction_period_s, made.compaction_revisions) == (period_s, revisions)


@pytest.mark.parametrize(
    ("retention", "reason"),
    [
        ("abc", 'time: invalid duration "abc"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("1.5", 'time: missing unit in duration "1.5"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
    ],
)
def test_a_retention_that_is_none_is_fatal(retention: str, reason: str) -> None:
    with pytest.raises(ConfigError, match="discovery failed") as caught:
        config(auto_compaction_retention=retention)
    assert caught.value.level == "fatal"
    assert caught.value.fields == {"error": f"error parsing CompactionRetention: {reason}"}


def test_gates_by_stage_by_name_and_by_their_old_flags() -> None:
    assert parse_gates("")["FastLeaseKeepAlive"] and not parse_gates("")["CompactHashCheck"]
    by_stage = parse_gates("AllAlpha=true,LeaseCheckpoint=false,FastLeaseKeepAlive=false")
    assert by_stage["CompactHashCheck"] and not by_stage["LeaseCheckpoint"] and not by_stage["FastLeaseKeepAlive"]
    assert config(feature_gates="AllAlpha=true").lease_checkpoints and not config().lease_checkpoints
    made = config(experimental_compact_hash_check_enabled="true", feature_gates="StopGRPCServiceOnDefrag=true")
    assert [fields["gate"] for _, fields in made.notes] == ["CompactHashCheck", "StopGRPCServiceOnDefrag"]
