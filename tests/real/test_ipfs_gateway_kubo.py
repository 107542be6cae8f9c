"""Our gateway and Kubo's, asked the same about the same DAGs."""

import json
import os
import subprocess
import urllib.request

import pytest

from p2pcache.content.cid import format_cid, parse_cid
from tests.support.ipfs_gateway import Gateway, cids_of, gateway, keep_car, roots_of
from tests.support.kubo import ipfs_binary
from tests.support.kubo_daemon import kubo_daemon
from tests.support.stored import MIB, content

COMPARED = (
    "etag", "content-range", "content-disposition", "x-ipfs-roots", "accept-ranges",
    "cache-control", "content-length",
)  # fmt: skip
BIG = content(3 * MIB + 5, 1)


class Both:
    """One Kubo and one of our gateways, which has the blocks of Kubo's DAGs."""

    def __init__(self, kubo, repo, ours):
        host, _, port = kubo.gateway.partition(":")
        self.kubo = Gateway(host, int(port))
        self.ours = ours
        self._daemon = kubo
        self._env = {"IPFS_PATH": str(repo), "HOME": str(repo), "IPFS_TELEMETRY": "off"}

    def ipfs(self, *args, data=None) -> bytes:
        api = "/ip4/" + self._daemon.api.replace(":", "/tcp/")
        done = subprocess.run(
            [ipfs_binary(), "--api", api, *args], env=self._env, input=data, capture_output=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def share(self, root: str) -> str:
        """Have the blocks below a root here, too."""
        keep_car(self.ours.store, self.ipfs("dag", "export", "--progress=false", root))
        return root

    def ask(self, target, **headers):
        return self.kubo.ask(target, **headers), self.ours.ask(target, **headers)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("both")
    folder = tmp / "folder"
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "site").mkdir()
    for path, data in {
        "hello.txt": b"hello\n", "noext": b"plain words", "data.json": b"{}", "sub/big.bin": BIG,
        "sub/twice": b"t" * 999, "sub/again": b"t" * 999, "site/index.html": b"<h1>x</h1>",
        "pic.png": b"\x89PNG\r\n\x1a\nxxxx", "\u00fc \u00f1.txt": b"u", "empty": b"",
    }.items():  # fmt: skip
        (folder / path).write_bytes(data)
    os.symlink("hello.txt", folder / "link")
    with (
        kubo_daemon(tmp / "repo", None, gateway=True, profile="unixfs-v1-2025") as kubo,
        gateway(tmp) as ours,
    ):
        found = Both(kubo, tmp / "repo", ours)
        found.root = found.share(kubo.add(folder))
        found.old = found.share(
            kubo.add(folder, "--cid-version=0", "--raw-leaves=false", "--chunker=size-70000")
        )
        found.trickle = found.share(
            kubo.add(folder, "--trickle", "--chunker=rabin-2048-65536-131072")
        )
        cbor = json.dumps({"a": {"/": found.root}, "n": {"b": 1}}).encode()
        found.cbor = found.share(found.ipfs("dag", "put", data=cbor).decode().strip())
        yield found


PATHS = (
    "/hello.txt", "/noext", "/data.json", "/pic.png", "/empty", "/sub/big.bin",
    "/%C3%BC%20%C3%B1.txt",
    "/hello.txt?filename=a%C3%BC.txt", "/hello.txt?filename=a.txt&download=true", "/site/", "/link",
)  # fmt: skip
REQUESTS = [
    *((path, {}) for path in PATHS),
    *(
        ("/sub/big.bin", {"Range": f"bytes={text}"})
        for text in ("0-0", f"{MIB - 1}-{MIB}", "-7", "5-", "0-99999999", "99999999-")
    ),
    ("/hello.txt", {"Range": "bytes=0-1,3-4"}),
    ("?format=raw", {}),
    ("", {"Accept": "application/vnd.ipld.raw"}),
    ("?format=raw", {"Range": "bytes=4-9"}),
    ("", {}),
    ("/sub", {}),
    ("/none", {}),
    ("/hello.txt/x", {}),
    ("?format=dag-cbor", {}),
    ("?format=car&car-version=2", {}),
    ("?format=car&dag-scope=bad", {}),
    ("?format=car&dag-scope=entity&entity-bytes=5:2", {}),
]


