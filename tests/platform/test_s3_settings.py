"""Params first, then the environment, then a default; what cannot be used is said before a server is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsee.errors import InputError
from unsee.params import StoreParams, load_params
from unsee.platform.s3_settings import AMAZON, S3Settings, bucket_and_prefix, resolve

pytestmark = pytest.mark.usefixtures("no_credentials")


def settings(**changed: Any) -> StoreParams:
    return load_params(None, {f"store.{key}": value for key, value in changed.items()}).store


def test_with_nothing_set_it_is_amazons() -> None:
    assert resolve(settings()) == S3Settings(AMAZON, secure=True, region=None, path_style=False, ca_bundle=None)


def test_the_environment_stands_in_for_nulls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    monkeypatch.setenv("UNSEE_STORE_ENDPOINT", "http://store:9000/")
    monkeypatch.setenv("UNSEE_STORE_REGION", "")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    monkeypatch.setenv("UNSEE_STORE_CA_BUNDLE", str(bundle))
    found = resolve(settings())
    assert found == S3Settings("store:9000", secure=False, region="eu-west-3", path_style=True, ca_bundle=bundle)
    assert found.url == "http://store:9000"
    monkeypatch.setenv("UNSEE_STORE_REGION", "here")
    monkeypatch.setenv("UNSEE_STORE_PATH_STYLE", "False")
    assert resolve(settings()).region == "here"
    assert not resolve(settings()).path_style


def test_params_come_before_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNSEE_STORE_ENDPOINT", "http://elsewhere")
    monkeypatch.setenv("UNSEE_STORE_REGION", "elsewhere")
    monkeypatch.setenv("UNSEE_STORE_SECURE", "false")
    monkeypatch.setenv("UNSEE_STORE_PATH_STYLE", "false")
    found = resolve(settings(endpoint="[::1]:9000", region="here", secure=True, path_style=True))
    assert found == S3Settings("[::1]:9000", secure=True, region="here", path_style=True, ca_bundle=None)


def test_another_server_than_amazons_needs_no_region() -> None:
    assert resolve(settings(endpoint="store.example.com")).region == "us-east-1"
    assert resolve(settings(endpoint="https://s3.eu-west-1.amazonaws.com")).region is None


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"endpoint": "ftp://store"}, "store.endpoint"),
        ({"endpoint": "http://key:secret@store"}, "store.endpoint"),
        ({"endpoint": "http://store/path?secret"}, "store.endpoint"),
        ({"endpoint": "http://store", "secure": True}, "store.secure"),
        ({"region": "no region"}, "store.region"),
        ({"ca_bundle": "none.pem"}, "store.ca_bundle"),
    ],
)
def test_what_cannot_be_used_is_named(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(settings(**changed))
    assert caught.value.field == field
    assert caught.value.remedy
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "variable", ["UNSEE_STORE_ENDPOINT", "UNSEE_STORE_SECURE", "UNSEE_STORE_CA_BUNDLE", "AWS_REGION"]
)
def test_a_variable_that_cannot_be_used_is_named(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "not / this")
    with pytest.raises(InputError) as caught:
        resolve(settings())
    assert caught.value.field == variable


def test_addresses_of_buckets() -> None:
    assert bucket_and_prefix("s3://unsee/some/prefix/") == ("unsee", "some/prefix")
    assert bucket_and_prefix("s3://unsee") == ("unsee", "")
    assert bucket_and_prefix("s3://unsee/") == ("unsee", "")
    for bad in ("s3://", "s3:///x", "s3://ab/x", "s3://Upper/x", "s3://bucket/../x", "s3://bucket//x", "s3://b_c/x"):
        with pytest.raises(InputError, match="is not the address of a bucket and a prefix"):
            bucket_and_prefix(bad)
    with pytest.raises(InputError) as caught:
        bucket_and_prefix("s3://key:secret@bucket/x")
    assert "secret" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_is_refused(text: str) -> None:
    try:
        bucket, prefix = bucket_and_prefix(f"s3://{text}")
    except InputError:
        return
    assert text.rstrip("/") == f"{bucket}/{prefix}".rstrip("/")
    assert "/" not in bucket
    assert ".." not in prefix.split("/")
