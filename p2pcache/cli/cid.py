"""Look: what IPFS calls files and folders. Nothing is stored, and no agent is asked."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pcache.cli.command import Command, ThereIs, output_options
from p2pcache.content.cid import format_cid
from p2pcache.content.dag import build
from p2pcache.content.dag.build import PROFILES, FileBuilder, Profile, Root
from p2pcache.errors import LocalFault, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.cli.output import Printer

READ_BYTES = 1 << 20  # at a time; hashing takes longer than reading it


@click.command(
    cls=Command,
    short_help="Print what IPFS calls files and folders.",
    example="p2pcache cid model.safetensors",
    exits=(11,),
)
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=ThereIs(path_type=Path),
    metavar="FILE...",
)
@click.option(
    "--profile", type=click.Choice(sorted(PROFILES)), default="unixfs-v1-2025",
    show_default=True, help="How content is cut and named (IPIP-499).",
)  # fmt: skip
@output_options
def cid(paths: tuple[Path, ...], profile: str, printer: Printer) -> None:
    """Print the UnixFS root of each FILE, or folder, as `ipfs add` gives it under the profile.

    Nothing is stored. Of a folder everything counts, hidden files too; links in it are links.
    """
    for path in paths:
        root = _root(PROFILES[profile], path)
        text = format_cid(root.cid)
        value = {
            "path": str(path), "root": text, "profile": profile,
            "size_bytes": root.size, "dag_bytes": root.dag_size,
        }  # fmt: skip
        printer.show("cid", value, [f"{text}  {path}"])


def _root(profile: Profile, path: Path) -> Root:
    with _readable(path):
        return _folder(profile, path) if path.is_dir() else _file(profile, path)


def _file(profile: Profile, path: Path) -> Root:
    with _readable(path):
        if not path.is_file():  # a pipe would be waited for
            raise UsageError(f"`{path}` is neither a file nor a folder")
        builder = FileBuilder(profile)
        with path.open("rb", buffering=0) as file:
            while data := file.read(READ_BYTES):
                builder.write(data)
        return builder.finish()


def _folder(profile: Profile, top: Path) -> Root:
    """Everything below; a folder that many links lead to is no matter, none is followed."""
    roots: dict[str, Root] = {}
    folders: list[str] = []
    pending = [""]
    while pending:
        below = pending.pop()
        with _readable(top / below), os.scandir(top / below) as entries:
            for entry in entries:
                name = _named(f"{below}/{entry.name}".lstrip("/"))
                if entry.is_symlink():
                    target = _named(os.readlink(entry.path))
                    roots[name] = build.symlink(profile, target)
                elif entry.is_dir():
                    folders.append(name)
                    pending.append(name)
                else:
                    roots[name] = _file(profile, Path(entry.path))
    return build.tree(profile, roots, folders)


def _named(name: str) -> str:
    """A name that UnixFS can hold."""
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise UsageError(f"the name {name!a} is not UTF-8: IPFS has no such names") from exc
    return name


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise LocalFault(f"cannot read `{path}`: {exc.strerror or exc}") from exc
