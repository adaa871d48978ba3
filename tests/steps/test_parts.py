"""Steps done part by part, as a cluster does them, give what they give in one go."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tiny import RESOLUTION, write_training_set
from unsee import artifacts
from unsee.attribution import fisher_artifact
from unsee.attribution.fisher_artifact import Fisher
from unsee.attribution.loss_table import LossTable
from unsee.attribution.scores import Scores
from unsee.attribution.unlearned_weights import UnlearnedWeights
from unsee.errors import ArtifactError
from unsee.models.pipeline import model_digest
from unsee.params import Params, load_params
from unsee.steps.common import MODEL_KIND, MODEL_SCHEMA_VERSION
from unsee.steps.registry import STEPS

FISHER = (fisher_artifact.KIND, fisher_artifact.SCHEMA_VERSION)
MANY = 16
OVERRIDES = {
    "data.source": "digits",
    "data.resolution": RESOLUTION,
    "loss.timesteps": 4,
    "fisher.draws": 2,
    "queries.prompts": ["the digit 3", "the digit 5", "the digit 8"],
    "queries.steps": 2,
    "unlearn.samples": 16,
    "unlearn.probe_samples": 16,
    "unlearn.loss_ratio": 1.01,
    "run.device": "cpu",
    "run.shards": 2,
    "tracking.enabled": False,
}


def run(work: Path, name: str, params: Params, out: Path) -> None:
    STEPS[name].run({upstream: work / upstream for upstream in STEPS[name].inputs}, params, out)


def in_parts(work: Path, name: str, params: Params, count: int) -> None:
    for index in range(count):
        mine = params.model_copy(update={"run": params.run.model_copy(update={"part": [index, count]})})
        run(work, name, mine, work / name / f"{index:05d}")


@pytest.fixture(scope="module")
def whole_and_parts(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same audit twice, the second part by part; each with a cache of its own."""
    folders = []
    for kind in ("whole", "parts"):
        work = tmp_path_factory.mktemp(kind)
        overrides = {**OVERRIDES, "model.path": str(pipeline_folder), "run.cache": str(work / "cache")}
        params = load_params(None, overrides)
        write_training_set(work / "version_data", 13)
        meta = {"external": str(pipeline_folder), "model": model_digest(pipeline_folder)}
        with artifacts.writing(work / "train_reference", MODEL_KIND, MODEL_SCHEMA_VERSION, meta):
            pass
        counts = {"cache_baseline": 3, "estimate_fisher": 4, "unlearn": 2, "score": 5}
        for name in ("encode", "cache_baseline", "estimate_fisher", "make_queries", "unlearn", "score"):
            if kind == "parts" and name in counts:
                in_parts(work, name, params, counts[name])
            else:
                run(work, name, params, work / name)
        folders.append(work)
    return folders[0], folders[1]


def test_fisher_and_baseline_parts_add_up(whole_and_parts: tuple[Path, Path]) -> None:
    whole, parts = whole_and_parts
    fisher, other = (Fisher.load(work / "estimate_fisher") for work in whole_and_parts)
    assert fisher.sums.count == other.sums.count
    assert fisher.records == other.records == 13
    for name, sums in fisher.sums.sums.items():
        np.testing.assert_allclose(other.sums.sums[name].numpy(), sums.numpy(), rtol=1e-4, atol=1e-12)
    table, split = LossTable.load(whole / "cache_baseline"), LossTable.load(parts / "cache_baseline")
    assert sorted(table.keys.to_pylist()) == sorted(split.keys.to_pylist())
    assert table.meta["grid"] == split.meta["grid"]


