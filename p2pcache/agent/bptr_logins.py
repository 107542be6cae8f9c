"""Logins that go by a name, which pointers and callers give, in truss-transfer's forms for them.

Of a hub it is a token, of S3 JSON; of a registry (truss-transfer has none) `user:password`, or JSON
with username and password.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from p2pcache.agent.args import credentials_of
from p2pcache.content import refs
from p2pcache.content.cloud_refs import AzureRef, GcsRef
from p2pcache.content.registry_refs import OciRef, OllamaRef
from p2pcache.content.s3_refs import S3Ref
from p2pcache.errors import UsageError
from p2pcache.sources.port import AwsLogin, AzureLogin, Credentials, GcsLogin, RegistryLogin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.agent.args import Args


def caller_login(args: Args, ref: refs.Ref, start: str = "") -> Credentials:
    """What a caller brings along for a ref: a login by its name (`secret`) before any other.
    `start`: of the arguments' names. Raises UsageError.
    """
    ours = credentials_of(args.text_map(f"{start}credentials"))
    name = args.optional_text(f"{start}secret")
    if name is None:
        return ours
    if not takes_login(ref):
        raise UsageError(f"`{refs.shown_ref(refs.canonical(ref))}` takes no login")
    return login_of(ref, name, ours, args.text_map(f"{start}secrets"))


def takes_login(ref: refs.Ref) -> bool:
    """Whether a pointer's login is for the origin of this ref."""
    return isinstance(ref, refs.HfRef | S3Ref | GcsRef | AzureRef | OciRef | OllamaRef)


def login_of(
    ref: refs.Ref, name: str, ours: Credentials, secrets: Mapping[str, str]
) -> Credentials:
    """The login `name`, where the caller has it; else the caller's own. Raises UsageError."""
    text = secrets.get(name)
    if text is None or not takes_login(ref):
        return ours
    if isinstance(ref, S3Ref):
        return replace(ours, aws=_aws_login(text, name, ours.aws))
    if isinstance(ref, GcsRef):
        return replace(ours, gcs=_gcs_login(text, ours.gcs))
    if isinstance(ref, AzureRef):
        return replace(ours, azure=_azure_login(text, name, ref.account, ours.azure))
    if isinstance(ref, OciRef | OllamaRef):
        return replace(ours, registry=_registry_login(text, name, ref.registry))
    return replace(ours, hf_token=text)


def _registry_login(text: str, name: str, host: str) -> RegistryLogin:
    user, colon, password = text.partition(":")
    if text.startswith("{"):
        try:
            plain = json.loads(text)
            user, colon, password = plain["username"], ":", plain["password"]
        except (ValueError, LookupError, TypeError, RecursionError):
            colon = ""
    if not colon or not isinstance(user, str) or not isinstance(password, str):
        raise UsageError(
            f"the login `{name}` is none for a registry",
            hint="it is user:password, or JSON with username and password",
        )
    return RegistryLogin(host, user=user, password=password)


def _aws_login(text: str, name: str, ours: AwsLogin | None) -> AwsLogin:
    """truss-transfer's form of a login. Where the store is stays the caller's to say."""
    try:
        plain = json.loads(text)
        keys = [plain[key] for key in ("access_key_id", "secret_access_key")]
        more = [plain.get(key) for key in ("session_token", "region")]
        if not all(isinstance(value, str) for value in (*keys, *filter(None, more))):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(
            f"the login `{name}` is none for S3",
            hint="it is JSON with access_key_id, secret_access_key, region and maybe session_token",
        ) from None  # the cause quotes what it could not read
    return AwsLogin(
        access_key_id=keys[0],
        secret_access_key=keys[1],
        session_token=more[0],
        region=more[1] or (None if ours is None else ours.region),
        endpoint_url=None if ours is None else ours.endpoint_url,
    )


def _gcs_login(text: str, ours: GcsLogin | None) -> GcsLogin:
    """The JSON of a service account; the source reads it."""
    return GcsLogin(account=text, endpoint_url=None if ours is None else ours.endpoint_url)


def _azure_login(text: str, name: str, account: str, ours: AzureLogin | None) -> AzureLogin:
    """truss-transfer's form of a login, or with a `sas_token` in place of the key."""
    try:
        plain = json.loads(text)
        key, sas = plain.get("account_key"), plain.get("sas_token")
        if not all(isinstance(value, str) for value in (key or sas, *filter(None, (key, sas)))):
            raise TypeError
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise UsageError(
            f"the login `{name}` is none for Azure", hint="it is JSON with account_key"
        ) from None  # the cause quotes what it could not read
    same = ours is not None and ours.account in (None, account)  # else it is another's server
    endpoint = ours.endpoint_url if ours is not None and same else None
    return AzureLogin(account, key, sas, endpoint_url=endpoint)
