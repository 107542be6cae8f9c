"""Kubo's RPC: the files API (MFS) changes its tree as Kubo does."""

from __future__ import annotations

from tests.support.kubo_and_ours import BIG, HELLO, OLD_CLIENTS, same
from tests.support.kubo_rpc import FILE, Server

pytestmark = OLD_CLIENTS


def test_the_files_api(servers):
    def scenario(server: Server):
        top = server.upload("add", ("d/a.txt", b"hello", FILE), ("d/s/b", b"", FILE)).lines[-1][
            "Hash"
        ]
        for call in (
            "rm?arg=/t&recursive=true&force=true",
            "stat?arg=/nope", "ls?arg=/nope", "read?arg=/nope", "mkdir?arg=rel", "ls?arg=rel",
            "mkdir?arg=/t/x/y", "mkdir?arg=/t/x/y&parents=true", "mkdir?arg=/t/x/y",
            "mkdir?arg=/t/x/y&p=true", "ls?arg=/t", "ls?arg=/t/x/y",
            f"cp?arg=/ipfs/{top}&arg=/t/d", f"cp?arg=/ipfs/{top}&arg=/t/d",
            f"cp?arg=/ipfs/{HELLO}&arg=/t/", f"cp?arg=/ipfs/{HELLO}&arg=/t/q/w/e&parents=true",
            "cp?arg=/t/d&arg=/t/again", "ls?arg=/t", "ls?arg=/t&long=true",
            "ls?arg=/t&l=true&U=true",
            "ls?arg=/t/d/a.txt", "ls?arg=/t/d/a.txt&long=true", "stat?arg=/t/d", "stat?arg=/t",
            "stat?arg=/t/d/a.txt", f"stat?arg=/ipfs/{top}", f"stat?arg=/ipfs/{top}&with-local=true",
            "read?arg=/t/d/a.txt", "read?arg=/t/d/a.txt&offset=1&count=2", "read?arg=/t/d",
            "read?arg=/t/d/a.txt&offset=10", f"read?arg=/ipfs/{top}/a.txt", "flush?arg=/t",
            "mv?arg=/t/d/a.txt&arg=/t/moved", "stat?arg=/t/moved", "ls?arg=/t/d",
            "mv?arg=/t/moved&arg=/t/x", "ls?arg=/t/x", "mv?arg=/t/none&arg=/t/x",
            "rm?arg=/t/x", "rm?arg=/t/none", "rm?arg=/", "rm?arg=/t/none&force=true",
            "rm?arg=/t/x&recursive=true", "ls?arg=/t", "stat?arg=/t",
        ):  # fmt: skip
            yield call, server.post(f"files/{call}").plain

    same(servers, scenario)


def test_writing_into_files(servers):
    def scenario(server: Server):
        hello, big = ("x", b"hello", FILE), ("x", BIG, FILE)
        server.post("files/rm?arg=/w&recursive=true&force=true")
        for call, part in (
            ("arg=/w/a", hello), ("arg=/w/a&create=true", hello),
            ("arg=/w/a&create=true&parents=true", hello), ("arg=/w/a&offset=3", hello),
            ("arg=/w/a&truncate=true&count=4", hello), ("arg=/w/a&offset=-1", hello),
            ("arg=/w/big&e=true&raw-leaves=true", big), ("arg=/w/big&offset=2000000", hello),
            ("arg=/w/a&offset=100", hello), ("arg=/w", hello),
        ):  # fmt: skip
            yield call, server.upload(f"files/write?{call}", part).status
            for name in ("a", "big"):
                yield call, server.post(f"files/read?arg=/w/{name}").body
        yield [row["Size"] for row in server.post("files/ls?arg=/w&long=true").lines[0]["Entries"]]

    same(servers, scenario)
