"""
Downgrades as an operator of etcd carries them out, and the versions that the cluster reports meanwhile.

    validate 3.6 --> enable 3.6 --> [cluster and storage report 3.6.0] --> cancel --> [3.7.0 again]

fastkv's files do not change with the version it reports, so nothing needs to be converted: who really goes back to an
etcd of that version takes a snapshot there.

Invariants:
* A target is exactly one minor version below the cluster's, and there is at most one.
* The reported versions follow a decision FOLLOW_S later, as in etcd, whose monitor looks that often.

Left out: a downgrade that survives a restart.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from fastkv.errors import GrpcCode
from fastkv.rpc.status import RpcError
from fastkv.server.version import CLUSTER_VERSION

FOLLOW_S = 4.0
SEMVER = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})\.[0-9]{1,18}(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?")

Version = tuple[int, int]


def wrong_format() -> RpcError:
    return RpcError(GrpcCode.INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format")


def invalid_target() -> RpcError:
    return RpcError(GrpcCode.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version")


def in_progress() -> RpcError:
    return RpcError(GrpcCode.FAILED_PRECONDITION, "etcdserver: cluster has a downgrade job in progress")


def none_in_flight() -> RpcError:
    return RpcError(GrpcCode.FAILED_PRECONDITION, "etcdserver: no inflight downgrade job")


def parse(text: str) -> Version:
    """(major, minor) of "3.6" or "3.6.1"."""
    found = SEMVER.fullmatch(text) or SEMVER.fullmatch(f"{text}.0")
    if found is None:
        raise wrong_format()
    return int(found[1]), int(found[2])


class Downgrade:
    """call_later: (seconds, function), as the event loop's."""

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self._call_later = call_later
        self._own: Version = parse(CLUSTER_VERSION)
        self._cluster: Version = self._own
        self.target: Version | None = None

    @property
    def cluster_version(self) -> str:
        """Also that of the storage."""
        return "{}.{}.0".format(*self._cluster)

    @property
    def target_version(self) -> str:
        """Empty if there is no downgrade."""
        return "{}.{}.0".format(*self.target) if self.target else ""

    def validate(self, text: str) -> Version:
        target = parse(text)
        major, minor = self._cluster
        if target != (major, minor - 1):
            raise invalid_target()
        if self.target:
            raise in_progress()
        return target

    def enable(self, text: str) -> None:
        self.target = self.validate(text)
        self._call_later(FOLLOW_S, self._follow)

    def cancel(self) -> None:
        if not self.target:
            raise none_in_flight()
        self.target = None
        self._call_later(FOLLOW_S, self._follow)

    def _follow(self) -> None:
        self._cluster = self.target or self._own
