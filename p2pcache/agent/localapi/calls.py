"""From the typed arguments of both clients to requests, with what only the caller knows filled in.

The agent has another working directory and another environment: paths are made absolute here, and
the user's credentials and Hugging Face cache are looked up here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack, cast

from p2pcache import config
from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from p2pcache.agent.localapi.answers import GetAnswer, VerifyAnswer
    from p2pcache.agent.localapi.options import (
        BptrOptions,
        BucketOptions,
        GetOptions,
        PreloadOptions,
        PushOptions,
    )

_PLACES = ("aws_endpoint_url", "aws_region")  # of a login: where it is for, and no secret
_OF_SETTINGS = ("config", "hf_cache", "credentials", "max_gb")  # of BucketOptions


@dataclass(frozen=True, slots=True)
class Call:
    """An operation of the agent with its arguments."""

    op: str
    args: dict[str, Any] = field(default_factory=dict)


def resolve(
    ref: str,
    revision: str | None,
    refresh: bool,
    offline: bool,
    credentials: dict[str, str] | None,
    kubo: str | None,
    platform: str | None,
    layout: str | None,
    secret: str | None = None,
) -> Call:
    """What does this ref mean?"""
    _check_wishes(offline, refresh)
    ref = absolute_ref(ref, platform, layout)
    return Call(
        "resolve",
        {
            "ref": ref,
            "revision": revision,
            "refresh": refresh,
            "offline": offline,
            "credentials": _credentials(credentials, ref),
            **_secret(secret),
            "kubo": config.kubo_of_caller(kubo),
        },
    )


def get(ref: str, **options: Unpack[GetOptions]) -> Call:
    """Bring a ref's files here."""
    _check_names("get", options)
    to = options.get("to")
    _check_wishes(options.get("offline", False), options.get("refresh", False))
    ref = absolute_ref(ref, options.get("platform"), options.get("layout"))
    return Call(
        "get",
        {
            "ref": ref,
            "revision": options.get("revision"),
            "include": list(options.get("include", ())),
            "exclude": list(options.get("exclude", ())),
            "to": None if to is None else _absolute(to),
            "hf_cache": _hf_cache(options.get("hf_cache", to is None)),
            "ollama": _ollama(ref, _to_ollama(options), by_default=to is None),
            "ollama_name": options.get("ollama_name"),
            "links": options.get("links", True),
            "dry_run": options.get("dry_run", False),
            "offline": options.get("offline", False),
            "refresh": options.get("refresh", False),
            "limit_rate": options.get("limit_rate"),
            "max_age": options.get("max_age"),
            "trust": options.get("trust"),
            "kubo": config.kubo_of_caller(options.get("kubo")),
            "credentials": _credentials(options.get("credentials"), ref),
            **_secret(options.get("secret")),
        },
    )


def preload(ref: str, **options: Unpack[PreloadOptions]) -> Call:
    """Have other agents bring it, too."""
    ref = absolute_ref(ref)
    return Call(
        "preload",
        {
            "ref": ref,
            "revision": options.get("revision"),
            "nodes": options.get("nodes", "all"),
            "replicas": options.get("replicas", 0),
            "at": options.get("at"),
            "deadline": options.get("deadline"),
            "keep_s": options.get("keep_s"),
            "limit_rate": options.get("limit_rate"),
            "credentials": _credentials(options.get("credentials"), ref),
        },
    )


def get_answer(value: dict[str, Any], items: list[dict[str, Any]]) -> GetAnswer:
    """The answer to `get`: what a dry run would fetch is streamed, for it may be long."""
    if value.get("dry_run") is not None:
        missing = [item["path"] for item in items]
        value = {**value, "dry_run": {**value["dry_run"], "missing_files": missing}}
    return cast("GetAnswer", value)


def verify_answer(value: dict[str, Any], items: list[dict[str, Any]]) -> VerifyAnswer:
    """The answer to `verify`: what is bad or could not be read is streamed."""
    found = {kind: [i[kind] for i in items if kind in i] for kind in ("bad", "unread")}
    return cast("VerifyAnswer", {**value, **found})


