"""A model of Ollama's out of GGUF files: its config and its manifest, as `ollama create` has them.

Pure. The files become layers as they are. What Ollama would add on its own is a template: it takes
the one of its twenty that looks most like the GGUF's; here files named `template`, `system` and
`params` beside the GGUF are taken, as Ollama itself does for repositories of the Hub.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content.gguf import is_gguf_name, is_split_name
from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from p2pcache.content.gguf import Gguf

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.ollama.image."
BESIDE = ("template", "system", "params")  # files of a repository, each a layer of that type
MAX_BESIDE_BYTES = 1 << 20  # of each; Ollama reads them into memory
MAX_GGUFS = 8  # headers that are read to find the model among them

# What Ollama's `createModel` adds by architecture: renderer, parser.
_BY_ARCHITECTURE = {
    "gemma4": ("gemma4", "gemma4"),
    "laguna": ("laguna", "laguna"),
    "nemotron_h": ("nemotron-3-nano", "nemotron-3-nano"),
    "nemotron_h_moe": ("nemotron-3-nano", "nemotron-3-nano"),
    "nemotron_h_omni": ("nemotron-3-nano", "nemotron-3-nano"),
}
_PARAMS = {"gemma4": {"stop": ["<turn|>"]}}


@dataclass(frozen=True, slots=True)
class Part:
    """A file that becomes a layer. `sha256`: raw; `header`: of a GGUF."""

    path: str
    sha256: bytes
    size: int
    header: Gguf | None = None


@dataclass(frozen=True, slots=True)
class OllamaModel:
    """`manifest`, `config`: their bytes; `files`: those that became layers, by their path here;
    `bodies`: the config, and layers that are no file here. `notes`: honest remarks for the user.
    """

    manifest: bytes
    files: tuple[str, ...]
    bodies: tuple[bytes, ...]
    notes: tuple[str, ...] = ()


def gguf_paths(paths: Collection[str], who: str) -> list[str]:
    """The GGUF files among some, whose headers are to be read. Raises UsageError where they make no
    model.
    """
    found = sorted(path for path in paths if is_gguf_name(path))
    if split := next((path for path in found if is_split_name(path)), None):
        raise _is_split(split)
    if not found:
        raise UsageError(f"`{who}` has no GGUF file, and a model of Ollama's is made of one")
    if len(found) > MAX_GGUFS:
        raise _several(found)
    return found


def beside_paths(paths: Collection[str]) -> list[str]:
    """The files that say more about a model, among some."""
    return [name for name in BESIDE if name in paths]


def make_model(ggufs: Sequence[Part], beside: Mapping[str, Part]) -> OllamaModel:
    """`beside`: by what each is for. Raises UsageError: not one model, adapters, split files."""
    model, projectors = _sorted(ggufs)
    header = model.header
    assert header is not None
    layers = [_layer(model, "model"), *(_layer(one, "projector") for one in projectors)]
    layers += [_layer(beside[kind], kind) for kind in BESIDE if kind in beside]
    bodies: list[bytes] = []
    if "params" not in beside and (params := _PARAMS.get(header.architecture)):
        bodies.append(_go_json(params))
        layers.append(_described(bodies[-1], f"{LAYER_TYPE}params"))
    config = _config([header, *(one.header for one in projectors if one.header)], layers)
    said = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _described(config, CONFIG_TYPE),
        "layers": layers,
    }
    notes: tuple[str, ...] = ()
    if "template" not in beside and "tokenizer.chat_template" in header.texts:
        notes = (
            "the model has no template of Ollama's; `ollama create` would look for one of its own "
            "that is like the GGUF's: put a file `template` beside the GGUF to have one",
        )
    files = (model.path, *(p.path for p in projectors), *(p.path for p in beside.values()))
    return OllamaModel(_go_json(said).rstrip(b"\n"), files, (config, *bodies), notes)


def _sorted(ggufs: Sequence[Part]) -> tuple[Part, list[Part]]:
    kinds: dict[str, list[Part]] = {"model": [], "adapter": [], "projector": []}
    for one in ggufs:
        assert one.header is not None
        if one.header.parts > 1:
            raise _is_split(one.path)
        kinds[one.header.kind].append(one)
    if kinds["adapter"]:
        raise UsageError(
            f"`{kinds['adapter'][0].path}` is an adapter, which needs the model that it is for",
            hint="`ollama create` with FROM and ADAPTER makes one model of both",
        )
    if not kinds["model"]:
        raise UsageError(f"`{ggufs[0].path}` is a projector, which needs the model that it is for")
    for kind in ("model", "projector"):
        if len(kinds[kind]) > 1:
            raise _several([one.path for one in kinds[kind]])
    return kinds["model"][0], kinds["projector"]


def _is_split(path: str) -> UsageError:
    return UsageError(
        f"`{path}` is one part of a split GGUF, which Ollama does not read",
        hint="`llama-gguf-split --merge` makes one file of them",
    )


def _several(paths: Sequence[str]) -> UsageError:
    shown = ", ".join(f"`{path}`" for path in paths[:4])
    return UsageError(
        f"{shown}: a model of Ollama's has one GGUF, and at most one projector",
        hint="name one: hf://org/name/FILE.gguf, or a folder with just what belongs together",
    )


def _config(headers: Sequence[Gguf], layers: Sequence[Mapping[str, object]]) -> bytes:
    """Ollama's `ConfigV2`, in the order of its fields."""
    first = headers[0]
    said: dict[str, object] = {
        "model_format": "gguf",
        "model_family": first.architecture,
        "model_families": [one.architecture for one in headers],
        "model_type": first.parameter_size,
        "file_type": first.file_type,
    }
    if first.architecture in _BY_ARCHITECTURE:
        said["renderer"], said["parser"] = _BY_ARCHITECTURE[first.architecture]
    said["architecture"], said["os"] = "amd64", "linux"  # whatever the machine: it is data
    said["rootfs"] = {"type": "layers", "diff_ids": [one["digest"] for one in layers]}
    return _go_json(said)


def _layer(part: Part, kind: str) -> dict[str, object]:
    digest = f"sha256:{part.sha256.hex()}"
    return {"mediaType": f"{LAYER_TYPE}{kind}", "digest": digest, "size": part.size}


def _described(body: bytes, media_type: str) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(body)}


def _go_json(said: object) -> bytes:
    """As Go's `json.Encoder` writes it, byte for byte: so that our digest is Ollama's."""
    text = json.dumps(said, separators=(",", ":"), ensure_ascii=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode() + b"\n"