def test_scores_of_parts_are_the_scores(whole_and_parts: tuple[Path, Path]) -> None:
    scores, merged = (Scores.load(work / "score") for work in whole_and_parts)
    queries = [row.query for row in UnlearnedWeights.load(whole_and_parts[1] / "unlearn").queries]
    assert queries == list(scores.summaries) == list(merged.summaries)
    for query in queries:
        one, other = scores.ranking(query), merged.ranking(query)
        assert sorted(one.records) == sorted(other.records)
        assert other.rank.tolist() == list(range(1, 14))
        row = {record: number for number, record in enumerate(other.records)}
        order = [row[record] for record in one.records]
        summary, joined = scores.summaries[query], merged.summaries[query]
        assert summary.mean_baseline_loss is not None
        tolerance = 1e-5 * summary.mean_baseline_loss
        np.testing.assert_allclose(other.score[order], one.score, atol=tolerance, rtol=0)
        np.testing.assert_allclose(other.p_noise[order], one.p_noise, atol=1e-2)
        assert joined.mean_baseline_loss == pytest.approx(summary.mean_baseline_loss, rel=1e-5)
        assert joined.null_location == pytest.approx(summary.null_location, abs=tolerance)


def test_a_missing_double_or_foreign_part_is_told(whole_and_parts: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "fisher"
    shutil.copytree(whole_and_parts[1] / "estimate_fisher", folder)
    shutil.rmtree(folder / "00002")
    with pytest.raises(ArtifactError, match=r"the parts 1 of 4, 2 of 4, 4 of 4"):
        Fisher.load(folder)
    shutil.copytree(folder / "00001", folder / "00002")
    with pytest.raises(ArtifactError, match=r"2 of 4, 2 of 4"):
        Fisher.load(folder)
    shutil.rmtree(folder / "00002")
    shutil.copytree(whole_and_parts[1] / "estimate_fisher" / "00002", folder / "00002")
    header = artifacts.read_header(folder / "00002", *FISHER)
    artifacts.seal(folder / "00002", *FISHER, {**header.meta, "model": "another"})
    with pytest.raises(ArtifactError, match="not made from the same"):
        Fisher.load(folder)


def test_parts_made_with_other_params_are_not_merged(
    pipeline_folder: Path, whole_and_parts: tuple[Path, Path], tmp_path: Path
) -> None:
    parts, work = whole_and_parts[1], tmp_path / "work"
    shutil.copytree(parts, work)
    for name, other in (("estimate_fisher", {"fisher.draws": 5}), ("unlearn", {"unlearn.damping": 0.5})):
        overrides = {**OVERRIDES, "model.path": str(pipeline_folder), "run.cache": str(parts / "cache"), **other}
        params = load_params(None, overrides)
        count = len(artifacts.parts_below(work / name))
        mine = params.model_copy(update={"run": params.run.model_copy(update={"part": [0, count]})})
        run(work, name, mine, tmp_path / name)
        shutil.rmtree(work / name / "00000")
        shutil.copytree(tmp_path / name, work / name / "00000")
        load = Fisher.load if name == "estimate_fisher" else UnlearnedWeights.load
        with pytest.raises(ArtifactError, match="not made from the same"):
            load(work / name)
        shutil.copytree(parts / name / "00000", work / name / "00000", dirs_exist_ok=True)


def test_a_part_alone_is_not_the_whole(whole_and_parts: tuple[Path, Path]) -> None:
    with pytest.raises(ArtifactError, match="the parts 2 of 5"):
        Scores.load(whole_and_parts[1] / "score" / "00001")


def test_a_part_without_records_adds_nothing(pipeline_folder: Path, whole_and_parts: Any, tmp_path: Path) -> None:
    whole = whole_and_parts[0]
    work = tmp_path / "many"
    shutil.copytree(whole, work)
    overrides = {**OVERRIDES, "model.path": str(pipeline_folder), "run.cache": str(whole / "cache")}
    params = load_params(None, overrides)
    for name in ("cache_baseline", "estimate_fisher", "score"):
        shutil.rmtree(work / name)
        in_parts(work, name, params, MANY)
    counts = [len(pq.read_table(path / artifacts.SCORES)) for path in artifacts.parts_below(work / "score")]
    assert len(counts) == MANY
    assert counts.count(0) > 5
    scores, merged = Scores.load(whole / "score"), Scores.load(work / "score")
    for query, summary in merged.summaries.items():
        assert len(merged.ranking(query).records) == 13
        assert summary.null_location == pytest.approx(scores.summaries[query].null_location, abs=1e-6)
