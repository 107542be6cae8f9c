"""The settings of hf-cache-sync: its YAML file, and the variables that come before it. Pure.

A login is a pair, and pairs are not mixed: B2_* before AWS_* before the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import yaml

from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_NAME = ".hf-cache-sync.yaml"
MAX_FILE_BYTES = 64 << 10
GIB = 1 << 30  # what it calls a GB
TEMPLATE = """\
storage:
  endpoint: ""          # of the store, where it is not Amazon's: https://minio.example:9000
  bucket: my-hf-cache
  region: ""
  access_key: ""        # or B2_APPLICATION_KEY_ID or AWS_ACCESS_KEY_ID in the environment
  secret_key: ""

cache:
  max_local_gb: 50      # what `prune` keeps

team:
  prefix: ""            # a folder of the bucket
  allow_gated: false
"""
_SECTIONS = {
    "storage": ("endpoint", "bucket", "region", "access_key", "secret_key"),
    "cache": ("max_local_gb", "sync_xet", "hf_cache_dir"),
    "team": ("prefix", "allow_gated"),
}
_PAIRS = (  # id, key, session token, what `doctor` calls it
    ("B2_APPLICATION_KEY_ID", "B2_APPLICATION_KEY", None, "B2_* variables"),
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_* variables"),
)


@dataclass(frozen=True, slots=True)
class BucketSettings:
    """What holds for one call. `login`: where the keys come from, None: from nowhere here.
    `file`: the path of what was read; `notes`: what of it means nothing.
    """

    endpoint: str = ""
    bucket: str = ""
    region: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    login: str | None = None
    max_local_gb: float = 50.0
    hf_cache_dir: str = ""
    prefix: str = ""
    allow_gated: bool = False
    file: str | None = None
    notes: tuple[str, ...] = ()

    def over(self, credentials: Mapping[str, str]) -> dict[str, str]:
        """The caller's credentials with what is said here in their place: a login as a whole."""
        found = dict(credentials)
        if self.login is not None:
            for name in ("aws_profile", "aws_session_token"):
                found.pop(name, None)
            found["aws_access_key_id"] = self.access_key
            found["aws_secret_access_key"] = self.secret_key
        said = {
            "aws_session_token": self.session_token,
            "aws_endpoint_url": self.endpoint,
            "aws_region": self.region,
        }
        return found | {name: value for name, value in said.items() if value}


def read_settings(data: bytes | None, name: str, env: Mapping[str, str]) -> BucketSettings:
    """What the file `name` and the environment say; `data` None: there is no file.

    Raises UsageError for a file that is not YAML of this form.
    """
    settings = BucketSettings() if data is None else _of_file(data, name)
    settings = replace(
        settings,
        endpoint=env.get("B2_ENDPOINT") or settings.endpoint,
        bucket=env.get("B2_BUCKET") or settings.bucket,
        region=env.get("B2_REGION") or settings.region,
    )
    for key_id, secret, token, what in _PAIRS:
        if env.get(key_id) and env.get(secret):
            return replace(
                settings, access_key=env[key_id], secret_key=env[secret], login=what,
                session_token="" if token is None else env.get(token, ""),
            )  # fmt: skip
    if settings.access_key and settings.secret_key:
        return replace(settings, login=name)
    return replace(settings, access_key="", secret_key="")


def _of_file(data: bytes, name: str) -> BucketSettings:
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{name} has more than {MAX_FILE_BYTES} bytes")
    try:
        top = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise UsageError(f"{name} is not YAML", hint="`p2pcache bucket init` writes one") from exc
    if top is None:
        return BucketSettings(file=name)
    said: dict[str, Any] = {}
    notes: list[str] = []
    for section, fields in _map(top, name).items():
        known = _SECTIONS.get(str(section))
        if known is None:
            notes.append(f"{name}: `{str(section)[:40]}` means nothing")
            continue
        for key, value in _map({} if fields is None else fields, f"{name}: {section}").items():
            if key in known:
                said[str(key)] = value
            else:
                notes.append(f"{name}: `{section}.{str(key)[:40]}` means nothing")
    said.pop("sync_xet", None)  # files like pointers are files like others here
    limit_gb = _number(said.pop("max_local_gb", 50.0), f"{name}: cache.max_local_gb")
    gated = said.pop("allow_gated", False)
    if not isinstance(gated, bool):
        raise UsageError(f"{name}: team.allow_gated is true or false")
    texts = {key: _text(value, f"{name}: {key}") for key, value in said.items()}
    texts["prefix"] = texts.get("prefix", "").strip("/")
    return BucketSettings(
        **texts, max_local_gb=limit_gb, allow_gated=gated, file=name, notes=tuple(notes)
    )


def _map(value: object, what: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{what} is no map", hint="`p2pcache bucket init` writes a file")
    return value


def _text(value: object, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"{what} is no text", hint="put it in quotes")
    return value.strip()


def _number(value: object, what: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:  # type: ignore[arg-type,operator]
        raise UsageError(f"{what} is no number of GB")
    return float(value)  # type: ignore[arg-type]
