"""What a block holds, by the codec of its CID: its links, and its value where it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.dag import cbor, djson, node
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from p2pcache.content.dag.cbor import Value

_LEAVES = (cids.RAW, cids.LIBP2P_KEY)


def links(cid: bytes, block: bytes) -> list[bytes]:
    """Child CIDs as written, in order, repeats kept: of dag-pb, dag-cbor and dag-json; of raw and
    libp2p-key none. Raises Untrusted, also for a codec that we do not know.
    """
    codec = cids.codec(cid)
    if codec in _LEAVES:
        return []
    if codec == cids.DAG_PB:
        return [link.cid for link in node.parse(block).links]
    return list(cbor.links_of(value_of(cid, block)))


def value_of(cid: bytes, block: bytes) -> Value:
    """The value of a dag-cbor or dag-json block. Raises Untrusted, also for other codecs."""
    codec = cids.codec(cid)
    if len(block) > node.MAX_NODE_BYTES:
        raise Untrusted(f"a block of {len(block)} bytes is over the limit of {node.MAX_NODE_BYTES}")
    if codec == cids.DAG_CBOR:
        return cbor.decode(block)
    if codec == cids.DAG_JSON:
        return djson.decode(block)
    raise Untrusted(f"a block with the codec {codec:#x}: not supported")
