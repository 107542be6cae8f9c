"""The trustless gateway, rule by rule; docs/ipfs.md says which section each one is of."""

import hashlib

import pytest

from p2pcache.content import cid as cids
from p2pcache.content.cid import parse_cid
from tests.support.ipfs_gateway import cids_of, gateway, roots_of
from tests.support.ipfs_site import BIG, FILES, TWICE, fill
from tests.support.stored import MIB, block_hashes

RAW, CAR = "application/vnd.ipld.raw", "application/vnd.ipld.car"
IMMUTABLE = "public, max-age=29030400, immutable"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with gateway(tmp_path_factory.mktemp("trustless")) as opened:
        opened.site = fill(opened.store)
        yield opened


@pytest.fixture
def site(served):
    return served.site


def big_leaves() -> list[bytes]:
    return [cids.raw_cid(digest) for digest in block_hashes(BIG)]


# -- blocks -----------------------------------------------------------------------------------


def test_a_block_by_format_and_by_accept_is_the_same(served, site):
    by_format = served.ask(f"/ipfs/{site.root}?format=raw")
    by_accept = served.ask(f"/ipfs/{site.root}", Accept=RAW)
    assert by_format.status == by_accept.status == 200
    assert by_format.body == by_accept.body
    assert hashlib.sha256(by_format.body).digest() == parse_cid(site.root)[4:]


def test_a_block_says_what_it_is_and_may_be_kept_for_ever(served, site):
    headers = served.ask(f"/ipfs/{site.root}?format=raw").headers
    assert headers["content-type"] == RAW
    assert headers["cache-control"] == IMMUTABLE
    assert headers["etag"] == f'"{site.root}.raw"'
    assert headers["x-content-type-options"] == "nosniff"
    disposition = headers["content-disposition"]
    assert disposition.startswith(f'attachment; filename="{site.root}.bin"')
    assert headers["x-ipfs-roots"] == site.root


def test_leaves_and_nodes_of_blobs_are_blocks(served, site):
    for number, cid in enumerate(big_leaves()):
        found = served.ask(f"/ipfs/{cids.format_cid(cid)}?format=raw")
        assert found.body == BIG[number * MIB : (number + 1) * MIB]
    node = served.ask(f"/ipfs/{cids.format_cid(site.paths['sub/big.bin'])}?format=raw")
    assert hashlib.sha256(node.body).digest() == site.paths["sub/big.bin"][4:]


def test_a_block_is_given_by_every_spelling_of_its_cid(served, site):
    for path in ("", "hello.txt", "sub/big.bin"):
        cid = site.paths[path]
        spellings = [cids.format_cid(cid), cids.format_cid(cid).upper(), "f" + cid.hex()]
        if cids.codec(cid) == cids.DAG_PB:
            spellings.append(cids.format_cid(cids.as_v0(cid)))
        bodies = {served.ask(f"/ipfs/{one}?format=raw").body for one in spellings}
        assert len(bodies) == 1
        assert hashlib.sha256(bodies.pop()).digest() == cid[4:]


def test_a_range_of_a_block(served, site):
    whole = served.ask(f"/ipfs/{site.root}?format=raw").body
    part = served.ask(f"/ipfs/{site.root}?format=raw", Range="bytes=3-9")
    assert (part.status, part.body) == (206, whole[3:10])
    assert part.headers["content-range"] == f"bytes 3-9/{len(whole)}"


def test_head_has_the_headers_and_no_body(served, site):
    for target in (f"/ipfs/{site.root}?format=raw", f"/ipfs/{site.root}?format=car"):
        got, head = served.ask(target), served.ask(target, method="HEAD")
        assert (head.status, head.body) == (200, b"")
        for name in ("content-type", "etag", "cache-control", "content-disposition"):
            assert head.headers[name] == got.headers[name]
    raw = served.ask(f"/ipfs/{site.root}?format=raw", method="HEAD")
    assert int(raw.headers["content-length"]) > 0


def test_if_none_match_is_304_without_a_body(served, site):
    for form in ("raw", "car"):
        target = f"/ipfs/{site.root}?format={form}"
        etag = served.ask(target).headers["etag"]
        for condition in (etag, f'"other", {etag}', "*", etag.removeprefix("W/")):
            found = served.ask(target, If_None_Match=condition)
            assert (found.status, found.body, found.headers["etag"]) == (304, b"", etag)
        assert served.ask(target, If_None_Match='"other"').status == 200


