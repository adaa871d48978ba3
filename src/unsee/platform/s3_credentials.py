"""Who an S3 store is asked as: the first of environment, credentials file, web identity and the machine's own role.

Nothing here, and nothing that is raised here, shows a key or a token.
"""

from __future__ import annotations

import configparser
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from xml.etree.ElementTree import ParseError

from minio.credentials.credentials import Credentials
from minio.credentials.providers import (
    AWSConfigProvider,
    EnvAWSProvider,
    IamAwsProvider,
    Provider,
    WebIdentityProvider,
)
from urllib3 import BaseHTTPResponse, PoolManager
from urllib3.exceptions import HTTPError
from urllib3.util import Retry, Timeout

from unsee.errors import EnvironmentProblem

_FAILURES = (ValueError, KeyError, OSError, RuntimeError, HTTPError, ParseError, configparser.Error)
_ROLE_SECONDS = 1.0
"""A machine that gives roles to what runs on it answers at once; another one may not answer at all."""
_SERVICE = Timeout(connect=5, read=30)
_RETRIES = Retry(total=3, backoff_factor=0.3, allowed_methods=None, status_forcelist=(429, 500, 502, 503, 504))
_REMEDY = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials, or run where a web identity "
    "(AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN) or a role of the machine gives access."
)


class Chain(Provider):
    """Credentials from the first source that has some; they are renewed when they expire.

    Args:
        ca_certs: PEM file that a token service's certificate is checked with.
        region: chooses Amazon's token service where AWS_ENDPOINT_URL_STS names no other.
    """

    def __init__(self, ca_certs: str, region: str | None) -> None:
        self._ca_certs = ca_certs
        self._region = region
        self._lock = threading.Lock()
        self._source: Provider | None = None

    def retrieve(self) -> Credentials:
        """The credentials to sign the next request with.

        Raises:
            EnvironmentProblem: no source has any; it says which were looked at.
        """
        with self._lock:
            if self._source is not None:
                try:
                    return self._source.retrieve()
                except _FAILURES:
                    self._source = None
            return self._first()

    def _first(self) -> Credentials:
        looked = []
        for name, source in self._sources():
            try:
                found = source.retrieve()
            except _FAILURES as error:
                looked.append(f"{name}: {_reason(error)}")
            else:
                self._source = source
                return found
        problem = f"none were found ({'; '.join(looked)})."
        # What caused it may hold a token.
        raise EnvironmentProblem(problem, field="S3 credentials", remedy=_REMEDY) from None

    def _sources(self) -> Iterator[tuple[str, Provider]]:
        yield "environment", EnvAWSProvider()
        yield "credentials file", AWSConfigProvider()
        token = os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE")
        if token:
            yield "web identity", self._web_identity(Path(token))
        elif os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true":
            pool = PoolManager(timeout=_ROLE_SECONDS, retries=False, ca_certs=self._ca_certs)
            yield "role of the machine", IamAwsProvider(http_client=pool)

    def _web_identity(self, token: Path) -> Provider:
        region = f".{self._region}" if self._region else ""
        return WebIdentityProvider(
            # Read again each time: what a cluster projects into a pod is replaced before it expires.
            jwt_provider_func=lambda: {"access_token": token.read_text(encoding="utf-8").strip(), "expires_in": "0"},
            sts_endpoint=os.environ.get("AWS_ENDPOINT_URL_STS") or f"https://sts{region}.amazonaws.com",
            role_arn=os.environ.get("AWS_ROLE_ARN"),
            role_session_name=os.environ.get("AWS_ROLE_SESSION_NAME") or "unsee",
            http_client=_FormPool(timeout=_SERVICE, retries=_RETRIES, ca_certs=self._ca_certs),
        )


class _FormPool(PoolManager):
    """Sends a POST's query as a form: an address, with the token in it, would end up in logs."""

    def urlopen(self, method: str, url: str, redirect: bool = True, **arguments: Any) -> BaseHTTPResponse:  # type: ignore[override]
        parts = urlsplit(url)
        if method == "POST":
            headers = {**(arguments.get("headers") or {}), "Content-Type": "application/x-www-form-urlencoded"}
            arguments.update(body=parts.query, headers=headers)
            url = urlunsplit(parts._replace(query=""))
        return super().urlopen(method, url, redirect, **arguments)


def _reason(error: BaseException) -> str:
    """Why a source gave nothing, in words that cannot hold what it read."""
    status = re.search(r"failed with HTTP status code (\d{3})$", str(error))
    if status:
        return f"HTTP status {status[1]}"
    if isinstance(error, ValueError):
        return "nothing there"
    return error.strerror or "" if isinstance(error, OSError) else type(error).__name__
