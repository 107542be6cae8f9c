"""Ask Google Cloud Storage what a bucket holds: plain and synchronous, in a worker process.

The JSON API tells size, generation and metadata of a thousand objects at once; nothing is asked of
an object alone. A generation is a version. MD5 and CRC32C are no names of content among us.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlencode

from p2pcache.content.cloud_refs import GcsRef, gcs_text
from p2pcache.content.digests import sha256_digest
from p2pcache.content.push_record import SHA256_METADATA, is_ours
from p2pcache.errors import NotFound, P2PCacheError, Untrusted
from p2pcache.sources.gcs.login import HELP, GcsRequest, token_gcs
from p2pcache.sources.objects import (
    MAX_EMPTY_PAGES,
    check_paths,
    checked_sha256,
    checked_size,
    notes_of,
    one_of_all,
    prefix_of,
)
from p2pcache.sources.port import ListedFile, Listing
from p2pcache.sources.rest import Answer, Rest, checked_code, refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.sources.tokens import Token

_FIELDS = "name,size,generation,metadata"
_GENERATION = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class GcsAnswer:
    """What a bucket said, and the token that it was asked with."""

    listing: Listing
    token: Token | None


@dataclass(frozen=True, slots=True)
class GcsObject:
    """One object as the API has it."""

    key: str
    size: int
    generation: str
    sha256: bytes | None


def list_gcs(request: GcsRequest) -> GcsAnswer:
    """What a ref means now. Raises by the table of `rest.refusal`, and as `token_gcs`.

    Not cancellable from inside; bounded by the request's deadline and sizes.
    """
    ref = GcsRef(request.bucket, request.key, request.generation, request.folder)
    name = gcs_text(ref)
    token = token_gcs(request)
    with Rest(request.endpoint, request.options.rest) as rest:
        bucket = GcsBucket(rest, request.endpoint, request.bucket, token)
        found, single = _objects(bucket, request, name)
    prefix = prefix_of(request.key, single=single)
    check_paths([one.key for one in found], prefix, name)
    files = tuple(_listed(request.bucket, one, prefix) for one in found)
    immutable = one_of_all((one.key, one.size, one.generation) for one in found)
    listing = Listing(
        source="gcs",
        endpoint=request.endpoint,
        immutable=found[0].generation if single else immutable,
        mutable=request.generation is None,
        files=files,
        gated=token is not None and not request.options.public,
        credential_used=token is not None,
        notes=notes_of(files),
    )
    return GcsAnswer(listing, token)


class GcsBucket:
    """One bucket's metadata, as the JSON API tells it."""

    def __init__(self, rest: Rest, endpoint: str, bucket: str, token: Token | None) -> None:
        self._rest = rest
        self._endpoint = endpoint
        self._token = token
        self._url = f"{endpoint}/storage/v1/b/{quote(bucket)}/o"

    def one(self, key: str, generation: str | None, name: str) -> GcsObject | None:
        """One object; None where there is none of that name."""
        fields = {"fields": _FIELDS}
        if generation is not None:
            fields["generation"] = generation
        answer = self._ask(f"{self._url}/{quote(key, safe='')}", fields)
        if answer.status == 404:
            return None
        found = read_object(self._checked(answer, name), self._endpoint)
        if found.key != key:
            raise Untrusted(f"{self._endpoint} answers with another object than {name}")
        return found

    def below(self, prefix: str, name: str, max_files: int) -> list[GcsObject]:
        """All objects of a prefix; markers of folders are left out."""
        found: list[GcsObject] = []
        fields = {"prefix": prefix, "maxResults": "1000"}
        fields["fields"] = f"nextPageToken,items({_FIELDS})"
        seen = empty = 0
        while True:
            page = self._checked(self._ask(self._url, fields), name)
            rows = page.get("items", [])
            for row in rows if isinstance(rows, list) else ():
                seen += 1
                if seen > max_files:
                    raise Untrusted(f"{name} lists more than {max_files} files")
                one = read_object(row, self._endpoint)
                if not one.key.startswith(prefix):
                    raise Untrusted(f"{self._endpoint} lists a key that is not below {prefix!r}")
                if one.size or not one.key.endswith("/"):
                    found.append(one)
            following = page.get("nextPageToken")
            if not following:
                return found
            empty = 0 if rows else empty + 1
            again = following == fields.get("pageToken")
            if not isinstance(following, str) or again or empty > MAX_EMPTY_PAGES:
                raise Untrusted(f"{self._endpoint} lists {name} without an end")
            fields["pageToken"] = following

    def _ask(self, url: str, fields: Mapping[str, str]) -> Answer:
        return self._rest.ask("GET", f"{url}?{urlencode(fields)}", bearer(self._token))

    def _checked(self, answer: Answer, name: str) -> dict[str, Any]:
        if answer.status != 200:
            raise refused(answer, name, self._endpoint, login=self._token is not None)
        return read_json(answer.body, self._endpoint)


