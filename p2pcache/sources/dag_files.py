"""A DAG's files as a source lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.sources.port import ListedFile

if TYPE_CHECKING:
    from p2pcache.content.dag.listing import DagFile, Listed


def listed_files(found: Listed, *, whole: bool = True) -> tuple[ListedFile, ...]:
    """Each of them; the CID is the key. `whole`: files of our shape can be asked for by ranges;
    else block by block alone.
    """
    return tuple(_listed_file(file, whole) for file in found.files)


def _listed_file(file: DagFile, whole: bool) -> ListedFile:
    return ListedFile(
        file.path, file.size, file.digest, cids.format_cid(file.cid),
        root=None if file.block_map is None else file.cid, block_map=file.block_map,
        dag=file.cid if file.is_foreign or not whole else None,
    )  # fmt: skip
