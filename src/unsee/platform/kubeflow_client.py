"""The way to Kubeflow Pipelines: its own client, told how to get there, with time limits and errors for people.

No token is ever part of a message.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from unsee.credentials import without_credentials
from unsee.errors import EnvironmentProblem, InputError, UnseeError
from unsee.platform.guard import one_line

IN_CLUSTER_HOST = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
TOKEN_FILE = Path("/var/run/secrets/kubeflow/pipelines/token")
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a pod has a token for Kubeflow Pipelines, if it has one, and the name of its namespace."""
CONNECT_SECONDS, READ_SECONDS = 5, 60
"""Waited for a connection, and for a server that has said nothing."""
TIMEOUT = (CONNECT_SECONDS, READ_SECONDS)

_TOKEN = re.compile(r"[\x21-\x7e]+")


class Unanswered(EnvironmentProblem):
    """The server cannot be reached, or is out of order: in a while it may be there again."""


@dataclass(frozen=True)
class Access:
    """How Kubeflow Pipelines is reached.

    Attributes:
        host: address of its interface; None: that of the cluster this runs in, else through the current kubeconfig.
        token: shown to it.
        token_file: a file with the token in place of `token`, read anew for every request; None: a pod's own, if any.
        namespace: where runs belong to, in an installation for several users.
        ca_bundle: PEM file of the authorities that its certificate is checked with; None: the usual ones.
        ui: address of the user interface; None: as `host`.
    """

    host: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    namespace: str | None = None
    ca_bundle: Path | None = None
    ui: str | None = None


@cache
def client_class() -> Any:
    """`kfp.Client`, but for the requests that it makes of its own accord.

    Raises:
        EnvironmentProblem: kfp is not installed.
    """
    try:
        from kfp.client import Client
        from urllib3.util import Retry
    except ImportError as error:
        remedy = "Install it with `pip install 'unsee[pipelines]'`."
        raise EnvironmentProblem(f"kfp is not installed ({one_line(error)}).", remedy=remedy) from error

    class BoundedClient(Client):  # type: ignore[misc]
        """A client that says after seconds that nobody answers."""

        def _load_config(self, *arguments: Any) -> Any:
            configuration = super()._load_config(*arguments)
            host, refresh = configuration.host.rstrip("/"), configuration.refresh_api_key_hook
            configuration.host = host
            if refresh is not None:
                # A kubeconfig's own sets the address back to that of the Kubernetes API.
                def refreshed(given: Any) -> None:
                    refresh(given)
                    given.host = host

                configuration.refresh_api_key_hook = refreshed
            # A redirection is a login page's; a busy server is asked again where that does no harm.
            configuration.retries = Retry(
                total=2,
                connect=0,
                read=0,
                redirect=0,
                other=0,
                status=2,
                backoff_factor=0.5,
                status_forcelist=(429, 502, 503, 504),
                raise_on_redirect=False,
                raise_on_status=False,
                respect_retry_after_header=False,
            )
            return configuration

        def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
            # What the constructor would ask again and again; `Kubeflow.connect` asks once, and with a time limit.
            return self.api_models.V2beta1GetHealthzResponse()

    return BoundedClient


def settings_of(access: Access) -> dict[str, Any]:
    """Arguments of `kfp.Client`."""
    host = access.host or (IN_CLUSTER_HOST if os.environ.get("KUBERNETES_SERVICE_HOST") else None)
    if host is not None and not re.match(r"https?://[^/\s]+", host):
        problem, remedy = f"'{without_credentials(host)}' is no address.", "Write https://host or http://host:port."
        raise InputError(problem, field="host", remedy=remedy)
    if host is None and not _has_kubeconfig():
        remedy = "Name the address of Kubeflow Pipelines with --host or UNSEE_KFP_HOST."
        raise InputError("is not given, and there is no kubeconfig either.", field="host", remedy=remedy)
    if access.ca_bundle is not None and not access.ca_bundle.is_file():
        problem = "there is no such file."
        raise InputError(problem, file=access.ca_bundle, field="ca_bundle", remedy="Name a PEM file.")
    settings: dict[str, Any] = {"host": host, "ssl_ca_cert": str(access.ca_bundle) if access.ca_bundle else None}
    file = access.token_file or (TOKEN_FILE if TOKEN_FILE.is_file() else None)
    if access.token is not None:
        settings["existing_token"] = _plausible(access.token.strip(), "the token")
    elif file is not None:
        from kfp.client import ServiceAccountTokenVolumeCredentials

        try:
            _plausible(file.read_text(encoding="utf-8").strip(), str(file))
        except OSError as error:
            problem = f"cannot be read ({error.strerror})."
            raise InputError(problem, file=file, field="token_file", remedy="Name a file with a token.") from error
        except UnicodeDecodeError as error:
            raise InputError("holds no token.", file=file, remedy="Name a file with a token.") from error
        settings["credentials"] = ServiceAccountTokenVolumeCredentials(str(file))
    return settings


