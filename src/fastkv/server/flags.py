"""
etcd's flags as one table, and how Go reads a flag's value.

Owns names, defaults, kinds and help; knows nothing of what a value means to the node (config.py does). A flag is
given as `--name=value`, `--name value` or with one dash, as the environment variable ETCD_NAME, but never as both.

Invariants:
* Every flag of etcd 3.7 for a server has a row, so that a flag is either obeyed, of no consequence for
  fastkv (`note` says why, and the node logs it), or refused by name (`absent` says what is missing). None is silently
  ignored.
* Texts of refusals are those of etcd 3.7.3, which scripts match.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from fastkv.server.version import API_VERSION


class Flag(NamedTuple):
    """One flag. kind: str, bool, int, uint, duration, urls, or the allowed words joined with "|"."""

    name: str
    kind: str
    default: str
    help: str
    note: str = ""
    absent: str = ""

    @property
    def environment(self) -> str:
        return "ETCD_" + self.name.upper().replace("-", "_")


NO_SELF_DIAL = "the node never connects to itself"
HEARTBEATS = "peers watch each other by heartbeats"
NO_COMPARING = "members are not compared yet"
NO_AUTH = "authentication"
NO_DISCOVERY = "discovery of other members"
NO_TRACING = "distributed tracing"
NO_BBOLT = "there is no bbolt file"
V2_PHASES = "write-only|write-only-skip-check|write-only-drop-data|gone"

GROUPS: dict[str, tuple[Flag, ...]] = {
    "Member": (
        Flag("name", "str", "default", "This member's name, for people."),
        Flag("data-dir", "str", "", "The data directory; ${name}.etcd if not given."),
        Flag("wal-dir", "str", "", "A directory of its own for the log.", absent="a separate directory for the log"),
        Flag("snapshot-count", "uint", "10000", "Entries between snapshots, once the log is as long as the last one."),
        Flag("heartbeat-interval", "uint", "100", "Milliseconds between heartbeats."),
        Flag("election-timeout", "uint", "1000", "Milliseconds without a leader before an election."),
        Flag("initial-election-tick-advance", "bool", "true", "Hurry the first election."),
        Flag("listen-peer-urls", "urls", "http://localhost:2380", "Where peers connect."),
        Flag("listen-client-urls", "urls", "http://localhost:2379", "Where clients connect: gRPC, /health."),
        Flag("listen-client-http-urls", "urls", "", "Where HTTP clients connect; --listen-client-urls is then gRPC's."),
        Flag("max-snapshots", "uint", "5", "Snapshot files to keep (deprecated).", note="two checkpoints are kept"),
        Flag("max-wals", "uint", "5", "Log files to keep.", note="the log is kept as long as a checkpoint needs it"),
        Flag("memory-mlock", "bool", "false", "Keep the store's pages in RAM.", absent="locking memory"),
        Flag("quota-backend-bytes", "int", "0", "Bytes the store may hold (0: 2 GiB, -1: no limit)."),
        Flag("backend-bbolt-freelist-type", "str", "map", "bbolt's free list.", note=NO_BBOLT),
        Flag("backend-batch-interval", "duration", "", "bbolt's commit interval.", note=NO_BBOLT),
        Flag("backend-batch-limit", "int", "0", "bbolt's operations a commit.", note=NO_BBOLT),
        Flag("max-txn-ops", "uint", "128", "Operations a transaction may have."),
        Flag("max-request-bytes", "uint", "1572864", "Bytes a request may have."),
        Flag("max-concurrent-streams", "uint", "4294967295", "Streams a connection may have open."),
        Flag("grpc-keepalive-min-time", "duration", "5s", "How seldom a client must ping."),
        Flag("grpc-keepalive-interval", "duration", "2h", "Idle time before the server pings (0: never)."),
        Flag("grpc-keepalive-timeout", "duration", "20s", "How long the answer to a ping may take."),
        Flag("socket-reuse-port", "bool", "false", "Set SO_REUSEPORT on listeners."),
        Flag("socket-reuse-address", "bool", "false", "Set SO_REUSEADDR on listeners.", note="listeners always set it"),
        Flag("enable-grpc-gateway", "bool", "true", "Serve JSON over HTTP.", note="the JSON gateway is not there yet"),
        Flag("raft-read-timeout", "duration", "5s", "Read timeout of peer connections.", note=HEARTBEATS),
        Flag("raft-write-timeout", "duration", "5s", "Write timeout of peer connections.", note=HEARTBEATS),
        Flag("feature-gates", "str", "", "Features on or off: A=true,B=false."),
    ),
    "Clustering": (
        Flag("initial-advertise-peer-urls", "urls", "http://localhost:2380", "Its peer URLs; they make its id."),
        Flag("initial-cluster", "str", "default=http://localhost:2380", "The first members: name=URL[,name=URL]."),
        Flag("initial-cluster-state", "new|existing", "new", "Whether the cluster is new."),
        Flag("initial-cluster-token", "str", "etcd-cluster", "Tells clusters apart; it is part of the ids."),
        Flag("advertise-client-urls", "urls", "http://localhost:2379", "The client URLs that member list shows."),
        Flag("discovery-token", "str", "", "Discovery token.", absent=NO_DISCOVERY),
        Flag("discovery-endpoints", "str", "", "Discovery endpoints.", absent=NO_DISCOVERY),
        Flag("discovery-dial-timeout", "duration", "2s", "Discovery dial timeout.", absent=NO_DISCOVERY),
        Flag("discovery-request-timeout", "duration", "5s", "Discovery request timeout.", absent=NO_DISCOVERY),
        Flag("discovery-keepalive-time", "duration", "2s", "Discovery keepalive time.", absent=NO_DISCOVERY),
        Flag("discovery-keepalive-timeout", "duration", "6s", "Discovery keepalive timeout.", absent=NO_DISCOVERY),
        Flag("discovery-insecure-transport", "bool", "true", "Discovery without TLS.", absent=NO_DISCOVERY),
        Flag("discovery-insecure-skip-tls-verify", "bool", "false", "Without verification.", absent=NO_DISCOVERY),
        Flag("discovery-cert", "str", "", "Discovery certificate.", absent=NO_DISCOVERY),
        Flag("discovery-key", "str", "", "Discovery key.", absent=NO_DISCOVERY),
        Flag("discovery-cacert", "str", "", "Discovery CA.", absent=NO_DISCOVERY),
        Flag("discovery-user", "str", "", "Discovery user.", absent=NO_DISCOVERY),
        Flag("discovery-password", "str", "", "Discovery password.", absent=NO_DISCOVERY),
        Flag(
            "discovery-fallback", "exit", "exit", "What to do when discovery fails.", note="there is no discovery yet"
        ),
        Flag("discovery-srv", "str", "", "Domain of the members' SRV records.", absent=NO_DISCOVERY),
        Flag("discovery-srv-name", "str", "", "Suffix of the SRV name.", absent=NO_DISCOVERY),
        Flag("strict-reconfig-check", "bool", "true", "Refuse membership changes that lose the quorum."),
        Flag("pre-vote", "bool", "true", "Ask before an election."),
        Flag("auto-compaction-retention", "str", "0", "History to keep: 10m, 24 (hours), 1000 (revisions); 0: all."),
        Flag("auto-compaction-mode", "str", "periodic", "periodic or revision."),
        Flag("v2-deprecation", V2_PHASES, "write-only", "Deprecated.", note="there is no v2 store"),
        Flag("max-learners", "int", "1", "Learners a cluster may have."),
    ),
    "Security": (
        Flag("cert-file", "str", "", "Certificate for clients, PEM; read again when it changes."),
        Flag("key-file", "str", "", "Its key."),
        Flag("client-cert-auth", "bool", "false", "Take only clients with a certificate of the trusted CA."),
        Flag("client-cert-file", "str", "", "Certificate of the node as its own client.", note=NO_SELF_DIAL),
        Flag("client-key-file", "str", "", "Its key.", note=NO_SELF_DIAL),
        Flag("client-crl-file", "str", "", "Revoked client certificates, DER or PEM; read again when it changes."),
        Flag("client-cert-allowed-hostname", "str", "", "Host names, one of which a client's certificate must have."),
        Flag("trusted-ca-file", "str", "", "CA of clients, PEM."),
        Flag("auto-tls", "bool", "false", "Make a certificate for clients if none is given."),
        Flag("peer-cert-file", "str", "", "Certificate for peers."),
        Flag("peer-key-file", "str", "", "Its key."),
        Flag("peer-client-cert-auth", "bool", "false", "Take only peers with a certificate."),
        Flag("peer-client-cert-file", "str", "", "Certificate of the node as a peer's client."),
        Flag("peer-client-key-file", "str", "", "Its key."),
        Flag("peer-trusted-ca-file", "str", "", "CA of peers."),
        Flag("peer-cert-allowed-cn", "str", "", "Common names peers may have."),
        Flag("peer-cert-allowed-hostname", "str", "", "Host names peers may have."),
        Flag("peer-auto-tls", "bool", "false", "Make a certificate for peers."),
        Flag("peer-crl-file", "str", "", "Revoked peer certificates."),
        Flag("peer-skip-client-san-verification", "bool", "false", "Do not check peers' addresses."),
        Flag("self-signed-cert-validity", "uint", "1", "Years a made certificate is valid."),
        Flag("cipher-suites", "str", "", "TLS 1.2 cipher suites, as Go names them."),
        Flag("tls-min-version", "str", "TLS1.2", "Lowest TLS version: TLS1.2 or TLS1.3."),
        Flag("tls-max-version", "str", "", "Highest TLS version: TLS1.2, TLS1.3 or none."),
        Flag("cors", "str", "*", "Origins that browsers may come from.", absent="a list of origins"),
        Flag("host-whitelist", "str", "*", "Host names that HTTP requests may ask for.", absent="a list of host names"),
    ),
    "Auth": (
        Flag("auth-token", "str", "simple", "Kind of token.", absent=NO_AUTH),
        Flag("bcrypt-cost", "uint", "10", "Cost of hashing a password.", note="there is no authentication yet"),
        Flag("auth-token-ttl", "uint", "300", "Seconds a token lasts.", note="there is no authentication yet"),
    ),
    "Profiling and Monitoring": (
        Flag("enable-pprof", "bool", "false", "Serve Go profiles.", absent="profiling over HTTP"),
        Flag("metrics", "str", "basic", "basic or extensive: all are always served, histograms of calls included."),
        Flag("listen-metrics-urls", "urls", "", "Where /metrics, /health, /livez and /readyz are served too."),
        Flag("enable-distributed-tracing", "bool", "false", "Send traces.", absent=NO_TRACING),
        Flag("distributed-tracing-address", "str", "localhost:4317", "Where to.", note="there is no tracing yet"),
        Flag("distributed-tracing-service-name", "str", "etcd", "Under which name.", note="there is no tracing yet"),
        Flag("distributed-tracing-instance-id", "str", "", "Under which id.", note="there is no tracing yet"),
        Flag("distributed-tracing-sampling-rate", "int", "0", "How many per million.", note="there is no tracing yet"),
    ),
    "Logging": (
        Flag("logger", "zap", "zap", "Only zap: one JSON object a line."),
        Flag("log-outputs", "str", "default", "stderr (the default), stdout or files, separated by commas."),
        Flag("log-level", "str", "info", "debug, info, warn, error, panic or fatal."),
        Flag("log-format", "str", "json", "json or console."),
        Flag("enable-log-rotation", "bool", "false", "Rotate log files.", absent="rotation of log files"),
        Flag("log-rotation-config-json", "str", "", "How to rotate.", note="rotation of log files is not there yet"),
        Flag("warning-unary-request-duration", "duration", "300ms", "Log a request that takes longer."),
    ),
    "Features": (
        Flag("corrupt-check-time", "duration", "0s", "How often members compare.", note=NO_COMPARING),
        Flag(
            "compact-hash-check-time", "duration", "1m", "How often compaction hashes are compared.", note=NO_COMPARING
        ),
        Flag("compaction-batch-limit", "int", "1000", "Revisions that one slice of a compaction removes."),
        Flag("compaction-sleep-interval", "duration", "10ms", "Pause between the slices."),
        Flag("watch-progress-notify-interval", "duration", "10m", "How often idle watchers hear how far they are."),
        Flag("warning-apply-duration", "duration", "100ms", "Log a batch that takes longer."),
        Flag("bootstrap-defrag-threshold-megabytes", "uint", "0", "Defragment at start.", note=NO_BBOLT),
        Flag(
            "downgrade-check-time",
            "duration",
            "5s",
            "How often a downgrade is looked at.",
            note="members are never of another version",
        ),
        Flag("snapshot-catchup-entries", "uint", "5000", "Entries kept for slow followers."),
    ),
    "Unsafe feature": (
        Flag("force-new-cluster", "bool", "false", "Keep the data, drop all other members."),
        Flag("unsafe-no-fsync", "bool", "false", "Writes survive the process, not the machine."),
    ),
    "fastkv": (
        Flag("front", "native|grpcio", "native", "What speaks HTTP/2: native (C++) or grpcio (slow, needs no build)."),
        Flag("io-threads", "uint", "1", "Threads that serve connections (native)."),
    ),
    "Other": (
        Flag("config-file", "str", "", "A file instead of flags.", absent="a configuration file"),
        Flag("version", "bool", "false", "Print the version and exit."),
    ),
}

FLAGS: dict[str, Flag] = {flag.name: flag for group in GROUPS.values() for flag in group}

# Accepted and ignored with a warning, as etcd does.
LEGACY = frozenset(
    (
        "cluster-active-size",
        "cluster-remove-delay",
        "cluster-sync-interval",
        "config",
        "force",
        "max-result-buffer",
        "max-retry-attempts",
        "peer-heartbeat-interval",
        "peer-election-timeout",
        "retry-interval",
        "snapshot",
        "v",
        "vv",
    )
)

TRUE_WORDS = frozenset(("1", "t", "T", "TRUE", "true", "True"))
FALSE_WORDS = frozenset(("0", "f", "F", "FALSE", "false", "False"))
DURATION_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")

Value = str | bool | int | float | tuple[str, ...]


def parse_bool(text: str) -> bool:
    if text in TRUE_WORDS:
        return True
    if text in FALSE_WORDS:
        return False
    raise ValueError("parse error")


def parse_int(text: str, lowest: int, highest: int) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+" if lowest < 0 else r"[0-9]+", text):
        raise ValueError("parse error")
    number = int(text)
    if not lowest <= number <= highest:
        raise ValueError("value out of range")
    return number


def parse_duration_s(text: str) -> float:
    """Go's durations ("1h30m", "-1.5s", "0") in seconds."""
    sign, rest = (-1.0, text[1:]) if text[:1] == "-" else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    parts = DURATION_PART.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError("parse error")
    return sign * sum(float(number) * DURATION_UNITS_S[unit] for number, unit in parts)