@pytest.mark.parametrize("which", ["root", "old", "trickle"])
@pytest.mark.parametrize(("path", "headers"), REQUESTS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_same_answer_as_kubo(both, which, path, headers, method):
    kubo, ours = both.ask(f"/ipfs/{getattr(both, which)}{path}", method=method, **headers)
    assert ours.status == kubo.status
    if kubo.status < 300:
        assert ours.body == kubo.body
        named = {name: kubo.headers[name] for name in COMPARED if name in kubo.headers}
        if path.endswith("link"):
            named.pop("accept-ranges", None)
        assert {name: ours.headers.get(name) for name in named} == named
        media, mine = kubo.headers["content-type"], ours.headers["content-type"]
        assert mine.split(";")[0] == media.split(";")[0]
    elif kubo.status < 400:
        assert ours.headers["location"] == kubo.headers["location"]


CARS = (
    "", "/sub", "/sub/big.bin", "/hello.txt", "?dag-scope=block", "?dag-scope=entity",
    "/sub?dag-scope=block", "/sub?dag-scope=entity", "/sub/big.bin?dag-scope=entity",
    *(
        f"/sub/big.bin?dag-scope=entity&entity-bytes={text}"
        for text in ("0:0", "0:*", "-5:*", f"{MIB}:{MIB}", "5:-5", "99999999:*")
    ),
    "?car-dups=y", "/none", "/sub/none/x",
)  # fmt: skip


@pytest.mark.parametrize("which", ["root", "old", "trickle"])
@pytest.mark.parametrize("path", CARS)
def test_the_same_blocks_in_the_same_order_as_kubos_car(both, which, path):
    path, _, query = path.partition("?")
    target = f"/ipfs/{getattr(both, which)}{path}?format=car" + (f"&{query}" if query else "")
    kubo, ours = both.ask(target)
    assert (ours.status, ours.whole) == (kubo.status, True) == (200, True)
    assert cids_of(ours.body) == cids_of(kubo.body)
    assert roots_of(ours.body) == roots_of(kubo.body)
    assert ours.body == kubo.body
    for name in ("content-type", "content-disposition", "x-ipfs-roots"):
        assert ours.headers[name] == kubo.headers[name]


@pytest.mark.parametrize("path", ["", "?format=dag-cbor", "?format=cbor", "/a/hello.txt", "/n/b"])
def test_the_same_of_dag_cbor(both, path):
    kubo, ours = both.ask(f"/ipfs/{both.cbor}{path}")
    assert (ours.status, ours.body if ours.status < 300 else b"") == (
        kubo.status, kubo.body if kubo.status < 300 else b"",
    )  # fmt: skip


def test_what_kubo_knows_nothing_of_is_imported_from_our_car(both, tmp_path):
    """A CAR of our gateway, of blobs and folders that are no stored blocks, is whole for Kubo."""
    from tests.support.ipfs_site import fill

    site = fill(both.ours.store)
    body = both.ours.ask(f"/ipfs/{site.root}?format=car").body
    (tmp_path / "site.car").write_bytes(body)
    said = both.ipfs("dag", "import", "--stats", str(tmp_path / "site.car")).decode()
    assert f"Pinned root\t{site.root}\tsuccess" in said
    assert both.kubo.ask(f"/ipfs/{site.root}/hello.txt").body == b"hello\n"
    both.ipfs("dag", "stat", "--progress=false", site.root)


def test_kubo_takes_our_blocks(both):
    site_block = both.ours.ask(f"/ipfs/{both.root}?format=raw").body
    boundary = b"xx"
    form = (
        b"--xx\r\nContent-Disposition: form-data; name=f; filename=f\r\n"
        b"Content-Type: application/octet-stream\r\n\r\n" + site_block + b"\r\n--xx--\r\n"
    )
    request = urllib.request.Request(
        f"http://{both._daemon.api}/api/v0/block/put?cid-codec=dag-pb", data=form,
        headers={"Content-Type": "multipart/form-data; boundary=" + boundary.decode()},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["Key"] == format_cid(parse_cid(both.root))
