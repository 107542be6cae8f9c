"""Settings of registries, and what a caller's machine adds to a ref of one."""

from __future__ import annotations

import re
from dataclasses import replace

from p2pcache.config.environment import is_of_registry
from p2pcache.content.refs import canonical, parse_ref
from p2pcache.content.registry_refs import OciRef, OllamaRef, checked_layout, checked_platform
from p2pcache.errors import UsageError
from p2pcache.sources.oci.platforms import host_platform

_HOST = re.compile(r"[a-z0-9.-]+(:[0-9]{1,5})?|\[[0-9a-f:.]+\](:[0-9]{1,5})?")


def registry_hosts(text: str) -> frozenset[str]:
    """`host, host:port`, or `none`. Raises ValueError."""
    words = frozenset(word.strip().lower() for word in text.split(",") if word.strip())
    if words <= {"none"}:
        return frozenset()
    for word in words:
        if not _HOST.fullmatch(word):
            raise ValueError(f"`{word}` is not a host; write it like `registry.local:5000`")
    return words


def registry_ref(ref: str) -> OciRef | OllamaRef | None:
    """The ref of a registry that a text is; None for all others. Raises UsageError."""
    if not is_of_registry(ref):
        return None
    parsed = parse_ref(ref)
    assert isinstance(parsed, OciRef | OllamaRef)
    return parsed


def with_choices(ref: str, image_platform: str | None, layout: str | None) -> str:
    """A ref with `--platform` and `--layout`, and with this machine's platform where a registry may
    have an image for several: one name must mean one thing to all agents.

    Raises UsageError for choices that a ref does not have.
    """
    of = registry_ref(ref)
    if not isinstance(of, OciRef):
        if image_platform is not None or layout is not None:
            raise UsageError(
                f"`{ref}` has neither platforms nor layouts",
                hint="--platform and --layout are for oci:// refs",
            )
        return ref
    if image_platform is not None:
        of = replace(of, platform=checked_platform(image_platform))
    if layout is not None:
        of = replace(of, layout=checked_layout(layout))
    return canonical(replace(of, platform=of.platform or host_platform()))
