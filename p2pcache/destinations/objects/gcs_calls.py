"""What a push asks of a bucket of Google's: plain and synchronous, in a worker process."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit

from p2pcache.content.push_record import SHA256_METADATA
from p2pcache.destinations.objects.port import Absent, Condition, Same
from p2pcache.destinations.objects.s3_calls import conflict
from p2pcache.errors import Untrusted
from p2pcache.sources.gcs.listing import (
    GcsBucket,
    GcsObject,
    bearer,
    read_json,
    read_object,
    refused,
)
from p2pcache.sources.gcs.login import WRITE, GcsRequest, token_gcs
from p2pcache.sources.rest import Answer, Rest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from p2pcache.sources.tokens import Token

_BOUNDARY = "p2pcache-0c5f1c0b9d6e4b0f8f3a"  # what is JSON has no line that begins with it
FAILED = 412


class _Folder:
    """A bucket that is written to."""

    def __init__(self, rest: Rest, request: GcsRequest, token: Token | None) -> None:
        self.rest = rest
        self.request = request
        self.token = token
        self.bucket = GcsBucket(rest, request.endpoint, request.bucket, token)

    def ask(
        self, method: str, path: str, fields: Mapping[str, str],
        headers: Mapping[str, str] | None = None, body: bytes | None = None,
    ) -> Answer:  # fmt: skip
        """One request; `path`: behind `storage/v1`'s bucket."""
        url = f"{self.request.endpoint}{path}?{urlencode(fields)}"
        return self.rest.ask(method, url, {**bearer(self.token), **(headers or {})}, body)

    def refused(self, answer: Answer, key: str, condition: Condition = None) -> Exception:
        """The error for what is no success."""
        name = f"gs://{self.request.bucket}/{key}"
        if condition is not None and answer.status == FAILED:
            return conflict(name)
        return refused(answer, name, self.request.endpoint, login=self.token is not None)


@contextlib.contextmanager
def _open(request: GcsRequest) -> Iterator[_Folder]:
    request = replace(request, scope=WRITE)
    token = token_gcs(request)
    with Rest(request.endpoint, request.options.rest) as rest:
        yield _Folder(rest, request, token)


def list_below(request: GcsRequest, prefix: str) -> list[GcsObject]:
    """All objects below a prefix."""
    with _open(request) as folder:
        name = f"gs://{request.bucket}/{prefix}"
        return folder.bucket.below(prefix, name, request.options.max_files)


def look(request: GcsRequest, keys: tuple[str, ...]) -> list[GcsObject]:
    """Each object alone; those that are gone are left out."""
    with _open(request) as folder:
        told = [folder.bucket.one(key, None, f"gs://{request.bucket}/{key}") for key in keys]
    return [one for one in told if one is not None]


def get_small(request: GcsRequest, key: str, most_bytes: int) -> tuple[bytes, str] | None:
    """A small object and its generation."""
    with _open(request) as folder:
        one = folder.bucket.one(key, None, f"gs://{request.bucket}/{key}")
        if one is None:
            return None
        if one.size > most_bytes:
            raise Untrusted(f"{key!r} has {one.size} bytes, at most {most_bytes} make sense")
        path = f"/download/storage/v1/b/{quote(request.bucket)}/o/{quote(key, safe='')}"
        answer = folder.ask("GET", path, {"alt": "media", "generation": one.generation})
        if answer.status == 404:  # replaced in between; whoever needs it asks again
            return None
        if answer.status != 200:
            raise folder.refused(answer, key)
        return answer.body, one.generation


def put_small(
    request: GcsRequest, key: str, data: bytes, condition: Condition, sha256: bytes | None = None
) -> str:
    """Write it at once; its generation."""
    about = json.dumps(_about(key, sha256)).encode()
    kind = b"Content-Type: application/octet-stream"
    mark = _BOUNDARY.encode()
    body = b"".join([
        b"--", mark, b"\r\nContent-Type: application/json\r\n\r\n", about, b"\r\n",
        b"--", mark, b"\r\n", kind, b"\r\n\r\n", data, b"\r\n--", mark, b"--\r\n",
    ])  # fmt: skip
    headers = {"Content-Type": f"multipart/related; boundary={_BOUNDARY}"}
    fields = {"uploadType": "multipart"} | fields_of(condition)
    with _open(request) as folder:
        answer = folder.ask("POST", _uploads(request), fields, headers, body)
        if answer.status != 200:
            raise folder.refused(answer, key, condition)
        return written(answer, request.endpoint, len(data), None).generation


def delete(request: GcsRequest, key: str, generation: str | None = None) -> None:
    """Remove an object, or nothing. `generation`: that one alone, if it is the one that is live."""
    fields = {} if generation is None else {"ifGenerationMatch": generation}
    path = f"/storage/v1/b/{quote(request.bucket)}/o/{quote(key, safe='')}"
    with _open(request) as folder:
        answer = folder.ask("DELETE", path, fields)
        another = generation is not None and answer.status == FAILED
        if answer.status not in (200, 204, 404) and not another:
            raise folder.refused(answer, key)


def begin(
    request: GcsRequest, key: str, size: int, sha256: bytes, md5: str, condition: Condition
) -> str:
    """A new session that bytes are sent to: its URI, which is a secret for a week."""
    about = json.dumps(_about(key, sha256) | {"md5Hash": md5}).encode()
    headers = {"Content-Type": "application/json", "X-Upload-Content-Length": str(size)}
    fields = {"uploadType": "resumable", "name": key} | fields_of(condition)
    with _open(request) as folder:
        answer = folder.ask("POST", _uploads(request), fields, headers, about)
        if answer.status not in (200, 201):
            raise folder.refused(answer, key, condition)
    session = answer.headers.get("location", "")
    if _server(session) != _server(request.endpoint):
        raise Untrusted(f"{request.endpoint} begins an upload at another server")
    return session


def written(answer: Answer, endpoint: str, size: int, md5: str | None) -> GcsObject:
    """The object that a write made. Raises Untrusted where it is not what was sent."""
    told = read_json(answer.body, endpoint)
    made = read_object(told, endpoint)
    kept = told.get("md5Hash")
    if made.size != size or (md5 is not None and kept is not None and kept != md5):
        raise Untrusted(f"{endpoint} keeps other bytes of {made.key!r} than were sent")
    return made


def generation_of(answer: Answer) -> str | None:
    """Which object a write made, as far as its answer tells."""
    with contextlib.suppress(Untrusted):
        return read_object(read_json(answer.body, ""), "").generation
    return None


def fields_of(condition: Condition) -> dict[str, str]:
    """A condition as the API has it: no object has the generation 0."""
    match condition:
        case Absent():
            return {"ifGenerationMatch": "0"}
        case Same(version):
            return {"ifGenerationMatch": version}
        case None:
            return {}


def _about(key: str, sha256: bytes | None) -> dict[str, object]:
    about: dict[str, object] = {"name": key, "contentType": "application/octet-stream"}
    if sha256 is not None:
        about["metadata"] = {SHA256_METADATA: sha256.hex()}
    return about


def _uploads(request: GcsRequest) -> str:
    return f"/upload/storage/v1/b/{quote(request.bucket)}/o"


def _server(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
