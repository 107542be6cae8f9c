"""Settings and logins of Google's buckets and Azure's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from p2pcache.agent.bptr_logins import login_of
from p2pcache.config.cloud_logins import azure_caller, gcs_caller
from p2pcache.config.environment import caller_credentials
from p2pcache.config.settings import load
from p2pcache.content.cloud_refs import AzureRef
from p2pcache.errors import P2PCacheError
from p2pcache.sources.azure.login import AzureRequest
from p2pcache.sources.azure.options import AzureOptions
from p2pcache.sources.port import AzureLogin, Credentials

if TYPE_CHECKING:
    from pathlib import Path


def test_the_callers_file_is_read_and_an_emulator_gets_no_login(tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    path.write_text('{"type": "service_account"}')
    named = {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}
    assert gcs_caller(named) == {"gcs_account": '{"type": "service_account"}'}
    assert gcs_caller({"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none")}) == {}
    assert gcs_caller(named | {"CLOUDSDK_AUTH_ACCESS_TOKEN": "t"}) == {"gcs_token": "t"}
    emulator = named | {"STORAGE_EMULATOR_HOST": "127.0.0.1:4443/"}
    assert gcs_caller(emulator) == {"gcs_endpoint_url": "http://127.0.0.1:4443"}


def test_a_connection_string_says_all_of_azure() -> None:
    text = (
        "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5==;"
        "BlobEndpoint=http://127.0.0.1:10000/a/;"
    )
    assert azure_caller(
        {"AZURE_STORAGE_CONNECTION_STRING": text, "AZURE_STORAGE_KEY": "other"}
    ) == {
        "azure_account": "a",
        "azure_key": "a2V5==",
        "azure_endpoint_url": "http://127.0.0.1:10000/a",
    }


def test_logins_are_brought_to_refs_of_their_kind_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDSDK_AUTH_ACCESS_TOKEN", "t")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "k")
    for ref, keys in {
        "gs://b/k": {"gcs_token"},
        "az://acct/c/k": {"azure_key"},
        "https://acct.blob.core.windows.net/c/k": {"azure_key"},
        "org/name": set[str](),
        "": {"gcs_token", "azure_key"},
    }.items():
        found = {key for key in caller_credentials(ref) if key.startswith(("gcs_", "azure_"))}
        assert found == keys, ref


def test_the_endpoint_and_the_login_of_one_account_are_not_those_of_another() -> None:
    options = AzureOptions("http://127.0.0.1:10000/{account}")
    ours = AzureLogin("mine", "key", endpoint_url="http://127.0.0.1:1/mine")
    request = AzureRequest("mine", "c", options, ours)
    assert (request.endpoint, request.own_login) == ("http://127.0.0.1:1/mine", ours)
    other = AzureRequest("other", "c", options, ours)
    assert (other.endpoint, other.own_login) == ("http://127.0.0.1:10000/other", None)


def test_settings_are_read(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        {
            "P2PCACHE_GCS_ENDPOINT": "http://127.0.0.1:4443/",
            "P2PCACHE_AZURE_ENDPOINT": "http://127.0.0.1:10000/{account}",
            "P2PCACHE_AZURE_URL_VALID": "2m",
            "P2PCACHE_GCS_PUBLIC": "on",
        },
    )
    assert (config.gcs.endpoint, config.gcs.public) == ("http://127.0.0.1:4443", True)
    assert config.azure.endpoint == "http://127.0.0.1:10000/{account}"
    assert config.azure.url_valid_s == 120
    for wrong in ("ftp://x", "http://u:p@x", "x", "http://x?sig=1"):
        with pytest.raises(P2PCacheError):
            load(tmp_path, {"P2PCACHE_AZURE_ENDPOINT": wrong})


def test_a_login_by_name_goes_to_no_other_account_s_server() -> None:
    ours = Credentials(azure=AzureLogin("mine", "key", endpoint_url="http://127.0.0.1:1/mine"))
    secrets = {"theirs": '{"sas_token": "sig=5ecre7"}'}
    for account, endpoint in (("other", None), ("mine", "http://127.0.0.1:1/mine")):
        named = login_of(AzureRef(account, "c"), "theirs", ours, secrets).azure
        assert named == AzureLogin(account, None, "sig=5ecre7", endpoint_url=endpoint)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # its own signature, and nobody else's key
        ("AccountName=a;SharedAccessSignature=sig=1", {"azure_account": "a", "azure_sas": "sig=1"}),
        # as the portal has it: no account but that of the address
        (
            "BlobEndpoint=https://a.blob.core.windows.net/;SharedAccessSignature=sig=1",
            {"azure_account": "a", "azure_sas": "sig=1",
             "azure_endpoint_url": "https://a.blob.core.windows.net"},
        ),
        # of another account than the key
        ("AccountName=a", {"azure_account": "a"}),
        # of the same
        ("AccountName=b", {"azure_account": "b", "azure_key": "KEY", "azure_sas": "SAS"}),
    ],
)  # fmt: skip
def test_a_connection_string_is_not_mixed_with_the_login_of_another_account(
    text: str, found: dict[str, str]
) -> None:
    others = {"ACCOUNT": "b", "KEY": "KEY", "SAS_TOKEN": "SAS", "CONNECTION_STRING": text}
    environment = {f"AZURE_STORAGE_{name}": value for name, value in others.items()}
    assert azure_caller(environment) == found
