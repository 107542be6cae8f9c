"""The path gateway, rule by rule; docs/ipfs.md says which section each one is of."""

import hashlib
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
import trio

from p2pcache.content import cid as cids
from p2pcache.content.cid import format_cid
from p2pcache.content.dag import fsdata, node
from p2pcache.content.dag.fsdata import FsData, Kind
from p2pcache.gateway.ipfs.reader import MAX_THREADS
from tests.support.ipfs_gateway import gateway, keep
from tests.support.ipfs_site import BIG, FILES, fill
from tests.support.stored import MIB

IMMUTABLE = "public, max-age=29030400, immutable"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with gateway(tmp_path_factory.mktemp("paths")) as opened:
        opened.site = fill(opened.store)
        yield opened


@pytest.fixture
def site(served):
    return served.site


# -- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES)
def test_every_file_is_its_bytes(served, site, path):
    found = served.ask(f"/ipfs/{site.root}/{quote(path)}")
    assert (found.status, found.body) == (200, FILES[path])
    assert found.headers["content-length"] == str(len(FILES[path]))
    assert found.headers["cache-control"] == IMMUTABLE
    assert found.headers["etag"] == f'"{format_cid(site.paths[path])}"'
    assert found.headers["x-ipfs-path"] == f"/ipfs/{site.root}/{quote(path)}"
    head = served.ask(f"/ipfs/{site.root}/{quote(path)}", method="HEAD")
    assert {**head.headers, "date": ""} == {**found.headers, "date": ""}
    assert head.body == b""


def test_the_roots_of_a_path_are_told_one_a_segment(served, site):
    found = served.ask(f"/ipfs/{site.root}/sub/deeper/twice")
    names = ["", "sub", "sub/deeper", "sub/deeper/twice"]
    assert found.headers["x-ipfs-roots"] == ",".join(format_cid(site.paths[n]) for n in names)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("hello.txt", "text/plain; charset=utf-8"),
        ("noext", "text/plain; charset=utf-8"),
        ("bytes", "application/octet-stream"),
        ("page.html", "text/html; charset=utf-8"),
        ("data.json", "application/json; charset=utf-8"),
        ("pic.png", "image/png"),
        ("sub/big.bin", "application/octet-stream"),
        ("hello.txt?filename=x.html", "text/html; charset=utf-8"),
    ],
)
def test_the_type_is_by_the_name_else_by_how_it_begins(served, site, path, expected):
    assert served.ask(f"/ipfs/{site.root}/{path}").headers["content-type"] == expected


def test_a_file_by_its_own_cid_and_a_foreign_one(served, site):
    assert served.ask(f"/ipfs/{format_cid(site.paths['sub/big.bin'])}").body == BIG
    found = served.ask(f"/ipfs/{site.foreign}")
    assert (found.status, found.body) == (200, site.foreign_data)


def test_a_whole_blob_is_served_by_its_sha256_as_raw_of_any_size(served):
    import hashlib

    raw = format_cid(cids.raw_cid(hashlib.sha256(BIG).digest()))
    assert served.ask(f"/ipfs/{raw}").body == BIG
    assert served.ask(f"/ipfs/{raw}", Range=f"bytes={MIB}-{MIB + 9}").body == BIG[MIB : MIB + 10]


@pytest.mark.parametrize("path", ["sub/big.bin", "foreign"])
@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("0-0", 0, 1), ("10-2000", 10, 2001), ("4990-", 4990, None), ("-7", -7, None),
     ("0-99999999", 0, None), ("-99999999", 0, None), ("5-9,20-30", 5, 10)],
)  # fmt: skip
def test_ranges_of_a_file(served, site, path, asked, start, end):
    data = site.foreign_data if path == "foreign" else BIG
    target = site.foreign if path == "foreign" else f"{site.root}/{path}"
    found = served.ask(f"/ipfs/{target}", Range=f"bytes={asked}")
    wanted = data[start:end]
    assert (found.status, found.body) == (206, wanted)
    first = data.index(wanted)
    assert found.headers["content-range"] == f"bytes {first}-{first + len(wanted) - 1}/{len(data)}"


def test_a_range_over_the_border_of_blocks(served, site):
    found = served.ask(f"/ipfs/{site.root}/sub/big.bin", Range=f"bytes={MIB - 3}-{2 * MIB + 3}")
    assert found.body == BIG[MIB - 3 : 2 * MIB + 4]


