"""Step `version_data`: the training set that everything else refers to, from whatever source the params name."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unsee import artifacts
from unsee.cache import local_root
from unsee.errors import InputError
from unsee.params import DataParams, Params
from unsee.progress import Progress
from unsee.records import digits, dvc_source, emoji, imagefolder, training_set
from unsee.records.candidates import Candidate, Intake
from unsee.records.npm import NpmMissing
from unsee.records.training_set import Quarantined, TrainingSetWriter
from unsee.steps.places import file_at, is_remote

_log = logging.getLogger(__name__)
_QUARANTINED_SHOWN = 5


def run(inputs: Mapping[str, Path], params: Params, out: Path) -> None:
    """Read the data source and write the TrainingSet.

    Where emoji are asked for and npm is not installed, scikit-learn's digits stand in; `fallback_from` in the
    header's metadata tells.

    Args:
        inputs: none, this step is the first.
        params: all parameters; relative paths in `data` are taken from the current folder.
        out: folder of the TrainingSet to write.

    Raises:
        InputError: the source cannot be used as it is, or holds no usable image.
        EnvironmentProblem: something cannot be fetched, or the disk is full.
    """
    resolution = resolution_of(params)
    with contextlib.ExitStack() as stack:
        intake = _open_source(params, stack)
        meta = dict(intake.meta)
        part = stack.enter_context(artifacts.writing(out, training_set.KIND, training_set.SCHEMA_VERSION, meta))
        writer = TrainingSetWriter(part, resolution)
        lost = _read(intake, writer)
        counts = writer.finish(intake.where)
        meta.update(counts)
        meta["metrics"] = {name: counts[name] for name in ("records", "duplicates", "quarantined")}
    _tell(meta, lost)


def outside(params: Params) -> dict[str, Any]:
    """What the training set depends on besides the params: the user's files, a branch's commit.

    Raises:
        InputError: there is no such folder, repository or revision.
    """
    data = params.data
    seen: dict[str, Any] = {"resolution": resolution_of(params)}
    if data.repo is not None and data.rev is not None:
        seen["commit"] = dvc_source.commit_of(data.repo, data.rev)
    elif data.path is not None:
        seen["files"] = imagefolder.fingerprint(Path(data.path))
    return seen


def outdated(params: Params, meta: Mapping[str, Any]) -> bool:
    """Whether the digits stand in for emoji that can be had by now; emoji that were had once stay."""
    stands_in = meta.get("fallback_from") == "emoji"
    return stands_in and emoji.obtainable(params.data.emoji_styles, _emoji_cache(params))


def _emoji_cache(params: Params) -> Path:
    return local_root(params.run.cache) / "emoji"


def _open_source(params: Params, stack: contextlib.ExitStack) -> Intake:
    """The source that the params name, with what the header says about it; `stack` holds what it needs open."""
    data = params.data
    if data.source == "folder":
        return _open_folder(data, stack)
    if data.source == "digits":
        return _said(digits.intake(), source="digits")
    try:
        return _said(emoji.intake(data.emoji_groups, data.emoji_styles, _emoji_cache(params)), source="emoji")
    except NpmMissing as error:
        _log.warning("%s Taking scikit-learn's handwritten digits instead of the emoji.", error)
        return _said(digits.intake(), source="digits", fallback_from="emoji")


def _open_folder(data: DataParams, stack: contextlib.ExitStack) -> Intake:
    path = str(data.path)
    if data.repo is None or data.rev is None:
        return _said(imagefolder.intake(Path(path), data.max_megapixels), source="folder")
    tracked = stack.enter_context(dvc_source.fetched(data.repo, data.rev, path))
    intake = imagefolder.intake(tracked.folder, data.max_megapixels, called=tracked.called, md5s=tracked.md5s)
    return _said(intake, source="folder", dvc=tracked.meta)


def _said(intake: Intake, **meta: Any) -> Intake:
    return Intake(intake.where, intake.total, intake.items, {**intake.meta, **meta})


def _read(intake: Intake, writer: TrainingSetWriter) -> list[Quarantined]:
    lost = []
    with Progress("Reading images", total=intake.total, unit="image") as progress:
        for item in intake.items:
            if isinstance(item, Candidate):
                writer.add(
                    item.picture,
                    item.captions,
                    item.source,
                    group=item.group,
                    license=item.license,
                    conversion=item.conversion,
                    md5=item.md5,
                )
            else:
                writer.quarantine(item.source, item.reason)
                lost.append(item)
            progress.advance(1)
    return lost


def _tell(meta: Mapping[str, Any], lost: list[Quarantined]) -> None:
    _log.info("training set: %d records, %d exact duplicates", meta["records"], meta["duplicates"])
    if lost:
        first = "; ".join(f"{item.source} {item.reason}" for item in lost[:_QUARANTINED_SHOWN])
        more = "; ..." if len(lost) > _QUARANTINED_SHOWN else ""
        _log.warning("%d files quarantined: %s%s", len(lost), first, more)


def resolution_of(params: Params) -> int:
    """`data.resolution`, or what the model in `model.path` draws, from its configuration alone.

    Raises:
        InputError: the model's folder is not a pipeline, or its configuration does not say.
    """
    if params.data.resolution is not None:
        return params.data.resolution
    from unsee.models.pipeline import check_folder

    folder = str(params.model.path)
    if not is_remote(folder):
        check_folder(Path(folder))
    try:
        size = _config(folder, "unet", params)["sample_size"]
        channels = _config(folder, "vae", params)["block_out_channels"]
        width = size[-1] if isinstance(size, list) else size
        return int(width) << (len(channels) - 1)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        problem = "does not say which resolution the model draws."
        raise InputError(problem, file=folder, field="sample_size", remedy="Set data.resolution.") from error


def _config(model: str, part: str, params: Params) -> Any:
    with tempfile.TemporaryDirectory() as scratch:
        path = file_at(f"{model.rstrip('/')}/{part}/config.json", params, "model.path", Path(scratch) / "config.json")
        return json.loads(path.read_text(encoding="utf-8"))
