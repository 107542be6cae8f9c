"""A boto3 client for one bucket: whose login, which region, how a request may end.

Runs in a worker process; botocore, which boto3 stands on, is imported inside the calls. Its own
retries are off (the pull retries, and counts); it follows a bucket to its region by itself.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import urllib3

from p2pcache.content.s3_refs import split_bucket
from p2pcache.errors import Unavailable, Untrusted, UsageError
from p2pcache.sources.headers import strong_etag
from p2pcache.sources.s3.options import (
    DEFAULT_REGION,
    PUBLIC_S3,
    BucketOptions,
    S3Options,
    is_amazon,
    of_store,
    parse_endpoint,
)
from p2pcache.sources.s3.sign import Grant
from p2pcache.version import __version__

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest, AWSResponse

    from p2pcache.sources.port import AwsLogin

_CHUNK_BYTES = 1 << 20
_LIST = b"<ListBucketResult"  # what a list has to be
_REGION = re.compile(r"[a-z0-9-]{1,40}")


@dataclass(frozen=True, slots=True)
class S3Request:
    """One question about a bucket. `key`, `version`, `folder`: as in `content.s3_refs.S3Ref`.

    `heads`: whether each object is asked for what a list does not tell. `region`: where the bucket
    was found before.
    """

    bucket: str
    bucket_options: BucketOptions
    options: S3Options
    login: AwsLogin | None = field(repr=False)
    key: str | None = None
    version: str | None = None
    folder: bool = False
    heads: bool = True
    region: str | None = None

    @property
    def name_there(self) -> str:
        """What the store itself calls the bucket."""
        return split_bucket(self.bucket)[2]


def request_for(
    options: S3Options, bucket: str, login: AwsLogin | None, region: str | None = None
) -> S3Request:
    """A question about one bucket, to be completed. Raises UsageError."""
    given = bucket_options(options, bucket, login)
    return S3Request(bucket, given, replace(options, buckets={}), login, region=region)


def bucket_options(options: S3Options, bucket: str, login: AwsLogin | None) -> BucketOptions:
    """What holds for one bucket: what is said of it, then what its ref tells, then what the caller
    brings, then what is said of all. Raises UsageError.
    """
    brought = BucketOptions()
    if login is not None:
        brought = BucketOptions(endpoint=login.endpoint_url, region=login.region)
    said = options.buckets.get(bucket, BucketOptions())
    merged = _over(
        _over(said, of_store(bucket)), _over(brought, replace(options.common, profile=None))
    )
    if merged.endpoint is None:
        return merged
    try:
        return replace(merged, endpoint=parse_endpoint(merged.endpoint))
    except ValueError as exc:
        raise UsageError(str(exc), hint="see AWS_ENDPOINT_URL") from exc


def _over(first: BucketOptions, second: BucketOptions) -> BucketOptions:
    """What the first says, and of what it does not say the second's word."""
    said = {field.name: getattr(first, field.name) for field in fields(first)}
    return replace(second, **{name: value for name, value in said.items() if value is not None})


class Bucket:
    """A client, and how it asks; open while its context is."""

    def __init__(self, request: S3Request) -> None:
        self.request = request
        self._http = _Bounded(request.options)
        self._told: str | None = None  # the region, by an answer
        self.client, self._credentials = self._open(request.region)
        self.signed = self._credentials is not None
        self.endpoint = request.bucket_options.endpoint or PUBLIC_S3

    @property
    def region(self) -> str:
        """Where the bucket is, as far as it is known."""
        return str(self.client.meta.region_name)

    def __enter__(self) -> Bucket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._http.close()
        self.client.close()

    def restart(self) -> None:
        """Give the questions that follow their time anew."""
        self._http.restart()

    def _open(self, region: str | None) -> tuple[Any, Any | None]:
        client, credentials = open_client(replace(self.request, region=region))
        events = client.meta.events
        events.register("before-call.s3", _stay_here)
        events.register("before-send.s3", self._http.send)
        events.register("needs-retry.s3", self._hear)
        return client, credentials

    def ask(self, operation: str, **fields: object) -> dict[str, Any]:
        """One call; in the bucket's own region, once that is known. Raises what boto3 raises."""
        from botocore.exceptions import ClientError

        if self.request.bucket_options.requester_pays:
            fields["RequestPayer"] = "requester"
        fields["Bucket"] = self.request.name_there
        try:
            return dict(getattr(self.client, operation)(**fields))
        except ClientError:
            if self._told in (None, self.region):
                raise
            self._follow()
        return dict(getattr(self.client, operation)(**fields))

    def read(self, key: str, most_bytes: int) -> tuple[bytes, str | None] | None:
        """A small object and its ETag; None where there is none. A longer one is Untrusted."""
        from botocore.exceptions import ClientError

        self._http.streams = True  # such a body is botocore's own to read
        try:
            said = self.ask("get_object", Key=key)
        except ClientError as exc:
            if exc.response.get("Error", {}).get("Code") == "NoSuchKey":
                return None
            raise
        finally:
            self._http.streams = False
        with said["Body"] as raw:
            data = self._http.read(raw, most_bytes, repr(key))
        return data, strong_etag(said.get("ETag"))

    def _follow(self) -> None:
        self.client.close()
        self.client, self._credentials = self._open(self._told)

    def _hear(self, response: tuple[Any, dict[str, Any]] | None, **_: object) -> None:
        """An answer, good or bad: it may tell where the bucket is."""
        parsed = {} if response is None else response[1]
        told = parsed.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
        told = told or parsed.get("Error", {}).get("Region")
        if isinstance(told, str) and _REGION.fullmatch(told):
            self._told = told

    def find_region(self) -> None:
        """Ask where the bucket is, as after a restart: a refusal tells it, too."""
        from botocore.exceptions import ClientError

        with suppress(ClientError):
            self.ask("list_objects_v2", MaxKeys=1)

    def grant(self) -> Grant:
        """What signs addresses from now on. After a question: then the region is known."""
        if self._told not in (None, self.region):
            self._follow()
        url = self.client.generate_presigned_url(
            "get_object", {"Bucket": self.request.name_there, "Key": "k"}, ExpiresIn=60
        )
        base_url = url.partition("?")[0].removesuffix("/k")
        pays = bool(self.request.bucket_options.requester_pays)
        if self._credentials is None:
            return Grant(base_url, self.region)
        scope = unquote(parse_qs(urlsplit(url).query)["X-Amz-Credential"][0]).split("/")
        login = self._credentials.get_frozen_credentials()
        return Grant(base_url, scope[-3], login.access_key, login.secret_key, login.token, pays)


