"""What is said of a store that does not answer."""

from __future__ import annotations

import pytest

from p2pcache.errors import Unavailable
from p2pcache.sources.s3.errors import as_ours

botocore_exceptions = pytest.importorskip("botocore.exceptions")


@pytest.mark.parametrize(
    ("name", "settings_count"),
    [("s3://models/a", True), ("cw://models/a", False), (f"r2://{'0' * 32}.models", False)],
)
def test_a_hint_names_no_setting_that_does_not_count(name: str, settings_count: bool) -> None:
    url = "https://cwobject.com"
    with pytest.raises(Unavailable) as told, as_ours(name, url):
        raise botocore_exceptions.EndpointConnectionError(endpoint_url=url, error="no such host")
    assert told.value.hint is not None
    assert ("AWS_ENDPOINT_URL" in told.value.hint) is settings_count
