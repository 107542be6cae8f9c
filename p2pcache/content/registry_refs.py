"""Refs of container registries, and of Ollama's: parsed once. Pure; nothing is asked of anybody.

    oci://host[:port]/name[:tag][@sha256:<hex>][?platform=os/arch[/variant]&layout=oci|files]
    ollama://[host[:port]/][namespace/]model[:tag]

Names, tags and digests are those of the OCI distribution specification (section "Definitions");
those of Ollama are what its own `types/model` accepts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl

from p2pcache.errors import UsageError

Layout = Literal["oci", "files"]

DOCKER_HUB = "docker.io"  # other hosts of it mean the same; one name alone is one of `library`
_DOCKER_HUBS = ("index.docker.io", "registry-1.docker.io")
OLLAMA_HOST = "registry.ollama.ai"  # what `ollama pull` asks for a name without a host
OLLAMA_NAMESPACE = "library"
OLLAMA_MANIFEST = "manifest.json"  # how the manifest of a model is listed among its files
DEFAULT_TAG = "latest"
MAX_NAME_CHARS = 255  # of the specification: host and repository together

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_PLATFORM = re.compile(r"[a-z0-9_.-]{1,32}/[a-z0-9_.-]{1,32}(?:/[a-z0-9_.-]{1,32})?")
_OLLAMA_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_OLLAMA_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")

_OCI_FORM = "oci://host/name[:tag] or oci://host/name@sha256:<hex>"
_OLLAMA_FORM = "ollama://[host/][namespace/]model[:tag]"


@dataclass(frozen=True, slots=True)
class OciRef:
    """What a registry calls `repository:tag`, or has under a manifest's digest (then `tag` is "").

    `platform`: which one of an image for several; None: that of the agent. `layout`: how its files
    are named (`sources.oci.layout`); None: as it fits.
    """

    registry: str
    repository: str
    tag: str
    digest: str | None = None
    platform: str | None = None
    layout: Layout | None = None

    @property
    def reference(self) -> str:
        """What the registry is asked for."""
        return self.digest or self.tag


@dataclass(frozen=True, slots=True)
class OllamaRef:
    """A model in a registry of Ollama's. `namespace` may be `library`."""

    registry: str
    namespace: str
    model: str
    tag: str

    @property
    def repository(self) -> str:
        """Its name in the registry."""
        return f"{self.namespace}/{self.model}"


def is_digest(text: str) -> bool:
    """Whether it is the digest of something in a registry, of an algorithm that is known here."""
    return _DIGEST.fullmatch(text) is not None


def parse_oci(rest: str, text: str) -> OciRef:
    """What follows `oci:`. `text` is the whole, for messages. Raises UsageError."""
    name, _, query = rest.removeprefix("//").partition("?")
    name, at, digest = name.partition("@")
    host, slash, repository = name.partition("/")
    last = repository.rpartition("/")[2]
    tag = ""
    if ":" in last:
        repository, _, tag = repository.rpartition(":")
        if not _TAG.fullmatch(tag):
            raise UsageError(f"`{tag}` is not a tag", hint=_OCI_FORM)
    if at and not is_digest(digest):
        raise UsageError(f"`{digest}` is not a digest", hint="@sha256: and 64 hex digits")
    if not slash or not _REPOSITORY.fullmatch(repository) or len(name) > MAX_NAME_CHARS:
        raise UsageError(f"`{text}` does not name a repository of a registry", hint=_OCI_FORM)
    platform, layout = _choices(query)
    host = _host(host, text)
    host = DOCKER_HUB if host in _DOCKER_HUBS else host
    if host == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    if at:
        return OciRef(host, repository, "", digest, platform, layout)
    return OciRef(host, repository, tag or DEFAULT_TAG, None, platform, layout)


def _choices(query: str) -> tuple[str | None, Layout | None]:
    platform: str | None = None
    layout: Layout | None = None
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "platform":
            platform = checked_platform(value)
        elif name == "layout":
            layout = checked_layout(value)
        else:
            raise UsageError(f"`{name}` is no choice of a registry's ref: platform, layout")
    return platform, layout


def checked_platform(text: str) -> str:
    """`linux/arm64`, `linux/arm/v7`. Raises UsageError."""
    if not _PLATFORM.fullmatch(text):
        raise UsageError(f"`{text}` is not a platform", hint="os/architecture[/variant]")
    return text


def checked_layout(text: str) -> Layout:
    """Raises UsageError."""
    match text:
        case "oci":
            return "oci"
        case "files":
            return "files"
    raise UsageError(f"`{text}` is not a layout", hint="oci or files")


def parse_ollama(rest: str, text: str) -> OllamaRef:
    """What follows `ollama:`. Raises UsageError.

    Of two parts the first is a host if it has a dot or a port, or is `localhost`: no namespace of
    Ollama's has either.
    """
    parts = rest.removeprefix("//").split("/")
    model, colon, tag = parts.pop().partition(":")
    host, namespace = OLLAMA_HOST, OLLAMA_NAMESPACE
    if len(parts) == 1 and ("." in parts[0] or ":" in parts[0] or parts[0] == "localhost"):
        host = parts[0]
    elif len(parts) == 1:
        namespace = parts[0]
    elif len(parts) == 2:
        host, namespace = parts
    tag = tag if colon else DEFAULT_TAG
    good = _OLLAMA_NAMESPACE.fullmatch(namespace) and _OLLAMA_PART.fullmatch(model)
    if len(parts) > 2 or not good or not _OLLAMA_PART.fullmatch(tag):
        raise UsageError(f"`{text}` does not name a model of Ollama's", hint=_OLLAMA_FORM)
    return OllamaRef(_host(host, text), namespace, model, tag)


def _host(host: str, text: str) -> str:
    host = host.lower()
    if not _HOST.fullmatch(host):
        raise UsageError(f"`{text}` names no registry's host", hint="host or host:port")
    return host


def canonical_oci(ref: OciRef) -> str:
    """One text for one ref."""
    what = f"@{ref.digest}" if ref.digest is not None else f":{ref.tag}"
    choices = [("platform", ref.platform), ("layout", ref.layout)]
    query = "&".join(f"{name}={value}" for name, value in choices if value is not None)
    return f"oci://{ref.registry}/{ref.repository}{what}" + (f"?{query}" if query else "")


def canonical_ollama(ref: OllamaRef) -> str:
    """One text for one ref: what Ollama takes for granted is left out, as `ollama list` does."""
    if ref.registry != OLLAMA_HOST:
        return f"ollama://{ref.registry}/{ref.repository}:{ref.tag}"
    namespace = "" if ref.namespace == OLLAMA_NAMESPACE else f"{ref.namespace}/"
    return f"ollama://{namespace}{ref.model}:{ref.tag}"
