"""Which image of an index is meant (image-spec, image-index.md)."""

from __future__ import annotations

import platform as this_machine
from typing import TYPE_CHECKING

from p2pcache.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from p2pcache.sources.oci.manifest import Descriptor

MAX_SHOWN = 20
_UNKNOWN = "unknown"  # buildkit lists its attestations as images of this platform
# What runs where nothing else is said: an index may leave the variant out, or write it out.
_VARIANT = {"arm64": "v8", "arm": "v7"}
_ARCHITECTURES = {
    "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm/v6", "i686": "386",
}  # fmt: skip


def host_platform() -> str:
    """What runs on this machine, in the words of image indexes."""
    machine = this_machine.machine().lower()
    return f"linux/{_ARCHITECTURES.get(machine, machine)}"


def choose(entries: Sequence[Descriptor], platform: str, who: str) -> Descriptor:
    """The entry for a platform: `os/architecture[/variant]`. The first of equals.

    An entry that names no platform is taken where it is the only one: an artifact in an index.
    Raises NotFound, which lists what there is.
    """
    if len(entries) == 1 and not entries[0].platform:
        return entries[0]
    system, architecture, *rest = platform.split("/")
    variant = rest[0] if rest else ""
    fitting = [
        one
        for one in entries
        if one.platform.get("os") == system and one.platform.get("architecture") == architecture
    ]
    usual = _VARIANT.get(architecture, "")
    for wanted in (usual, "") if variant in ("", usual) else (variant,):
        for one in fitting:
            if one.platform.get("variant", "") == wanted:
                return one
    if fitting and not variant:
        return fitting[0]
    others = _shown(entries)
    raise NotFound(
        f"{who} has no image for {platform}",
        hint=f"--platform chooses another: {others}" if others else None,
    )


def _shown(entries: Iterable[Descriptor]) -> str:
    names = {_name(one): None for one in entries if one.platform.get("os") not in (None, _UNKNOWN)}
    return ", ".join(list(names)[:MAX_SHOWN])


def _name(one: Descriptor) -> str:
    parts = (one.platform.get(key, "") for key in ("os", "architecture", "variant"))
    return "/".join(part[:32] for part in parts if part)
