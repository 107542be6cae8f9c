"""What registries ask for, and which realm may see a login."""

from __future__ import annotations

import base64
import contextlib
import hashlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.errors import LocalFault
from p2pcache.sources.oci.challenge import (
    Challenge,
    may_see_key,
    may_see_login,
    parse_challenge,
)
from p2pcache.sources.oci.signature import signed

REALM = "https://auth.example/token"


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (
            ['Bearer realm="https://auth.example/token",service="r",scope="s"'],
            Challenge(REALM, "r"),
        ),
        (["bearer  service=r , realm=https://auth.example/token"], Challenge(REALM, "r")),
        (['Basic realm="x"', f'Bearer realm="{REALM}"'], Challenge(REALM)),
        ([f'Basic realm="a, b", Bearer realm="{REALM}",service="q\\"q"'], Challenge(REALM, 'q"q')),
        (['Basic realm="x"'], Challenge(None)),
        (["Basic"], Challenge(None)),
        (['Basic realm="Bearer realm=https://evil.example/"'], Challenge(None)),
        (['Bearer realm="ftp://x"'], None),
        (['Bearer realm="https://user:pw@x/"'], None),
        (['Bearer realm="https://[::1/"'], None),
        (["Negotiate", 'Bearer service="r"'], None),
        ([], None),
    ],
)
def test_a_challenge_is_read(fields: list[str], found: Challenge | None) -> None:
    assert parse_challenge(fields) == found


@given(st.lists(st.text(max_size=200) | st.sampled_from(["Bearer realm=", '"', "=", ", "])))
def test_nothing_comes_out_but_an_answer(fields: list[str]) -> None:
    parse_challenge(fields)
    parse_challenge(["".join(fields)])


def test_a_long_challenge_costs_no_time() -> None:
    parse_challenge(["Bearer " + "a=" * 10_000_000])
    parse_challenge(["Bearer realm" + " " * 1_000_000])


def test_a_tokens_url_keeps_what_the_realm_asks_and_is_sorted() -> None:
    url = Challenge("https://a.example/t?z=1&account=x", "registry").token_url(
        ["repository:a/b:pull", "repository:c:pull"]
    )
    assert url == (
        "https://a.example/t?account=x&scope=repository%3Aa%2Fb%3Apull&scope=repository%3Ac%3Apull&service=registry&z=1"
    )


@pytest.mark.parametrize(
    ("realm", "registry", "may"),
    [
        ("https://r.example/t", "https://r.example", True),
        ("https://r.example:444/t", "https://r.example", True),
        ("https://auth.docker.io/token", "https://registry-1.docker.io", True),
        ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com", True),
        ("https://evil.example/t", "https://r.acme.example", False),
        ("https://xacme.example/t", "https://r.acme.example", False),
        ("https://acme.example.evil/t", "https://r.acme.example", False),
        ("https://other.example/t", "https://acme.example", False),  # `example` is no domain of it
        ("http://r.example/t", "https://r.example", False),
        ("http://127.0.0.1:5001/t", "http://127.0.0.1:5000", True),
        ("http://localhost:5001/t", "http://127.0.0.1:5000", True),
        ("http://127.0.0.1:5001/t", "https://r.example", False),
        ("http://r.example/t", "http://r.example", True),
        ("http://auth.acme.example/t", "http://r.acme.example", False),
        ("https://10.1.2.3/t", "https://9.1.2.3", False),
        ("https://trusted.example/t", "https://r.elsewhere.org", True),
        ("http://trusted.example/t", "https://r.elsewhere.org", False),
    ],
)
def test_a_login_goes_to_where_it_belongs(realm: str, registry: str, may: bool) -> None:
    assert may_see_login(realm, registry, {"trusted.example"}) is may


def test_ollamas_key_signs_for_the_registrys_own_host_alone() -> None:
    assert may_see_key("https://ollama.example/token", "https://ollama.example")
    assert not may_see_key("https://auth.ollama.example/token", "https://ollama.example")
    assert not may_see_key("http://ollama.example/token", "https://ollama.example")


def private_text(key: Ed25519PrivateKey) -> str:
    kind = serialization.PrivateFormat.OpenSSH
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, kind, plain).decode()


def test_a_request_is_signed_as_ollama_signs_it() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public, _, signature = signed("https://r/t?a=1", private_text(key)).partition(":")
    blob = base64.b64decode(public)
    assert blob[-32:] == key.public_key().public_bytes_raw()
    assert blob[4:15] == b"ssh-ed25519"
    nothing = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
    key.public_key().verify(base64.b64decode(signature), f"GET,https://r/t?a=1,{nothing}".encode())


def test_another_key_is_refused_and_not_shown() -> None:
    plain = serialization.NoEncryption()
    other = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, plain
    )
    for text in (other.decode(), "no key at all", ""):
        with pytest.raises(LocalFault) as caught:
            signed("https://r/t", text)
        with contextlib.suppress(IndexError):
            assert text.splitlines()[1] not in str(caught.value)
