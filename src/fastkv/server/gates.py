"""
etcd's feature gates: their stages and defaults, and what `--feature-gates` makes of them.

Owns the table and the rules between gates. A gate is obeyed, or has nothing to do in fastkv: `note` says why.
"""

from __future__ import annotations

from typing import NamedTuple

from fastkv.server.flags import parse_bool

ALPHA, BETA = "ALPHA", "BETA"


class Gate(NamedTuple):
    stage: str
    default: bool = False
    note: str = ""


ONE_MEMBER = "one member has nobody to compare with"

GATES: dict[str, Gate] = {
    "AllAlpha": Gate(ALPHA),
    "AllBeta": Gate(BETA),
    "CompactHashCheck": Gate(ALPHA, note=ONE_MEMBER),
    "FastLeaseKeepAlive": Gate(BETA, True),
    "InitialCorruptCheck": Gate(ALPHA, note=ONE_MEMBER),
    "LeaseCheckpoint": Gate(ALPHA),
    "LeaseCheckpointPersist": Gate(ALPHA, note="checkpoints of leases are always kept"),
    "PriorityRequest": Gate(ALPHA, note="the node's own revocations wait for no client"),
    "SetMemberLocalAddr": Gate(ALPHA, note="one member connects to nobody"),
    "StopGRPCServiceOnDefrag": Gate(ALPHA, note="there is nothing to defragment"),
    "TxnModeWriteWithSharedBuffer": Gate(BETA, True),
}

# The flags that these gates had been before there were gates; removed in 3.7, still found in old manifests.
BY_OLD_FLAG = {
    "experimental-compact-hash-check-enabled": "CompactHashCheck",
    "experimental-enable-lease-checkpoint": "LeaseCheckpoint",
    "experimental-enable-lease-checkpoint-persist": "LeaseCheckpointPersist",
    "experimental-initial-corrupt-check": "InitialCorruptCheck",
    "experimental-stop-grpc-service-on-defrag": "StopGRPCServiceOnDefrag",
    "experimental-txn-mode-write-with-shared-buffer": "TxnModeWriteWithSharedBuffer",
}


def parse_gates(text: str) -> dict[str, bool]:
    """Every gate -> whether it is on; ValueError with Go's reason."""
    asked: dict[str, bool] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        gate, equals, word = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ValueError(f"missing bool value for {gate}")
        if gate not in GATES:
            raise ValueError(f"unrecognized feature gate: {gate}")
        try:
            asked[gate] = parse_bool(word)
        except ValueError:
            reason = f'strconv.ParseBool: parsing "{word}": invalid syntax'
            raise ValueError(f"invalid value of {gate}={word}, err: {reason}") from None
    of_stage = {stage: asked.get(everything, False) for everything, stage in (("AllAlpha", ALPHA), ("AllBeta", BETA))}
    return {name: asked.get(name, gate.default or of_stage[gate.stage]) for name, gate in GATES.items()}


def contradiction(on: dict[str, bool]) -> str:
    """What is wrong between the gates, in etcd's words; empty if nothing."""
    if on["LeaseCheckpointPersist"] and not on["LeaseCheckpoint"]:
        return "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"
    return ""
