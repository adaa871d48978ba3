"""The loop ends the same wherever it was stopped, and goes on only from a checkpoint that is its own and whole."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unsee.retraining.loop import Checkpoints, fit
from unsee.retraining.optimisers import muon_with_adam
from unsee.retraining.team import Team

STEPS = 47


class Killed(Exception):
    pass


class Run:
    """A training of a small network; step 7 is empty, as one of removed records is."""

    def __init__(self, checkpoints: Checkpoints, stop_at: int | None = None) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.module = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 2))
        self.average = copy.deepcopy(self.module)
        self.checkpoints = checkpoints
        self.stop_at = stop_at
        self.taken: list[int] = []
        self.told: list[int] = []

    def loss_at(self, step: int) -> torch.Tensor | None:
        if step == self.stop_at:
            raise Killed
        self.taken.append(step)
        if step == 7:
            return None
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return (self.module(inputs) - inputs[:, :2]).square().mean()

    def fit(self) -> Run:
        self.curve = fit(
            self.module,
            muon_with_adam(self.module, 0.01),
            self.loss_at,
            steps=STEPS,
            rate_at=lambda step: 0.01 * (1 - step / STEPS),
            team=Team(),
            checkpoints=self.checkpoints,
            average=self.average,
            decay=0.9,
            advance=self.told.append,
        )
        return self


def assert_same(run: Run, whole: Run) -> None:
    assert run.curve == whole.curve
    for name in ("module", "average"):
        expected, found = getattr(whole, name).state_dict(), getattr(run, name).state_dict()
        assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(Checkpoints(tmp_path_factory.mktemp("whole") / "state", 1000, "one")).fit()


@settings(max_examples=25, deadline=None)
@given(stops=st.lists(st.integers(0, STEPS - 1), min_size=1, max_size=3), every=st.integers(1, 12))
def test_stopped_at_any_step_it_ends_bit_for_bit(whole: Run, stops: list[int], every: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder) / "state", every, "one")
        reached = 0
        for stop in sorted(stops):
            run = Run(checkpoints, stop_at=stop)
            with pytest.raises(Killed):
                run.fit()
            assert run.told[0] == reached
            reached = stop // every * every
        last = Run(checkpoints).fit()
        assert last.taken == list(range(reached, STEPS))
        assert sum(last.told) == STEPS
        assert_same(last, whole)
        # Nothing half written lies beside the checkpoint.
        assert {p.name for p in Path(folder).iterdir()} <= {"state"}


def test_a_kill_between_two_checkpoints_loses_none(whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "state", 10, "one")
    renames: list[Path] = []
    rename = Path.rename

    def killed_at_the_last(path: Path, target: Path) -> Path:
        renames.append(path)
        # The first checkpoint takes one rename; the second sets the first aside, then would take its place.
        if len(renames) == 3:
            raise Killed
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed_at_the_last)
        with pytest.raises(Killed):
            Run(checkpoints).fit()
    assert not checkpoints.folder.exists()
    last = Run(checkpoints).fit()
    assert last.taken[0] == 10
    assert_same(last, whole)


def test_the_curve_holds_the_means_between_its_points(whole: Run) -> None:
    assert [step for step, _ in whole.curve] == [20, 40, 47]
    assert whole.curve[0][1] > whole.curve[-1][1] > 0


def test_the_average_is_one_of_the_weights(tmp_path: Path) -> None:
    """a <- d a + (1 - d) w with d = min(decay, (1 + step) / (10 + step)), once an update."""
    run = Run(Checkpoints(tmp_path / "state", 1000, "one"))
    seen: list[list[torch.Tensor]] = []
    expected = [p.detach().clone() for p in run.average.parameters()]
    given_loss = run.loss_at

    def loss_at(step: int) -> torch.Tensor | None:
        seen.append([p.detach().clone() for p in run.module.parameters()])
        return given_loss(step)

    run.loss_at = loss_at
    run.fit()
    seen.append([p.detach().clone() for p in run.module.parameters()])
    for step in range(STEPS):
        if step != 7:
            decay = min(0.9, (1 + step) / (10 + step))
            expected = [decay * a + (1 - decay) * w for a, w in zip(expected, seen[step + 1], strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(seen[7], seen[8], strict=True))
    for found, value in zip(run.average.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), value, atol=1e-6, rtol=1e-5)


@pytest.fixture
def stopped(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "state", 10, "one")
    with pytest.raises(Killed):
        Run(checkpoints, stop_at=25).fit()
    return checkpoints


def test_a_whole_checkpoint_is_resumed(stopped: Checkpoints, whole: Run) -> None:
    run = Run(stopped).fit()
    assert run.taken[0] == 20
    assert_same(run, whole)


def test_a_checkpoint_of_another_training_is_not_resumed(stopped: Checkpoints, whole: Run) -> None:
    run = Run(replace(stopped, fingerprint="two")).fit()
    assert run.taken[0] == 0
    assert_same(run, whole)


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
def test_a_flipped_byte_is_noticed_wherever_it_is(stopped: Checkpoints, whole: Run, file: str) -> None:
    path = stopped.folder / file
    good = path.read_bytes()
    other = stopped.folder.parent / "other"
    for place in range(0, len(good), max(1, len(good) // 40)):
        bad = bytearray(good)
        # Low enough a bit that a digit stays a digit: the file is still JSON and says something else.
        bad[place] ^= 1
        other.mkdir(exist_ok=True)
        for source in stopped.folder.iterdir():
            (other / source.name).write_bytes(bytes(bad) if source.name == file else source.read_bytes())
        run = Run(replace(stopped, folder=other, every=1000)).fit()
        assert run.taken[0] == 0 or run.curve == whole.curve, (place, good[max(0, place - 10) : place + 10])
        assert_same(run, whole)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"facts": {}}', "\xff"])
def test_facts_that_are_none_are_not_resumed(stopped: Checkpoints, whole: Run, text: str) -> None:
    (stopped.folder / "state.json").write_bytes(text.encode("latin-1"))
    run = Run(stopped).fit()
    assert run.taken[0] == 0
    assert_same(run, whole)
