"""Preloads: an agent's signed wish that others fetch something ahead of its use. Pure.

Two records travel, each a canonical flat DAG-CBOR map with its signer's Ed25519 signature: an
Intent, and a Cancel that ends one. A preload's id is the sha2-256 of its signed bytes, so whoever
has the id of an intent has all of it fixed. Who is to fetch, everybody decides alone and alike.

Times are whole unix seconds by the signer's clock.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content import flat
from p2pcache.content.peerid import PEER_ID_BYTES, PeerId, check_peer_id
from p2pcache.content.signed import MAX_TEXT_BYTES, SIGNATURE_BYTES, check_signature
from p2pcache.errors import Untrusted, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from p2pcache.content.signed import Signer

TAG = b"p2pcache preload 1\0"
ID_BYTES = 32
CID_BYTES = 36
MAX_RECORD_BYTES = 2 * MAX_TEXT_BYTES + 1024  # two texts, and some 400 bytes of everything else
MAX_LABEL_BYTES = 128
MAX_LABELS = 16  # of one agent
MAX_LIFE_S = 366 * 86400
MAX_SKEW_S = 300  # that a signer's clock may be ahead of ours
MAX_COUNT = 100_000  # nodes or replicas: more than any network has
MAX_RATE = 1 << 50  # bytes/s
_MAX_TIME = 1 << 40

_INTENT_KEYS = frozenset(
    ("kind", "ref", "revision", "manifest", "nodes", "replicas", "rate", "issued", "start",
     "deadline", "expires", "nonce", "signer", "signature")
)  # fmt: skip
_CANCEL_KEYS = frozenset(("kind", "id", "expires", "signer", "signature"))


@dataclass(frozen=True, slots=True)
class Intent:
    """Fetch `ref`, which means `manifest`, at the agents that `nodes` selects.

    `revision`: what `ref` was resolved to when the intent was issued, where its origin has such.
    `nodes`: "all", a number, or labels (see `parse_nodes`); `replicas`: how many copies are kept
    until `expires_at`, 0: as many as happen to be; `rate_bytes_per_s` of each agent. Before
    `start_at` nothing is fetched, nor after `deadline_at`; after `expires_at` all is forgotten.
    """

    ref: str
    revision: str | None
    manifest: bytes
    nodes: str
    replicas: int
    rate_bytes_per_s: int | None
    issued_at: int
    start_at: int
    deadline_at: int
    expires_at: int
    nonce: bytes
    signer: PeerId
    record: bytes  # as it was signed and travels
    id: bytes


@dataclass(frozen=True, slots=True)
class Cancel:
    """The end of the preload `id`, if it was signed by `signer`."""

    id: bytes
    expires_at: int
    signer: PeerId
    record: bytes


def sign_intent(
    signer: Signer,
    *,
    ref: str,
    revision: str | None,
    manifest: bytes,
    nodes: str,
    replicas: int,
    rate_bytes_per_s: int | None,
    issued_at: int,
    start_at: int,
    deadline_at: int,
    expires_at: int,
    nonce: bytes,
) -> Intent:
    """A new preload. Raises UsageError for what others would refuse."""
    values: dict[str, flat.Value] = {
        "kind": "intent", "ref": ref, "revision": revision, "manifest": manifest,
        "nodes": nodes, "replicas": replicas, "rate": rate_bytes_per_s, "issued": issued_at,
        "start": start_at, "deadline": deadline_at, "expires": expires_at, "nonce": nonce,
    }  # fmt: skip
    made = _parsed_own(_signed(signer, values))
    assert isinstance(made, Intent)
    return made


def sign_cancel(signer: Signer, intent: Intent) -> Cancel:
    """The end of one's own preload; it lasts as long as the intent would."""
    if intent.signer != signer.peer_id:
        raise UsageError("only its signer can cancel a preload")
    values: dict[str, flat.Value] = {
        "kind": "cancel", "id": intent.id, "expires": intent.expires_at,
    }  # fmt: skip
    made = _parsed_own(_signed(signer, values))
    assert isinstance(made, Cancel)
    return made


def _signed(signer: Signer, values: dict[str, flat.Value]) -> bytes:
    values["signer"] = signer.peer_id
    return flat.encode({**values, "signature": signer.sign(TAG + flat.encode(values))})


def _parsed_own(record: bytes) -> Intent | Cancel:
    try:
        return parse(record)
    except Untrusted as exc:
        raise UsageError(f"this cannot be preloaded: {exc.message}") from exc


def record_id(record: bytes) -> bytes:
    """The name of a record. Costs microseconds: what is known need not be verified again."""
    return hashlib.sha256(record).digest()


def parse(record: bytes) -> Intent | Cancel:
    """Check shape, bounds and signature; not whether its time is now. Raises Untrusted."""
    if len(record) > MAX_RECORD_BYTES:
        raise Untrusted("a preload record that is too long")
    values = flat.decode(record)
    made: Intent | Cancel
    match values.get("kind"):
        case "intent" if values.keys() == _INTENT_KEYS:
            made = _intent(values, record)
        case "cancel" if values.keys() == _CANCEL_KEYS:
            made = Cancel(
                _bytes(values, "id", ID_BYTES), _number(values, "expires", _MAX_TIME),
                _signer(values), record,
            )  # fmt: skip
        case _:
            raise Untrusted("a preload record of another kind or shape")
    signature = _bytes(values, "signature", SIGNATURE_BYTES)
    del values["signature"]
    check_signature(made.signer, TAG + flat.encode(values), signature)
    return made