def test_the_probe_path_answers(served):
    raw = served.ask("/ipfs/bafkqaaa?format=raw")
    assert (raw.status, raw.body) == (200, b"")
    assert served.ask("/ipfs/bafkqaaa?format=raw", method="HEAD").status == 200
    car = served.ask("/ipfs/bafkqaaa?format=car")
    assert (car.status, cids_of(car.body)) == (200, [])
    assert roots_of(car.body) == [b"\x01\x55\x00\x00"]


def test_a_missing_root_is_404_in_every_format(served, site):
    for query in ("?format=raw", "?format=car", ""):
        for method in ("GET", "HEAD"):
            assert served.ask(f"/ipfs/{site.missing}{query}", method=method).status == 404


def test_only_if_cached_is_412_for_what_is_not_here(served, site):
    for query in ("?format=raw", "?format=car", ""):
        missing = served.ask(f"/ipfs/{site.missing}{query}", Cache_Control="only-if-cached")
        assert missing.status == 412
        here = served.ask(f"/ipfs/{site.foreign}{query}", Cache_Control="only-if-cached")
        assert here.status == 200


# -- what is asked for ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/ipfs/notacid", "/ipfs/", "/ipfs", "/ipfs/bafy", "/ipfs/" + "b" * 600, "/ipfs/%FF",
             "/ipfs/Qm", "/ipfs/bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52z"],
)  # fmt: skip
def test_what_is_no_cid_is_400(served, path):
    assert served.ask(path + "?format=raw").status == 400


@pytest.mark.parametrize(
    "query",
    ["format=bogus", "format=car&car-version=2", "format=car&car-order=bfs",
     "format=car&car-dups=maybe", "format=car&dag-scope=some", "format=car&entity-bytes=x",
     "format=car&entity-bytes=1", "format=car&entity-bytes=5:2", "format=car&entity-bytes=-2:-5",
     "format=car&entity-bytes=" + "9" * 30 + ":*"],
)  # fmt: skip
def test_parameters_without_a_meaning_are_400(served, site, query):
    assert served.ask(f"/ipfs/{site.root}?{query}").status == 400


def test_a_hash_function_that_is_not_known_is_refused(served):
    sha1 = cids.make_cid(cids.RAW, b"\x11\x14" + bytes(20))
    assert served.ask(f"/ipfs/{cids.format_cid(sha1)}?format=raw").status == 400


def test_methods_that_change_something_are_405(served, site):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        found = served.ask(f"/ipfs/{site.root}", method=method)
        assert (found.status, found.headers["allow"]) == (405, "GET, HEAD")


def test_the_format_counts_more_than_accept_and_the_url_is_told(served, site):
    found = served.ask(f"/ipfs/{site.root}?format=raw", Accept=CAR)
    assert found.headers["content-type"] == RAW
    assert found.headers["content-location"] == f"/ipfs/{site.root}?format=raw"
    by_accept = served.ask(f"/ipfs/{site.root}?dag-scope=block", Accept=CAR)
    location = by_accept.headers["content-location"]
    assert location == f"/ipfs/{site.root}?format=car&dag-scope=block"
    assert "content-location" not in served.ask(f"/ipfs/{site.root}?format=raw").headers


def test_accept_with_wildcards_is_no_format(served, site):
    path = f"/ipfs/{site.root}/hello.txt"
    for accept in ("*/*", "text/html,application/xhtml+xml,*/*;q=0.8", "image/png"):
        assert served.ask(path, Accept=accept).body == b"hello\n"
    assert served.ask(path, Accept=f"{RAW};q=0, */*").headers["content-type"].startswith("text")


# -- CARs -------------------------------------------------------------------------------------


def test_a_car_says_version_order_and_duplicates(served, site):
    headers = served.ask(f"/ipfs/{site.root}?format=car").headers
    assert headers["content-type"] == f"{CAR}; version=1; order=dfs; dups=n"
    assert headers["cache-control"] == IMMUTABLE
    assert headers["accept-ranges"] == "none"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["etag"].startswith(f'W/"{site.root}.car')
    disposition = headers["content-disposition"]
    assert disposition.startswith(f'attachment; filename="{site.root}.car"')


def test_a_car_of_all_has_every_block_once_parents_first(served, site):
    body = served.ask(f"/ipfs/{site.root}?format=car").body
    found = cids_of(body)
    assert roots_of(body) == [parse_cid(site.root)]
    assert found[0] == parse_cid(site.root)
    assert len(found) == len(set(found))
    assert set(big_leaves()) < set(found)
    assert {*site.paths.values()} - {cids.raw_cid(hashlib.sha256(b"").digest())} <= set(found)
    assert found.index(site.paths["sub/big.bin"]) < found.index(big_leaves()[0])


