"""
The table of etcdctl commands that must print the same on an etcd and on a fastkv node, in every output format.

A story is run from its beginning on two empty servers. `each` is a command once per format: what it writes it writes as
often, on both sides.
"""

from __future__ import annotations

from differential.calls import put
from support.twins import FORMATS, Step

TIMES = (r"[0-9.]+(ms|\xc2\xb5s|s)\b",)
# Sizes and indexes.
STATUS = (
    r"[0-9.]+ [kM]?B",
    r"[0-9]+%",
    r"2, [0-9]+, [0-9]+",
    r'"(dbSize|dbSizeInUse|raftIndex|raftAppliedIndex)":[0-9]+',
    r'"(DBSize|DBSizeInUse|RaftIndex|RaftAppliedIndex)" : [0-9]+',
)
# In a table a number is as wide as its column.
WIDTHS = (r"(\xe2\x94\x80)+", r" +")
STATUS_TABLE = (r"[0-9.]+ [kM]?B", r"[0-9]+", r"%", *WIDTHS)
DRAWN = (r"\b[0-9a-f]{15,16}\b", r'"ID" ?: ?[0-9]+')  # a lease id that the server has drawn


def etcdctl(line: str, stdin: str = "", masks: tuple[str, ...] = (), differs: str = "") -> Step:
    """Words are separated by blanks; ~ is a blank in a word, '' an empty word."""
    words = tuple("" if word == "''" else word.replace("~", " ") for word in line.split())
    return Step("etcdctl", arguments=words, stdin=stdin, masks=masks, differs=differs)


def staying(line: str, lines: int, stdin: str = "", masks: tuple[str, ...] = (), live: int = 0) -> Step:
    """
    A command that goes on until it has said so much. live: so many of the lines are said of a change of w1 that is made
    behind the others.
    """
    calls = ((put(b"w1", b"live").path, put(b"w1", b"live").requests[0]),) if live else ()
    return etcdctl(line, stdin, masks)._replace(count=lines, first=lines - live, meanwhile=calls)


def each(line: str, stdin: str = "", masks: tuple[str, ...] = (), but: tuple[str, ...] = ()) -> list[Step]:
    """The command in every format, except those named."""
    return [etcdctl(f"{line} -w {form}", stdin, masks) for form in FORMATS if form not in but]


KV = [
    *each("put foo bar"),
    *each("put foo baz --prev-kv"),
    etcdctl("put fool from~stdin"),
    etcdctl("put fooz", "from stdin"),
    *each("get foo"),
    *each("get --prefix foo"),
    *each("get --prefix foo --limit 2"),
    etcdctl("get --prefix foo --keys-only"),
    etcdctl("get --prefix foo --count-only"),
    *each("get --prefix foo --count-only", but=("simple",)),
    etcdctl("get foo --print-value-only"),
    etcdctl("get foo --hex"),
    etcdctl("get foo -w json --hex"),
    etcdctl("get --prefix foo --order=DESCEND --sort-by=VALUE"),
    etcdctl("get --prefix foo --order=ASCEND --sort-by=MODIFY -w json"),
    etcdctl("get --prefix foo --order=SIDEWAYS"),
    etcdctl("get --prefix foo --sort-by=COLOUR"),
    etcdctl("get --from-key fool"),
    etcdctl("get foo fooz"),
    etcdctl("get foo --rev=3"),
    etcdctl("get foo --rev=999"),
    etcdctl("get foo --consistency=s -w json"),
    etcdctl("get foo --consistency=x"),
    etcdctl("get missing"),
    *each("get missing", but=("simple",)),
    etcdctl("get"),
    etcdctl("get ''"),
    etcdctl("get --prefix ''"),
    etcdctl("put"),
    etcdctl("put ''", "v"),
    etcdctl("put foo --ignore-value"),
    etcdctl("put nothere --ignore-value"),
    etcdctl("put foo x --ignore-lease"),
    etcdctl("put k v --lease=1234"),
    etcdctl("put k v --lease=nonsense"),
    *each("del foo --prev-kv"),
    *each("del nothere"),
    etcdctl("del --prefix f --prev-kv -w json"),
    etcdctl("del --from-key a"),
    etcdctl("del"),
    etcdctl("get --stream --prefix f"),
]