def bptr_pull(files: Sequence[str | os.PathLike[str]], **options: Unpack[BptrOptions]) -> Call:
    """Bring what pointer files name. Reads them for the names of the logins that they want.

    Raises UsageError, LocalFault (a file that cannot be read), Untrusted (one that makes no sense).
    """
    from p2pcache.config import truss  # only where pointer files are used
    from p2pcache.formats.bptr.load import load_pointers

    paths = [_absolute(os.fspath(file)) for file in files]
    inline = options.get("inline")
    wanted = load_pointers(paths, inline).secrets
    return Call(
        "bptr_pull",
        {
            "files": paths,
            "inline": inline,
            "folders": {name: _absolute(to) for name, to in options["folders"].items()},
            "model_path": options.get("model_path", ""),
            "secrets": truss.secrets(wanted),
            "at_once": truss.workers(),
            "links": options.get("links", True),
            "offline": options.get("offline", False),
            "limit_rate": options.get("limit_rate"),
            "credentials": _credentials(options.get("credentials"), ""),
        },
    )


def bucket(what: str, **options: Unpack[BucketOptions]) -> Call:
    """An operation on a bucket of hf-cache-sync, by its settings. Raises as `bucket_settings`."""
    from p2pcache.config.hf_cache_sync import bucket_settings  # only where a bucket is used

    named = options.get("config")
    settings = bucket_settings(None if named is None else _absolute(named))
    cache = options.get("hf_cache") or settings.hf_cache_dir or str(config.hub_cache_dir())
    args: dict[str, Any] = {
        "bucket": settings.bucket,
        "prefix": settings.prefix,
        "cache": _absolute(cache),
        "login": settings.login,
        "credentials": settings.over(_credentials(options.get("credentials"), "")),
    }
    if what == "prune":
        limit_gb = options.get("max_gb")
        args["max_bytes"] = int((settings.max_local_gb if limit_gb is None else limit_gb) * 2**30)
    given = {name: value for name, value in options.items() if name not in _OF_SETTINGS}
    given["allow_gated"] = settings.allow_gated or options.get("allow_gated", False)
    return Call(f"bucket_{what}", {**args, **given})


def push(
    what: str | os.PathLike[str], dest: str | None = None, **options: Unpack[PushOptions]
) -> Call:
    """Put a file or folder into the store, or give it, or what a ref means, to another place."""
    _check_names("push", options)
    to, text = options.get("to", dest), os.fspath(what)
    if dest is not None and to != dest:
        raise UsageError(f"two destinations: `{dest}` and `{to}`", hint="leave `to` out")
    is_path = to is None or isinstance(what, os.PathLike) or os.path.exists(_absolute(text))
    named = {"path": _absolute(text)} if is_path else {"ref": absolute_ref(text)}
    if to is None:
        return Call("push", named)
    return Call(
        "push",
        {
            **named,
            "to": to,
            "kubo": config.kubo_of_caller(options.get("kubo")),
            "dry_run": options.get("dry_run", False),
            "allow_gated": options.get("allow_gated", False),
            "limit_rate": options.get("limit_rate"),
            "replicas": options.get("replicas"),
            "credentials": _credentials(options.get("credentials"), named.get("ref", "")),
            **_secret(options.get("secret")),
            "to_credentials": _credentials(options.get("to_credentials"), to),
            **_secret(options.get("to_secret"), "to_"),
        },
    )


def export(refs: Sequence[str], path: str | os.PathLike[str], gated: bool, plain: bool) -> Call:
    """Write refs into a bundle, or one DAG into a plain CAR."""
    if isinstance(refs, str):  # the caller may not be type-checked, and letters are no refs
        raise UsageError("refs are a list of texts", hint='["hf://org/name"]')
    names = [absolute_ref(ref) for ref in refs]
    args = {"refs": names, "path": _absolute(os.fspath(path)), "gated": gated, "plain": plain}
    return Call("export", args)


def import_bundle(path: str | os.PathLike[str]) -> Call:
    """Take in what a CAR holds."""
    return Call("import", {"path": _absolute(os.fspath(path))})


def adopt(
    path: str | os.PathLike[str],
    private: bool,
    public: bool,
    wait: bool,
    credentials: dict[str, str] | None,
) -> Call:
    """Read a folder in place. Of the credentials the hub's address alone is used: it is asked
    without a token.
    """
    brought = _credentials(credentials, "hf:")
    return Call(
        "adopt",
        {
            "path": _absolute(os.fspath(path)),
            "private": private,
            "public": public,
            "wait": wait,
            "credentials": {name: brought[name] for name in ("hf_endpoint",) if name in brought},
        },
    )


def unadopt(path: str | os.PathLike[str]) -> Call:
    """Read it in place no more."""
    return Call("unadopt", {"path": _absolute(os.fspath(path))})