def pod_namespace() -> str | None:
    """The namespace of the pod that this runs in, if it runs in one."""
    try:
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _plausible(token: str, where: str) -> str:
    # What cannot stand in a header would be quoted in the error that says so.
    if not _TOKEN.fullmatch(token):
        remedy = "A token is one line of letters, digits and signs."
        raise InputError("is empty, or has characters that no token has.", file=where, remedy=remedy)
    return token


def _has_kubeconfig() -> bool:
    from kubernetes.config import ConfigException, list_kube_config_contexts

    try:
        list_kube_config_contexts()
    except (ConfigException, OSError, TypeError):
        return False
    return True


@contextlib.contextmanager
def told(where: str, missing: str | None = None, secret: str | None = None) -> Iterator[None]:
    """What can go wrong, as errors that a person can act on.

    Args:
        where: the server's address.
        missing: what it means that the server has nothing there.
        secret: what no message may show, even where the server repeats it.
    """
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

    where = without_credentials(where)
    try:
        yield
    except ApiException as error:
        # Not "from error": its text has everything that the server has sent.
        if not error.status:
            raise _untrusted(where, error.reason) from None
        raise _refused(where, error.status, _said(error, secret), missing) from None
    except HTTPError as error:
        reason = error.reason if isinstance(error, MaxRetryError) else error
        if isinstance(reason, SSLError):
            raise _untrusted(where, str(reason)) from error
        problem = f"cannot be reached ({one_line(reason or error)})."
        remedy = "Check the address (--host, UNSEE_KFP_HOST), and that the server runs."
        raise Unanswered(problem, file=where, remedy=remedy) from error


def _said(error: Any, secret: str | None) -> str:
    """The server's own words, of which its JSON has them under one name or another."""
    try:
        body = json.loads(error.body)
        text = body.get("message") or body.get("error_details") or body.get("error_message") or body.get("error")
    except (ValueError, TypeError, AttributeError):
        text = error.reason
    shown = without_credentials(str(text or "no reason"))
    return " ".join((shown.replace(secret, "***") if secret else shown).split())[:300]


def _untrusted(where: str, reason: str | None) -> EnvironmentProblem:
    problem = f"its certificate is not trusted ({' '.join(str(reason).split())[:200]})."
    remedy = "Name the authority that signed it with --ca-bundle or UNSEE_KFP_CA_BUNDLE."
    return EnvironmentProblem(problem, file=where, remedy=remedy)


def _refused(where: str, status: int, said: str, missing: str | None) -> UnseeError:
    if status == 404 and missing is not None:
        return InputError(missing, file=where, remedy="Check the id.")
    if status == 429 or status >= 500:
        return Unanswered(f"is out of order ({status}: {said}).", file=where, remedy="See the server's log.")
    if 300 <= status < 400:
        problem = f"answers with a redirection ({status}), as a login page does."
        return EnvironmentProblem(problem, file=where, remedy="Give a token: UNSEE_KFP_TOKEN or --token-file.")
    known = {
        401: (
            "the token is missing, or not accepted",
            "Give another one: UNSEE_KFP_TOKEN or --token-file. It may have expired.",
        ),
        403: (
            "it is not allowed",
            "Check --namespace, and that whoever the token stands for may use Kubeflow Pipelines in it.",
        ),
        404: ("has nothing there", "Check the address (--host, UNSEE_KFP_HOST): often it ends in /pipeline."),
    }
    if status in known:
        problem, remedy = known[status]
        return EnvironmentProblem(f"{problem} ({status}: {said}).", file=where, remedy=remedy)
    return InputError(f"refuses ({status}: {said}).", file=where, remedy="Correct what it names.")
