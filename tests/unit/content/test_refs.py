"""Refs: every spelling a user may type, and one canonical text for each."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.cid import format_cid, parse_cid, raw_cid
from p2pcache.content.digests import sha256_digest
from p2pcache.content.refs import (
    MAX_REF_CHARS,
    CidRef,
    DigestRef,
    FileRef,
    HfRef,
    HttpRef,
    as_typed,
    canonical,
    parse_ref,
)
from p2pcache.errors import UsageError

SHA = hashlib.sha256(b"hello").digest()
HEX = SHA.hex()
CID = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
V0 = "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n"
COMMIT = "c5b45129d3a9c1b3c8b4f3d2e1f0a9b8c7d6e5f4"
HUB = "https://huggingface.co"

MEANT = {
    # the hub
    "org/name": HfRef("model", "org/name"),
    "hf://org/name": HfRef("model", "org/name"),
    "hf:org/name": HfRef("model", "org/name"),
    "HF://org/name": HfRef("model", "org/name"),
    "hf://gpt2": HfRef("model", "gpt2"),
    "hf://models/org/name": HfRef("model", "org/name"),
    "hf://datasets/org/name": HfRef("dataset", "org/name"),
    "hf://datasets/squad": HfRef("dataset", "squad"),
    "datasets/org/name": HfRef("dataset", "org/name"),
    "hf://spaces/org/name": HfRef("space", "org/name"),
    "org/name@v1.0": HfRef("model", "org/name", "v1.0"),
    "gpt2@main": None,  # a bare word needs hf://
    f"hf://org/name@{COMMIT}": HfRef("model", "org/name", COMMIT),
    "hf://org/name@refs/pr/3": HfRef("model", "org/name", "refs/pr/3"),
    "hf://org/name@refs/pr/3/a/b.bin": HfRef("model", "org/name", "refs/pr/3", "a/b.bin"),
    "hf://org/name@refs/convert/parquet": HfRef("model", "org/name", "refs/convert/parquet"),
    "hf://org/name@feature%2Fx/a": HfRef("model", "org/name", "feature/x", "a"),
    "hf://org/name/config.json": HfRef("model", "org/name", None, "config.json"),
    "hf://org/name@v1/a/b.bin": HfRef("model", "org/name", "v1", "a/b.bin"),
    "hf://org/name@v1/a/": HfRef("model", "org/name", "v1", "a"),
    "hf://datasets/org/name@v1/a": HfRef("dataset", "org/name", "v1", "a"),
    "hf://spaces/org/name/app.py": HfRef("space", "org/name", None, "app.py"),
    f"{HUB}/org/name": HfRef("model", "org/name"),
    f"{HUB}/org/name/": HfRef("model", "org/name"),
    f"{HUB}/gpt2": HfRef("model", "gpt2"),
    f"{HUB}/datasets/org/name": HfRef("dataset", "org/name"),
    f"{HUB}/org/name/blob/main/a/b.bin": HfRef("model", "org/name", "main", "a/b.bin"),
    f"{HUB}/org/name/resolve/v1/a.bin?download=true": HfRef("model", "org/name", "v1", "a.bin"),
    f"{HUB}/org/name/tree/main": HfRef("model", "org/name", "main"),
    f"{HUB}/org/name/resolve/refs%2Fpr%2F3/a": HfRef("model", "org/name", "refs/pr/3", "a"),
    f"{HUB}/org/name/blob/main/a%20b": HfRef("model", "org/name", "main", "a b"),
    f"{HUB}/gpt2/resolve/main/config.json": HfRef("model", "gpt2", "main", "config.json"),
    f"{HUB}/spaces/org/name/blob/main/app.py": HfRef("space", "org/name", "main", "app.py"),
    "https://hf.co/org/name": HfRef("model", "org/name"),
    # one file of the web
    "https://example.com/a.bin": HttpRef("https://example.com/a.bin"),
    "HTTPS://example.com/a.bin": HttpRef("https://example.com/a.bin"),
    "http://localhost:8080/a?x=1&y=2": HttpRef("http://localhost:8080/a?x=1&y=2"),
    f"https://example.com/a.bin#sha256={HEX}": HttpRef("https://example.com/a.bin", SHA),
    f"https://example.com/a.bin#sha256={HEX.upper()}": HttpRef("https://example.com/a.bin", SHA),
    # this machine
    "file:/data/model": FileRef("/data/model"),
    "file:///data/a%20b": FileRef("/data/a b"),
    "file://localhost/data": FileRef("/data"),
    "/data/model": FileRef("/data/model"),
    "/data/a%20b": FileRef("/data/a%20b"),
    "./model": FileRef("./model"),
    "../model": FileRef("../model"),
    "~/model": FileRef("~/model"),
    ".": FileRef("."),
    "..": FileRef(".."),
    # by what it is
    f"sha256:{HEX}": DigestRef(sha256_digest(SHA)),
    f"sha256:{HEX.upper()}": DigestRef(sha256_digest(SHA)),
    CID: CidRef(raw_cid(SHA)),
    CID.upper(): CidRef(raw_cid(SHA)),
    V0: CidRef(parse_cid(V0)),
    f"{CID}/a/b.bin": CidRef(raw_cid(SHA), "a/b.bin"),
    f"ipfs://{CID}": CidRef(raw_cid(SHA)),
    f"ipfs:{CID}": CidRef(raw_cid(SHA)),
    f"ipfs://{CID}/": CidRef(raw_cid(SHA)),
    f"ipfs://{CID}/a/b": CidRef(raw_cid(SHA), "a/b"),
    f"ipfs:///ipfs/{CID}/a": CidRef(raw_cid(SHA), "a"),
    f"ipfs://{CID}/a%20b/%C3%A9%25": CidRef(raw_cid(SHA), "a b/é%"),
    f"ipfs://{CID}/a b": CidRef(raw_cid(SHA), "a b"),
    f"{CID}/a%20b": CidRef(raw_cid(SHA), "a%20b"),
    f"/ipfs/{CID}": CidRef(raw_cid(SHA)),
    f"/ipfs/{V0}/a%20b": CidRef(parse_cid(V0), "a%20b"),
    "/ipfs/model": FileRef("/ipfs/model"),
    HEX: DigestRef(sha256_digest(SHA)),
    HEX.upper(): DigestRef(sha256_digest(SHA)),
    "f01" + HEX[3:]: DigestRef(sha256_digest(bytes.fromhex("f01" + HEX[3:]))),
}
MEANT = {text: ref for text, ref in MEANT.items() if ref is not None}
REFUSED = [
    "", " ", "word", "a b", "org/na me", "org//name", "org/name/../x", "org/..", "hf://", "hf:///x",
    "hf://org/name@", "hf://org/name/path@v1", "hf://org/name@a..b", "hf://org/name@v1/../x",
    "hf://org/name@-x", "hf://org/na--me", "hf://a/b/c\\d", "hf://org/name@v1/C:x", "hf://.org/x",
    "hf://" + "n" * 97 + "/x", "hf://org/name@" + "r" * 256,
    "https://", "https:///a", "https://h:port/a", "https://[::1/a", "https://h/a#part",
    "https://h/a#sha256=12", f"https://h/a#sha1={HEX}", f"{HUB}/", f"{HUB}/a/b/c",
    f"{HUB}/org/name/blob/main/%2e%2e/x",
    "file:", "file://other/host", "file:/a%00b", "/a\ud800", "https://h/\udcff",
    "sha256:", "sha256:12", f"sha256:{HEX}0", "sha256:" + "g" * 64,
    "ipfs://", "ipfs://word", f"ipfs://{CID}/../x", f"{CID[:-1]}0", f"{CID}/a//b", CID + "a",
    f"ipfs://{CID}/%2e%2e/x", f"ipfs://{CID}/a%2Fb", f"ipfs://{CID}/a%00b", f"ipfs://{CID}/%ff",
    f"ipfs://{CID}/a%5Cb", f"ipfs://{CID}/%0A", f"ipfs://%62{CID[1:]}x", f"/ipfs/{CID}/../x",
    HEX[:-1], HEX + "0",
    "a\nb", "org/name\0", "a/" * MAX_REF_CHARS,
]  # fmt: skip


@pytest.mark.parametrize("text", MEANT)
def test_a_text_means_what_it_says(text: str) -> None:
    assert parse_ref(text) == MEANT[text]


@pytest.mark.parametrize("text", MEANT)
def test_the_canonical_text_of_a_ref_is_its_own(text: str) -> None:
    once = canonical(MEANT[text])

    assert canonical(parse_ref(once)) == once


def test_all_spellings_of_one_file_have_one_canonical_text() -> None:
    spellings = [
        "hf://org/name/a/b.bin", "org/name@main/a/b.bin", "hf://models/org/name/a/b.bin",
        f"{HUB}/org/name/blob/main/a/b.bin", f"{HUB}/org/name/resolve/main/a/b.bin?download=true",
    ]  # fmt: skip

    assert {canonical(parse_ref(text)) for text in spellings} == {"hf://org/name@main/a/b.bin"}
    assert canonical(parse_ref(V0)) == f"ipfs://{format_cid(parse_cid(V0))}"


@pytest.mark.parametrize(
    "path", ["/a\udcff", "/a b", "./hf://x", "~/a%20b", "a\nb", "//a", "hf://"]
)
def test_a_path_of_any_bytes_survives_its_canonical_text(path: str) -> None:
    once = canonical(FileRef(path))

    assert once.isascii()
    assert parse_ref(once) == FileRef("/a" if path == "//a" else path)


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[:40]))
def test_what_has_no_meaning_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ref(text)


@pytest.mark.parametrize("text", ["ftp://host/a", "magnet:?xt=1", "b2://bucket/a"])
def test_an_unknown_scheme_is_told_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ref(text)

    assert text.partition(":")[0].lower() in caught.value.message
    for known in ("hf://", "https://", "file:", "sha256:", "ipfs://", "CID", "org/name", "path"):
        assert known in (caught.value.hint or "")


def test_the_revision_option_is_for_hub_refs_without_one() -> None:
    ref = parse_ref("hf://org/name/a", revision="v1")

    assert ref == HfRef("model", "org/name", "v1", "a")
    assert parse_ref("hf://org/name@v1", revision="v1") == HfRef("model", "org/name", "v1")
    for text in ("hf://org/name@v2", "https://h/a", "./a", CID):
        with pytest.raises(UsageError, match="revision"):
            parse_ref(text, revision="v1")
    for bad in ("", "..", "a..b", "a b", "-x", "v1/", "a\n"):
        with pytest.raises(UsageError, match="not a revision"):
            parse_ref("org/name", revision=bad)


# Mostly the bits that refs are made of, so that most of the parser is reached.
bits = st.sampled_from([
    "hf://", "datasets/", "spaces/", "org", "/", "name", "@", "main", "refs/pr/1", "%2F", "%00",
    "%", HUB, "/blob/", "/resolve/", "https://", "http:", "file:", "//", "sha256:", HEX, "ipfs://",
    CID, V0, "..", ".", "~", ":", "#", "#sha256=", "?", "[", "]", "\\", "\0", "é", "🎉", "\ud800",
    " ", "%2e%2e", "%ED%A0%80", "C:", "ß", "²", "z", "k", "f01",
])  # fmt: skip
texts = st.one_of(st.lists(bits, max_size=8).map("".join), st.text())


def test_messages_keep_the_spelling_of_a_cid() -> None:
    for typed in (V0, CID.upper()):
        for ref in (parse_ref(f"ipfs://{typed}/a%20b%25"), parse_ref(f"/ipfs/{typed}/a b%")):
            assert isinstance(ref, CidRef)
            assert as_typed(ref) == f"ipfs://{typed}/a b%25"
            assert parse_ref(as_typed(ref)) == ref
    assert as_typed(CidRef(raw_cid(SHA))) == f"ipfs://{CID}"


@given(texts, st.none() | st.sampled_from(["main", "", "refs/pr/1", "a/b"]) | st.text())
def test_only_usage_errors_come_out(text: str, revision: str | None) -> None:
    with contextlib.suppress(UsageError):
        parse_ref(text, revision=revision)


@given(texts)
def test_a_canonical_text_parses_to_itself(text: str) -> None:
    try:
        once = canonical(parse_ref(text))
    except UsageError:
        return

    assert canonical(parse_ref(once)) == once


def test_a_long_ref_is_shown_by_its_beginning():
    with pytest.raises(UsageError) as caught:
        parse_ref("x" * 5000)
    assert len(caught.value.message) < 500
    with pytest.raises(UsageError, match="there is no CID"):
        parse_ref("ipfs://")


@pytest.mark.parametrize(
    "text",
    [
        "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8",
        "/ipns/docs.example.org",
        "ipns://docs.example.org/a",
        "ipfs://k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8/a",
    ],
)
def test_ipns_names_are_said_not_to_be_supported(text):
    with pytest.raises(UsageError, match="IPNS"):
        parse_ref(text)
