"""From what refs mean to a pointer file that truss-transfer 0.0.44 reads. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from p2pcache.content import refs
from p2pcache.content.address_secrets import expires_at
from p2pcache.errors import NotFound, UsageError
from p2pcache.formats.bptr.plan import model_file_name
from p2pcache.formats.bptr.pointers import (
    NEVER,
    S3,
    Azure,
    Gcs,
    Http,
    Model,
    Pointer,
    PointerFile,
    Resolution,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.content.patterns import Selection


def pointers_of(
    answer: Mapping[str, Any],
    *,
    typed: str,
    model_path: str,
    volume: str,
    secret: str,
    selection: Selection,
    uid: str,
) -> list[Pointer]:
    """One pointer for each chosen file of a `resolve` answer.

    `typed`: the ref as the user gave it; `uid`: how each pointer's uid begins. Raises NotFound
    when the patterns leave nothing, UsageError for what the format has no kind for.
    """
    files = [file for file in answer["files"] if selection.takes(file["path"])]
    if {"..", "."}.intersection(volume.split("/")):
        raise UsageError(
            f"the volume `{volume[:200]}` leads out of the model path",
            hint="name a folder below it: `my-model`",
        )
    if not files:
        raise NotFound(f"no file of `{answer['canonical']}` matches", hint="`*` also crosses `/`")
    return [
        _pointer(
            file,
            _resolution(answer, typed, file["path"]),
            uid=f"{uid}:{file['path']}",
            file_name=model_file_name(model_path, volume, file["path"]),
            secret=secret,
        )
        for file in files
    ]


def _pointer(
    file: Mapping[str, Any], resolution: Resolution, *, uid: str, file_name: str, secret: str
) -> Pointer:
    name = file["git_sha1"] or file["sha256"]
    of_hub = file["git_sha1"] or (isinstance(resolution, Http) and "/resolve/" in resolution.url)
    hashtype = "etag" if of_hub else "sha256"
    if name is None:  # the format wants one, and nobody reads it
        hashtype, name = "none", "unknown"
    if file["size"] is None:
        raise UsageError(f"the origin does not say how long `{file['path']}` is")
    return Pointer(resolution, uid, file_name, hashtype, name, file["size"], secret=secret)


def _resolution(answer: Mapping[str, Any], typed: str, path: str) -> Resolution:
    canonical = answer["canonical"]
    bucket = _of_bucket(canonical, path, single=len(answer["files"]) == 1)
    if bucket is not None:
        return bucket
    match refs.parse_ref(canonical):
        case refs.HfRef(repo_type, repo_id, asked):
            kind = "" if repo_type == "model" else f"{repo_type}s/"
            revision = str(answer["immutable"] or asked)
            where = f"{answer['endpoint']}/{kind}{repo_id}/resolve/{quote(revision, safe='')}"
            return Http(f"{where}/{quote(path)}", NEVER)
        case refs.HttpRef(url) as plain:
            if len(answer["files"]) != 1 or plain.is_folder:
                raise UsageError(f"`{url}` is a list of files: name them one by one")
            return _as_typed(typed, url)
    raise UsageError(
        f"a pointer file has no kind for `{canonical}`",
        hint="it can name hf://, https://, s3://, gs:// and az://",
    )


def _as_typed(typed: str, url: str) -> Http:
    """A URL as the user gave it: who signed it is no part of its name, and whoever pulls needs
    that.
    """
    ref = refs.parse_ref(typed)
    asked = ref.url if isinstance(ref, refs.HttpRef) else url
    until = expires_at(asked)
    return Http(asked, NEVER if until is None else int(until))


def _of_bucket(canonical: str, path: str, *, single: bool) -> Resolution | None:
    """`path` lies below the folder that the ref names, or is the object itself."""
    scheme, _, rest = canonical.partition("://")
    if scheme not in ("s3", "gs", "az"):
        return None
    if "@" in rest:
        raise UsageError(f"a pointer names no version, as `{canonical}` does")
    bucket, _, start = unquote(rest).partition("/")
    is_object = single and start.rpartition("/")[2] == path
    key = start if is_object else "/".join(filter(None, (start.rstrip("/"), path)))
    match scheme:
        case "s3":
            return S3(bucket, key)
        case "gs":
            return Gcs(bucket, key)
    container, _, blob = key.partition("/")
    return Azure(bucket, container, blob)


def _model_map(model: Model) -> dict[str, Any]:
    return {
        "repo_id": model.repo,
        "revision": model.revision,
        "allow_patterns": None if model.allow is None else list(model.allow),
        "ignore_patterns": None if model.ignore is None else list(model.ignore),
        "volume_folder": model.volume,
        "runtime_secret_name": model.secret,
        "kind": model.kind,
    }


def as_text(file: PointerFile) -> str:
    """JSON as truss-transfer prints it: two spaces, its order of fields, `models` null."""
    models = [_model_map(model) for model in file.models] or None
    plain = {"pointers": [_plain(pointer) for pointer in file.pointers], "models": models}
    return json.dumps(plain, indent=2, ensure_ascii=False)


def _plain(pointer: Pointer) -> dict[str, Any]:
    plain = {
        "resolution": _plain_resolution(pointer.resolution),
        "uid": pointer.uid,
        "file_name": pointer.file_name,
        "hashtype": pointer.hashtype,
        "hash": pointer.hash,
        "size": pointer.size,
        "last_modified_time": pointer.modified,
        "runtime_secret_name": pointer.secret,
    }
    if pointer.modified is None:
        del plain["last_modified_time"]
    return plain


def _plain_resolution(resolution: Resolution) -> dict[str, Any]:
    match resolution:
        case Http(url, expires_at):
            return {"resolution_type": "http", "url": url, "expiration_timestamp": expires_at}
        case Gcs(bucket, path):
            return {"resolution_type": "gcs", "path": path, "bucket_name": bucket}
        case S3(bucket, key, region):
            return {"resolution_type": "s3", "bucket_name": bucket, "key": key, "region": region}
        case Azure(account, container, blob):
            return {
                "resolution_type": "azure",
                "account_name": account,
                "container_name": container,
                "blob_name": blob,
            }
