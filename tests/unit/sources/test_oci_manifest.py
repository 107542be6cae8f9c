"""Manifests of registries: what is read, what is refused, and how their blobs become files."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.errors import NotFound, Untrusted
from p2pcache.sources.oci.layout import OLLAMA, named_files, ollama_files
from p2pcache.sources.oci.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Image,
    Index,
    digest_of,
    parse_manifest,
)
from p2pcache.sources.oci.platforms import choose, host_platform

TITLE = "org.opencontainers.image.title"
GGUF = "application/vnd.ollama.image.model"


def entry(body: bytes = b"x", media_type: str = "a/b", **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(body), "size": len(body), **more}


def titled(title: str, body: bytes = b"x", **annotations: str) -> dict[str, Any]:
    return entry(body, annotations={TITLE: title, **annotations})


def manifest(*layers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": entry(b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": list(layers),
        **more,
    }


def image(*layers: dict[str, Any], kind: str = OCI_MANIFEST) -> Image:
    parsed = parse_manifest(json.dumps(manifest(*layers, mediaType=kind)).encode(), kind, "it")
    assert isinstance(parsed, Image)
    return parsed


def paths(of: Image, layout: Any = None) -> list[str]:
    own = Descriptor(of.media_type, digest_of(b"m"), 1)
    return [file.path for file in named_files(of, own, layout, "v1")]


@pytest.mark.parametrize("kind", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_a_manifest_is_read(kind: str) -> None:
    read = image(entry(b"one"), entry(b"two"), kind=kind)
    assert read.media_type == kind
    assert [layer.size for layer in read.layers] == [3, 3]
    assert read.config.digest == digest_of(b"{}")


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_LIST])
def test_an_index_is_read(kind: str) -> None:
    said = {"schemaVersion": 2, "manifests": [entry(platform={"os": "linux", "os.features": [1]})]}
    read = parse_manifest(json.dumps(said).encode(), f"{kind}; charset=utf-8", "it")
    assert isinstance(read, Index)
    assert read.manifests[0].platform == {"os": "linux"}


REFUSED: dict[str, tuple[object, str]] = {
    "no JSON": (b"{", OCI_MANIFEST),
    "nested without end": (b"[" * 100_000, OCI_MANIFEST),
    "no map": ([], OCI_MANIFEST),
    "of no kind": (manifest(mediaType="text/html"), OCI_MANIFEST),
    "schema 1": ({"schemaVersion": 1, "fsLayers": []}, "application/vnd.docker.distribution.manifest.v1+prettyjws"),  # noqa: E501
    "sent as another": (manifest(), OCI_INDEX),
    "both at once": (manifest(manifests=[]), OCI_MANIFEST),
    "no layers": (manifest(layers={}), OCI_MANIFEST),
    "an entry that is no map": (manifest(layers=["x"]), OCI_MANIFEST),
    "no digest": (manifest(layers=[entry(digest="x")]), OCI_MANIFEST),
    "an unknown algorithm": (manifest(layers=[entry(digest="md5:" + "0" * 32)]), OCI_MANIFEST),
    "a path for a digest": (manifest(layers=[entry(digest="sha256:../../x")]), OCI_MANIFEST),
    "no size": (manifest(layers=[entry(size="1")]), OCI_MANIFEST),
    "less than nothing": (manifest(layers=[entry(size=-1)]), OCI_MANIFEST),
    "true": (manifest(layers=[entry(size=True)]), OCI_MANIFEST),
    "beyond any file": (manifest(layers=[entry(size=1 << 62)]), OCI_MANIFEST),
    "no media type": (manifest(layers=[entry(media_type="x\ny/z")]), OCI_MANIFEST),
    "too long": (b" " * (MAX_MANIFEST_BYTES + 1), OCI_MANIFEST),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_manifest_is_refused(what: str) -> None:
    said, kind = REFUSED[what]
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    with pytest.raises(Untrusted) as caught:
        parse_manifest(body, kind, "host/name")
    assert "host/name" in caught.value.message


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([OCI_MANIFEST]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["schemaVersion", "mediaType", "layers", "config", "digest", "size"]
                ),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_only_untrusted_comes_out(said: object) -> None:
    with contextlib.suppress(Untrusted):
        parse_manifest(json.dumps(said).encode(), OCI_MANIFEST, "it")


def of(name: str) -> Descriptor:
    keys = ("os", "architecture", "variant")
    platform = dict(zip(keys, name.split("/"), strict=False)) if name else {}
    return Descriptor(OCI_MANIFEST, digest_of(name.encode()), 1, platform=platform)


ALL = ["unknown/unknown", "linux/amd64", "linux/arm64/v8", "linux/arm/v6", "linux/arm/v7"]


@pytest.mark.parametrize(
    ("wanted", "entries", "chosen"),
    [
        ("linux/amd64", ALL, "linux/amd64"),
        ("linux/arm64", ALL, "linux/arm64/v8"),
        ("linux/arm64/v8", ["linux/amd64", "linux/arm64"], "linux/arm64"),
        ("linux/arm", ALL, "linux/arm/v7"),
        ("linux/arm/v6", ALL, "linux/arm/v6"),
        ("linux/arm", ["linux/arm/v5", "linux/amd64"], "linux/arm/v5"),
        ("linux/amd64", ["linux/amd64", "linux/amd64/v3"], "linux/amd64"),
        ("linux/s390x", [""], ""),
    ],
)
def test_a_platform_is_chosen(wanted: str, entries: list[str], chosen: str) -> None:
    found = choose([of(name) for name in entries], wanted, "it")
    assert found == of(chosen)


@pytest.mark.parametrize("wanted", ["linux/s390x", "windows/amd64", "linux/arm/v5"])
def test_a_platform_that_is_not_there_names_those_that_are(wanted: str) -> None:
    with pytest.raises(NotFound) as caught:
        choose([of(name) for name in ALL], wanted, "host/name")
    assert wanted in caught.value.message
    assert "linux/arm64/v8" in (caught.value.hint or "")
    assert "unknown" not in (caught.value.hint or "")


def test_this_machine_has_a_platform() -> None:
    assert host_platform().startswith("linux/")


def test_layers_with_names_are_files_and_others_an_image_layout() -> None:
    assert paths(image(titled("a/b.bin"), entry(b"z"))) == [
        "a/b.bin", "blobs/sha256/" + hashlib.sha256(b"z").hexdigest(),
    ]  # fmt: skip
    listed = paths(image(entry(b"one"), entry(b"two"), entry(b"one")))
    assert listed[:2] == ["oci-layout", "index.json"]
    assert len(listed) == 6, "the manifest, the config and two layers, each once"
    assert paths(image(titled("a")), "oci")[:2] == ["oci-layout", "index.json"]


def test_a_folder_that_oras_packed_is_named_as_what_it_is() -> None:
    packed = titled("folder", **{"io.deis.oras.content.unpack": "true"})
    assert paths(image(packed)) == ["folder.tar.gz"]


@pytest.mark.parametrize("title", ["../x", "/x", "a/../b", "a\\b", "C:x", "a\nb", "x" * 300])
def test_a_title_that_leads_elsewhere_is_refused(title: str) -> None:
    with pytest.raises(Untrusted):
        paths(image(titled(title)))


def test_two_contents_of_one_name_are_refused_and_one_content_twice_is_not() -> None:
    with pytest.raises(Untrusted, match="two contents"):
        paths(image(titled("a", b"1"), titled("a", b"2")))
    assert paths(image(titled("a"), titled("a"))) == ["a"]


def test_layers_of_ollama_are_named_by_what_they_are_for() -> None:
    kinds = ["model", "template", "license", "license", "params", "projector", "new-kind"]
    layers = [entry(f"{n}".encode(), OLLAMA + kind) for n, kind in enumerate(kinds)]
    layers.append(entry(b"t", OLLAMA + "tensor", name="blk.0/weight"))
    layers.append(entry(b"j", OLLAMA + "json", name="tokenizer.json"))
    listed = [file.path for file in ollama_files(image(*layers, kind=DOCKER_MANIFEST))]
    assert listed == [
        "manifest.json", "image-config.json", "model.gguf", "template.txt", "license.txt",
        "license-2.txt", "params.json", "projector.gguf",
        "blobs/sha256/" + hashlib.sha256(b"6").hexdigest(), "tensors/blk.0/weight",
        "tokenizer.json",
    ]  # fmt: skip


def test_a_tensor_cannot_take_the_place_of_another_file() -> None:
    for name in ("../x", "manifest.json"):
        with pytest.raises(Untrusted):
            ollama_files(image(entry(b"j", OLLAMA + "json", name=name)))
