"""A small folder of every kind of content, as blobs and loose blocks of one store."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import libipld

from p2pcache.content import cid as cids
from p2pcache.content import unixfs
from p2pcache.content.cid import format_cid
from p2pcache.content.dag import fsdata, node
from p2pcache.content.dag.hashes import cid_of
from tests.support.ipfs_gateway import keep
from tests.support.stored import MIB, content, root_of, small_items, store_whole

BIG = content(3 * MIB + 5, 1)
TWICE = content(1000, 2)
FILES = {
    "hello.txt": b"hello\n", "noext": b"plain words", "bytes": b"\x00\x01\xff", "empty": b"",
    "page.html": b"<html></html>", "data.json": b"{}", "pic.png": b"\x89PNG\r\n\x1a\nxxxx",
    "\u00fc \u00f1.txt": b"u", "<b>.txt": b"b", "sub/big.bin": BIG, "sub/twice": TWICE,
    "sub/deeper/twice": TWICE, "site/index.html": b"<h1>site</h1>",
    "index-folder/index.html/x": b"1",
}  # fmt: skip


@dataclass
class Site:
    """CIDs as text. `paths`: CID of every folder and file, by path ("" is the root)."""

    root: str
    paths: dict[str, bytes]
    cbor: str
    cbor_block: bytes
    json: str
    plain_json: str
    bad_cbor: str
    foreign: str
    foreign_data: bytes
    foreign_cids: list[bytes]
    partial: str
    missing: str
    unknown_codec: str


def fill(store) -> Site:
    """Files become blobs, folders and a symlink loose blocks; a foreign file has odd leaves."""
    entries: dict[str, unixfs.Root] = {}
    paths: dict[str, bytes] = {}
    for path, data in FILES.items():
        if len(data) > MIB:
            store_whole(store, data)
        else:
            store.publish_small(small_items(store, [data]))
        entries[path] = unixfs.Root(root_of(data), len(data), unixfs.file_dag_size(len(data)))
        paths[path] = root_of(data)
    link = node.encode([], fsdata.encode(fsdata.FsData(fsdata.Kind.SYMLINK, b"hello.txt")))
    link_cid = cid_of(cids.DAG_PB, link)
    keep(store, link_cid, link)
    entries["link"], paths["link"] = unixfs.Root(link_cid, 0, len(link)), link_cid
    blocks: dict[bytes, bytes] = {}
    root = unixfs.tree(entries, keep=lambda cid, block: blocks.update({cid: block})).cid
    for cid, block in blocks.items():
        keep(store, cid, block)
    _name_folders(paths, root, blocks, "")
    value = {"a": root, "n": {"b": [1, 2]}}
    cbor = libipld.encode_dag_cbor(value)
    found = {}
    for name, code, block in (
        ("cbor", cids.DAG_CBOR, cbor), ("json", cids.DAG_JSON, b'{"x":1}'),
        ("plain", 0x0200, b'{"x": 1}'), ("bad", cids.DAG_CBOR, b"\xff\xff"),
        ("unknown", 0x90, b"an ethereum block"),
    ):  # fmt: skip
        found[name] = cid_of(code, block)
        keep(store, found[name], block)
    foreign = content(5000, 3)
    leaves = [foreign[at : at + 700] for at in range(0, len(foreign), 700)]
    foreign_cids = _file_of(store, leaves, leave_out=())
    partial = _file_of(store, [content(600_000, seed) for seed in (4, 5, 6)], leave_out=(2,))
    return Site(
        format_cid(root), paths, format_cid(found["cbor"]), cbor, format_cid(found["json"]),
        format_cid(found["plain"]), format_cid(found["bad"]), format_cid(foreign_cids[0]), foreign,
        foreign_cids, format_cid(partial[0]),
        format_cid(cids.raw_cid(hashlib.sha256(b"nowhere").digest())), format_cid(found["unknown"]),
    )  # fmt: skip


def _name_folders(paths, cid: bytes, blocks, prefix: str) -> None:
    paths[prefix.rstrip("/")] = cid
    for link in node.parse(blocks[cid]).links:
        if link.cid in blocks:
            _name_folders(paths, link.cid, blocks, prefix + link.name.decode() + "/")


def _file_of(store, leaves: list[bytes], leave_out: tuple[int, ...]) -> list[bytes]:
    """A file of raw leaves of any length, as loose blocks; root first."""
    links = []
    for number, leaf in enumerate(leaves):
        cid = cid_of(cids.RAW, leaf)
        if number not in leave_out:
            keep(store, cid, leaf)
        links.append(node.Link(cid, b"", len(leaf)))
    sizes = tuple(map(len, leaves))
    meaning = fsdata.FsData(fsdata.Kind.FILE, size=sum(sizes), block_sizes=sizes)
    block = node.encode(links, fsdata.encode(meaning))
    cid = cid_of(cids.DAG_PB, block)
    keep(store, cid, block)
    return [cid, *(link.cid for link in links)]
