"""Components are thin: what they do is in `unsee.steps`, and their READMEs say what their docstrings say."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from kfp.dsl.python_component import PythonComponent

from scripts import component_readmes
from scripts.component_readmes import component
from unsee.params import default_values
from unsee.steps.planning import PIPELINE_KEYS, WORKFLOW_TASKS, pipeline_name
from unsee.steps.registry import STEPS

LINES = 40
REPRODUCTION = {"recall", "compare"}


def body(shim: PythonComponent) -> list[str]:
    """Lines of code of the function, its docstring aside."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(shim.python_func)))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    function.body = function.body[1:]
    function.decorator_list = []
    return ast.unparse(function).splitlines()


def test_there_is_a_component_for_every_step_and_every_other_task() -> None:
    assert set(component_readmes.names()) == {*STEPS, *WORKFLOW_TASKS, *REPRODUCTION}


@pytest.mark.parametrize("name", component_readmes.names())
def test_a_component_is_a_shim(name: str) -> None:
    shim = component(name)
    assert len(body(shim)) <= LINES
    container = shim.component_spec.implementation.container
    assert container.image == default_values()["cluster"]["image"]
    command = " ".join(container.command)
    # Whatever the shim needs is in the image: nothing is installed when a task starts.
    assert "pip install" not in command


@pytest.mark.parametrize("name", STEPS)
def test_a_steps_component_takes_what_the_step_reads(name: str) -> None:
    spec = component(name).component_spec
    assert set(spec.inputs) - {"params", "part"} == set(STEPS[name].inputs)
    assert spec.inputs["params"].type == "String"
    optional = {key for key, item in spec.inputs.items() if item.optional}
    assert optional <= {"part", "verify"}
    types = [output.type.partition("@")[0] for output in spec.outputs.values()]
    assert "system.Metrics" in types
    assert f"from unsee.steps import {name}" in Path(inspect.getfile(component(name).python_func)).read_text()


def test_the_planner_takes_the_pipelines_parameters_and_tells_every_step() -> None:
    spec = component("plan").component_spec
    assert set(spec.inputs) == {*map(pipeline_name, PIPELINE_KEYS), "overrides", "force_rerun"}
    # Kubeflow matches what the function returns by position.
    assert list(spec.outputs) == [*STEPS, "shards", "chunks", "jobs"]
    recalled = [name for name in STEPS if name not in {"retrain", "verify"}]
    assert list(component("recall").component_spec.outputs) == ["original", *recalled, "shards", "chunks"]


def test_readmes_are_up_to_date() -> None:
    assert component_readmes.stale() == []
    with_readme = {path.parent.name for path in component_readmes.FOLDER.glob("*/README.md")}
    assert with_readme == set(component_readmes.names())


def test_a_changed_docstring_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = component("encode").component_spec
    monkeypatch.setattr(spec, "description", "Something else.")
    assert component_readmes.stale() == ["encode"]
