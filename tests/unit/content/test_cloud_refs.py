"""Refs of Google's buckets and Azure's containers."""

from __future__ import annotations

import pytest

from p2pcache.content.cloud_refs import AzureRef, GcsRef
from p2pcache.content.refs import HttpRef, canonical, parse_ref
from p2pcache.errors import UsageError


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("gs://bucket", GcsRef("bucket")),
        ("gs://bucket/", GcsRef("bucket")),
        ("GCS://my.bucket/a/b", GcsRef("my.bucket", "a/b")),
        ("gs://bucket/a/", GcsRef("bucket", "a", folder=True)),
        ("gs://bucket/a%20b@1700000000000001", GcsRef("bucket", "a b", "1700000000000001")),
        ("gs://bucket/a%40b", GcsRef("bucket", "a@b")),
        ("az://account/container", AzureRef("account", "container")),
        ("azure://account/$web/a", AzureRef("account", "$web", "a")),
        ("az://account/container/a@b", AzureRef("account", "container", "a@b")),
        ("az://account/container/a/", AzureRef("account", "container", "a", folder=True)),
        (
            "https://account.blob.core.windows.net/container/a%20b",
            AzureRef("account", "container", "a b"),
        ),
    ],
)
def test_each_spelling_means_one_ref(text: str, ref: GcsRef | AzureRef) -> None:
    assert parse_ref(text) == ref
    assert parse_ref(canonical(ref)) == ref


@pytest.mark.parametrize(
    "url",
    [
        "https://account.blob.core.windows.net/container/a?sv=1&sig=x",
        f"https://account.blob.core.windows.net/container/a#sha256={'0' * 64}",
        "https://account.blob.core.windows.net",
        "https://account.blob.core.windows.net.example/container/a",
        "http://account.blob.core.windows.net/container/a",
    ],
)
def test_an_address_with_a_signature_or_a_pin_stays_one(url: str) -> None:
    assert isinstance(parse_ref(url), HttpRef)


@pytest.mark.parametrize(
    "text",
    [
        "gs://", "gs:bucket/a", "gs://b", "gs://Bucket/a", "gs://bu..cket/a", "gs://bucket/../a",
        "gs://bucket/a@latest", "gs://bucket/a/@1", "gs://bucket//a", f"gs://bucket/{'a/' * 513}a",
        "az://account", "az://acc_ount/container/a", "az://account/Container/a",
        "az://account/con--tainer/a", "az://account/container/../a", "az:account/container",
    ],
)  # fmt: skip
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ref(text)


@pytest.mark.parametrize(("name", "good"), [("a-b", True), ("a" * 63, True), ("ab", False),
                                            ("a-" * 31 + "ab", False)])  # fmt: skip
def test_a_container_has_3_to_63_letters_hyphens_among_them(name: str, good: bool) -> None:
    if good:
        assert parse_ref(f"az://account/{name}") == AzureRef("account", name)
    else:
        with pytest.raises(UsageError, match="no container"):
            parse_ref(f"az://account/{name}")


def test_what_a_signed_address_has_not_is_said_without_its_signature() -> None:
    with pytest.raises(UsageError, match="no revisions") as seen:
        parse_ref("https://h/a?X-Amz-Signature=5ecre7", revision="main")
    assert "5ecre7" not in seen.value.message
