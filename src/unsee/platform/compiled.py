"""The compiled pipelines: where they lie, what they are called and which parameters they take."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import unsee
from unsee.errors import InputError

AUDIT = "attribution-audit"
REPRODUCTION = "reproduce-audit"
PIPELINES = (AUDIT, REPRODUCTION)

IN_CHECKOUT = Path("pipelines") / "compiled"
IN_PACKAGE = "compiled"

# The one in C is several times as fast.
_LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KINDS: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "STRING": ("text", (str,)),
    "NUMBER_INTEGER": ("a whole number", (int,)),
    "NUMBER_DOUBLE": ("a number", (int, float)),
    "BOOLEAN": ("true or false", (bool,)),
    "LIST": ("a list", (list,)),
    "STRUCT": ("a mapping", (dict,)),
}


@dataclass(frozen=True)
class Parameter:
    """One that a person fills in.

    Attributes:
        kind: Kubeflow's word for its type.
        choices: the values it may have; empty: any.
        required: it has no default.
    """

    name: str
    kind: str
    choices: tuple[str, ...]
    required: bool

    def read(self, text: str) -> Any:
        """A value as the command line gives it: text as it is, anything else in YAML.

        Raises:
            InputError: it is of another type, or none of the choices.
        """
        try:
            value = text if self.kind == "STRING" else yaml.safe_load(text)
        except yaml.YAMLError as error:
            problem = f"the value is not valid YAML ({' '.join(str(error).split())[:200]})."
            raise InputError(problem, field=self.name, remedy="Put it in quotes.") from error
        return self.check(value)

    def check(self, value: Any) -> Any:
        """The value itself; raises `InputError` where it is of another type, or none of the choices."""
        words, types = _KINDS.get(self.kind, ("", (object,)))
        # In Python true is a number.
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types and object not in types):
            raise InputError(f"is {value!r:.60}.", field=self.name, remedy=f"It must be {words}.")
        if self.choices and value not in self.choices:
            raise InputError(f"is {value!r:.60}.", field=self.name, remedy=f"Choose {' or '.join(self.choices)}.")
        return value


@dataclass(frozen=True)
class CompiledPipeline:
    """A pipeline as Kubeflow is given it.

    Attributes:
        path: the file.
        digest: its sha256.
        content: the file's documents, under the names that Kubeflow's interface gives them.
    """

    path: Path
    name: str
    digest: str
    content: Mapping[str, Any] = field(repr=False)
    parameters: Mapping[str, Parameter] = field(repr=False)

    @property
    def version(self) -> str:
        """Name of this version, of the form that Kubernetes takes for an object's name, too."""
        return version_name(self.name)


def version_name(pipeline: str) -> str:
    """What the version of a pipeline that comes with this version of unsee is called."""
    return f"{pipeline}-{unsee.__version__.replace('.', '-')}"


def checkout() -> Path | None:
    """The repository that this package is imported from, where it is."""
    root = Path(unsee.__file__).resolve().parents[2]
    return root if (root / "pipelines" / "compilation.py").is_file() and (root / "pyproject.toml").is_file() else None


def folder_of_compiled(given: Path | None = None) -> Path:
    """Where the compiled pipelines are: the folder that was given, the checkout's, or the installed package's."""
    if given is not None:
        return given
    root = checkout()
    return root / IN_CHECKOUT if root is not None else Path(unsee.__file__).resolve().parent / IN_PACKAGE


def read_compiled(name: str, folder: Path | None = None) -> CompiledPipeline:
    """A compiled pipeline.

    Args:
        name: one of `PIPELINES`.
        folder: see `folder_of_compiled`.

    Raises:
        InputError: there is none, or the file is something else.
    """
    if name not in PIPELINES:
        raise InputError(f"there is no pipeline '{name}'.", remedy=f"Pipelines are {' and '.join(PIPELINES)}.")
    path = folder_of_compiled(folder) / f"{name}.yaml"
    remedy = "Compile the pipelines with `unsee pipeline compile`, and name their folder with --compiled."
    try:
        data = path.read_bytes()
        spec, *others = list(yaml.load_all(data, _LOADER))
        found = spec["pipelineInfo"]["name"]
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        parameters = {key: _parameter(key, value) for key, value in declared.items()}
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}).", file=path, remedy=remedy) from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("is not a compiled pipeline.", file=path, remedy=remedy) from error
    if found != name:
        raise InputError(f"is the pipeline '{found}'.", file=path, field="pipelineInfo.name", remedy=remedy)
    content = {"pipeline_spec": spec, **({"platform_spec": others[0]} if others else {})}
    return CompiledPipeline(path, name, hashlib.sha256(data).hexdigest(), content, parameters)


def _parameter(name: str, declared: Mapping[str, Any]) -> Parameter:
    required = not declared.get("isOptional", False) and "defaultValue" not in declared
    return Parameter(name, declared["parameterType"], tuple(declared.get("literals", ())), required)