def go_duration_s(text: str) -> float:
    """parse_duration_s with the reasons that Go gives outside of its flags."""
    try:
        return parse_duration_s(text)
    except ValueError:
        pass
    rest = text.removeprefix("-").removeprefix("+")
    while part := re.match(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([^0-9.]*)", rest):
        if not part[2]:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if part[2] not in DURATION_UNITS_S:
            raise ValueError(f'time: unknown unit "{part[2]}" in duration "{text}"')
        rest = rest[part.end() :]
    raise ValueError(f'time: invalid duration "{text}"')


def split_url(url: str) -> SplitResult:
    """The parts of a URL that a member may listen on or advertise; ValueError with etcd's text."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "unix", "unixs"):
        raise ValueError(f"URL scheme must be http, https, unix, or unixs: {url}")
    if parts.scheme in ("http", "https"):
        host, colon, port = parts.netloc.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535 or (":" in host and not host.startswith("[")):
            raise ValueError(f'URL address does not have the form "host:port": {url}')
        if parts.path:
            raise ValueError(f"URL must not contain a path: {url}")
    elif not parts.netloc + parts.path:
        raise ValueError(f"URL must name a socket: {url}")
    return parts


def parse_urls(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    urls = tuple(sorted(url.strip() for url in text.split(",")))
    for url in urls:
        split_url(url)
    return urls


def parse_value(flag: Flag, text: str) -> Value:
    """The value that `text` gives the flag; ValueError with the reason alone."""
    match flag.kind:
        case "str":
            return text
        case "bool":
            return parse_bool(text)
        case "int":
            return parse_int(text, -(1 << 63), (1 << 63) - 1)
        case "uint":
            return parse_int(text, 0, (1 << 64) - 1)
        case "duration":
            return parse_duration_s(text) if text else 0.0
        case "urls":
            return parse_urls(text)
        case words:
            if text not in words.split("|"):
                raise ValueError(f'invalid value "{text}"' if flag.name == "v2-deprecation" else "invalid value")
            return text


def help_text() -> str:
    """What --help prints: every flag with its default, by group."""
    lines = [f"fastkv serve: one member with the API of etcd {API_VERSION}.", ""]
    for title, flags in GROUPS.items():
        lines.append(f"{title}:")
        for flag in flags:
            lines.append(f"  --{flag.name} '{flag.default}'")
            lines.append(f"    {flag.help}")
            if flag.note:
                lines.append(f"    (Accepted, without effect: {flag.note}.)")
            if flag.absent:
                lines.append("    (Not there yet: refused if it is set.)")
        lines.append("")
    return "\n".join(lines)
