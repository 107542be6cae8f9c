"""The list of a bundle: comes back as it was, keeps the mark, and only Untrusted comes out."""

from __future__ import annotations

import hashlib
from typing import Any

import libipld
import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2pcache.content import bundle
from p2pcache.content import cid as cids
from p2pcache.content.bundle import BundledRef
from p2pcache.content.signed import SignedResolution, sign_resolution
from p2pcache.errors import Untrusted, UsageError
from tests.support.gated import ME

MANIFEST = cids.dagcbor_cid(hashlib.sha256(b"manifest").digest())
FOLDER = cids.dagpb_cid(hashlib.sha256(b"folder").digest())


def word(manifest: bytes = MANIFEST, *, restricted: bool = False) -> SignedResolution:
    return sign_resolution(
        ME, canonical="hf://org/model@main", manifest=manifest, immutable="a" * 40, source="hf",
        endpoint="https://huggingface.co", mutable=True, restricted=restricted, resolved_at=1000.0,
    )  # fmt: skip


def test_a_list_comes_back_as_it_was_and_its_cid_is_of_its_bytes() -> None:
    refs = (BundledRef(MANIFEST, FOLDER, (word(),), False),)
    cid, data = bundle.encode(refs)
    assert bundle.parse(data) == refs
    assert cid == cids.dagcbor_cid(hashlib.sha256(data).digest())


def test_tools_of_ipfs_see_links_to_manifest_and_folder_and_none_else() -> None:
    _, data = bundle.encode([BundledRef(MANIFEST, FOLDER, (word(),), False)])
    assert data.count(b"\xd8\x2a") == 2  # tag 42
    assert b"\xd8\x2a\x58\x25\x00" + MANIFEST in data
    assert b"\xd8\x2a\x58\x25\x00" + FOLDER in data


@pytest.mark.parametrize(("flag", "said"), [(True, False), (False, True), (True, True)])
def test_the_mark_is_kept_and_a_signed_one_cannot_be_taken_out(flag: bool, said: bool) -> None:
    _, data = bundle.encode([BundledRef(MANIFEST, FOLDER, (word(restricted=said),), flag)])
    assert bundle.parse(data)[0].restricted


def test_more_than_a_list_holds_is_refused_when_it_is_written() -> None:
    with pytest.raises(UsageError, match="too many"):
        bundle.encode([BundledRef(MANIFEST, FOLDER, (), False)] * (bundle.MAX_REFS + 1))


def plain() -> dict[str, Any]:
    made: dict[str, Any] = {
        "p2pcache": 1,
        "refs": [
            {
                "folder": FOLDER,
                "manifest": MANIFEST,
                "names": [{"name": "x", "signed": msgpack.packb(word().to_wire())}],
                "restricted": False,
            }
        ],
    }
    return made


def changed(path: list[Any], value: Any) -> bytes:
    made = plain()
    inner: Any = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    encoded: bytes = libipld.encode_dag_cbor(made)
    return encoded


FORGED = word().to_wire()
FORGED[1] = cids.dagcbor_cid(bytes(32))
WRONG = {
    "another version": changed(["p2pcache"], 2),
    "no list": changed(["refs"], {}),
    "a manifest twice": changed(["refs"], plain()["refs"] * 2),
    "too many": changed(["refs"], plain()["refs"] * 1001),
    "a field more": changed(["refs", 0, "more"], 1),
    "a folder that is a manifest": changed(["refs", 0, "folder"], MANIFEST),
    "a manifest that is a folder": changed(["refs", 0, "manifest"], FOLDER),
    "a short CID": changed(["refs", 0, "manifest"], MANIFEST[:-1]),
    "a mark that is none": changed(["refs", 0, "restricted"], 1),
    "names that are none": changed(["refs", 0, "names"], {}),
    "an unsigned name": changed(["refs", 0, "names", 0], {"name": "x"}),
    "no msgpack": changed(["refs", 0, "names", 0, "signed"], b"\xc1"),
    "deep msgpack": changed(["refs", 0, "names", 0, "signed"], b"\x91" * 5000),
    "a forged name": changed(["refs", 0, "names", 0, "signed"], msgpack.packb(FORGED)),
    "a name of another manifest": changed(
        ["refs", 0, "names", 0, "signed"],
        msgpack.packb(word(cids.dagcbor_cid(bytes(32))).to_wire()),
    ),
    "too long": bytes(bundle.MAX_RECORD_BYTES + 1),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_list_that_is_wrong_is_refused(name: str) -> None:
    bundle.parse(libipld.encode_dag_cbor(plain()))
    with pytest.raises(Untrusted):
        bundle.parse(WRONG[name])


@given(st.data())
def test_only_untrusted_comes_out_of_a_damaged_list(data: st.DataObject) -> None:
    body = bytearray(libipld.encode_dag_cbor(plain()))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        bundle.parse(bytes(body))
    except Untrusted:
        return


@given(st.binary(max_size=200))
@example(b"\x81" * 100_000)
def test_only_untrusted_comes_out_of_noise(body: bytes) -> None:
    with pytest.raises(Untrusted):
        bundle.parse(body)