@pytest.mark.parametrize("asked", ["bytes=6-", "bytes=5-2", "bytes=x", "bytes=-", "bytes=-0"])
def test_a_range_that_cannot_be_is_416_and_tells_the_size(served, site, asked):
    found = served.ask(f"/ipfs/{site.root}/hello.txt", Range=asked)
    assert (found.status, found.headers["content-range"]) == (416, "bytes */6")


def test_another_unit_is_ignored_and_if_range_is_obeyed(served, site):
    path = f"/ipfs/{site.root}/hello.txt"
    assert served.ask(path, Range="lines=0-1").status == 200
    etag = served.ask(path).headers["etag"]
    assert served.ask(path, Range="bytes=0-1", If_Range=etag).status == 206
    assert served.ask(path, Range="bytes=0-1", If_Range='"other"').status == 200
    assert served.ask(path, Range="bytes=0-1", If_Range="W/" + etag).status == 200


def test_if_none_match_is_304(served, site):
    for path in ("hello.txt", "sub/", "site/"):
        target = f"/ipfs/{site.root}/{path}"
        etag = served.ask(target).headers["etag"]
        found = served.ask(target, If_None_Match=etag)
        assert (found.status, found.body) == (304, b"")
        assert served.ask(target, If_None_Match="W/" + etag).status == 304


def test_filename_and_download_name_the_answer(served, site):
    target = f"/ipfs/{site.root}/hello.txt"
    assert "content-disposition" not in served.ask(target).headers
    found = served.ask(f"{target}?filename=test%D1%82%D0%B5%22.txt").headers["content-disposition"]
    assert found == "inline; filename=\"test___.txt\"; filename*=UTF-8''test%D1%82%D0%B5%22.txt"
    found = served.ask(f"{target}?filename=a.txt&download=true").headers["content-disposition"]
    assert found.startswith('attachment; filename="a.txt"')
    found = served.ask(f"{target}?download=true").headers["content-disposition"]
    assert found.startswith("attachment; filename=")
    assert served.ask(f"{target}?filename={'x' * 300}").status == 400


def test_a_header_cannot_be_injected_by_a_name(served, site):
    found = served.ask(f"/ipfs/{site.root}/hello.txt?filename=a%0d%0aX-Evil:1")
    assert found.status == 200
    assert "x-evil" not in found.headers


def test_a_symlink_is_its_target(served, site):
    found = served.ask(f"/ipfs/{site.root}/link")
    assert (found.body, found.headers["content-type"]) == (b"hello.txt", "inode/symlink")


# -- folders ----------------------------------------------------------------------------------


def test_a_folder_without_a_slash_is_redirected_and_keeps_its_query(served, site):
    found = served.ask(f"/ipfs/{site.root}?a=b%20c&filename=x")
    assert found.status == 301
    assert found.headers["location"] == f"/ipfs/{site.root}/?a=b%20c&filename=x"
    assert served.ask(f"/ipfs/{site.root}/sub").headers["location"] == f"/ipfs/{site.root}/sub/"
    assert served.ask(f"/ipfs/{site.root}/site").status == 301
    assert served.ask("//evil.example/..").status in (400, 404)


def test_a_listing_shows_every_name_escaped_with_links_that_work(served, site):
    found = served.ask(f"/ipfs/{site.root}/")
    assert found.headers["content-type"] == "text/html; charset=utf-8"
    assert re.fullmatch(rf'"DirIndex-\w+_CID-{site.root}"', found.headers["etag"])
    assert "immutable" not in found.headers["cache-control"]
    assert "default-src 'none'" in found.headers["content-security-policy"]
    page = found.body.decode()
    assert "<b>" not in page
    assert "&lt;b&gt;.txt" in page
    links = re.findall(r'href="([^"]+)"', page)
    assert len(links) == len({path.split("/")[0] for path in FILES}) + 1
    for link in links:
        answer = served.ask(link)
        assert answer.status == (301 if answer.headers.get("location") else 200)
    inner = served.ask(f"/ipfs/{site.root}/sub/deeper/").body.decode()
    assert f'href="/ipfs/{site.root}/sub/"' in inner


def test_index_html_stands_for_its_folder_and_a_folder_of_that_name_does_not(served, site):
    found = served.ask(f"/ipfs/{site.root}/site/")
    assert found.body == b"<h1>site</h1>"
    assert found.headers["content-type"].startswith("text/html")
    assert found.headers["etag"] == f'"{format_cid(site.paths["site"])}"'
    assert b"Index of" in served.ask(f"/ipfs/{site.root}/index-folder/").body


# -- dag-cbor, dag-json -----------------------------------------------------------------------


