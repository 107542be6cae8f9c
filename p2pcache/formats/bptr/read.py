"""Pointer files, JSON or YAML, to pointers. Bounded before anything is built; only Untrusted
comes out.

YAML is read in its plainest form: every scalar is text, so that a hash of digits stays a hash;
anchors, aliases and tags are refused, for a few bytes of them can mean gigabytes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast, get_args

import yaml

from p2pcache.content.manifest import MAX_FILE_BYTES
from p2pcache.errors import Untrusted
from p2pcache.formats.bptr.pointers import (
    DEFAULT_SECRET,
    S3,
    Azure,
    Gcs,
    Http,
    Kind,
    Model,
    Pointer,
    PointerFile,
    Resolution,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_JSON_BYTES = 64 << 20  # 160,000 pointers of 400 bytes
MAX_YAML_BYTES = 8 << 20  # some seconds with PyYAML, which is slow where it has no C library
MAX_DEPTH = 16  # nesting; pointer files have 5 levels
MAX_TEXT_CHARS = 8192  # of one value; the longest are signed URLs
MAX_PATTERNS = 1000  # as content/patterns
_NOTHING = ("", "~", "null", "Null", "NULL")  # what YAML calls null


def read_pointers(data: bytes, name: str) -> PointerFile:
    """What one file says. `name` is for messages; `.json` at its end rules YAML out."""
    if len(data) > MAX_JSON_BYTES:
        raise Untrusted(f"{name} has {len(data)} bytes, more than {MAX_JSON_BYTES}")
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise Untrusted(f"{name} is not UTF-8") from exc
    plain, is_yaml = _parsed(text, name)
    top = _Fields(plain, name, is_yaml)
    pointers = [_pointer(entry) for entry in top.entries("pointers", required=True)]
    models = [_model(entry) for entry in top.entries("models", required=False)]
    return PointerFile(tuple(pointers), tuple(models))


def merged(files: Iterable[PointerFile]) -> PointerFile:
    """All of them as one. Of pointers to one file name the first counts; a note says so where
    another has other content.
    """
    first: dict[str, Pointer] = {}
    models: list[Model] = []
    notes: list[str] = []
    for file in files:
        notes += file.notes
        models += [model for model in file.models if model not in models]
        for pointer in file.pointers:
            known = first.setdefault(pointer.file_name, pointer)
            if known.hash != pointer.hash:
                notes.append(
                    f"`{pointer.file_name}` is listed with {known.hash} and {pointer.hash}: "
                    "the first counts"
                )
    return PointerFile(tuple(first.values()), tuple(models), tuple(notes))


def _parsed(text: str, name: str) -> tuple[object, bool]:
    try:
        return json.loads(text), False
    except (ValueError, RecursionError) as exc:
        if name.endswith(".json"):
            raise Untrusted(f"{name} is not JSON: {str(exc)[:200]}") from exc
    return _yaml(text, name), True


def _yaml(text: str, name: str) -> object:
    if len(text) > MAX_YAML_BYTES:
        raise Untrusted(f"{name} is not JSON, and as YAML it is longer than {MAX_YAML_BYTES} bytes")
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            if getattr(event, "anchor", None) is not None or _has_tag(event):
                raise Untrusted(f"{name} has an anchor, an alias or a tag: these are refused")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                raise Untrusted(f"{name} is nested deeper than {MAX_DEPTH} levels")
        return yaml.load(text, Loader=loader)  # text, lists and maps: no other type is made
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        said = " ".join(str(exc).split())[:200]
        raise Untrusted(f"{name} is neither JSON nor YAML: {said}") from exc


def _has_tag(event: object) -> bool:
    return getattr(event, "tag", None) is not None


class _Fields:
    """Typed access to one map of the file."""

    def __init__(self, value: object, where: str, is_yaml: bool) -> None:
        if not isinstance(value, dict):
            raise Untrusted(f"{where} is no map of fields")
        self._values = cast("dict[str, Any]", value)
        self._is_yaml = is_yaml
        self.where = where

    def _get(self, name: str) -> object:
        value = self._values.get(name)
        return None if self._is_yaml and value in _NOTHING else value

    def has(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str, default: str | None = None) -> str:
        """A text; an empty one counts. Required unless there is a default."""
        value = self._values.get(name, default)
        if not isinstance(value, str):
            raise Untrusted(f"{self.where}: `{name}` is missing or no text")
        return self._bounded(name, value)

    def optional_text(self, name: str) -> str | None:
        value = self._get(name)
        if value is not None and not isinstance(value, str):
            raise Untrusted(f"{self.where}: `{name}` is no text")
        return None if value is None else self._bounded(name, value)

    def _bounded(self, name: str, value: str) -> str:
        if len(value) > MAX_TEXT_CHARS or "\0" in value:
            raise Untrusted(f"{self.where}: `{name}` is too long, or has a NUL")
        return value

    def whole(self, name: str, most: int) -> int:
        """A whole number from 0 to `most`."""
        value = self._values.get(name)
        if self._is_yaml and isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:20])
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise Untrusted(f"{self.where}: `{name}` is no whole number from 0 to {most}")
        return value

    def texts(self, name: str) -> tuple[str, ...] | None:
        value = self._get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise Untrusted(f"{self.where}: `{name}` is no list of texts")
        if len(value) > MAX_PATTERNS:
            raise Untrusted(f"{self.where}: `{name}` has more than {MAX_PATTERNS} entries")
        return tuple(self._bounded(name, v) for v in value)

    def entries(self, name: str, *, required: bool) -> list[_Fields]:
        value = self._get(name)
        if value is None and not required:
            return []
        if not isinstance(value, list):
            raise Untrusted(
                f"{self.where}: `{name}` is missing or no list",
                hint="a pointer file has a list `pointers`",
            )
        return [
            _Fields(entry, f"{self.where}: {name}[{i}]", self._is_yaml)
            for i, entry in enumerate(value)
        ]

    def inner(self, name: str) -> _Fields:
        return _Fields(self._values.get(name), f"{self.where}: `{name}`", self._is_yaml)


def _pointer(fields: _Fields) -> Pointer:
    name = fields.text("hash")
    if "/" in name:  # truss-transfer's own rule: it names files of its cache so
        raise Untrusted(f"{fields.where}: `hash` has a slash")
    return Pointer(
        resolution=_resolution(fields.inner("resolution")),
        uid=fields.text("uid"),
        file_name=fields.text("file_name"),
        hashtype=fields.text("hashtype"),
        hash=name,
        size=fields.whole("size", MAX_FILE_BYTES),
        modified=fields.optional_text("last_modified_time"),
        secret=fields.text("runtime_secret_name", DEFAULT_SECRET),
    )


def _resolution(fields: _Fields) -> Resolution:
    """Tagged by `resolution_type`, or the untagged http form of the first versions."""
    kind = fields.text("resolution_type", "http")
    match kind:
        case "http":
            return Http(fields.text("url"), fields.whole("expiration_timestamp", 1 << 62))
        case "gcs":
            return Gcs(fields.text("bucket_name"), fields.text("path"))
        case "s3":
            region = fields.optional_text("region")
            return S3(fields.text("bucket_name"), fields.text("key"), region)
        case "azure":
            return Azure(
                fields.text("account_name"),
                fields.text("container_name"),
                fields.text("blob_name"),
            )
    raise Untrusted(
        f"{fields.where}: the kind {kind[:40]!r} is not known",
        hint=f"known: {', '.join(get_args(Kind))}",
    )


def _model(fields: _Fields) -> Model:
    kind = fields.text("kind")
    kind = "http" if kind == "hf" else kind
    if kind not in get_args(Kind):
        raise Untrusted(f"{fields.where}: the kind {kind[:40]!r} is not known")
    return Model(
        repo=fields.text("repo_id"),
        revision=fields.text("revision"),
        volume=fields.text("volume_folder"),
        kind=cast("Kind", kind),
        allow=fields.texts("allow_patterns"),
        ignore=fields.texts("ignore_patterns"),
        secret=fields.text("runtime_secret_name"),
    )