def test_duplicates_come_when_they_are_asked_for(served, site):
    twice = cids.raw_cid(hashlib.sha256(TWICE).digest())
    for asked in ("car-dups=y", ""):
        accept = f"{CAR}; version=1; order=dfs; dups={'n' if asked else 'y'}"
        found = served.ask(f"/ipfs/{site.root}?format=car&{asked}", Accept=accept)
        assert "dups=y" in found.headers["content-type"]
        assert cids_of(found.body).count(twice) == 2
    assert cids_of(served.ask(f"/ipfs/{site.root}?format=car").body).count(twice) == 1


def test_dag_scope_block_is_the_path_and_its_last_block(served, site):
    body = served.ask(f"/ipfs/{site.root}/sub/big.bin?format=car&dag-scope=block").body
    assert cids_of(body) == [site.paths[path] for path in ("", "sub", "sub/big.bin")]


def test_dag_scope_entity_is_a_whole_file_and_of_a_folder_itself_alone(served, site):
    file = served.ask(f"/ipfs/{site.root}/sub/big.bin?format=car&dag-scope=entity").body
    above = [site.paths[path] for path in ("", "sub", "sub/big.bin")]
    assert cids_of(file) == [*above, *big_leaves()]
    folder = served.ask(f"/ipfs/{site.root}/sub?format=car&dag-scope=entity").body
    assert cids_of(folder) == above[:2]


def test_entity_bytes_brings_the_blocks_of_a_range(served, site):
    leaves = big_leaves()
    size = len(BIG)
    target = f"/ipfs/{cids.format_cid(site.paths['sub/big.bin'])}?format=car"
    for text, wanted in (
        ("0:*", leaves), ("0:0", leaves[:1]), (f"{MIB - 1}:{MIB}", leaves[:2]),
        ("-5:*", leaves[3:]), ("-6:*", leaves[2:]), (f"{MIB}:-{2 * MIB + 5}", leaves[1:2]),
        (f"{size - 1}:{size + 100}", leaves[3:]), (f"{size}:*", []),
        (f"{size + 9}:{size + 10}", []),
    ):  # fmt: skip
        body = served.ask(f"{target}&entity-bytes={text}").body
        assert cids_of(body) == [site.paths["sub/big.bin"], *wanted], text


def test_entity_bytes_means_nothing_for_a_folder_and_changes_the_etag(served, site):
    target = f"/ipfs/{site.root}/sub?format=car&dag-scope=entity"
    plain, limited = served.ask(target), served.ask(f"{target}&entity-bytes=0:5")
    assert cids_of(plain.body) == cids_of(limited.body)
    assert plain.headers["etag"] != limited.headers["etag"]
    assert served.ask(f"/ipfs/{site.root}/sub?format=car").headers["etag"] != plain.headers["etag"]


def test_entity_of_what_is_no_unixfs_is_its_block(served, site):
    body = served.ask(f"/ipfs/{site.cbor}?format=car&dag-scope=entity").body
    assert cids_of(body) == [parse_cid(site.cbor)]


def test_a_path_that_leads_nowhere_is_shown_by_the_blocks_on_its_way(served, site):
    found = served.ask(f"/ipfs/{site.root}/sub/none/x?format=car")
    assert found.status == 200
    assert cids_of(found.body) == [site.paths[""], site.paths["sub"]]
    assert roots_of(found.body) == [b"\x01\x55\x00\x00"]


def test_a_car_with_a_missing_block_is_cut_off(served, site):
    found = served.ask(f"/ipfs/{site.partial}?format=car")
    assert (found.status, found.whole) == (200, False)


def test_identity_blocks_are_not_in_a_car(served, site):
    from p2pcache.content.dag import node
    from p2pcache.content.dag.hashes import cid_of
    from tests.support.ipfs_gateway import keep

    inline = cids.make_cid(cids.RAW, b"\x00\x02hi")
    block = node.encode([node.Link(inline, b"x", 2)], b"\x08\x01")
    root = cid_of(cids.DAG_PB, block)
    keep(served.store, root, block)
    for query in ("", "&car-dups=y"):
        assert cids_of(served.ask(f"/ipfs/{cids.format_cid(root)}?format=car{query}").body) == [
            root
        ]
    assert served.ask(f"/ipfs/{cids.format_cid(root)}/x").body == b"hi"


def test_a_car_through_dag_cbor(served, site):
    body = served.ask(f"/ipfs/{site.cbor}/a/hello.txt?format=car").body
    above = [parse_cid(site.cbor), site.paths[""], site.paths["hello.txt"]]
    assert cids_of(body) == above
    assert len(FILES) > 10