def test_dag_cbor_and_dag_json_are_served_as_they_are(served, site):
    for cid, forms, media in (
        (site.cbor, ("", "?format=dag-cbor"), "application/vnd.ipld.dag-cbor"),
        (site.cbor, ("?format=cbor",), "application/cbor"),
        (site.json, ("", "?format=dag-json"), "application/vnd.ipld.dag-json"),
        (site.json, ("?format=json",), "application/json"),
        (site.plain_json, ("", "?format=json"), "application/json"),
    ):
        for form in forms:
            found = served.ask(f"/ipfs/{cid}{form}")
            assert (found.status, found.headers["content-type"]) == (200, media)
            assert found.headers["etag"].startswith(f'"{cid}.')
    assert served.ask(f"/ipfs/{site.cbor}").body == site.cbor_block
    assert served.ask(f"/ipfs/{site.json}").headers["content-disposition"].startswith("inline")
    assert served.ask(f"/ipfs/{site.cbor}").headers["content-disposition"].startswith("attach")


def test_nothing_is_converted_406(served, site):
    for target in (
        f"{site.cbor}?format=dag-json", f"{site.cbor}?format=json", f"{site.json}?format=cbor",
        f"{site.root}?format=dag-json", f"{site.root}?format=tar",
    ):  # fmt: skip
        assert served.ask(f"/ipfs/{target}").status == 406
    assert served.ask(f"/ipfs/{site.root}", Accept="application/x-tar").status == 406


def test_a_block_that_is_not_what_its_codec_says_is_500(served, site):
    assert served.ask(f"/ipfs/{site.bad_cbor}").status == 500
    assert served.ask(f"/ipfs/{site.bad_cbor}?format=raw").status == 200


def test_paths_lead_through_dag_cbor_and_not_into_its_values(served, site):
    assert served.ask(f"/ipfs/{site.cbor}/a/hello.txt").body == b"hello\n"
    assert served.ask(f"/ipfs/{site.cbor}/n/b/0").status == 501
    assert served.ask(f"/ipfs/{site.cbor}/none").status == 404


def test_a_codec_that_is_not_known_is_400_and_its_block_is_served(served, site):
    assert served.ask(f"/ipfs/{site.unknown_codec}").status == 400
    assert served.ask(f"/ipfs/{site.unknown_codec}?format=raw").body == b"an ethereum block"


# -- what is not there ------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["none", "sub/none", "hello.txt/x", "sub/big.bin/x"])
def test_a_name_that_is_not_there_is_404(served, site, path):
    assert served.ask(f"/ipfs/{site.root}/{path}").status == 404


def test_only_if_cached_looks_at_every_block_of_a_file(served, site):
    cached = {"Cache_Control": "max-age=0, only-if-cached"}
    assert served.ask(f"/ipfs/{site.partial}", method="HEAD", **cached).status == 412
    assert served.ask(f"/ipfs/{site.foreign}", method="HEAD", **cached).status == 200
    assert served.ask(f"/ipfs/{site.root}/sub/big.bin", **cached).body == BIG


def test_a_file_with_a_missing_block_is_cut_off_and_its_beginning_is_right(served, site):
    found = served.ask(f"/ipfs/{site.partial}")
    assert (found.status, found.whole) == (200, False)
    assert len(found.body) < 1_800_000
    assert served.ask(f"/ipfs/{site.partial}", Range="bytes=0-9").status == 206
    assert served.ask(f"/ipfs/{site.partial}", Range="bytes=1200005-1200009").status == 404


def test_ipns_and_other_paths_are_not_served(served):
    assert served.ask("/ipns/example.org").status == 501
    assert served.ask("/").status == 404
    assert served.ask("/api/v0/id").status == 404


def test_dots_and_encoded_slashes(served, site):
    assert served.ask(f"/ipfs/{site.root}/sub/../hello.txt").status == 400
    assert served.ask(f"/ipfs/{site.root}/%2e%2e/x").status == 400
    assert served.ask(f"/ipfs/{site.root}/a%00b").status == 400
    assert served.ask(f"/ipfs/{site.root}/sub%2Fbig.bin").body == BIG
    assert served.ask(f"/ipfs/{site.root}//hello.txt").body == b"hello\n"


def test_a_service_worker_is_refused_for_a_root_and_allowed_below_it(served, site):
    script = {"Service_Worker": "script"}
    assert served.ask(f"/ipfs/{site.root}", **script).status == 400
    assert served.ask(f"/ipfs/{site.root}/hello.txt", **script).status == 200


def test_other_names_of_this_machine_get_nothing(served, site):
    assert served.ask(f"/ipfs/{site.root}/hello.txt", Host="evil.example").status == 403
    headers = served.ask(f"/ipfs/{site.root}/hello.txt", Origin="https://evil.example").headers
    assert not [name for name in headers if name.startswith("access-control")]


