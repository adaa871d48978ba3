"""What an S3 store is reached with: params, the environment where they are null, and then a default."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from unsee.cache import S3, is_key
from unsee.credentials import without_credentials
from unsee.errors import InputError
from unsee.params import StoreParams

AMAZON = "s3.amazonaws.com"

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_REGION = re.compile(r"[A-Za-z0-9_-]{1,63}")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class S3Settings:
    """How a server is reached.

    Attributes:
        host: its name and, where not the usual one, port.
        region: None: the server is asked (Amazon's S3 only).
        path_style: the bucket stands in the path, not in the host name.
        ca_bundle: PEM file; None: the usual authorities.
    """

    host: str
    secure: bool
    region: str | None
    path_style: bool
    ca_bundle: Path | None

    @property
    def url(self) -> str:
        """The server's address."""
        return f"{'https' if self.secure else 'http'}://{self.host}"


def resolve(settings: StoreParams) -> S3Settings:
    """The settings, with the environment standing in for what is null.

    Raises:
        InputError: one of them cannot be used.
    """
    where, field = _given(settings.endpoint, "store.endpoint", "UNSEE_STORE_ENDPOINT")
    scheme, host = _endpoint(where, field) if where else (None, AMAZON)
    secure, field = _truth(settings.secure, "store.secure", "UNSEE_STORE_SECURE")
    if secure is not None and scheme is not None and secure != (scheme == "https"):
        problem = f"contradicts the endpoint's address, which begins with {scheme}://."
        raise InputError(problem, field=field, remedy="Correct one of them, or leave this one out.")
    if secure is None:
        secure = scheme != "http"
    amazon = host.split(":")[0].endswith(".amazonaws.com")
    region, field = _given(settings.region, "store.region", "UNSEE_STORE_REGION", "AWS_REGION", "AWS_DEFAULT_REGION")
    if region and not _REGION.fullmatch(region):
        raise InputError("is not the name of a region.", field=field, remedy="Write one like us-east-1.")
    path_style, _ = _truth(settings.path_style, "store.path_style", "UNSEE_STORE_PATH_STYLE")
    bundle, field = _given(
        settings.ca_bundle, "store.ca_bundle", "UNSEE_STORE_CA_BUNDLE", "AWS_CA_BUNDLE", "SSL_CERT_FILE"
    )
    if bundle and not Path(bundle).is_file():
        raise InputError(
            "is not a file.", file=bundle, field=field, remedy="Name a file of certificates in PEM format."
        )
    return S3Settings(
        host=host,
        secure=secure,
        # Other servers take any region as long as the signature was made with the same.
        region=region or (None if amazon else "us-east-1"),
        path_style=not amazon if path_style is None else path_style,
        ca_bundle=Path(bundle) if bundle else None,
    )


def bucket_and_prefix(uri: str) -> tuple[str, str]:
    """`s3://bucket/some/prefix` as ("bucket", "some/prefix"); the prefix may be empty.

    Raises:
        InputError: it is no such address.
    """
    bucket, _, prefix = uri.removeprefix(S3).partition("/")
    prefix = prefix.removesuffix("/")
    if not _BUCKET.fullmatch(bucket) or (prefix and not is_key(prefix)):
        problem = f"'{without_credentials(uri)}' is not the address of a bucket and a prefix."
        remedy = "Write s3://bucket/prefix; bucket names have 3 to 63 small letters, digits, dots and hyphens."
        raise InputError(problem, field="run.cache", remedy=remedy)
    return bucket, prefix


def _given(value: str | None, field: str, *variables: str) -> tuple[str | None, str]:
    """The value and where it stands: in the params, or in the first variable that is set and not empty."""
    if value is None:
        for name in variables:
            if os.environ.get(name):
                return os.environ[name], name
    return value, field


def _truth(value: bool | None, field: str, variable: str) -> tuple[bool | None, str]:
    text, found = _given(None, field, variable)
    if value is not None or text is None:
        return value, field
    if text.lower() not in _TRUTH:
        raise InputError(f"is '{text}'.", field=found, remedy="Set it to true or false.")
    return _TRUTH[text.lower()], found


def _endpoint(text: str, field: str) -> tuple[str | None, str]:
    """(scheme, host and port) of `host:port` or of a URL."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    host = rest.removesuffix("/")
    if scheme not in {"", "http", "https"} or not _HOST.fullmatch(host):
        # Not shown: it may hold a password.
        problem = "is not the address of a server (it has no user, path or query)."
        raise InputError(problem, field=field, remedy="Write host:port, http://host:port or https://host:port.")
    return scheme or None, host
