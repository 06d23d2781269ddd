"""Members that show each other certificates: who has the right one serves, who has not is refused with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.certificates import Authority, Pair
from support.cluster import Cluster, etcdctl
from support.fronts import FRONTS

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(not etcdctl(), reason="no etcdctl here: set FASTKV_ETCD37 or install etcd-client"),
]


def flags(authority: Authority, pair: Pair, *more: str) -> tuple[str, ...]:
    return (
        "--peer-client-cert-auth=true",
        f"--peer-trusted-ca-file={authority.ca}",
        f"--peer-cert-file={pair.cert}",
        f"--peer-key-file={pair.key}",
        *more,
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def cluster(authority: Authority, tmp_path: Path) -> Iterator[Cluster]:
    """Not started yet; every member has a certificate with the common name "member"."""
    more = ("--peer-cert-allowed-cn=member",)
    cluster = Cluster(tmp_path / "cluster", FRONTS[0], flags=flags(authority, authority.issue("member"), *more))
    try:
        yield cluster
    finally:
        cluster.close()


def test_three_members_over_mutual_tls(cluster: Cluster) -> None:
    cluster.start()
    cluster.leader()
    for name in "abc":
        assert cluster.ctl("put", f"from-{name}", name, at=name) == "OK"
    for name in "abc":
        assert cluster.ctl("get", "from-", "--prefix", "--keys-only", at=name).split() == ["from-a", "from-b", "from-c"]
    cluster.assert_equal()


@pytest.mark.parametrize("wrong", ["another CA", "another name", "expired", "revoked"])
def test_a_member_with_a_wrong_certificate_is_refused_until_it_has_the_right_one(
    cluster: Cluster, authority: Authority, tmp_path: Path, wrong: str
) -> None:
    (tmp_path / "other").mkdir()
    right = cluster["c"].flags
    match wrong:
        case "another CA":
            pair, reason = Authority(tmp_path / "other").issue("member"), "its certificate is not trusted"
        case "another name":
            pair, reason = authority.issue("stranger"), "is not allowed"
        case "expired":
            pair, reason = authority.issue("late", expired=True), "its certificate is not trusted"
        case _:
            (tmp_path / "other" / "sub").mkdir()
            pair, reason = authority.issue("thief"), "is revoked"
            authority.revoke(pair, path=tmp_path / "crl")
            for name in "ab":
                cluster[name].flags = (*cluster[name].flags, f"--peer-crl-file={tmp_path / 'crl'}")
    cluster["c"].flags = (f"--front={FRONTS[0]}", *flags(authority, pair))
    for name in "abc":
        cluster[name].start()
    for name in "ab":
        cluster[name].wait_ready()
    cluster.wait(lambda: any(cluster[name].logged(reason) for name in "ab"), f"a refusal because of {wrong}")
    assert cluster.ctl("put", "two", "are enough", at="a") == "OK"
    cluster["c"].kill()
    cluster["c"].flags = right
    cluster["c"].start()
    cluster["c"].wait_ready()
    assert cluster.ctl("get", "two", "--print-value-only", at="c") == "are enough"