TXNS = [
    etcdctl("put key old"),
    *each("txn", 'value("key") = "old"\n\nput key old\nget key\n\nput key other\n\n'),
    *each("txn", 'mod("key") > "1"\ncreate("key") = "2"\nversion("key") > "0"\n\ndel key\n\nget key\n\n'),
    etcdctl("txn", '\nput a 1\nput b 2\nget --prefix ""\n\n\n'),
    etcdctl("txn", "\nput a 1\nput a 2\n\n\n"),
    etcdctl("txn", 'value("missing") != "x"\n\nget a\n\nget b\n\n'),
    etcdctl("txn", "nonsense\n\n\n\n"),
    etcdctl("txn", "\nnonsense a\n\n\n"),
    etcdctl("get --prefix --keys-only a"),
]

LEASES = [
    *each("lease list"),
    *each("lease timetolive 7b"),
    *each("lease timetolive 7b --keys"),
    *each("lease revoke 7b"),
    *each("lease keep-alive --once 7b"),
    etcdctl("lease revoke nonsense"),
    etcdctl("lease timetolive"),
    etcdctl("lease grant 100", masks=DRAWN),
    *each("lease grant 100", masks=DRAWN, but=("protobuf",)),
    etcdctl("lease list", masks=DRAWN),
    etcdctl("lease grant"),
    etcdctl("lease grant nonsense"),
    etcdctl("lease grant 9000000001"),
    etcdctl("lease"),
]

COMPACTIONS = [
    *(etcdctl(f"put a {value}") for value in range(4)),
    etcdctl("compaction 3"),
    etcdctl("compaction 3"),
    etcdctl("compaction 99"),
    etcdctl("compaction 4 --physical"),
    etcdctl("compaction"),
    etcdctl("compaction x"),
    etcdctl("get a --rev=2"),
    etcdctl("get a --rev=4"),
]

CLUSTER = [
    *each("member list"),
    *each("member list --hex", but=("simple", "fields", "protobuf")),
    *each("endpoint health", masks=TIMES, but=("table",)),
    etcdctl("endpoint health -w table", masks=(*TIMES, *WIDTHS)),
    *each("endpoint status", masks=STATUS, but=("table",)),
    etcdctl("endpoint status -w table", masks=STATUS_TABLE),
    *each("endpoint hashkv"),
    etcdctl("put a 1"),
    *each("endpoint hashkv"),
    *each("endpoint hashkv --rev 1", but=("protobuf",)),
    etcdctl("endpoint hashkv --rev 99"),
    *each("alarm list"),
    *each("alarm disarm"),
    *each("defrag", masks=TIMES, but=("json", "fields", "table", "protobuf")),
    *each("downgrade validate 3.6"),
    etcdctl("downgrade validate 3.5"),
    etcdctl("downgrade validate"),
    *each("downgrade cancel"),
    *each("version"),
    etcdctl("member remove nonsense"),
    etcdctl("check no-such-check"),
    etcdctl("no-such-command"),
]

LOCKS = [
    *each("lock m echo held", masks=(r"m/[0-9a-f]+", r"[0-9]{15,}", r"bS8[A-Za-z0-9+/=]+")),
    etcdctl("lock m -- false"),
    etcdctl("lock"),
    etcdctl("elect"),
    etcdctl("elect name"),
    etcdctl("elect -l name value"),
    etcdctl("get --prefix m"),
]

WATCHES = [
    *(etcdctl(f"put w{number} {value}") for number, value in ((1, "a"), (1, "b"), (2, "c"))),
    etcdctl("del w1"),
    staying("watch w1 --rev=2", 9),
    staying("watch --prefix w --rev=3 --prev-kv", 13),
    staying("watch w1 --rev=2 -w fields", 20),
    staying("watch w1 --rev=2", 12, live=3),
    staying("watch w1 --rev=2 --prev-kv", 18, live=5),
    staying("watch w --prefix --rev=2 -w json", 2, live=1),
    staying("watch w w1 --rev=2", 0),
    staying("watch w2 --rev=2 -- echo changed", 4),
    staying("watch -i", 9, stdin="watch w1 --rev=2\n"),
    etcdctl("compaction 4"),
    staying("watch w1 --rev=2", 0),
    etcdctl("watch"),
]

STAYING = [
    staying("lock m", 2, masks=DRAWN),
    etcdctl("get --prefix m"),
    staying("elect e value", 2, masks=DRAWN),
    etcdctl("get --prefix e"),
]

STORIES: dict[str, list[Step]] = {
    "kv": KV,
    "txn": TXNS,
    "lease": LEASES,
    "compaction": COMPACTIONS,
    "cluster": CLUSTER,
    "lock": LOCKS,
    "watch": WATCHES,
    "staying": STAYING,
}
