"""Web addresses that open what they lead to: those are for who was given them. Pure."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

_SECRET_WORDS = frozenset(  # in the names of a query's fields: presigned addresses, keys, tokens
    ("signature", "sig", "credential", "token", "accesstoken", "key", "apikey", "secret",
     "password", "passwd", "pwd", "pass", "auth", "authorization", "jwt", "session", "policy")
)  # fmt: skip


def secret_in(url: str) -> str | None:
    """What of a web address looks like a secret, for people, without its value; None: nothing."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        return "a user name or password"
    for name, _ in parse_qsl(parts.query.replace(";", "&"), keep_blank_values=True):
        words = set(re.split(r"[^a-z0-9]+", name.lower()))
        if words & _SECRET_WORDS:
            return f"`{name[:40]}` in its query"
    return None
