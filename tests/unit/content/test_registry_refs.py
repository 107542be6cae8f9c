"""Refs of registries: what each spelling means, and what is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.refs import canonical, parse_ref
from p2pcache.content.registry_refs import OLLAMA_HOST, OciRef, OllamaRef
from p2pcache.errors import UsageError

SHA = "sha256:" + "ab" * 32
SHA512 = "sha512:" + "cd" * 64

MEANT = {
    "oci://host/name": OciRef("host", "name", "latest"),
    "oci:host/name": OciRef("host", "name", "latest"),
    "docker://host/name:v1": OciRef("host", "name", "v1"),
    "OCI://Host.Example/a/b/c:V1": OciRef("host.example", "a/b/c", "V1"),
    "oci://127.0.0.1:5000/a:b": OciRef("127.0.0.1:5000", "a", "b"),
    "oci://[::1]:5000/a:b": OciRef("[::1]:5000", "a", "b"),
    "docker://docker.io/alpine:3": OciRef("docker.io", "library/alpine", "3"),
    "oci://index.docker.io/me/x": OciRef("docker.io", "me/x", "latest"),
    "oci://localhost/a__b/c-d.e": OciRef("localhost", "a__b/c-d.e", "latest"),
    f"oci://host/name@{SHA}": OciRef("host", "name", "", SHA),
    f"oci://host/name:v1@{SHA}": OciRef("host", "name", "", SHA),
    f"oci://host/name@{SHA512}": OciRef("host", "name", "", SHA512),
    "oci://host/name?platform=linux/arm64": OciRef("host", "name", "latest", None, "linux/arm64"),
    "oci://host/name:v1?layout=files&platform=linux/arm/v7": OciRef(
        "host", "name", "v1", None, "linux/arm/v7", "files"
    ),
    "ollama://llama3.2": OllamaRef(OLLAMA_HOST, "library", "llama3.2", "latest"),
    "ollama:llama3.2:1b": OllamaRef(OLLAMA_HOST, "library", "llama3.2", "1b"),
    "ollama://me/Model-A:q4_K_M": OllamaRef(OLLAMA_HOST, "me", "Model-A", "q4_K_M"),
    "ollama://library/x": OllamaRef(OLLAMA_HOST, "library", "x", "latest"),
    "ollama://localhost/x": OllamaRef("localhost", "library", "x", "latest"),
    "ollama://127.0.0.1:5000/x:1": OllamaRef("127.0.0.1:5000", "library", "x", "1"),
    "ollama://host.example/x": OllamaRef("host.example", "library", "x", "latest"),
    "ollama://hf.co/org/model:Q4_0": OllamaRef("hf.co", "org", "model", "Q4_0"),
}
REFUSED = [
    "oci://", "oci://host", "oci://host/", "oci:///name", "oci://host/Name", "oci://host/a//b",
    "oci://host/../b", "oci://host/a:", "oci://host/a:-x", "oci://host/a:" + "t" * 129,
    "oci://host/a@sha256:12", "oci://host/a@md5:" + "0" * 32, f"oci://host/a@{SHA}0",
    "oci://user:pw@host/a", "oci://host:port/a", "oci://ho st/a", "oci://host/a?what=1",
    "oci://host/a?platform=linux", "oci://host/a?layout=docker", "oci://-/a",
    "oci://host/" + "a" * 300, "docker:host",
    "ollama://", "ollama://a/b/c/d", "ollama://x:", "ollama://x:a:b", "ollama://a.b/../x",
    "ollama://-/x", "ollama://me/../x", "ollama://x y", "ollama://me/.x", "ollama://h.e/n.s/x",
]  # fmt: skip


@pytest.mark.parametrize("text", MEANT)
def test_a_text_means_what_it_says(text: str) -> None:
    assert parse_ref(text) == MEANT[text]


@pytest.mark.parametrize("text", MEANT)
def test_the_canonical_text_of_a_ref_is_its_own(text: str) -> None:
    once = canonical(MEANT[text])
    assert parse_ref(once) == MEANT[text]
    assert canonical(parse_ref(once)) == once


@pytest.mark.parametrize("text", REFUSED)
def test_what_has_no_meaning_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ref(text)


def test_what_ollama_takes_for_granted_is_left_out() -> None:
    assert canonical(parse_ref(f"ollama://{OLLAMA_HOST}/library/x")) == "ollama://x:latest"
    assert canonical(parse_ref("ollama://me/x:1")) == "ollama://me/x:1"


def test_a_registry_has_no_revisions() -> None:
    for text in ("oci://host/name", "ollama://x"):
        with pytest.raises(UsageError, match="revision"):
            parse_ref(text, revision="v1")


bits = st.sampled_from([
    "oci://", "docker:", "ollama://", "host", "/", ":", "@", SHA, "v1", "?", "platform=", "layout=",
    "linux/arm64", "files", "&", "..", ".", "[::1]", "library", "A", "_", "-", "\0", "é", "%2F",
])  # fmt: skip


@given(st.lists(bits, max_size=9).map("".join))
def test_only_usage_errors_come_out_and_canonical_texts_are_stable(text: str) -> None:
    with contextlib.suppress(UsageError):
        once = canonical(parse_ref(text))
        assert canonical(parse_ref(once)) == once
