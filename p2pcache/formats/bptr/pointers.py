"""What a pointer file holds, with the names that truss-transfer gives it (its `types.rs`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["http", "gcs", "s3", "azure"]

MODEL_PATH = "/app/model_cache"  # where truss-transfer puts models unless it is told otherwise
DEFAULT_SECRET = "hf_access_token"
NEVER = 4044816725  # the moment, in 2098, that truss-transfer writes for what does not expire


@dataclass(frozen=True, slots=True)
class Http:
    """A URL that works until a unix time."""

    url: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class Gcs:
    """An object of Google Cloud Storage."""

    bucket: str
    path: str


@dataclass(frozen=True, slots=True)
class S3:
    """An object of S3. `region` is None in all that truss-transfer writes."""

    bucket: str
    key: str
    region: str | None = None


@dataclass(frozen=True, slots=True)
class Azure:
    """A blob of Azure."""

    account: str
    container: str
    blob: str


Resolution = Http | Gcs | S3 | Azure


@dataclass(frozen=True, slots=True)
class Pointer:
    """One file. `size` in bytes; `secret` names the login that opens it.

    `hash` is whatever the origin called its version: see `plan.content_digest` for when it is a
    digest of content. `modified` is RFC 3339 text.
    """

    resolution: Resolution
    uid: str
    file_name: str
    hashtype: str
    hash: str
    size: int
    modified: str | None = None
    secret: str = DEFAULT_SECRET


@dataclass(frozen=True, slots=True)
class Model:
    """A repository, or a folder of a bucket, that is listed when the file is pulled.

    `volume` is the folder below the model path that its files go into. None for patterns: there
    was no wish. `kind` http means a Hugging Face repository, unless `repo` is a bucket's address.
    """

    repo: str
    revision: str
    volume: str
    kind: Kind
    allow: tuple[str, ...] | None = None
    ignore: tuple[str, ...] | None = None
    secret: str = DEFAULT_SECRET


@dataclass(frozen=True, slots=True)
class PointerFile:
    """What one file says, or several together. `notes`: honest remarks for the user."""

    pointers: tuple[Pointer, ...] = ()
    models: tuple[Model, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of all logins that it wants."""
        names = {p.secret for p in self.pointers} | {m.secret for m in self.models}
        return tuple(sorted(filter(None, names)))
