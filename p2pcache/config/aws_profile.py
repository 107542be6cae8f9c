"""Which store a profile of ~/.aws is for, by boto3's own rules: known before anybody is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEY = "endpoint_url"
MAX_FILE_BYTES = 1 << 20


def profile_endpoint(profile: str | None, environment: Mapping[str, str]) -> str | None:
    """The `endpoint_url` for S3 of a profile (None: the default one), or of its `services`.

    None where there is none, or no such file: boto3 will say what is wrong with it.
    """
    path = Path(environment.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_FILE_BYTES)
    except (OSError, UnicodeDecodeError):
        return None
    if _KEY not in text:
        return None
    import configparser  # 5 ms, in this rare case alone

    sections = configparser.RawConfigParser(strict=False)
    try:
        sections.read_string(text)
    except configparser.Error:
        return None
    own = "default" if profile in (None, "default") else f"profile {profile}"
    services = sections.get(own, "services", fallback=None)
    for_s3 = sections.get(f"services {services}", "s3", fallback="")
    for line in for_s3.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == _KEY and value.strip():
            return value.strip()
    return sections.get(own, _KEY, fallback=None) or None
