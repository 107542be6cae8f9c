"""What a push asks of a bucket, with boto3: plain and synchronous, in a worker process."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from p2pcache.content.push_record import SHA256_METADATA
from p2pcache.destinations.objects.port import Absent, Condition, Same
from p2pcache.errors import Conflict, NotFound, Untrusted
from p2pcache.sources.headers import strong_etag
from p2pcache.sources.s3.client import Bucket, S3Request
from p2pcache.sources.s3.errors import as_ours, code_of, status_of
from p2pcache.sources.s3.listing import S3Object, head, list_objects
from p2pcache.sources.s3.options import PUBLIC_S3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from p2pcache.sources.s3.sign import Grant

MAX_UPLOADS = 10  # of one key that are looked at: each is one push that broke off
MAX_PARTS = 10_000  # of S3
KEPT_S = 60.0  # logins of a machine that ended are asked for anew
FAILED = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})
UNKNOWN = frozenset({"NotImplemented"})  # a store without that kind of condition


@dataclass(frozen=True, slots=True)
class Part:
    """A part that the store has. `sha256`: as it says it, in base64; `etag`: without quotes."""

    number: int
    size: int
    etag: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """Uploads of a key that broke off, each with its parts; or a new one."""

    uploads: dict[str, tuple[Part, ...]]
    new: str | None
    grant: Grant = field(repr=False)


@dataclass(frozen=True, slots=True)
class Written:
    """`version`: what is there now; `kept`: whether the store kept to the condition."""

    version: str
    kept: bool = True


class _Kept:
    """The last client of this process: making one takes 25 ms of a core, an answer 3. None is kept
    after an error, for another login may be there by the next question.
    """

    bucket: Bucket | None = None
    until = 0.0  # on the monotonic clock

    def take(self, request: S3Request) -> Bucket:
        kept, self.bucket = self.bucket, None
        if kept is not None and kept.request == request and time.monotonic() < self.until:
            kept.restart()
            return kept
        if kept is not None:
            kept.close()
        return Bucket(request)

    def give_back(self, bucket: Bucket) -> None:
        self.bucket, self.until = bucket, time.monotonic() + KEPT_S


_kept = _Kept()


@contextlib.contextmanager
def _open(request: S3Request, name: str) -> Iterator[Bucket]:
    with as_ours(name, request.bucket_options.endpoint or PUBLIC_S3):
        bucket = _kept.take(request)
    with as_ours(name, bucket.endpoint, signed=bucket.signed):
        try:
            yield bucket
        except BaseException:
            bucket.close()
            raise
        _kept.give_back(bucket)


def list_below(request: S3Request, prefix: str) -> tuple[list[S3Object], Grant]:
    """All objects below a prefix, and what signs from now on."""
    name = f"s3://{request.bucket}/{prefix}"
    with _open(request, name) as bucket:
        try:
            found = list_objects(bucket, prefix, name)
        except NotFound:  # Swift says 404 for a folder that is empty
            found = []
        return found, bucket.grant()


def look(request: S3Request, keys: tuple[str, ...]) -> list[S3Object]:
    """What a HEAD tells of each; those that are gone are left out."""
    with (
        _open(request, f"s3://{request.bucket}") as bucket,
        ThreadPoolExecutor(request.options.heads_at_once) as pool,
    ):
        work = [pool.submit(head, bucket, key, None) for key in keys]
        try:
            told = [one.result() for one in work]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [one for one in told if one is not None]


def get_small(request: S3Request, key: str, most_bytes: int) -> tuple[bytes, str | None] | None:
    """A small object and its ETag."""
    with _open(request, _name(request, key)) as bucket:
        return bucket.read(key, most_bytes)


def get_many(
    request: S3Request, keys: tuple[str, ...], most_bytes: int
) -> dict[str, tuple[bytes, str | None]]:
    """As `get_small`, of each; those that are gone are left out."""
    with (
        _open(request, f"s3://{request.bucket}") as bucket,
        ThreadPoolExecutor(request.options.heads_at_once) as pool,
    ):
        found = {key: bucket.read(key, most_bytes) for key in keys[:1]}  # its answer tells where
        work = {key: pool.submit(bucket.read, key, most_bytes) for key in keys[1:]}
        try:
            found |= {key: one.result() for key, one in work.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {key: said for key, said in found.items() if said is not None}


def put_small(request: S3Request, key: str, data: bytes, condition: Condition) -> Written:
    """Write it at once."""
    with _open(request, _name(request, key)) as bucket:
        said, kept = _on_condition(
            lambda **more: bucket.ask("put_object", Key=key, Body=data, **more),
            condition,
            _name(request, key),
        )
        return Written(_version(said, key), kept)


def delete(request: S3Request, key: str) -> None:
    """Remove an object, or nothing."""
    with _open(request, _name(request, key)) as bucket:
        bucket.ask("delete_object", Key=key)


def begin_or_find(request: S3Request, key: str, sha256: bytes) -> Begun:
    """What broke off earlier; else, or where the login may not list that, a new upload."""
    from botocore.exceptions import ClientError

    found: dict[str, tuple[Part, ...]] = {}
    with _open(request, _name(request, key)) as bucket:
        try:
            said = bucket.ask("list_multipart_uploads", Prefix=key, MaxUploads=100)
            ids = [one["UploadId"] for one in said.get("Uploads", ()) if one["Key"] == key]
            for upload in ids[-MAX_UPLOADS:]:
                with contextlib.suppress(ClientError):  # it ended meanwhile
                    found[upload] = tuple(_parts(bucket, key, upload))
        except ClientError as exc:
            if status_of(exc) not in (403, 501):
                raise
        new = None if found else _begin(bucket, key, sha256)
        return Begun(found, new, bucket.grant())


def _parts(bucket: Bucket, key: str, upload: str) -> Iterator[Part]:
    after = 0
    while True:
        said = bucket.ask("list_parts", Key=key, UploadId=upload, PartNumberMarker=after)
        for row in said.get("Parts", ()):
            number, size = int(row["PartNumber"]), int(row["Size"])
            if not after < number <= MAX_PARTS:
                raise Untrusted(f"{bucket.endpoint} lists the parts of {key!r} out of order")
            after = number
            yield Part(number, size, str(row["ETag"]).strip('"'), row.get("ChecksumSHA256"))
        if not said.get("IsTruncated") or not said.get("Parts"):
            return


def begin(request: S3Request, key: str, sha256: bytes) -> str:
    """A new upload in parts."""
    with _open(request, _name(request, key)) as bucket:
        return _begin(bucket, key, sha256)


def _begin(bucket: Bucket, key: str, sha256: bytes) -> str:
    said = bucket.ask(
        "create_multipart_upload",
        Key=key,
        Metadata={SHA256_METADATA: sha256.hex()},
        ContentType="application/octet-stream",
        ChecksumAlgorithm="SHA256",
    )
    return str(said["UploadId"])


def abort(request: S3Request, key: str, upload: str) -> None:
    """End an upload, with what it has."""
    with _open(request, _name(request, key)) as bucket:
        _abort(bucket, key, (upload,))


def complete(
    request: S3Request,
    key: str,
    upload: str,
    parts: tuple[Part, ...],
    condition: Condition,
    others: tuple[str, ...],
) -> Written:
    """Make an object of its parts, and end `others`, which nobody needs then."""
    rows = [
        {"PartNumber": one.number, "ETag": f'"{one.etag}"'}
        | ({} if one.sha256 is None else {"ChecksumSHA256": one.sha256})
        for one in parts
    ]
    with _open(request, _name(request, key)) as bucket:

        def ask(**more: str) -> dict[str, Any]:
            return bucket.ask(
                "complete_multipart_upload",
                Key=key, UploadId=upload, MultipartUpload={"Parts": rows}, **more,
            )  # fmt: skip

        try:
            said, kept = _on_condition(ask, condition, _name(request, key))
        except Conflict:
            _abort(bucket, key, (upload,))
            raise
        _abort(bucket, key, others)
        return Written(_version(said, key), kept)


def _abort(bucket: Bucket, key: str, uploads: tuple[str, ...]) -> None:
    """Best effort: what is left of them costs money, and does no harm."""
    from botocore.exceptions import ClientError

    for upload in uploads:
        with contextlib.suppress(ClientError):
            bucket.ask("abort_multipart_upload", Key=key, UploadId=upload)


def _on_condition(
    ask: Callable[..., dict[str, Any]], condition: Condition, name: str
) -> tuple[dict[str, Any], bool]:
    """The answer of a write, and whether the store kept to its condition."""
    from botocore.exceptions import ClientError

    try:
        return ask(**_fields(condition)), True
    except ClientError as exc:
        if condition is None:
            raise
        if refuses_condition(status_of(exc), code_of(exc)):
            return ask(), False
        if fails_condition(status_of(exc), code_of(exc), condition):
            raise conflict(name) from exc
        raise


def fails_condition(status: int, code: str, condition: Condition) -> bool:
    """Whether an answer says that what must hold for a write does not."""
    gone = isinstance(condition, Same) and code == "NoSuchKey"
    return condition is not None and (status in (409, 412) or code in FAILED or gone)


def refuses_condition(status: int, code: str) -> bool:
    """Whether it says that the store has no such conditions."""
    return status == 501 or code in UNKNOWN


def conflict(name: str) -> Conflict:
    """For an object that is not what it was when the push looked."""
    return Conflict(
        f"{name} was written by somebody else meanwhile",
        hint="push it again: what it took is not sent twice",
    )


def headers_of(condition: Condition) -> dict[str, str]:
    """A condition as HTTP has it, names in lower case."""
    match condition:
        case Absent():
            return {"if-none-match": "*"}
        case Same(version):
            return {"if-match": f'"{version}"'}
        case None:
            return {}


def _fields(condition: Condition) -> dict[str, str]:
    names = {"if-none-match": "IfNoneMatch", "if-match": "IfMatch"}
    return {names[name]: value for name, value in headers_of(condition).items()}


def _name(request: S3Request, key: str) -> str:
    return f"s3://{request.bucket}/{key}"


def _version(said: dict[str, Any], key: str) -> str:
    etag = strong_etag(said.get("ETag"))
    if etag is None:
        raise Untrusted(f"the store does not say which version of {key!r} it keeps")
    return etag