def verify(ref: str | None, repair: bool) -> Call:
    """Hash again what is stored; None: all of it."""
    return Call("verify", {"ref": None if ref is None else absolute_ref(ref), "repair": repair})


def trace(ref: str | None, once: bool) -> Call:
    """Listen to pulls; None: to all."""
    return Call("trace", {"ref": None if ref is None else absolute_ref(ref), "once": once})


def on_ref(op: str, ref: str, **args: object) -> Call:
    """An operation whose subject is a ref or a manifest CID (the agent tells them apart)."""
    return Call(op, {"ref": absolute_ref(ref), **args})


def absolute_ref(ref: str, platform: str | None = None, layout: str | None = None) -> str:
    """A path of the caller's, made absolute; a registry's ref with its choices, of which the
    caller's platform is one; any other ref as it is. Raises UsageError.
    """
    if not isinstance(ref, str):  # the caller may not be type-checked
        raise UsageError(f"a ref is text, not {type(ref).__name__}", hint="hf://org/name")
    if not ref:
        raise UsageError("the ref is empty", hint="name what you want: hf://org/name")
    if ref in (".", "..") or ref.startswith(("~", "./", "../")):
        return _absolute(ref)
    ref = _utf8(ref)
    if platform is None and layout is None and not config.is_of_registry(ref):
        return ref
    from p2pcache.config.registries import with_choices  # only where a registry is named

    return with_choices(ref, platform, layout)


def _utf8(text: str) -> str:
    """Manifests, the index and JSON hold text: a name that is none could not be given back."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise UsageError(f"{text!r} is not UTF-8", hint="rename it, then try again") from exc
    return text


def _check_wishes(offline: bool, refresh: bool) -> None:
    if offline and refresh:
        raise UsageError(
            "offline asks nobody, and refresh asks the origin: both at once mean nothing",
            hint="leave one of --offline and --refresh out",
        )


def _hf_cache(wish: bool | str) -> str | None:
    if isinstance(wish, bool):
        return str(config.hub_cache_dir()) if wish else None
    return _absolute(wish)


def _to_ollama(options: GetOptions) -> bool | str | None:
    wish = options.get("to_ollama")
    return True if wish is None and options.get("ollama_name") is not None else wish


def _ollama(ref: str, wish: bool | str | None, *, by_default: bool) -> str | None:
    """Where a model is to be shown to Ollama. Without a wish, and for a model of Ollama's alone,
    where OLLAMA_MODELS says.
    """
    if ref.partition(":")[0].lower() != "ollama" and not wish:
        return None
    if isinstance(wish, str):
        return _absolute(wish)
    path = config.ollama_models_dir(wish if by_default or wish is not None else False)
    return None if path is None else _absolute(str(path))


def _absolute(path: str) -> str:
    if not path:
        raise UsageError("an empty path names no folder", hint="`.` is the one you are in")
    expanded = os.path.expanduser(path)
    try:
        return _utf8(os.path.abspath(expanded))
    except FileNotFoundError as exc:
        raise UsageError(
            f"`{path}` is relative to a working directory that is gone",
            hint="go to a folder that exists, or write the path from its root",
        ) from exc


def _secret(name: str | None, start: str = "") -> dict[str, Any]:
    """A login by name, as truss-transfer finds them. Raises UsageError where there is none."""
    if name is None:
        return {}
    from p2pcache.config import truss  # only where one is named

    found = truss.secrets([name])
    if not found:
        raise UsageError(
            f"there is no login `{name[:80]}`",
            hint=f"set TRUSS_SECRET_{name[:80]}, or write the file /secrets/{name[:80]}",
        )
    return {f"{start}secret": name, f"{start}secrets": found}


def _credentials(given: dict[str, str] | None, ref: str) -> dict[str, str]:
    """The caller's own; without a place in it, a login is for the place of the environment."""
    if given is None:
        return config.caller_credentials(ref)
    if not any(name.startswith("aws_") for name in given):
        return given
    found = config.caller_credentials(ref)
    return {name: found[name] for name in _PLACES if name in found} | given


def _check_names(what: str, options: Mapping[str, object]) -> None:
    """A caller that is not type-checked may have mistyped one, and would not hear of it."""
    import difflib  # for callers from Python alone

    from p2pcache.agent.localapi.options import GetOptions, PushOptions

    known = (GetOptions if what == "get" else PushOptions).__annotations__
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise UsageError(
                f"`{what}` has no option `{name}`",
                hint=f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}",
            )
