"""What both clients make of their arguments."""

from __future__ import annotations

import pytest

from p2pcache.agent.localapi import calls
from p2pcache.errors import UsageError


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: calls.get("hf://org/name", too="x"), "did you mean `to`?"),
        (lambda: calls.push("/tmp", "s3://b/f", dry=True), "did you mean `dry_run`?"),
        (lambda: calls.push("/tmp", "s3://b/f", zzzzzz=1), "known: "),
    ],
)
def test_an_option_that_is_mistyped_is_said(call, hint: str) -> None:
    with pytest.raises(UsageError, match="has no option") as caught:
        call()
    assert (caught.value.hint or "").startswith(hint)


def test_a_login_without_a_place_is_for_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    told = calls.push("s3://b/f", "s3://c/f", to_credentials=keys).args
    assert told["to_credentials"] == {**keys, "aws_endpoint_url": "http://127.0.0.1:9"}
    own = {**keys, "aws_endpoint_url": "http://127.0.0.1:10"}
    told = calls.push("s3://b/f", "s3://c/f", to_credentials=own, credentials={}).args
    assert (told["to_credentials"], told["credentials"]) == (own, {})
