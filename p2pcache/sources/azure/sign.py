"""Signed addresses of Azure's blobs: a "service SAS" of the account's key. Pure.

Of version 2020-12-06 and later ("Create a service SAS", Microsoft's documentation of the REST API):
a signature holds for one blob or one container, for the rights that it names, and to an end.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from p2pcache.sources.tokens import Token

VERSION = "2021-12-02"  # of the API, and of signatures
READ, LIST = "r", "rl"  # of a blob, of a container
SEND, WRITE = "cw", "racwdl"  # of the same


@dataclass(frozen=True, slots=True)
class AzureGrant:
    """What opens one account: its key, somebody's SAS, or a token; none of them: nothing. Never
    stored, never shown.
    """

    account: str
    key: str | None = field(default=None, repr=False)
    sas: str | None = field(default=None, repr=False)
    token: Token | None = field(default=None, repr=False)

    @property
    def is_login(self) -> bool:
        """Whether anything is sent or signed."""
        return self.key is not None or self.sas is not None or self.token is not None

    def query(
        self, container: str, blob: str | None, rights: str, *, now_unix_s: float, valid_s: int
    ) -> str:
        """What an address carries to be let in; empty where a header does, or nothing."""
        if self.key is not None:
            until = now_unix_s + valid_s
            return signed_query(self.account, self.key, container, blob, rights, until)
        return self.sas or ""

    def headers(self) -> dict[str, str]:
        """What a request carries beside that."""
        login = {} if self.token is None else {"Authorization": f"Bearer {self.token.value}"}
        return {"x-ms-version": VERSION, **login}


def signed_query(
    account: str, key: str, container: str, blob: str | None, rights: str, until_unix_s: float
) -> str:
    """The query that gives `rights` to a blob, or (None) to all of a container. Raises UsageError
    for a key that is none.
    """
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(until_unix_s))
    what, where = ("c", container) if blob is None else ("b", f"{container}/{blob}")
    resource = f"/blob/{account}/{where}"
    text = "\n".join([
        rights, "", end, resource, "", "", "", VERSION, what, "", "", "", "", "", "", "",
    ])  # fmt: skip
    try:
        secret = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(
            "the key of the Azure account is not base64", hint="check AZURE_STORAGE_KEY"
        ) from None  # the cause may quote it
    signature = base64.b64encode(hmac.digest(secret, text.encode(), hashlib.sha256)).decode()
    return urlencode({"sp": rights, "se": end, "sv": VERSION, "sr": what, "sig": signature})
