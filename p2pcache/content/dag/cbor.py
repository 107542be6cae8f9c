"""dag-cbor and dag-json as values with their links. (libipld gives links as plain bytes.)

Values: None, bool, int, float, str, bytes, list, dict with str keys, `CidLink`. Only Untrusted
comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_DEPTH = 128  # of lists and maps in each other
MAX_VALUES = 1 << 18  # of one block; each costs some 100 bytes here

Value = None | bool | int | float | str | bytes | list["Value"] | dict[str, "Value"] | "CidLink"


@dataclass(frozen=True, slots=True)
class CidLink:
    """A link, as it is written."""

    cid: bytes


def decode_cbor(block: bytes) -> Value:
    """Strict dag-cbor but for the order of keys: definite lengths, tag 42 alone, no key twice."""
    raise NotImplementedError


def decode_json(block: bytes) -> Value:
    """dag-json: `{"/": "bafy..."}` is a link, `{"/": {"bytes": "..."}}` bytes."""
    raise NotImplementedError


def encode_json(value: Value) -> bytes:
    """Canonical dag-json: keys sorted, no spaces."""
    raise NotImplementedError


def encode_cbor(value: Value) -> bytes:
    """Canonical dag-cbor."""
    raise NotImplementedError


def links_of(value: Value) -> list[bytes]:
    """The CIDs of every link in a value, in the order in which they stand."""
    raise NotImplementedError
