"""What the settings say about buckets: `models endpoint=https://minio:9000 profile=lab; ...`."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from p2pcache.config.aws_profile import profile_endpoint
from p2pcache.content.s3_refs import STORES, bucket_text, parse_s3
from p2pcache.errors import UsageError
from p2pcache.sources.s3.options import (
    MAX_URL_VALID_S,
    BucketOptions,
    S3Options,
    Style,
    parse_endpoint,
)
from p2pcache.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BUCKETS = 256
EXAMPLE = "my-bucket endpoint=https://minio.example:9000 profile=lab public=on"

_REGION = re.compile(r"[a-z0-9-]{1,40}")
_FIELDS = ", ".join(f"{field.name}=" for field in fields(BucketOptions))

Buckets = tuple[tuple[str, BucketOptions], ...]


def endpoint(text: str) -> str:
    """`https://minio.example:9000`. Raises ValueError."""
    return parse_endpoint(text)


def region(text: str) -> str:
    """`eu-central-1`. Raises ValueError."""
    if not _REGION.fullmatch(text.strip()):
        raise ValueError(f"`{text}` is not a region")
    return text.strip()


def style(text: str) -> Style:
    """`auto`, `path` or `virtual`. Raises ValueError."""
    match text.strip():
        case "auto" | "path" | "virtual" as word:
            return word
    raise ValueError(f"`{text}` is none of auto, path, virtual")


def valid(text: str) -> float:
    """How long signed addresses hold. Raises ValueError."""
    seconds = parse_duration(text)
    if not 1 <= seconds <= MAX_URL_VALID_S:
        raise ValueError(f"`{text}` is not from 1s to 7d, which is what signatures can say")
    return seconds


def buckets(text: str) -> Buckets:
    """One entry a bucket, between them `;` or a new line; `none`: none. Raises ValueError."""
    found: dict[str, BucketOptions] = {}
    for part in re.split(r"[;\n]", text):
        words = part.replace(",", " ").split()
        if not words or words == ["none"]:
            continue
        name = _name(words[0])
        if name in found:
            raise ValueError(f"`{name}` is there twice")
        found[name] = _bucket(name, words[1:])
    if len(found) > MAX_BUCKETS:
        raise ValueError(f"more than {MAX_BUCKETS} buckets")
    return tuple(found.items())


def _name(text: str) -> str:
    """A bucket as refs of it have it: `models`, `cw://models`. Raises ValueError."""
    store, colon, rest = text.partition(":")
    try:
        ref = (
            parse_s3(rest, text, store)
            if colon and store in STORES
            else parse_s3(f"//{text}", text)
        )
    except UsageError:
        ref = None
    if ref is None or ref.key is not None:
        raise ValueError(f"`{text}` is not a bucket; write it like `{EXAMPLE}`")
    return ref.bucket


def _bucket(name: str, words: list[str]) -> BucketOptions:
    values: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value or key in values:
            raise ValueError(f"`{word}` of {name} is none of {_FIELDS}, each once")
        match key:
            case "endpoint":
                values[key] = endpoint(value)
            case "region":
                values[key] = region(value)
            case "profile":
                values[key] = value
            case "style":
                values[key] = style(value)
            case "anonymous" | "requester_pays" | "public":
                values[key] = _switch(value)
            case _:
                raise ValueError(f"`{word}` of {name} is none of {_FIELDS}")
    return BucketOptions(**values)


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(f"`{text}` is neither on nor off")
    return text == "on"


def format_buckets(found: Buckets) -> str:
    """What `buckets` reads."""
    entries = []
    for name, options in found:
        said = {field.name: getattr(options, field.name) for field in fields(options)}
        words = [
            f"{key}={('on' if value else 'off') if isinstance(value, bool) else value}"
            for key, value in said.items()
            if value is not None
        ]
        shown = bucket_text(name).removeprefix("s3://")
        entries.append(" ".join([shown, *words]))
    return "; ".join(entries) or "none"


def s3_options(values: Mapping[str, Any], environment: Mapping[str, str]) -> S3Options:
    """From all settings. Without an `s3.endpoint` the agent's own environment counts, then the
    profile's own endpoint, which counts for a bucket with a profile too.
    """
    profile = values["s3.profile"] or environment.get("AWS_PROFILE")
    own = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    common = BucketOptions(
        endpoint=values["s3.endpoint"] or own or profile_endpoint(profile, environment),
        region=values["s3.region"],
        profile=values["s3.profile"],
        style=values["s3.style"],
        anonymous=values["s3.anonymous"],
        requester_pays=values["s3.requester_pays"],
        public=values["s3.public"],
    )
    found = {
        name: replace(bucket, endpoint=profile_endpoint(bucket.profile, environment))
        if bucket.profile is not None and bucket.endpoint is None
        else bucket
        for name, bucket in values["s3.buckets"]
    }
    return S3Options(common, found, int(values["s3.url_valid"]))