def bearer(token: Token | None) -> dict[str, str]:
    """The header that carries a token."""
    return {} if token is None else {"Authorization": f"Bearer {token.value}"}


def refused(answer: Answer, name: str, endpoint: str, *, login: bool) -> P2PCacheError:
    """The error for what is no success."""
    code = ""
    # many refusals have no body, or a proxy's
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError, RecursionError):
        code = checked_code(json.loads(answer.body)["error"]["errors"][0]["reason"])
    return refusal(answer, code, name, endpoint, login=login, help_login=HELP)


def read_json(body: bytes, endpoint: str) -> dict[str, Any]:
    """A reply that is a map. Raises Untrusted."""
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise Untrusted(
            f"{endpoint} does not answer like Google Cloud Storage", hint="check the endpoint"
        ) from exc
    if not isinstance(plain, dict):
        raise Untrusted(f"{endpoint} does not answer like Google Cloud Storage")
    return plain


def read_object(row: object, endpoint: str) -> GcsObject:
    """One object of a reply. Raises Untrusted."""
    said = row if isinstance(row, dict) else {}
    key, size, generation = said.get("name"), said.get("size"), said.get("generation")
    if not isinstance(key, str) or not isinstance(size, str) or not isinstance(generation, str):
        raise Untrusted(f"{endpoint} does not answer like Google Cloud Storage")
    if not _GENERATION.fullmatch(generation):
        raise Untrusted(f"{endpoint} gives no generation for {key[:80]!a}")
    length = int(size) if size.isascii() and size.isdigit() and len(size) <= 19 else None
    metadata = said.get("metadata")
    ours = metadata.get(SHA256_METADATA) if isinstance(metadata, dict) else None
    return GcsObject(key, checked_size(length, key), generation, checked_sha256(ours))


def _objects(bucket: GcsBucket, request: GcsRequest, name: str) -> tuple[list[GcsObject], bool]:
    """The objects of a ref, and whether it means that one object and no folder."""
    key, generation = request.key, request.generation
    if key is not None and not request.folder:
        if (one := bucket.one(key, generation, name)) is not None:
            return [one], True
        if generation is not None:
            raise NotFound(
                f"{request.endpoint} has no {name}",
                hint="where `@` is a part of the key it is written %40",
            )
    prefix = prefix_of(key, single=False)
    listed = bucket.below(prefix, name, request.options.max_files)
    found = [one for one in listed if not is_ours(one.key.removeprefix(prefix))]
    if not found:
        raise NotFound(
            f"{request.endpoint} has no {name}", hint="check the key: nothing is below it either"
        )
    return found, False


def _listed(bucket: str, one: GcsObject, prefix: str) -> ListedFile:
    return ListedFile(
        path=one.key.removeprefix(prefix),
        size=one.size,
        digest=None if one.sha256 is None else sha256_digest(one.sha256),
        key=f"{bucket}/{quote(one.key)}?generation={one.generation}",
        validator=one.generation if one.sha256 is None else None,
    )


def read_file_key(text: str) -> tuple[str, str, str]:
    """What `ListedFile.key` was made of: bucket, key (quoted still), generation."""
    path, _, said = text.partition("?")
    bucket, _, key = path.partition("/")
    return bucket, key, parse_qs(said).get("generation", [""])[0]
