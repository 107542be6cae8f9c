"""What a push asks of a container of Azure's: plain and synchronous, in a worker process."""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from p2pcache.content.cloud_refs import AzureRef, azure_text
from p2pcache.destinations.objects.port import Absent, Condition, Same
from p2pcache.destinations.objects.s3_calls import conflict
from p2pcache.errors import Unavailable, Untrusted
from p2pcache.sources.azure.listing import (
    SHA256_METADATA,
    AzureBlob,
    Container,
    code_of,
    read_xml,
)
from p2pcache.sources.azure.login import AzureRequest, grant_azure
from p2pcache.sources.azure.sign import WRITE, AzureGrant
from p2pcache.sources.headers import strong_etag
from p2pcache.sources.rest import Answer, Rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.sources.rest_options import RestOptions

LOST_BLOCKS = "InvalidBlockList"  # whatever else is written there ends them, and so does a week
FAILED = frozenset({409, 412})  # BlobAlreadyExists, ConditionNotMet
SHA256_HEADER = f"x-ms-meta-{SHA256_METADATA}"


@contextlib.contextmanager
def _open(request: AzureRequest) -> Iterator[tuple[Container, AzureGrant]]:
    grant = grant_azure(request)
    options: RestOptions = request.options.rest
    with Rest(request.endpoint, options) as rest:
        yield Container(rest, request, grant, WRITE), grant


def list_below(request: AzureRequest, prefix: str) -> tuple[list[AzureBlob], AzureGrant]:
    """All blobs below a prefix, and what opens the account from now on."""
    with _open(request) as (container, grant):
        found = container.below(prefix, _name(request, prefix), request.options.max_files)
        return found, grant


def look(request: AzureRequest, keys: tuple[str, ...]) -> list[AzureBlob]:
    """What a HEAD tells of each; those that are gone are left out."""
    with _open(request) as (container, _):
        told = [container.one(key, _name(request, key)) for key in keys]
    return [one for one in told if one is not None]


def get_small(request: AzureRequest, key: str, most_bytes: int) -> tuple[bytes, str] | None:
    """A small blob and its ETag."""
    name = _name(request, key)
    with _open(request) as (container, _):
        one = container.one(key, name)
        if one is None:
            return None
        if one.size > most_bytes:
            raise Untrusted(f"{name} has {one.size} bytes, at most {most_bytes} make sense")
        version = headers_of(None if one.etag is None else Same(one.etag))
        answer = container.ask("GET", key, {}, version)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise container.refused(answer, name)
        return answer.body, etag_of(answer, name)


def put_small(request: AzureRequest, key: str, data: bytes, condition: Condition) -> str:
    """Write it at once; its ETag."""
    name = _name(request, key)
    sent = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream"}
    with _open(request) as (container, _):
        answer = container.ask("PUT", key, {}, sent | headers_of(condition), data)
        return written(container, answer, name, condition)


def delete(request: AzureRequest, key: str) -> None:
    """Remove a blob, or nothing."""
    with _open(request) as (container, _):
        answer = container.ask("DELETE", key, {})
        if answer.status not in (202, 404):
            raise container.refused(answer, _name(request, key))


def begun(request: AzureRequest, key: str) -> dict[str, int]:
    """The blocks that wait to become a blob: id to size."""
    name = _name(request, key)
    with _open(request) as (container, _):
        answer = container.ask("GET", key, {"comp": "blocklist", "blocklisttype": "uncommitted"})
        if answer.status == 404:
            return {}
        if answer.status != 200:
            raise container.refused(answer, name)
    page = read_xml(answer.body, request.endpoint)
    found = {}
    for row in page.iterfind("UncommittedBlocks/Block"):
        size = row.findtext("Size", "")
        if size.isascii() and size.isdigit():
            found[row.findtext("Name", "")] = int(size[:19])
    return found


def complete(
    request: AzureRequest, key: str, ids: tuple[str, ...], sha256: bytes, condition: Condition
) -> str:
    """Make a blob of its blocks; its ETag."""
    name = _name(request, key)
    rows = "".join(f"<Uncommitted>{escape(one)}</Uncommitted>" for one in ids)
    body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{rows}</BlockList>'.encode()
    sent = {SHA256_HEADER: sha256.hex(), "Content-Type": "application/xml"}
    sent["x-ms-blob-content-type"] = "application/octet-stream"
    with _open(request) as (container, _):
        answer = container.ask(
            "PUT", key, {"comp": "blocklist"}, sent | headers_of(condition), body
        )
        return written(container, answer, name, condition)


def written(container: Container, answer: Answer, name: str, condition: Condition) -> str:
    """The ETag that a write made. Raises Conflict, and by the table of `rest.refusal`."""
    if condition is not None and answer.status in FAILED:
        raise conflict(name)
    if answer.status == 400 and code_of(answer) == LOST_BLOCKS:
        raise Unavailable(f"what was staged of {name} is gone")
    if answer.status != 201:
        raise container.refused(answer, name)
    return etag_of(answer, name)


def etag_of(answer: Answer, name: str) -> str:
    """Without its quotes. Raises Untrusted where there is none that is strong."""
    etag = strong_etag(answer.headers.get("etag"))
    if etag is None:
        raise Untrusted(f"the store does not say which version of {name} it keeps")
    return etag


def headers_of(condition: Condition) -> dict[str, str]:
    """A condition as HTTP has it."""
    match condition:
        case Absent():
            return {"If-None-Match": "*"}
        case Same(version):
            return {"If-Match": f'"{version}"'}
        case None:
            return {}


def block_id(number: int, sha256: bytes) -> str:
    """Of one part of a file with this sha256: the same for all who send it."""
    return base64.b64encode(f"{number:05d}-{sha256.hex()[:40]}".encode()).decode()


def _name(request: AzureRequest, key: str) -> str:
    return azure_text(AzureRef(request.account, request.container, key or None))