def _stay_here(context: dict[str, Any], **_: object) -> None:
    """boto3 would look for the bucket's region itself, and not end where nobody tells it."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def open_client(request: S3Request) -> tuple[Any, Any | None]:
    """A client for one bucket, and its login, if it signs. Raises what boto3 raises for a set-up
    that it does not accept.

    The login: the bucket's profile, else the caller's keys, else the caller's or the configured
    profile, else what boto3 finds where the agent runs, else none: then nothing is signed.
    """
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config

    given, options, login = request.bucket_options, request.options, request.login
    keys = None if login is None or given.profile is not None else login.keys
    profile = given.profile or (None if login is None else login.profile) or options.common.profile
    session = botocore.session.Session(profile=None if keys is not None else profile)
    session.register_component("data_loader", _loader())
    if keys is not None:
        session.set_credentials(*keys)
    credentials = None if given.anonymous else session.get_credentials()
    endpoint = given.endpoint
    region = request.region or given.region or session.get_config_variable("region")
    styled = given.style
    if styled in (None, "auto"):
        styled = None if endpoint is None or is_amazon(endpoint) else "path"
    config = Config(
        signature_version=UNSIGNED if credentials is None else "s3v4",
        user_agent=f"p2pcache/{__version__}",
        connect_timeout=options.request_timeout_s,
        read_timeout=options.request_timeout_s,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=options.heads_at_once,
        s3=None if styled is None else {"addressing_style": styled},
        ignore_configured_endpoint_urls=True,  # `config` read them, so that all agree on one
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = session.create_client(
        "s3",
        region_name=region or DEFAULT_REGION,
        endpoint_url=endpoint,
        config=config,
        verify=options.ca_file,
    )
    return client, credentials


@functools.cache
def _loader() -> Any:  # noqa: ANN401
    """What botocore knows of S3, read once a process: half the time of making a client."""
    from botocore.loaders import create_loader

    return create_loader()


class _Bounded:
    """Sends as botocore does, and reads no more and no longer than a listing may take."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._sessions: dict[str, Any] = {}
        self._opening = threading.Lock()  # many heads are asked at once
        self._of_thread = threading.local()
        self.restart()

    @property
    def streams(self) -> bool:
        """Whether this thread leaves the body of its answer to botocore."""
        return bool(getattr(self._of_thread, "streams", False))

    @streams.setter
    def streams(self, value: bool) -> None:
        self._of_thread.streams = value

    def restart(self) -> None:
        """Begin the time that all may take together."""
        self._until = time.monotonic() + self._options.deadline_s

    def send(self, request: AWSPreparedRequest, **_: object) -> AWSResponse | None:
        """For botocore's `before-send`."""
        self._check_time()
        if self.streams:
            return None
        request.stream_output = True  # so that the body is left to us
        response: AWSResponse = self._session(request.url).send(request)
        try:
            response._content = self._body(request, response)
        finally:
            response.raw.close()
            response.raw.release_conn()
        return response

    def _body(self, request: AWSPreparedRequest, response: AWSResponse) -> bytes:
        body = self.read(response.raw, self._options.max_reply_bytes, "a reply")
        lists = request.method == "GET" and "list-type=2" in request.url
        if lists and response.status_code == 200 and _LIST not in body[:1000]:
            raise Untrusted("what answers is no S3", hint="check the endpoint")
        return body

    def read(self, raw: urllib3.HTTPResponse, most_bytes: int, name: str) -> bytes:
        """All of a body, by what the socket has: one that drips is ended at the deadline, too."""
        body = bytearray()
        try:
            while chunk := raw.read1(_CHUNK_BYTES):
                body += chunk
                if len(body) > most_bytes:
                    raise Untrusted(f"{name} is longer than {most_bytes} bytes")
                self._check_time()
        except urllib3.exceptions.HTTPError as exc:
            raise Unavailable("the store broke off its reply") from exc
        if raw.length_remaining:  # botocore has this check of urllib3's switched off
            raise Unavailable("the store broke off its reply")
        return bytes(body)

    def _check_time(self) -> None:
        if time.monotonic() > self._until:
            raise Unavailable(f"a listing took longer than {self._options.deadline_s:g} s")

    def close(self) -> None:
        """Close every connection."""
        for session in self._sessions.values():
            session.close()

    def _session(self, url: str) -> Any:  # noqa: ANN401
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        parts = urlsplit(url)
        at = f"{parts.scheme}://{parts.netloc}"
        with self._opening:
            if at not in self._sessions:
                timeout_s = self._options.request_timeout_s
                self._sessions[at] = URLLib3Session(
                    verify=self._options.ca_file or True,
                    proxies=get_environ_proxies(url),
                    timeout=(timeout_s, timeout_s),
                    max_pool_connections=self._options.heads_at_once,
                )
            return self._sessions[at]