def _intent(values: Mapping[str, flat.Value], record: bytes) -> Intent:
    revision, rate = values["revision"], values["rate"]
    made = Intent(
        ref=_text(values, "ref", MAX_TEXT_BYTES),
        revision=None if revision is None else _text(values, "revision", MAX_TEXT_BYTES),
        manifest=_bytes(values, "manifest", CID_BYTES),
        nodes=_text(values, "nodes", MAX_LABEL_BYTES),
        replicas=_number(values, "replicas", MAX_COUNT),
        rate_bytes_per_s=None if rate is None else _number(values, "rate", MAX_RATE),
        issued_at=_number(values, "issued", _MAX_TIME),
        start_at=_number(values, "start", _MAX_TIME),
        deadline_at=_number(values, "deadline", _MAX_TIME),
        expires_at=_number(values, "expires", _MAX_TIME),
        nonce=_bytes(values, "nonce", 16),
        signer=_signer(values),
        record=record,
        id=record_id(record),
    )
    if made.rate_bytes_per_s == 0:
        raise Untrusted("a preload at no rate at all")
    if not made.issued_at <= made.start_at < made.deadline_at <= made.expires_at:
        raise Untrusted("a preload that would end before it begins")
    if made.expires_at - made.issued_at > MAX_LIFE_S:
        raise Untrusted(f"a preload of more than {MAX_LIFE_S // 86400} days")
    try:
        parse_nodes(made.nodes)
    except UsageError as exc:
        raise Untrusted(exc.message) from exc
    return made


def _bytes(values: Mapping[str, flat.Value], key: str, length: int) -> bytes:
    value = values[key]
    if not isinstance(value, bytes) or len(value) != length:
        raise Untrusted(f"a preload record whose `{key}` is not {length} bytes")
    return value


def _number(values: Mapping[str, flat.Value], key: str, most: int) -> int:
    value = values[key]
    if not isinstance(value, int) or value > most:
        raise Untrusted(f"a preload record whose `{key}` is no number or too large")
    return value


def _text(values: Mapping[str, flat.Value], key: str, most_bytes: int) -> str:
    value = values[key]
    if not isinstance(value, str) or not 0 < len(value.encode()) <= most_bytes:
        raise Untrusted(f"a preload record whose `{key}` is no text or too long")
    return value


def _signer(values: Mapping[str, flat.Value]) -> PeerId:
    return check_peer_id(_bytes(values, "signer", PEER_ID_BYTES))


# -- who is to fetch ------------------------------------------------------------------------------


def parse_labels(text: str) -> tuple[tuple[str, str], ...]:
    """`gpu=h100, rack=4` as pairs, sorted. Raises UsageError."""
    found: dict[str, str] = {}
    for word in text.split(","):
        key, equals, value = (part.strip() for part in word.partition("="))
        if not word.strip():
            continue
        whole = equals and key and value and "=" not in value and word.isprintable()
        if not whole or len(word) > MAX_LABEL_BYTES:
            raise UsageError(f"`{word.strip()}` is no label; write it like `gpu=h100`")
        found[key] = value
    if len(found) > MAX_LABELS:
        raise UsageError(f"{len(found)} labels (allowed: {MAX_LABELS})")
    return tuple(sorted(found.items()))


def parse_nodes(text: str) -> int | tuple[tuple[str, str], ...] | None:
    """Who is selected: None for `all`, so many agents, or all that have these labels.

    Raises UsageError.
    """
    if text == "all":
        return None
    if text.isascii() and text.isdecimal():
        if 1 <= (count := int(text[:9])) <= MAX_COUNT:
            return count
        raise UsageError(f"`{text[:20]}` is not a number of agents from 1 to {MAX_COUNT}")
    if re.fullmatch(r"[+-]\d+", text):
        raise UsageError(f"`{text[:20]}` is not a number of agents from 1 to {MAX_COUNT}")
    labels = parse_labels(text)
    if not labels:
        raise UsageError("nobody is selected: write `all`, a number, or a label like `gpu=h100`")
    return labels


def score(preload: bytes, peer: PeerId) -> bytes:
    """The rendezvous score of an agent for a preload: everybody ranks alike, no two preloads do."""
    return hashlib.sha256(preload + peer).digest()


def is_chosen(
    intent: Intent,
    me: PeerId,
    members: Collection[PeerId],
    labels: Collection[tuple[str, str]],
) -> bool:
    """Whether this agent is to fetch. `members`: the others that are known to live."""
    wanted = parse_nodes(intent.nodes)
    if wanted is None:
        return True
    if isinstance(wanted, int):
        mine = score(intent.id, me)
        return sum(score(intent.id, peer) > mine for peer in members if peer != me) < wanted
    return set(wanted) <= set(labels)


def may_evict(intent: Intent, me: PeerId, holders: Collection[PeerId]) -> bool:
    """Whether enough copies stay when this agent's goes. `holders`: others that said they have it.

    Only the word of those with a higher score counts: of agents that look at the same moment, no
    two can rely on each other, so the copies never fall below `replicas` by evictions.
    """
    mine = score(intent.id, me)
    return sum(score(intent.id, peer) > mine for peer in holders if peer != me) >= intent.replicas
