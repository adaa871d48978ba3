"""Objects against the schemas of Kubernetes and of the custom resources' own definitions; unknown fields are errors."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from manifests.objects import Object, title

VERSIONS = ("1.33", "1.34", "1.35", "1.36")
CRDS = Path(__file__).parent / "crds"
QUANTITY = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\d+(\.\d+)?(m|k|[KMGTP]i?|e\d+)?$"}]}
INT_OR_STRING = {"type": ["integer", "string"]}


def violations(thing: Object, version: str) -> list[str]:
    """What an object has against the schema of its kind; custom resources do not depend on Kubernetes' version."""
    schema = custom_schema(thing["apiVersion"], thing["kind"])
    if schema is not None:
        errors = jsonschema.Draft202012Validator(schema).iter_errors(thing)
        return [f"{title(thing)}: {error.json_path}: {error.message}" for error in errors]
    try:
        kubernetes_validate.validate(thing, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{title(thing)}: {'.'.join(map(str, error.path))}: {error.message}"]
    return []


@cache
def custom_schema(api_version: str, kind: str) -> dict[str, Any] | None:
    """The schema of a custom resource; None for Kubernetes' own kinds.

    Raises:
        LookupError: a custom resource without a schema here; it would pass unchecked.
    """
    group = api_version.partition("/")[0]
    if "." not in group or (group.endswith(".k8s.io") and group != "kueue.x-k8s.io"):
        return None
    if group == "trainer.kubeflow.org":
        return _trainer_schema(kind)
    for path in CRDS.glob("*.json"):
        schemas = json.loads(path.read_text())["kinds"]
        if f"{api_version}/{kind}" in schemas:
            return dict(schemas[f"{api_version}/{kind}"])
    raise LookupError(f"no schema for {api_version} {kind}: add it to {CRDS.name}/")


def _trainer_schema(kind: str) -> dict[str, Any]:
    """From the package that Kubeflow Trainer generates from its own definitions, closed to unknown fields."""
    from kubeflow_trainer_api import models

    schema: dict[str, Any] = getattr(models, f"TrainerV1alpha1{kind}").model_json_schema(by_alias=True)
    # The generator's wrappers for these two hold Python values, not what stands in YAML.
    schema["$defs"]["IoK8sApimachineryPkgApiResourceQuantity"] = QUANTITY
    schema["$defs"]["IoK8sApimachineryPkgUtilIntstrIntOrString"] = INT_OR_STRING
    for part in (schema, *schema["$defs"].values()):
        if "properties" in part:
            part.setdefault("additionalProperties", False)
    return schema
