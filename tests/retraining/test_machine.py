"""What tells machines apart that round differently."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unsee.params import load_params
from unsee.retraining import machine
from unsee.retraining.machine import Machine, here, machine_for

CPU = torch.device("cpu")


def test_facts_survive_json() -> None:
    found = here(CPU, 2, 3)
    assert Machine.of_facts(json.loads(json.dumps(found.facts()))) == found
    assert found.device == "cpu"
    assert found.libraries["torch"] == torch.__version__
    for changes in ({"processes": 1}, {"threads": 1}, {"cpu": "?"}, {"libraries": {**found.libraries, "torch": "1"}}):
        assert replace(found, **changes) != found


@pytest.mark.parametrize("facts", [{}, {"device": "cpu"}, {**here(CPU, 1, 1).facts(), "more": 1}])
def test_other_facts_are_refused(facts: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError)):
        Machine.of_facts(facts)


def test_the_processor_is_named_wherever_its_name_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "_CPU_FACTS", told)
    nameless = here(CPU, 1, 1).cpu
    told.write_text("processor : 0\nmodel name\t: Abacus 3000\n\nmodel name\t: Other\n")
    assert here(CPU, 1, 1).cpu == f"Abacus 3000, {torch.backends.cpu.get_cpu_capability()}"
    told.write_text("processor : 0\n")
    assert here(CPU, 1, 1).cpu == nameless != ""


@pytest.mark.parametrize(
    ("cores", "asked", "expected"), [(1, 2, (1, 1)), (2, 2, (2, 1)), (8, 2, (2, 4)), (64, 99, (32, 2)), (8, 1, (1, 8))]
)
def test_cores_are_shared_out(
    monkeypatch: pytest.MonkeyPatch, cores: int, asked: int, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(machine, "usable_processors", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    found = machine_for(load_params(None, {"train.processes": asked}).train, CPU)
    assert (found.processes, found.threads) == expected


def test_no_more_threads_than_the_user_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_processors", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    found = machine_for(load_params(None, {"train.processes": 2}).train, CPU)
    assert (found.processes, found.threads) == (2, 1)
