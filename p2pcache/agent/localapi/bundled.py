"""What `export` and `import` answer. Sizes in bytes; digests and CIDs are text."""

from __future__ import annotations

from typing import TypedDict


class ExportedRef(TypedDict):
    """One ref of a bundle. `root`: the UnixFS folder of its files; `names`: those that go along. Of
    a plain CAR `root` is all there is.
    """

    ref: str
    manifest: str | None
    root: str
    files: int
    names: list[str]
    restricted: bool


class ExportAnswer(TypedDict):
    """A CAR that was written. `format`: "bundle", or "car" of one DAG as it is, which has no index.
    `size_bytes`: of the file; `total_bytes`: of the content, once.
    """

    format: str
    path: str
    index: str | None
    size_bytes: int
    blocks: int
    total_bytes: int
    refs: list[ExportedRef]


class ImportedName(TypedDict):
    """What a signer calls a manifest. `counts`: whether the settings take its word."""

    ref: str
    signer: str
    resolved_at: float
    counts: bool


class ImportedRef(TypedDict):
    """One manifest of a bundle; or one root of another CAR, which has a manifest where it is a
    folder whose files are all as our profile writes them. `pinned`: it is kept until it is
    unpinned.
    """

    manifest: str | None
    root: str
    sha256: str | None
    files: int
    total_bytes: int
    names: list[ImportedName]
    restricted: bool
    pinned: bool


class ImportAnswer(TypedDict):
    """What a CAR held. Not here before were `new_bytes` of files, and `new_block_bytes` of blocks
    that are kept as they are.
    """

    refs: list[ImportedRef]
    total_bytes: int
    new_bytes: int
    new_block_bytes: int
    notes: list[str]
