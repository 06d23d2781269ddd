"""
From flags and environment to a Config that a node can be started with.

Owns the meaning of the flags: which go together, what is refused and with which text (etcd 3.7.3's, where etcd has
one).

Invariants:
* A Config is checked: whoever holds one need not look again.
* Nothing here touches a disk or a socket.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import NamedTuple

from fastkv.server import tls_config
from fastkv.server.flags import FLAGS, LEGACY, Value, go_duration_s, parse_value, split_url
from fastkv.server.gates import BY_OLD_FLAG, GATES, contradiction, parse_gates
from fastkv.server.log import go_duration
from fastkv.server.tls_config import TlsConfig

ELECTION_TIMEOUT_MAX_MS = 50_000
QUOTA_DEFAULT_BYTES = 2 << 30
PROGRESS_INTERVAL_MIN_S = 0.1
IO_THREADS_MAX = 64
LOG_LEVELS = ("debug", "info", "warn", "error", "dpanic", "panic", "fatal")
SHADOWED = (
    "conflicting environment variable is shadowed by corresponding command-line flag "
    "(either unset environment variable or disable flag))"
)


CHECKPOINTS_WITHOUT_PERSISTENCE = (
    "Detected that checkpointing is enabled without persistence. Consider enabling feature gate LeaseCheckpointPersist"
)


class UsageError(Exception):
    """A flag that cannot be read: one line and the usage on stderr, exit code 2."""


class ConfigError(Exception):
    """Flags that do not make a node: a log line, exit code 1. `fields` go into it."""

    def __init__(self, message: str, level: str = "warn", **fields: object) -> None:
        super().__init__(message)
        self.level = level
        self.fields = fields


class Config(NamedTuple):
    """What a node is started with. Units are in the names; a limit of 0 is none."""

    name: str
    data_dir: str
    listen_client_urls: tuple[str, ...]
    advertise_client_urls: tuple[str, ...]
    peer_urls: tuple[str, ...]
    listen_peer_urls: tuple[str, ...]
    initial_cluster: str
    initial_cluster_state: str
    initial_cluster_token: str
    force_new_cluster: bool
    strict_reconfig_check: bool
    max_learners: int
    pre_vote: bool
    hurry_first_election: bool
    heartbeat_interval_ms: int
    election_timeout_ms: int
    snapshot_count: int
    snapshot_catchup_entries: int
    quota_bytes: int
    max_txn_ops: int
    max_request_bytes: int
    max_concurrent_streams: int
    keepalive_min_time_s: float
    keepalive_interval_s: float
    keepalive_timeout_s: float
    reuse_port: bool
    compaction_batch_limit: int
    compaction_sleep_s: float
    lease_checkpoints: bool
    compaction_period_s: float  # automatic compaction: at most one of the two
    compaction_revisions: int
    progress_interval_s: float
    warning_request_s: float
    warning_apply_s: float
    fsync: bool
    front: str
    io_threads: int
    log_level: str
    log_format: str
    log_outputs: tuple[str, ...]
    listen_client_http_urls: tuple[str, ...]
    listen_metrics_urls: tuple[str, ...]
    client_tls: TlsConfig
    peer_tls: TlsConfig
    notes: tuple[tuple[str, dict[str, object]], ...]  # warnings to log once the log is open

    @property
    def election_timeout_s(self) -> float:
        return self.election_timeout_ms / 1000

    @property
    def election_ticks(self) -> int:
        return self.election_timeout_ms // self.heartbeat_interval_ms

    @property
    def initial_members(self) -> dict[str, tuple[str, ...]]:
        """Name -> peer URLs."""
        return parse_cluster(self.initial_cluster)

    @property
    def lease_ttl_min_s(self) -> int:
        return -(-3 * self.election_timeout_ms // 2000)

    @property
    def receive_bytes_max(self) -> int:
        return self.max_request_bytes + (512 << 10)


def from_command_line(given: Mapping[str, str], environment: Mapping[str, str]) -> Config:
    """The Config that flags (name -> text, without dashes) and ETCD_* variables ask for; UsageError or ConfigError."""
    notes: list[tuple[str, dict[str, object]]] = []
    texts = _current_names(given, notes)
    values: dict[str, Value] = {}
    for name, text in texts.items():
        try:
            values[name] = parse_value(FLAGS[name], text)
        except ValueError as reason:
            if FLAGS[name].kind == "bool":
                raise UsageError(f'invalid boolean value "{text}" for -{name}: {reason}') from None
            raise UsageError(f'invalid value "{text}" for flag -{name}: {reason}') from None
    _add_environment(values, texts, environment, notes)
    _refuse_absent(values, notes)
    return _check(values, notes)


def _current_names(given: Mapping[str, str], notes: list[tuple[str, dict[str, object]]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    old_gates: list[str] = []
    for name, text in given.items():
        plain = name.removeprefix("experimental-")
        if name in FLAGS:
            texts[name] = text
        elif name in LEGACY:
            notes.append(("deprecated flag is ignored", {"flag": name}))
        elif name in BY_OLD_FLAG:
            old_gates.append(f"{BY_OLD_FLAG[name]}={text}")
        elif name != plain and plain in FLAGS:
            notes.append(("--experimental flags were removed in v3.7; use the flag without the prefix", {"flag": name}))
            texts[plain] = text
        else:
            raise UsageError(f"flag provided but not defined: -{name}")
    if old_gates:
        texts["feature-gates"] = ",".join(filter(None, (*old_gates, texts.get("feature-gates"))))
    return texts


def _add_environment(
    values: dict[str, Value],
    texts: Mapping[str, str],
    environment: Mapping[str, str],
    notes: list[tuple[str, dict[str, object]]],
) -> None:
    by_variable = {flag.environment: flag for flag in FLAGS.values()}
    for variable, text in sorted(environment.items()):
        if not variable.startswith("ETCD_"):
            continue
        flag = by_variable.get(variable)
        if flag is None:
            notes.append(("unrecognized environment variable", {"environment-variable": f"{variable}={text}"}))
        elif flag.name in texts:
            raise ConfigError(SHADOWED, "fatal", **{"environment-variable": variable})
        elif text:
            try:
                values[flag.name] = parse_value(flag, text)
            except ValueError as reason:
                raise ConfigError(f'invalid value "{text}" for {variable}: {reason}') from None


def _refuse_absent(values: Mapping[str, Value], notes: list[tuple[str, dict[str, object]]]) -> None:
    for name, value in values.items():
        flag = FLAGS[name]
        if value == parse_value(flag, flag.default):
            continue
        if flag.absent:
            raise ConfigError(f"--{name}: fastkv does not have {flag.absent} yet; start it without this flag")
        if flag.note:
            notes.append(("flag has no effect", {"flag": name, "reason": flag.note}))


def _check(values: dict[str, Value], notes: list[tuple[str, dict[str, object]]]) -> Config:
    typed = _Typed(values)
    text, number, seconds, urls, on = typed.text, typed.number, typed.seconds, typed.urls, typed.on

    if text("log-format") not in ("json", "console"):
        raise ConfigError(f"unknown log format: {text('log-format')}, supported values json, console")
    if text("log-level") not in LOG_LEVELS:
        raise ConfigError(f'unrecognized level: "{text("log-level")}"')
    for name in ("listen-peer-urls", "listen-client-urls", "listen-client-http-urls", "listen-metrics-urls"):
        for url in urls(name):
            _check_bind(url)
    for name in ("listen-peer-urls", "listen-client-urls", "advertise-client-urls", "initial-advertise-peer-urls"):
        if not urls(name):
            raise ConfigError(f"--{name} must not be empty")
    client_tls, peer_tls = _tls(typed, "cipher-suites" in values, notes)
    _check_gates(text("feature-gates"), notes)

    heartbeat_ms, election_ms = number("heartbeat-interval"), number("election-timeout")
    if heartbeat_ms == 0:
        raise ConfigError("--heartbeat-interval must be >0 (set to 0ms)")
    if election_ms == 0:
        raise ConfigError("--election-timeout must be >0 (set to 0ms)")
    if 5 * heartbeat_ms > election_ms:
        raise ConfigError(
            f"--election-timeout[{election_ms}ms] should be at least as 5 times as "
            f"--heartbeat-interval[{heartbeat_ms}ms]"
        )
    if election_ms > ELECTION_TIMEOUT_MAX_MS:
        raise ConfigError(
            f"--election-timeout[{election_ms}ms] is too long, and should be set less than {ELECTION_TIMEOUT_MAX_MS}ms"
        )
    if "listen-client-urls" in values and "advertise-client-urls" not in values:
        raise ConfigError("--advertise-client-urls is required when --listen-client-urls is set explicitly")
    retention = _check_retention(text("auto-compaction-mode"), text("auto-compaction-retention"))
    if (check_s := seconds("compact-hash-check-time")) <= 0:
        raise ConfigError(f"--compact-hash-check-time must be >0 (set to {go_duration(check_s)})")
    if (check_s := seconds("corrupt-check-time")) < 0:
        raise ConfigError(f"--corrupt-check-time must not be negative (set to {go_duration(check_s)})")

    name, peer_urls = text("name"), urls("initial-advertise-peer-urls")
    initial_cluster = text("initial-cluster")
    if "initial-cluster" not in values:
        initial_cluster = ",".join(f"{name}={url}" for url in peer_urls)
    parse_cluster(initial_cluster)

    quota = number("quota-backend-bytes")
    return Config(
        name=name,
        data_dir=text("data-dir") or f"{name}.etcd",
        listen_client_urls=urls("listen-client-urls"),
        advertise_client_urls=urls("advertise-client-urls"),
        peer_urls=peer_urls,
        listen_peer_urls=urls("listen-peer-urls"),
        initial_cluster=initial_cluster,
        initial_cluster_state=text("initial-cluster-state"),
        initial_cluster_token=text("initial-cluster-token"),
        force_new_cluster=on("force-new-cluster"),
        strict_reconfig_check=on("strict-reconfig-check"),
        max_learners=number("max-learners"),
        pre_vote=on("pre-vote"),
        hurry_first_election=on("initial-election-tick-advance"),
        heartbeat_interval_ms=heartbeat_ms,
        election_timeout_ms=election_ms,
        snapshot_count=number("snapshot-count"),
        snapshot_catchup_entries=number("snapshot-catchup-entries"),
        quota_bytes=quota if quota > 0 else 0 if quota < 0 else QUOTA_DEFAULT_BYTES,
        max_txn_ops=number("max-txn-ops"),
        max_request_bytes=number("max-request-bytes"),
        max_concurrent_streams=number("max-concurrent-streams"),
        keepalive_min_time_s=seconds("grpc-keepalive-min-time"),
        keepalive_interval_s=seconds("grpc-keepalive-interval"),
        keepalive_timeout_s=seconds("grpc-keepalive-timeout"),
        reuse_port=on("socket-reuse-port"),
        compaction_batch_limit=max(1, number("compaction-batch-limit")),
        compaction_sleep_s=seconds("compaction-sleep-interval"),
        lease_checkpoints=parse_gates(text("feature-gates"))["LeaseCheckpoint"],
        compaction_period_s=retention if text("auto-compaction-mode") == "periodic" else 0.0,
        compaction_revisions=int(retention) if text("auto-compaction-mode") == "revision" else 0,
        progress_interval_s=max(seconds("watch-progress-notify-interval"), PROGRESS_INTERVAL_MIN_S),
        warning_request_s=seconds("warning-unary-request-duration"),
        warning_apply_s=seconds("warning-apply-duration"),
        fsync=not on("unsafe-no-fsync"),
        front=text("front"),
        io_threads=min(max(1, number("io-threads")), IO_THREADS_MAX),
        log_level=text("log-level"),
        log_format=text("log-format"),
        log_outputs=tuple(text("log-outputs").split(",")),
        listen_client_http_urls=urls("listen-client-http-urls"),
        listen_metrics_urls=urls("listen-metrics-urls"),
        client_tls=client_tls,
        peer_tls=peer_tls,
        notes=tuple(notes),
    )


def _tls(typed: _Typed, suites_given: bool, notes: list[tuple[str, dict[str, object]]]) -> tuple[TlsConfig, TlsConfig]:
    """What the client port and the peer port shall do."""
    suites = typed.text("cipher-suites").split(",") if suites_given else None
    years = typed.number("self-signed-cert-validity")
    try:
        shared = tls_config.common(typed.text("tls-min-version"), typed.text("tls-max-version"), suites)
        client = tls_config.client_port(shared, typed.text, typed.on, years)
        peer = tls_config.peer_port(shared, typed.text, typed.on, years)
        for url in typed.urls("listen-client-urls") + typed.urls("listen-client-http-urls"):
            for warning in tls_config.check_url(url, client, "--cert-file, --key-file", "client"):
                notes.append((warning, {"client-url": url}))
        for url in typed.urls("listen-metrics-urls"):
            if not url.startswith("http:"):
                tls_config.check_url(url, client, "--cert-file, --key-file", "metrics")
        for url in typed.urls("listen-peer-urls"):
            for warning in tls_config.check_url(url, peer, "--peer-cert-file, --peer-key-file", "peer"):
                notes.append((warning, {"peer-url": url}))
    except ValueError as reason:
        raise ConfigError(str(reason)) from None
    return client, peer


class _Typed:
    """Values by name and kind; what was not given has its default."""

    def __init__(self, given: Mapping[str, Value]) -> None:
        self._values = {flag.name: parse_value(flag, flag.default) for flag in FLAGS.values()} | dict(given)

    def text(self, name: str) -> str:
        value = self._values[name]
        assert isinstance(value, str), name
        return value

    def number(self, name: str) -> int:
        value = self._values[name]
        assert isinstance(value, int), name
        return value

    def seconds(self, name: str) -> float:
        value = self._values[name]
        assert isinstance(value, float), name
        return value

    def urls(self, name: str) -> tuple[str, ...]:
        value = self._values[name]
        assert isinstance(value, tuple), name
        return value

    def on(self, name: str) -> bool:
        value = self._values[name]
        assert isinstance(value, bool), name
        return value


def _check_bind(url: str) -> None:
    parts = split_url(url)
    if parts.scheme in ("unix", "unixs"):
        return
    host = parts.netloc.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(f"expected IP in URL for binding ({url})") from None


def _check_retention(mode: str, text: str) -> float:
    """Seconds, or revisions."""
    if mode not in ("periodic", "revision"):
        raise ConfigError(f'unknown auto-compaction-mode "{mode}"' if mode else "undefined auto-compaction-mode")
    try:
        retention = float(int(text)) if re.fullmatch(r"\+?[0-9]+", text) else None
        if retention is not None:
            return retention * 3600 if mode == "periodic" else retention
        retention = go_duration_s(text or "0")
    except ValueError as reason:
        raise ConfigError("discovery failed", "fatal", error=f"error parsing CompactionRetention: {reason}") from None
    if retention < 0:
        raise ConfigError(f"--auto-compaction-retention must not be negative (set to {text})")
    # Of a duration etcd takes the nanoseconds for revisions.
    return retention if mode == "periodic" else round(retention * 1e9)


def _check_gates(text: str, notes: list[tuple[str, dict[str, object]]]) -> None:
    try:
        on = parse_gates(text)
    except ValueError as reason:
        raise UsageError(f'invalid value "{text}" for flag -feature-gates: {reason}') from None
    if why_not := contradiction(on):
        raise ConfigError(why_not)
    if on["LeaseCheckpoint"] and not on["LeaseCheckpointPersist"]:
        notes.append((CHECKPOINTS_WITHOUT_PERSISTENCE, {}))
    for name, gate in GATES.items():
        if on[name] and gate.note:
            notes.append(("feature gate has no effect", {"gate": name, "reason": gate.note}))


def parse_cluster(text: str) -> dict[str, tuple[str, ...]]:
    """`a=http://x:1,a=http://y:1,b=http://z:1` as name -> peer URLs, ascending."""
    members: dict[str, list[str]] = {}
    for pair in filter(None, text.split(",")):
        name, equals, url = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f'error setting up initial cluster: "{pair}" is not of the form name=URL', "fatal")
        try:
            split_url(url)
        except ValueError as reason:
            raise ConfigError(f"error setting up initial cluster: {reason}", "fatal") from None
        members.setdefault(name, []).append(url)
    return {name: tuple(sorted(urls)) for name, urls in members.items()}
