"""How long does a step's task take in the image until its work begins?

Every component's own command, as the compiled pipeline has it, is run in a container that is locked down as in the
cluster. The clock stops at the line of the log with which the task says that its step begins; where inputs are missing
(nothing is handed over but params) the step is not begun, and it stops when the task has said so and has ended, a
little later. The classes of diffusers and transformers, which a step imports when it loads a model, are measured apart.

Needs Docker Engine and the image (`make image`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from typing import Any

from results import ROOT, write_results
from unsee.params import load_params
from unsee.steps.planning import handed_over
from unsee.steps.registry import STEPS

TIMES = 5
MODEL_CLASSES = "from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel"
LOCKED_DOWN = ("--rm", "--read-only", "--tmpfs=/tmp", "--tmpfs=/home/unsee", "--cap-drop=ALL", "--network=none")


def main() -> None:
    """Measure, then the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default=load_params().cluster.image)
    parser.add_argument("--steps", nargs="*", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--print", action="store_true", help="print the rows as JSON and write no file")
    asked = parser.parse_args()
    docker = shutil.which("docker")
    if docker is None:
        sys.exit("docker is not installed")
    commands = {step: task_command(step) for step in asked.steps}
    runs: dict[str, list[float]] = {step: [] for step in commands}
    empty: list[float] = []
    classes: list[float] = []
    # Round by round, so that a busy minute of the machine falls on all of them.
    for _ in range(asked.times):
        if not asked.print:
            container = [docker, "run", *LOCKED_DOWN, asked.image]
            empty.append(started([*container, "true"], None))
            classes.append(started([*container, "python", "-c", MODEL_CLASSES], None))
        for step, command in commands.items():
            runs[step].append(task_seconds(docker, asked.image, step, command))
    rows: list[dict[str, Any]] = [
        {"step": step, "seconds": round(statistics.median(times), 2), "runs": [round(t, 2) for t in times]}
        for step, times in runs.items()
    ]
    if asked.print:
        sys.stdout.write(json.dumps(rows) + "\n")
        return
    slowest = max(rows, key=lambda row: row["seconds"])
    figures = {
        "step_start_seconds": slowest["seconds"],
        "slowest_step": slowest["step"],
        "container_start_seconds": round(statistics.median(empty), 2),
        "model_classes_seconds": round(statistics.median(classes) - statistics.median(empty), 2),
        "times": asked.times,
    }
    write_results("startup", figures, rows)


def task_command(step: str) -> list[str]:
    """The command of a step's component, with params and artifacts that are nowhere."""
    sys.path.insert(0, str(ROOT))
    module = importlib.import_module(f"components.{step}.component")
    component = getattr(module, step).component_spec
    container = component.implementation.container
    inputs: dict[str, Any] = {"artifacts": {}, "parameterValues": {"params": handed_over(STEPS[step], load_params())}}
    for name, given in (component.inputs or {}).items():
        if is_artifact(given.type) and not given.optional:
            inputs["artifacts"][name] = artifact(name, given.type)
    outputs = {
        name: artifact(name, made.type) for name, made in (component.outputs or {}).items() if is_artifact(made.type)
    }
    told = {
        "inputs": inputs,
        "outputs": {"artifacts": outputs, "outputFile": "/tmp/outputs/executor_output.json"},  # noqa: S108
    }
    arguments = [json.dumps(told) if part == "{{$}}" else part for part in container.args]
    return [*container.command, *arguments]


def is_artifact(kind: str) -> bool:
    """Whether a component's input or output of this type is an artifact rather than a parameter."""
    return kind.startswith("system.")


def artifact(name: str, kind: str) -> dict[str, Any]:
    """An artifact as the launcher hands it over."""
    schema = {"schemaTitle": kind.partition("@")[0], "schemaVersion": "0.0.1"}
    return {"artifacts": [{"name": name, "type": schema, "uri": f"/tmp/artifacts/{name}", "metadata": {}}]}  # noqa: S108


def task_seconds(docker: str, image: str, step: str, command: list[str]) -> float:
    """Seconds from the container's start to the step's."""
    name = f"unsee-startup-{uuid.uuid4().hex[:12]}"
    try:
        return started([docker, "run", f"--name={name}", *LOCKED_DOWN, image, *command], f" task {step}")
    finally:
        subprocess.run([docker, "rm", "--force", name], capture_output=True, check=False)


def started(command: list[str], line: str | None) -> float:
    """Seconds until a command says that line on its error stream; or, if it never does, until it ends.

    Raises:
        RuntimeError: it failed for another reason than a missing input.
    """
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for text in process.stderr:
            said.append(text)
            if line is not None and text.rstrip().endswith(line):
                return time.perf_counter() - start
        code = process.wait()
        seconds = time.perf_counter() - start
    if code and "ArtifactError" not in "".join(said):
        raise RuntimeError("".join(said)[-3000:])
    return seconds


if __name__ == "__main__":
    main()
