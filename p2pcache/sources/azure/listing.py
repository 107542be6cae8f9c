"""Ask Azure what a container holds: plain and synchronous, in a worker process.

A list tells size, ETag and metadata of 5000 blobs at once; nothing is asked of a blob alone. An
ETag is a version. MD5 is no name of content among us.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlencode
from xml.etree import ElementTree

from p2pcache.content.cloud_refs import AzureRef, azure_text
from p2pcache.content.digests import sha256_digest
from p2pcache.content.push_record import is_ours
from p2pcache.errors import NotFound, P2PCacheError, Untrusted
from p2pcache.sources import headers
from p2pcache.sources.azure.login import HELP, AzureRequest, grant_azure
from p2pcache.sources.azure.sign import LIST, AzureGrant
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
    from xml.etree.ElementTree import Element

SHA256_METADATA = "p2pcache_sha256"  # hex; names of metadata have no hyphens there
ASK_VALID_S = 600  # of a signature that a question carries
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")


@dataclass(frozen=True, slots=True)
class AzureAnswer:
    """What a container said, and what opened it."""

    listing: Listing
    grant: AzureGrant


@dataclass(frozen=True, slots=True)
class AzureBlob:
    """One blob as a list or a HEAD tells it. `etag`: without quotes."""

    key: str
    size: int
    etag: str | None
    sha256: bytes | None


def list_azure(request: AzureRequest) -> AzureAnswer:
    """What a ref means now. Raises by the table of `rest.refusal`, and as `grant_azure`.

    Not cancellable from inside; bounded by the request's deadline and sizes.
    """
    name = azure_text(AzureRef(request.account, request.container, request.key, request.folder))
    grant = grant_azure(request)
    with Rest(request.endpoint, request.options.rest) as rest:
        found, single = _objects(Container(rest, request, grant), request, name)
    prefix = prefix_of(request.key, single=single)
    check_paths([one.key for one in found], prefix, name)
    files = tuple(_listed(request, one, prefix) for one in found)
    immutable = one_of_all((one.key, one.size, one.etag) for one in found)
    listing = Listing(
        source="azure",
        endpoint=request.endpoint,
        immutable=found[0].etag if single else immutable,
        mutable=True,
        files=files,
        gated=grant.is_login and not request.options.public,
        credential_used=grant.is_login,
        notes=notes_of(files),
    )
    return AzureAnswer(listing, grant)


class Container:
    """One container's metadata."""

    def __init__(
        self, rest: Rest, request: AzureRequest, grant: AzureGrant, rights: str = LIST
    ) -> None:
        self._rest = rest
        self._grant = grant
        self._endpoint = request.endpoint
        self._url = f"{request.endpoint}/{request.container}"
        self._login = grant.query(
            request.container, None, rights, now_unix_s=time.time(), valid_s=ASK_VALID_S
        )

    def one(self, key: str, name: str) -> AzureBlob | None:
        """One blob; None where there is none of that name."""
        answer = self._ask("HEAD", f"{self._url}/{quote(key)}", {})
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise refused(answer, name, self._endpoint, login=self._grant.is_login)
        told = answer.headers
        size = headers.length_bytes(told.get("content-length"))
        etag = headers.strong_etag(told.get("etag"))
        ours = checked_sha256(told.get(f"x-ms-meta-{SHA256_METADATA}"))
        return AzureBlob(key, checked_size(size, key), etag, ours)

    def below(self, prefix: str, name: str, max_files: int) -> list[AzureBlob]:
        """All blobs of a prefix; markers of folders are left out."""
        found: list[AzureBlob] = []
        fields = {"restype": "container", "comp": "list", "include": "metadata", "prefix": prefix}
        seen = empty = 0
        while True:
            page = self._page(self._ask("GET", self._url, fields), name)
            rows = page.findall("Blobs/Blob")
            seen += len(rows)
            if seen > max_files:
                raise Untrusted(f"{name} lists more than {max_files} files")
            for row in rows:
                one, is_folder = _read_blob(row, self._endpoint)
                if not one.key.startswith(prefix):
                    raise Untrusted(f"{self._endpoint} lists a key that is not below {prefix!r}")
                if not is_folder:
                    found.append(one)
            following = page.findtext("NextMarker")
            if not following:
                return found
            empty = 0 if rows else empty + 1
            if following == fields.get("marker") or empty > MAX_EMPTY_PAGES:
                raise Untrusted(f"{self._endpoint} lists {name} without an end")
            fields["marker"] = following

    def ask(
        self, method: str, key: str, fields: dict[str, str],
        headers: dict[str, str] | None = None, body: bytes | None = None,
    ) -> Answer:  # fmt: skip
        """One request about a blob; any status is an answer."""
        url = f"{self._url}/{quote(key)}"
        return self._ask(method, url, fields, headers or {}, body)

    def refused(self, answer: Answer, name: str) -> P2PCacheError:
        """The error for what is no success."""
        return refused(answer, name, self._endpoint, login=self._grant.is_login)

    def _ask(
        self, method: str, url: str, fields: dict[str, str],
        headers: dict[str, str] | None = None, body: bytes | None = None,
    ) -> Answer:  # fmt: skip
        query = "&".join(filter(None, (urlencode(fields), self._login)))
        sent = self._grant.headers() | (headers or {})
        return self._rest.ask(method, f"{url}?{query}", sent, body)

    def _page(self, answer: Answer, name: str) -> Element:
        if answer.status != 200:
            raise refused(answer, name, self._endpoint, login=self._grant.is_login)
        page = read_xml(answer.body, self._endpoint)
        if page.tag != "EnumerationResults":
            raise _no_azure(self._endpoint)
        return page


