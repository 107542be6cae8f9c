"""The block that makes a CAR a bundle of ours: which manifests it holds, and who named them.

DAG-CBOR, and a root of the CAR, so that tools of IPFS keep what it links to:

    {"p2pcache": 1, "refs": [{"folder": link, "manifest": link, "names": [{"name", "signed"}],
                              "restricted": bool}]}

`folder` is the UnixFS folder of the manifest's files, `signed` a resolution as it travels between
agents (content/signed, msgpack), `name` the ref it is about, for people who look.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import libipld
import msgpack

from p2pcache.content import car
from p2pcache.content import cid as cids
from p2pcache.content.signed import SignedResolution, parse_resolution
from p2pcache.errors import Untrusted, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = 1
MAX_RECORD_BYTES = 1 << 20  # some thousands of names; what a hostile one decodes to is 64 MB
MAX_REFS = 1000  # their folders are roots: they have to fit the CAR's header
_REF_KEYS = {"folder", "manifest", "names", "restricted"}


@dataclass(frozen=True, slots=True)
class BundledRef:
    """One manifest of a bundle. `restricted`: it was gated or private where it came from.

    `names`: what its signers say means this manifest; each signature was checked.
    """

    manifest: bytes
    folder: bytes
    names: tuple[SignedResolution, ...]
    restricted: bool


def encode(refs: Sequence[BundledRef]) -> tuple[bytes, bytes]:
    """The CID and the bytes of the block. Raises UsageError when it is too much for one bundle."""
    plain = {
        "p2pcache": VERSION,
        "refs": [
            {
                "folder": ref.folder,
                "manifest": ref.manifest,
                "names": [
                    {"name": word.canonical, "signed": msgpack.packb(word.to_wire())}
                    for word in ref.names
                ],
                "restricted": ref.restricted,
            }
            for ref in refs
        ],
    }
    data: bytes = libipld.encode_dag_cbor(plain)
    if len(refs) > MAX_REFS or len(data) > MAX_RECORD_BYTES:
        raise UsageError(
            f"{len(refs)} refs are too many for one bundle", hint="make several bundles"
        )
    return cids.dagcbor_cid(hashlib.sha256(data).digest()), data


def is_list(data: bytes) -> bool:
    """Whether a block says that it is the list of a bundle, well made or not. Raises nothing."""
    if len(data) > MAX_RECORD_BYTES:
        return False
    try:
        plain = car.decode_dag_cbor(data, "a block")
    except Untrusted:
        return False
    return isinstance(plain, dict) and "p2pcache" in plain


def parse(data: bytes) -> tuple[BundledRef, ...]:
    """A block from outside. Raises Untrusted."""
    if len(data) > MAX_RECORD_BYTES:
        raise Untrusted(f"a bundle's list of {len(data)} bytes is over the limit")
    plain = car.decode_dag_cbor(data, "a bundle's list")
    if not isinstance(plain, dict) or set(plain) != {"p2pcache", "refs"}:
        raise Untrusted("this CAR has a DAG-CBOR root that is no list of a p2pcache bundle")
    if plain["p2pcache"] != VERSION:
        raise Untrusted("this bundle is of another version than this p2pcache reads")
    if not isinstance(plain["refs"], list) or len(plain["refs"]) > MAX_REFS:
        raise Untrusted("a bundle's list has no refs, or too many")
    refs = tuple(_ref(ref) for ref in plain["refs"])
    if len({ref.manifest for ref in refs}) != len(refs):  # each is read, and costs memory
        raise Untrusted("a bundle's list has a manifest twice")
    return refs


def _ref(plain: Any) -> BundledRef:  # noqa: ANN401 - whatever somebody wrote
    if not isinstance(plain, dict) or set(plain) != _REF_KEYS:
        raise Untrusted("a ref of a bundle's list has other fields than it should")
    manifest, folder = car.known_cid(plain["manifest"]), car.known_cid(plain["folder"])
    if cids.codec(manifest) != cids.DAG_CBOR or cids.codec(folder) != cids.DAG_PB:
        raise Untrusted("a bundle's list has a CID of the wrong kind")
    if not isinstance(plain["names"], list) or not isinstance(plain["restricted"], bool):
        raise Untrusted("a ref of a bundle's list has a value of the wrong type")
    names = tuple(_name(name) for name in plain["names"])
    if any(word.manifest != manifest for word in names):
        raise Untrusted("a bundle's list has a name of another manifest")
    restricted = plain["restricted"] or any(word.restricted for word in names)
    return BundledRef(manifest, folder, names, restricted)


def _name(plain: Any) -> SignedResolution:  # noqa: ANN401
    if not isinstance(plain, dict) or not isinstance(plain.get("signed"), bytes):
        raise Untrusted("a name of a bundle's list is not signed")
    try:
        wire = msgpack.unpackb(plain["signed"])
    except (ValueError, RecursionError) as exc:
        raise Untrusted("a signed name is not msgpack") from exc
    return parse_resolution(wire)
