"""What the settings say about preloads: who may ask this agent for them, and what it is."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from p2pcache.content.preload import parse_labels
from p2pcache.errors import UsageError

MAX_LABELS_BYTES = 512  # what one state message carries of them


class From(enum.Enum):
    """Whose preloads this agent takes part in."""

    MEMBERS = "members"
    ADMIN = "admin"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class PreloadSettings:
    """`members`: who holds the network key is trusted with it. An agent with a small disk or a
    metered link may say otherwise. `labels`: what it is.
    """

    who: From = From.MEMBERS
    labels: tuple[tuple[str, str], ...] = ()


def who(text: str) -> From:
    """`members`, `admin` or `nobody`."""
    try:
        return From(text.strip().lower())
    except ValueError:
        known = ", ".join(one.value for one in From)
        raise ValueError(f"`{text}` is none of {known}") from None


def labels(text: str) -> tuple[tuple[str, str], ...]:
    """`gpu=h100, rack=4`; `none` and the empty text are no labels."""
    try:
        found = () if text.strip() == "none" else parse_labels(text)
    except UsageError as exc:
        raise ValueError(exc.message) from exc
    if len(format_labels(found).encode()) > MAX_LABELS_BYTES:
        raise ValueError(f"labels of more than {MAX_LABELS_BYTES} bytes together")
    return found


def format_labels(found: tuple[tuple[str, str], ...]) -> str:
    """What `labels` reads, without spaces."""
    return ",".join(f"{key}={value}" for key, value in found)