def refused(answer: Answer, name: str, endpoint: str, *, login: bool) -> P2PCacheError:
    """The error for what is no success."""
    code = code_of(answer)
    return refusal(answer, code, name, endpoint, login=login, help_login=HELP)


def code_of(answer: Answer) -> str:
    """Azure's word for a refusal; empty where it has none."""
    code = checked_code(answer.headers.get("x-ms-error-code"))
    if not code and (found := _CODE.search(answer.body[:4096])):
        code = found[1].decode()
    return code


def read_xml(body: bytes, endpoint: str) -> Element:
    """A reply's tree. A document type is refused: entities could make it grow. In UTF-8 alone, as
    Azure writes it: in another encoding it would look different. Raises Untrusted.
    """
    try:
        text = body.decode("utf-8-sig")
        if "<!" in text:
            raise _no_azure(endpoint)
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as exc:
        raise _no_azure(endpoint) from exc


def _no_azure(endpoint: str) -> Untrusted:
    return Untrusted(f"{endpoint} does not answer like Azure", hint="check the endpoint")


def _read_blob(row: Element, endpoint: str) -> tuple[AzureBlob, bool]:
    """One blob of a list, and whether it stands for a folder. Raises Untrusted."""
    name, told = row.find("Name"), row.find("Properties")
    if name is None or told is None or not name.text:
        raise _no_azure(endpoint)
    key = unquote(name.text) if name.get("Encoded") == "true" else name.text
    size = checked_size(headers.length_bytes(told.findtext("Content-Length")), key)
    etag = headers.strong_etag(told.findtext("Etag"))
    metadata = {one.tag.lower(): one.text for one in row.iterfind("Metadata/*")}
    is_folder = told.findtext("ResourceType") == "directory" or (
        size == 0 and (key.endswith("/") or metadata.get("hdi_isfolder") == "true")
    )
    return AzureBlob(key, size, etag, checked_sha256(metadata.get(SHA256_METADATA))), is_folder


def _objects(
    container: Container, request: AzureRequest, name: str
) -> tuple[list[AzureBlob], bool]:
    """The blobs of a ref, and whether it means that one blob and no folder."""
    key = request.key
    if key is not None and not request.folder and (one := container.one(key, name)) is not None:
        return [one], True
    prefix = prefix_of(key, single=False)
    listed = container.below(prefix, name, request.options.max_files)
    found = [one for one in listed if not is_ours(one.key.removeprefix(prefix))]
    if not found:
        raise NotFound(
            f"{request.endpoint} has no {name}", hint="check the key: nothing is below it either"
        )
    return found, False


def _listed(request: AzureRequest, one: AzureBlob, prefix: str) -> ListedFile:
    said = {} if one.etag is None else {"etag": one.etag}
    where = f"{request.account}/{request.container}/{quote(one.key)}"
    return ListedFile(
        path=one.key.removeprefix(prefix),
        size=one.size,
        digest=None if one.sha256 is None else sha256_digest(one.sha256),
        key=f"{where}?{urlencode(said)}",
        validator=one.etag if one.sha256 is None else None,
    )


def read_file_key(text: str) -> tuple[str, str, str, str | None]:
    """What `ListedFile.key` was made of: account, container, key (quoted still), ETag."""
    path, _, said = text.partition("?")
    account, _, below = path.partition("/")
    container, _, key = below.partition("/")
    return account, container, key, parse_qs(said).get("etag", [None])[0]