def test_what_nobody_gives_in_time_is_504(tmp_path, site):
    class Silent:
        async def fetch(self, cid: bytes) -> bytes | None:
            await trio.sleep_forever()

        def lied(self, cid: bytes) -> None:
            raise AssertionError

    for answer_s, fetch_s in ((0.3, 60.0), (60.0, 0.3)):
        folder = tmp_path / str(answer_s)
        folder.mkdir()
        with gateway(folder, answer_s=answer_s, fetch_s=fetch_s) as slow:
            slow.fetchers.append(Silent())
            for query in ("", "?format=raw", "?format=car"):
                found = slow.ask(f"/ipfs/{site.missing}{query}")
                assert found.status == 504
                assert int(found.headers["retry-after"]) > 0
            assert slow.ask(f"/ipfs/{site.missing}", Cache_Control="only-if-cached").status == 412


def test_what_others_have_is_fetched_block_by_block(tmp_path, served, site):
    class Other:
        async def fetch(self, cid: bytes) -> bytes | None:
            return served.store.loose.read(cid) or served.store.implied.read(cid[4:])

        def lied(self, cid: bytes) -> None:
            raise AssertionError

    with gateway(tmp_path) as empty:
        empty.fetchers.append(Other())
        assert empty.ask(f"/ipfs/{site.foreign}").body == site.foreign_data
        found = empty.ask(f"/ipfs/{site.root}/sub/big.bin", Range=f"bytes={2 * MIB}-{2 * MIB + 9}")
        assert found.body == BIG[2 * MIB : 2 * MIB + 10]
        blocks = empty.store.usage().loose_blocks
        assert blocks == len(site.foreign_cids) + 4, "the root, `sub`, the file's node and one leaf"
        assert empty.ask(f"/ipfs/{site.root}?format=car").whole


def test_a_file_that_peers_have_is_brought_whole(tmp_path, site):
    from tests.support.stored import store_whole

    asked = []

    async def bring(cid: bytes) -> bool:
        asked.append(cid)
        if cid == site.paths["sub/big.bin"]:
            await trio.to_thread.run_sync(store_whole, peers.store, BIG)
            return True
        return False

    with gateway(tmp_path, bring=bring) as peers:
        root = format_cid(site.paths["sub/big.bin"])
        assert peers.ask(f"/ipfs/{root}", Cache_Control="only-if-cached").status == 412
        assert asked == []
        assert peers.ask(f"/ipfs/{root}").body == BIG
        assert peers.ask(f"/ipfs/{site.missing}").status == 404
        assert len(asked) == 2


def test_what_nobody_has_is_searched_once_a_request(tmp_path, site):
    class Nobody:
        asked = 0

        async def fetch(self, cid: bytes) -> bytes | None:
            Nobody.asked += 1

    with gateway(tmp_path) as lone:
        lone.fetchers.append(Nobody())
        for count, query in enumerate(("", "?format=raw", "?format=car"), start=1):
            assert lone.ask(f"/ipfs/{site.missing}{query}").status == 404
            assert Nobody.asked == count


def test_what_is_here_is_served_while_many_wait_for_what_is_not(tmp_path):
    asked, end = set(), threading.Event()

    class Silent:
        async def fetch(self, cid: bytes) -> bytes | None:
            asked.add(cid)
            while not end.is_set():  # noqa: ASYNC110 - a thread sets it
                await trio.sleep(0.02)

    kind = fsdata.encode(FsData(Kind.DIRECTORY))
    with gateway(tmp_path, answer_s=15.0) as slow:
        slow.fetchers.append(Silent())
        targets = []
        for number in range(2 * MAX_THREADS):  # folders that are here, of files that are not
            file = cids.raw_cid(hashlib.sha256(b"%d" % number).digest())
            block = node.encode([node.Link(file, b"f", 5)], kind)
            folder = cids.dagpb_cid(hashlib.sha256(block).digest())
            keep(slow.store, folder, block)
            targets.append(f"/ipfs/{format_cid(folder)}")
        with ThreadPoolExecutor(len(targets)) as clients:
            waiting = [clients.submit(slow.ask, f"{target}/f") for target in targets]
            try:
                while len(asked) < len(targets) and not any(one.done() for one in waiting):
                    assert slow.ask(f"{targets[0]}?format=raw").status == 200
                assert slow.ask(f"{targets[0]}?format=raw").status == 200
            finally:
                end.set()
            assert {one.result().status for one in waiting} == {404}
