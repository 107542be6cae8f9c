"""Ask a bucket what it holds, with boto3: plain and synchronous, in a worker process.

What a list does not tell (a version, a checksum, metadata) takes a HEAD for each object; many are
asked at once. An ETag is a version and no hash of the content (of a multipart upload it is no
hash of anything that is there); `x-amz-checksum-sha256` of the full object is one, and so is what
p2pcache wrote into the metadata when it uploaded the object itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlencode

from p2pcache.content import push_record
from p2pcache.content.digests import sha256_digest
from p2pcache.content.push_record import SHA256_METADATA
from p2pcache.content.s3_refs import S3Ref, bucket_text, s3_text
from p2pcache.errors import NotFound, Untrusted, UsageError
from p2pcache.sources import headers
from p2pcache.sources.objects import (
    check_paths,
    checked_sha256,
    checked_size,
    notes_of,
    one_of_all,
    prefix_of,
)
from p2pcache.sources.port import ListedFile, Listing
from p2pcache.sources.s3.client import Bucket, S3Request
from p2pcache.sources.s3.errors import as_ours, code_of, of_answer, status_of

if TYPE_CHECKING:
    from p2pcache.sources.s3.sign import Grant

_VERSION = re.compile(r"[A-Za-z0-9._-]{1,1024}")
_OF_PARTS = re.compile(r".*-\d+")  # an ETag or a checksum of a multipart upload
_NO_BODY = frozenset({301, 307, 400, 403})  # statuses of a HEAD that a listing explains


@dataclass(frozen=True, slots=True)
class S3Answer:
    """What a bucket said, and what signs addresses for its files."""

    listing: Listing
    grant: Grant


@dataclass(frozen=True, slots=True)
class S3Object:
    """One object as a list or a HEAD tells it. `etag`: strong, without quotes."""

    key: str
    size: int
    etag: str | None
    version: str | None = None
    sha256: bytes | None = None


def grant_s3(request: S3Request) -> Grant:
    """What signs addresses from now on: the login may have been renewed. Asks the bucket only where
    it is, if nobody has been told yet.
    """
    name = bucket_text(request.bucket)
    with as_ours(name, _expected_endpoint(request)), Bucket(request) as bucket:
        if request.region is None:
            bucket.find_region()
        return bucket.grant()


def list_s3(request: S3Request) -> S3Answer:
    """What a ref means now. Raises by the table of `errors`.

    Not cancellable from inside; bounded by the request's deadline and sizes.
    """
    name = s3_text(S3Ref(request.bucket, request.key, request.version, request.folder))
    with as_ours(name, _expected_endpoint(request)):
        bucket = Bucket(request)
    with as_ours(name, bucket.endpoint, signed=bucket.signed), bucket:
        found, single = _objects(bucket, name)
        prefix = prefix_of(request.key, single=single)
        check_paths([one.key for one in found], prefix, name)
        immutable = _immutable(found, single)
        unknown = sum(one.sha256 is None for one in found)
        if not single and request.heads and 0 < unknown <= request.options.max_heads:
            found = _with_heads(bucket, found)
        files = tuple(_listed(request.bucket, one, prefix) for one in found)
        grant = bucket.grant()
    listing = Listing(
        source="s3",
        endpoint=bucket.endpoint,
        immutable=immutable,
        mutable=request.version is None,
        files=files,
        gated=bucket.signed and not request.bucket_options.public,
        credential_used=bucket.signed,
        notes=notes_of(files),
    )
    return S3Answer(listing, grant)


def _expected_endpoint(request: S3Request) -> str:
    return request.bucket_options.endpoint or "S3"


def _objects(bucket: Bucket, name: str) -> tuple[list[S3Object], bool]:
    """The objects of a ref, and whether it means that one object and no folder."""
    request = bucket.request
    if request.key is None:
        return _list(bucket, "", name), False
    if not request.folder and (one := head(bucket, request.key, request.version)) is not None:
        return [one], True
    if request.version is not None:
        raise NotFound(
            f"{bucket.endpoint} has no {name}",
            hint="where `@` is a part of the key it is written %40",
        )
    return _list(bucket, f"{request.key}/", name), False


def head(bucket: Bucket, key: str, version: str | None) -> S3Object | None:
    """One object; None when there is none, or none that may be read without a right to list."""
    from botocore.exceptions import ClientError

    which = {} if version is None else {"VersionId": version}
    try:
        said = bucket.ask("head_object", Key=key, ChecksumMode="ENABLED", **which)
    except ClientError as exc:
        status = status_of(exc)
        if status == 404:
            return None
        if status in _NO_BODY and code_of(exc).isdigit():
            region = bucket.region
            bucket.ask("list_objects_v2", Prefix=key, MaxKeys=1)  # it says why, or where it is
            if bucket.region != region:
                return head(bucket, key, version)
            if status == 400 and version is not None:
                raise UsageError(
                    f"{version!r} is no version of {key!r}",
                    hint="where `@` is a part of the key it is written %40",
                ) from exc
        raise
    return S3Object(
        key,
        checked_size(said.get("ContentLength"), key),
        headers.strong_etag(said.get("ETag")),
        version or _version(said.get("VersionId")),
        _sha256(said),
    )


def _list(bucket: Bucket, prefix: str, name: str) -> list[S3Object]:
    """The content below a prefix, with what the record of a push tells of it."""
    listed = list_objects(bucket, prefix, name)
    found = [one for one in listed if not push_record.is_ours(one.key.removeprefix(prefix))]
    if not found:
        raise NotFound(
            f"{bucket.endpoint} has no {name}", hint="check the key: nothing is below it either"
        )
    if bucket.request.heads and any(one.key == prefix + push_record.REF_KEY for one in listed):
        return _recorded(bucket, prefix, found)
    return found


def _recorded(bucket: Bucket, prefix: str, found: list[S3Object]) -> list[S3Object]:
    """The same with the sha256 of each object that is still what was pushed. A record that does
    not read as one tells nothing: anybody may have put it there.
    """
    told = bucket.read(prefix + push_record.REF_KEY, push_record.MAX_RECORD_BYTES)
    try:
        files = {} if told is None else push_record.parse(told[0]).files
    except Untrusted:
        return found
    named = []
    for one in found:
        file = files.get(one.key.removeprefix(prefix))
        same = file is not None and (file.size, file.version) == (one.size, one.etag)
        named.append(replace(one, sha256=file.sha256) if file is not None and same else one)
    return named


def list_objects(bucket: Bucket, prefix: str, name: str) -> list[S3Object]:
    """All objects below a prefix, with size and ETag. Markers of folders are left out."""
    found: list[S3Object] = []
    token: str | None = None
    seen = 0
    while True:
        more = {} if token is None else {"ContinuationToken": token}
        page = bucket.ask("list_objects_v2", Prefix=prefix, **more)
        for row in page.get("Contents", ()):
            seen += 1
            if seen > bucket.request.options.max_files:
                raise Untrusted(f"{name} lists more than {bucket.request.options.max_files} files")
            key = row["Key"]
            if not isinstance(key, str) or not key.startswith(prefix):
                raise Untrusted(f"{bucket.endpoint} lists a key that is not below {prefix!r}")
            size = checked_size(row.get("Size"), key)
            if key.endswith("/") and size == 0:
                continue
            found.append(S3Object(key, size, headers.strong_etag(row.get("ETag"))))
        following = page.get("NextContinuationToken")
        if not page.get("IsTruncated"):
            break
        if not following or following == token:
            raise Untrusted(f"{bucket.endpoint} lists {name} without an end")
        token = following
    return found


def _with_heads(bucket: Bucket, found: list[S3Object]) -> list[S3Object]:
    """The same objects with what only a HEAD tells. One that changed meanwhile is Untrusted."""

    def look(listed: S3Object) -> S3Object:
        if listed.sha256 is not None:
            return listed
        one = head(bucket, listed.key, None)
        if one is None or (one.size, one.etag) != (listed.size, listed.etag):
            raise Untrusted(f"{listed.key!r} changed while it was listed", hint="run it again")
        return one

    with ThreadPoolExecutor(bucket.request.options.heads_at_once) as pool:
        work = [pool.submit(look, listed) for listed in found]
        try:
            told = [one.result() for one in work]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if not _may_read_versions(bucket, told):
        return [replace(one, version=None) for one in told]
    return told


def _may_read_versions(bucket: Bucket, found: list[S3Object]) -> bool:
    """A version is read by another right than the object: whether this login has it."""
    from botocore.exceptions import ClientError

    one = next((one for one in found if one.version is not None), None)
    if one is None:
        return False
    try:
        bucket.ask("head_object", Key=one.key, VersionId=one.version)
    except ClientError as exc:
        if status_of(exc) == 403:
            return False
        raise of_answer(exc, one.key, bucket.endpoint, signed=bucket.signed) from exc
    return True


def _listed(bucket: str, one: S3Object, prefix: str) -> ListedFile:
    return ListedFile(
        path=one.key.removeprefix(prefix),
        size=one.size,
        digest=None if one.sha256 is None else sha256_digest(one.sha256),
        key=file_key(bucket, one.key, one.version, one.etag),
        validator=one.etag if one.sha256 is None else None,
    )


def file_key(bucket: str, key: str, version: str | None, etag: str | None) -> str:
    """What `locate` needs of one file: `bucket/key?version=..&etag=..`, quoted."""
    fields = {"version": version, "etag": None if version is not None else etag}
    said = urlencode({name: value for name, value in fields.items() if value is not None})
    return f"{bucket}/{quote(key)}?{said}"


def read_file_key(text: str) -> tuple[str, str, str | None, str | None]:
    """What `file_key` was given: bucket, key (quoted still), version, ETag."""
    path, _, said = text.partition("?")
    bucket, _, key = path.partition("/")
    fields = parse_qs(said)
    version, etag = (fields.get(name, [None])[0] for name in ("version", "etag"))
    return bucket, key, version, etag


def _immutable(found: list[S3Object], single: bool) -> str | None:
    """What is another one when any of the objects is: the version, the ETag, or a hash of all."""
    if single:
        return found[0].version or found[0].etag
    return one_of_all((one.key, one.size, one.etag) for one in found)


def _version(value: object) -> str | None:
    """Of a versioned bucket; `null` is what others call their only one."""
    if not isinstance(value, str) or value == "null" or not _VERSION.fullmatch(value):
        return None
    return value


def _sha256(said: dict[str, Any]) -> bytes | None:
    """The sha2-256 of the whole object, if the bucket has it."""
    checksum = said.get("ChecksumSHA256")
    kind = said.get("ChecksumType")
    parts = _OF_PARTS.fullmatch(str(said.get("ETag", "")).strip('"'))
    if isinstance(checksum, str) and (kind == "FULL_OBJECT" or (kind is None and not parts)):
        try:
            digest = base64.b64decode(checksum, validate=True)
        except binascii.Error:
            digest = b""
        if len(digest) == hashlib.sha256().digest_size:
            return digest
    return checked_sha256(said.get("Metadata", {}).get(SHA256_METADATA))
