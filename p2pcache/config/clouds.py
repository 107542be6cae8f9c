"""What the settings say about Google's buckets and Azure's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2pcache.sources.azure.options import AzureOptions, parse_azure_endpoint
from p2pcache.sources.gcs.options import GcsOptions
from p2pcache.sources.rest_options import RestOptions
from p2pcache.sources.s3.options import parse_endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping


def gcs_endpoint(text: str) -> str:
    """`https://storage.googleapis.com`. Raises ValueError."""
    return parse_endpoint(text)


def azure_endpoint(text: str) -> str:
    """`https://{account}.blob.core.windows.net`. Raises ValueError."""
    return parse_azure_endpoint(text)


def gcs_options(values: Mapping[str, Any], ca_file: str | None) -> GcsOptions:
    """From all settings."""
    return GcsOptions(
        endpoint=values["gcs.endpoint"],
        anonymous=values["gcs.anonymous"],
        public=values["gcs.public"],
        rest=RestOptions(ca_file=ca_file),
    )


def azure_options(values: Mapping[str, Any], ca_file: str | None) -> AzureOptions:
    """From all settings."""
    return AzureOptions(
        endpoint=values["azure.endpoint"],
        anonymous=values["azure.anonymous"],
        public=values["azure.public"],
        url_valid_s=int(values["azure.url_valid"]),
        rest=RestOptions(ca_file=ca_file),
    )
