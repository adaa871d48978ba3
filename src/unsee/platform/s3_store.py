"""An object store in a bucket of any S3, through the minio SDK."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from xml.etree.ElementTree import ParseError

import certifi
from minio import Minio, S3Error
from minio.error import InvalidResponseError, ServerError
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError
from urllib3.util import Retry, Timeout

from unsee import __version__
from unsee.artifacts import file_sha256
from unsee.cache import S3, DamagedObject, check_digest, check_key, is_key, whole_file
from unsee.errors import EnvironmentProblem
from unsee.params import StoreParams
from unsee.platform.guard import one_line
from unsee.platform.object_store import Stored
from unsee.platform.s3_credentials import Chain
from unsee.platform.s3_settings import S3Settings, bucket_and_prefix, resolve

PART_BYTES = 16 << 20
"""Larger objects are sent in parts of this size, three at a time;"""
MOST_PARTS = 10_000
"""or of a larger one, where they would be more than S3 takes."""
CONNECT_SECONDS, READ_SECONDS = 5, 60
"""Waited for a connection, and for a server that has said nothing."""
ATTEMPTS = 4
"""Of whatever may work a moment later."""
_PAUSE_SECONDS = 0.25
_CHUNK = 1 << 20
_DIGEST = "sha256"

_MISSING = {"NoSuchKey", "NoSuchObject", "ResourceNotFound"}
_UNKNOWN = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidTokenId", "ExpiredToken"}
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", *_UNKNOWN}
_REGION = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException", "Redirect"}


class S3Store:
    """`ObjectStore` in a bucket, below a prefix.

    An object's sha256 is kept in its metadata and compared when the object is read. What fails in passing (no
    connection, a busy or broken server) is tried four times, with pauses that double.
    """

    readers = 8

    def __init__(
        self,
        settings: S3Settings,
        bucket: str,
        prefix: str,
        *,
        part_bytes: int = PART_BYTES,
        attempts: int = ATTEMPTS,
    ) -> None:
        self._settings = settings
        self._bucket = bucket
        self._below = f"{prefix}/" if prefix else ""
        self._part_bytes = part_bytes
        self._attempts = attempts
        ca_certs = str(settings.ca_bundle or certifi.where())
        retries = Retry(
            total=attempts - 1,
            backoff_factor=_PAUSE_SECONDS,
            backoff_jitter=_PAUSE_SECONDS,
            status_forcelist=(408, 429, 500, 502, 503, 504),
            # Also POST: what was done twice does no harm, see `_send`.
            allowed_methods=None,
            raise_on_status=False,
            # A server could ask for hours.
            respect_retry_after_header=False,
        )
        timeout = Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        self._client = Minio(
            settings.host,
            secure=settings.secure,
            region=settings.region,
            credentials=Chain(ca_certs, settings.region),
            http_client=PoolManager(timeout=timeout, retries=retries, maxsize=16, ca_certs=ca_certs),
        )
        self._client.set_app_info("unsee", __version__)
        if settings.path_style:
            self._client.disable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
        else:
            self._client.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]

    @classmethod
    def open(cls, uri: str, settings: StoreParams) -> S3Store:
        """The store at `s3://bucket/prefix`; raises `InputError` where it or a setting cannot be used."""
        return cls(resolve(settings), *bucket_and_prefix(uri))

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix`."""
        return f"{S3}{self._bucket}/{self._below}".removesuffix("/")

    def keys(self, prefix: str) -> list[str]:
        """See `Blobs`."""
        with self._told():
            found = self._client.list_objects(self._bucket, prefix=self._below + prefix, recursive=True)
            names = [str(item.object_name).removeprefix(self._below) for item in found if not item.is_dir]
        return sorted(name for name in names if is_key(name))

    def exists(self, key: str) -> bool:
        """See `Blobs`."""
        return self.stat(key) is not None

    def stat(self, key: str) -> Stored | None:
        """See `ObjectStore`."""
        with self._told(), _none_where_missing():
            found = self._client.stat_object(self._bucket, self._name(key))
            noted = (found.metadata or {}).get(f"x-amz-meta-{_DIGEST}")
            return Stored(key, int(found.size or 0), noted, found.etag)
        return None

    def get(self, key: str) -> bytes | None:
        """See `Blobs`."""
        buffer = io.BytesIO()
        with self._told(), _none_where_missing():
            self._receive(key, buffer)
            return buffer.getvalue()
        return None

    def get_file(self, key: str, path: Path) -> bool:
        """See `ObjectStore`."""
        with self._told(), _none_where_missing(), whole_file(path) as part, part.open("wb") as file:
            self._receive(key, file)
            return True
        return False

    def put(self, key: str, data: bytes) -> None:
        """See `Blobs`."""
        self._send(key, io.BytesIO(data), len(data), hashlib.sha256(data).hexdigest())

    def put_file(self, key: str, path: Path) -> None:
        """See `ObjectStore`."""
        digest = file_sha256(path)
        with path.open("rb") as file:
            self._send(key, file, path.stat().st_size, digest)

    def delete(self, key: str) -> None:
        """See `Blobs`."""
        with self._told(), _none_where_missing():
            self._client.remove_object(self._bucket, self._name(key))

    def _name(self, key: str) -> str:
        return self._below + check_key(key)

    def _send(self, key: str, data: BinaryIO, size: int, digest: str) -> None:
        part_bytes = max(self._part_bytes, math.ceil(size / MOST_PARTS))
        name = self._name(key)
        with self._told():
            try:
                self._client.put_object(
                    self._bucket, name, data, size, metadata={_DIGEST: digest}, part_size=part_bytes
                )
            except S3Error as error:
                # Had the answer to an upload's last request been lost, and the request sent again, all is well.
                stored = self.stat(key) if error.code == "NoSuchUpload" else None
                if stored is None or stored.sha256 != digest:
                    raise

    def _receive(self, key: str, into: BinaryIO) -> None:
        """Write an object to `into`, from the start again where the connection breaks; its digest is compared."""
        for attempt in range(self._attempts):
            try:
                digest, noted = self._stream(self._name(key), into)
            except S3Error as error:
                # A server that checks what it reads says so in this way; its other objects are fine.
                if error.code == "InternalError" and self.exists(key):
                    problem = "is damaged: the server cannot read it (InternalError)."
                    raise DamagedObject(problem, file=f"{self.uri}/{key}") from error
                raise
            except HTTPError as error:
                if attempt + 1 == self._attempts or isinstance(error, MaxRetryError):
                    raise
                into.seek(0)
                into.truncate()
                time.sleep(_PAUSE_SECONDS * 2**attempt)
            else:
                check_digest(self.uri, key, digest, noted)
                return

    def _stream(self, name: str, into: BinaryIO) -> tuple[str, str | None]:
        """Write an object to `into` as it comes; (its sha256, the one that was noted when it was stored)."""
        response = self._client.get_object(self._bucket, name)
        digest = hashlib.sha256()
        try:
            for chunk in response.stream(_CHUNK, decode_content=False):
                digest.update(chunk)
                into.write(chunk)
        finally:
            response.close()
            response.release_conn()
        return digest.hexdigest(), response.headers.get(f"x-amz-meta-{_DIGEST}")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What can go wrong, as errors that a person can act on."""
        try:
            yield
        except S3Error as error:
            raise self._refused(str(error.code)) from error
        except (InvalidResponseError, ParseError) as error:
            status = re.search(r"Response code: (\d+)", str(error))
            answer = f"answers with HTTP status {status[1]}, and not" if status else "does not answer"
            raise self._unreachable(f"{answer} as an S3 server does.", "store.endpoint") from error
        except ServerError as error:
            raise self._unreachable(f"answers with HTTP status {error.status_code}.", "store.endpoint") from error
        except HTTPError as error:
            reason = error.reason if isinstance(error, MaxRetryError) else error
            untrusted = isinstance(reason, SSLError)
            problem = f"cannot be reached ({one_line(reason or error)})."
            raise self._unreachable(problem, "store.ca_bundle" if untrusted else "store.endpoint") from error

    def _unreachable(self, problem: str, field: str) -> EnvironmentProblem:
        remedy = (
            "Name the authority that signed its certificate in store.ca_bundle."
            if field == "store.ca_bundle"
            else "Check store.endpoint (UNSEE_STORE_ENDPOINT), store.secure, and that the server runs."
        )
        return EnvironmentProblem(problem, file=self._settings.url, field=field, remedy=remedy)

    def _refused(self, code: str) -> EnvironmentProblem:
        where = f"{self.uri} at {self._settings.url}"
        if code == "NoSuchBucket":
            remedy = "Create it, or name another one."
            return EnvironmentProblem(
                f"there is no bucket '{self._bucket}'.", file=where, field="bucket", remedy=remedy
            )
        if code in _DENIED:
            remedy = (
                "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the credentials file or role in their place."
            )
            if code not in _UNKNOWN:
                remedy += " They must allow ListBucket, GetObject, PutObject and DeleteObject there."
            return EnvironmentProblem(f"access is denied ({code}).", file=where, field="S3 credentials", remedy=remedy)
        if code in _REGION:
            remedy = "Set store.region (UNSEE_STORE_REGION) to the bucket's region."
            return EnvironmentProblem(
                f"is in another region ({code}).", file=where, field="store.region", remedy=remedy
            )
        if code == "RequestTimeTooSkewed":
            return EnvironmentProblem("this machine's clock is wrong.", file=where, remedy="Set it.")
        return EnvironmentProblem(f"the server answers {code}.", file=where, remedy="See the server's log.")


@contextlib.contextmanager
def _none_where_missing() -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        if error.code not in _MISSING:
            raise
