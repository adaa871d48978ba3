"""Parameters of a pipeline, from what the command line says: the pipeline's own, and other keys of params.yaml."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from unsee.cli import options
from unsee.errors import InputError
from unsee.params import load_params
from unsee.platform.compiled import REPRODUCTION, CompiledPipeline
from unsee.steps.planning import LARGEST_FAN_OUT, PIPELINE_KEYS, pipeline_name

_KEY_OF = {pipeline_name(key): key for key in PIPELINE_KEYS}
_ELSEWHERE = {
    "cluster": "Compile the pipeline anew: `unsee pipeline compile --params FILE`.",
    "run.cache": "Set UNSEE_CACHE in the ConfigMap unsee-settings.",
    "run.part": "Set the parameter run_shards.",
    "tracking.uri": "Set MLFLOW_TRACKING_URI in the ConfigMap unsee-settings.",
}
"""What the installation decides, or the compiled pipeline: no run does."""
_OVERRIDES = "overrides"

_log = logging.getLogger(__name__)


def collect(pipeline: CompiledPipeline, settings: Iterable[str], overrides: Iterable[str]) -> dict[str, Any]:
    """What a run is started with: only what differs from the pipeline's defaults.

    Args:
        settings: `NAME=VALUE`, of the pipeline's own parameters.
        overrides: `KEY=VALUE` or files of params, whose keys need not have a parameter of their own.

    Raises:
        InputError: a name, a key or a value is wrong, something is given twice, or a parameter is missing.
    """
    values = _own(pipeline, settings)
    others: dict[str, Any] = values.pop(_OVERRIDES, {})
    for key, value in _keys(overrides).items():
        name = pipeline_name(key) if key in PIPELINE_KEYS and pipeline_name(key) in pipeline.parameters else None
        if (name in values) if name else (key in others):
            raise InputError("is given twice.", field=name or key, remedy="Give it once.")
        if name:
            values[name] = pipeline.parameters[name].check("" if value is None else value)
        else:
            others[key] = value
    _check(pipeline, values, others)
    return {**values, **({_OVERRIDES: others} if others else {})}


def _own(pipeline: CompiledPipeline, settings: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"'{setting}' is not NAME=VALUE.", field="--set", remedy="Write --set seed=7, say.")
        if name not in pipeline.parameters:
            remedy = (
                f"Set it with --overrides {setting}."
                if "." in name
                else f"Parameters are {', '.join(pipeline.parameters)}."
            )
            raise InputError(f"{pipeline.name} has no parameter '{name}'.", field="--set", remedy=remedy)
        if name in values:
            raise InputError("is given twice.", field=name, remedy="Give it once.")
        values[name] = pipeline.parameters[name].read(text)
    return values


def _keys(overrides: Iterable[str]) -> dict[str, Any]:
    """Values by dotted key; a later one wins over that of a file before it."""
    found: dict[str, Any] = {}
    for given in overrides:
        path = Path(given)
        if "=" in given and not path.is_file():
            found |= options.parsed([given])
        else:
            found |= _keys_of_file(path)
    return found


def _keys_of_file(path: Path) -> dict[str, Any]:
    load_params(path)
    given: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    flat = {
        f"{section}.{key}" if isinstance(values, dict) else section: value
        for section, values in given.items()
        for key, value in (values.items() if isinstance(values, dict) else [(section, values)])
    }
    left_out = sorted(key for key in flat if _decided_elsewhere(key))
    if left_out:
        _log.info("%s: %s is not for a run to decide, and not sent along", path, ", ".join(left_out))
    return {key: value for key, value in flat.items() if key not in left_out}


def _decided_elsewhere(key: str) -> str | None:
    return next((remedy for each, remedy in _ELSEWHERE.items() if f"{key}.".startswith(f"{each}.")), None)


def _check(pipeline: CompiledPipeline, values: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Find here what the run's first task would find minutes later."""
    missing = [each.name for each in pipeline.parameters.values() if each.required and each.name not in values]
    if missing:
        problem = f"{pipeline.name} needs {', '.join(missing)}."
        raise InputError(problem, field="--set", remedy=f"Write --set {missing[0]}=...")
    double = sorted(key for key in others if key in PIPELINE_KEYS and pipeline_name(key) in pipeline.parameters)
    if double:
        remedy = f"Write --set {pipeline_name(double[0])}=..."
        raise InputError("has a parameter of its own.", field=double[0], remedy=remedy)
    for key in others:
        elsewhere = _decided_elsewhere(key)
        if elsewhere is not None:
            raise InputError("is not for a run to decide.", field=key, remedy=elsewhere)
    strange = sorted(key for key in others if not key.startswith("tracking."))
    if pipeline.name == REPRODUCTION and strange:
        remedy = "A reproduction takes its params from the report; only tracking.* can be set."
        raise InputError("cannot be set.", field=strange[0], remedy=remedy)
    known = {_KEY_OF[name]: None if value == "" else value for name, value in values.items() if name in _KEY_OF}
    params = load_params(None, {**known, **others})
    if params.run.shards > LARGEST_FAN_OUT:
        remedy = f"Choose {LARGEST_FAN_OUT} or fewer."
        raise InputError(f"is {params.run.shards}.", field="run_shards", remedy=remedy)
