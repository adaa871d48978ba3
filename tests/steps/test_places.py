"""Models and query pictures that lie in an S3 store instead of a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from servers import S3Server, seaweedfs
from tiny import RESOLUTION, write_training_set
from unsee import artifacts
from unsee.errors import InputError
from unsee.models.pipeline import model_digest
from unsee.params import Params, load_params
from unsee.platform.object_store import open_store
from unsee.records.query_set import QuerySet
from unsee.steps import encode, make_queries, train_reference, version_data
from unsee.steps.common import MODEL_KIND, MODEL_SCHEMA_VERSION, audited_folder
from unsee.steps.places import file_at, folder_at


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with seaweedfs(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture
def remote(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3.bucket}"


def upload(folder: Path, address: str) -> None:
    store = open_store(address, load_params().store)
    for path in artifacts.folder_files(folder):
        store.put_file(path.relative_to(folder).as_posix(), path)


def params(**changes: Any) -> Params:
    return load_params(None, {"data.source": "digits", "run.device": "cpu", "queries.steps": 2, **changes})


def test_a_model_in_a_store_is_audited_from_a_copy(remote: str, pipeline_folder: Path, tmp_path: Path) -> None:
    address = f"{remote}/models/tiny"
    upload(pipeline_folder, address)
    asked = params(**{"model.path": address, "data.resolution": None})
    assert version_data.resolution_of(asked) == RESOLUTION
    seen = train_reference.outside(asked)
    write_training_set(tmp_path / "version_data", 4)
    inputs = {"version_data": tmp_path / "version_data", "train_reference": tmp_path / "train_reference"}
    train_reference.run(inputs, asked, tmp_path / "train_reference")
    header = artifacts.read_header(tmp_path / "train_reference", MODEL_KIND, MODEL_SCHEMA_VERSION)
    assert header.meta["external"] == address
    assert audited_folder(inputs) == tmp_path / "train_reference" / artifacts.PIPELINE
    assert header.meta["model"] == model_digest(pipeline_folder)
    encode.run(inputs, asked, tmp_path / "encode")
    changed = tmp_path / "changed"
    shutil.copytree(pipeline_folder, changed)
    (changed / "unsee.json").write_text('{"flip": true}')
    upload(changed, address)
    assert train_reference.outside(asked) != seen


def test_pictures_in_a_store_are_asked_about_by_their_address(
    remote: str, pipeline_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = []
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (RESOLUTION, RESOLUTION), colour).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": f"a {colour} square"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    address = f"{remote}/asked"
    upload(folder, address)
    model = {"external": str(pipeline_folder), "model": model_digest(pipeline_folder)}
    with artifacts.writing(tmp_path / "train_reference", MODEL_KIND, MODEL_SCHEMA_VERSION, model):
        pass
    found = []
    for given, out in ((address, "remote"), (str(folder), "local")):
        asked = params(**{"model.path": str(pipeline_folder), "queries.folder": given})
        make_queries.run({"train_reference": tmp_path / "train_reference"}, asked, tmp_path / out)
        found.append(QuerySet.load(tmp_path / out).queries)
    assert [query.query for query in found[0]] == [query.query for query in found[1]]
    assert [query.source for query in found[0]] == [f"{address}/a.png", f"{address}/b.png"]
    assert [query.prompt for query in found[0]] == ["a red square", "a blue square"]


def test_nothing_at_an_address_is_told(remote: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)nowhere.*holds nothing"), folder_at(f"{remote}/nowhere", params(), "x"):
        pass
    with pytest.raises(InputError, match=r"(?s)report.json.*is not there"):
        file_at(f"{remote}/nowhere/report.json", params(), "report_uri", tmp_path / "r")
    assert not list(tmp_path.iterdir())
