"""truss_transfer's functions over a p2pcache agent, under their names.

    from p2pcache import truss as truss_transfer

`create_basetenpointer_from_models`, `lazy_data_resolve` and `PyModelRepo` have the signatures,
defaults and environment variables of truss-transfer 0.0.44. Where no agent runs, one runs as long
as a call. What is better, and what differs, is in docs/formats.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, get_args

from p2pcache.agent.localapi.client import connect
from p2pcache.config import truss as environment
from p2pcache.errors import NotFound, UsageError
from p2pcache.formats.bptr.plan import model_ref, model_selection
from p2pcache.formats.bptr.pointers import (
    DEFAULT_SECRET,
    MODEL_PATH,
    Kind,
    Model,
    Pointer,
    PointerFile,
)
from p2pcache.formats.bptr.write import as_text, pointers_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PyModelRepo", "create_basetenpointer_from_models", "lazy_data_resolve"]

MANIFEST_PATHS = (
    "/bptr/bptr-manifest",
    "/bptr/bptr-manifest.json",
    "/static-bptr/static-bptr-manifest.json",
)


@dataclass
class PyModelRepo:
    """A model: a Hugging Face repository (`hf`, `http`), or a bucket's folder (s3, gcs, azure).

    `volume_folder`: below the model path. `runtime_secret_name`: TRUSS_SECRET_<name>, else the
    file /secrets/<name>, else HF_TOKEN. A kind that is not known is refused where it is used.
    """

    repo_id: str
    revision: str = ""
    volume_folder: str = ""
    kind: str = "hf"
    allow_patterns: list[str] | None = None
    ignore_patterns: list[str] | None = None
    runtime_secret_name: str = DEFAULT_SECRET


def create_basetenpointer_from_models(
    models: Sequence[PyModelRepo], model_path: str = MODEL_PATH
) -> str:
    """The text of a pointer file, JSON, for what the models mean now. Nothing is downloaded.

    Raises one of p2pcache.errors: NotFound also where the patterns of a model leave no file,
    UsageError for an unknown kind.
    """
    pointers: list[Pointer] = []
    if models:
        with connect(embed=True) as agent:
            for given in models:
                model = _model(given)
                ref = model_ref(model)
                answer = agent.resolve(ref, credentials=_credentials(model))
                pointers += pointers_of(
                    answer, typed=ref, model_path=model_path, volume=model.volume,
                    secret=model.secret, selection=model_selection(model),
                    uid=f"{model.repo}:{model.revision}",
                )  # fmt: skip
    return as_text(PointerFile(tuple(pointers)))


def lazy_data_resolve(
    download_dir: str | None = None,
    models: Sequence[PyModelRepo] | None = None,
    model_path: str | None = None,
    *,
    manifests: Sequence[str | os.PathLike[str]] | None = None,
) -> str:
    """Bring what the pointer files of `MANIFEST_PATHS` name, and `models`; returns download_dir.

    `manifests`: other files than these, all of which have to be there. Relative names go below
    `download_dir`; those below /app/model_cache, or `model_path`, stay there; others are refused.
    Everything is verified, and nothing is shown unless all of it is here.

    Raises one of p2pcache.errors: UsageError for models without a model path, NotFound where there
    is no pointer file and `models` is None: an empty list says that this is well.
    """
    if models is not None and model_path is None:
        raise UsageError("model_path must be provided when models are provided")
    folder = environment.download_dir(download_dir)
    wanted = [os.fspath(p) for p in (MANIFEST_PATHS if manifests is None else manifests)]
    files = [p for p in wanted if manifests is not None or os.path.isfile(p)]
    if not files and models is None:
        raise NotFound(
            f"there is no pointer file at {', '.join(wanted)}",
            hint="mount one there, or give models=[] if nothing is wanted",
        )
    if files or models:
        base = model_path or MODEL_PATH
        inline = as_text(PointerFile(models=tuple(_model(given) for given in models or ())))
        folders = {"": folder, MODEL_PATH: MODEL_PATH}
        if base.startswith("/"):
            folders[base] = base
        with connect(embed=True) as agent:
            agent.bptr_pull(files, folders=folders, inline=inline, model_path=base)
    return folder if download_dir is None else download_dir


def _model(given: PyModelRepo) -> Model:
    kind = "http" if given.kind == "hf" else given.kind
    if kind not in get_args(Kind):
        raise UsageError(f"Unknown kind: {given.kind}", hint="hf, http, gcs, s3 or azure")
    allow, ignore = given.allow_patterns, given.ignore_patterns
    return Model(
        repo=given.repo_id,
        revision=given.revision,
        volume=given.volume_folder,
        kind=cast("Kind", kind),
        allow=None if allow is None else tuple(allow),
        ignore=None if ignore is None else tuple(ignore),
        secret=given.runtime_secret_name,
    )


def _credentials(model: Model) -> dict[str, str] | None:
    """None: the caller's own, as the client finds them."""
    from p2pcache.config import caller_credentials

    token = environment.secrets([model.secret]).get(model.secret)
    return None if token is None else {**caller_credentials(), "hf_token": token}
