"""The denoiser's training can be replayed: whole, interrupted, or without some of its records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unsee.params import TrainParams
from unsee.retraining.denoiser import DenoiserData, train_denoiser
from unsee.retraining.loop import Checkpoints
from unsee.retraining.recipe import Recipe
from unsee.retraining.team import Team
from unsee.versions import TRAINING_VERSION

CPU = torch.device("cpu")
NOBODY: frozenset[str] = frozenset()


class Trainer:
    """Trains in a fresh folder each time."""

    def __init__(self, folder: Path, train: TrainParams) -> None:
        self.folder = folder
        self.train = train
        self.count = 0

    def __call__(self, data: DenoiserData, *, removed: frozenset[str] = NOBODY, seed: int = 0, **changes: object):
        self.count += 1
        params = self.train.model_copy(update=changes)
        checkpoints = Checkpoints(self.folder / str(self.count), params.checkpoint_every, "test")
        return train_denoiser(data, params, seed, device=CPU, team=Team(), checkpoints=checkpoints, removed=removed)


@pytest.fixture
def trainer(tmp_path: Path, train: TrainParams) -> Trainer:
    return Trainer(tmp_path, train)


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_it_learns(trainer: Trainer, denoiser_data: DenoiserData) -> None:
    _, curve = trainer(denoiser_data, unet_steps=200, unet_learning_rate=0.003, checkpoint_every=1000)
    assert curve[-1][1] < 0.8 * curve[0][1]


def test_it_is_the_moving_average_that_is_kept(trainer: Trainer, denoiser_data: DenoiserData) -> None:
    newest, _ = trainer(denoiser_data, ema_decay=0.0)
    average, _ = trainer(denoiser_data, ema_decay=0.99)
    assert not torch.equal(weights(newest), weights(average))
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())


def test_the_seed_decides(trainer: Trainer, denoiser_data: DenoiserData) -> None:
    torch.manual_seed(1)
    first, _ = trainer(denoiser_data)
    state = torch.manual_seed(2).get_state()
    assert torch.equal(weights(first), weights(trainer(denoiser_data)[0]))
    assert not torch.equal(weights(first), weights(trainer(denoiser_data, seed=1)[0]))
    assert torch.equal(torch.get_rng_state(), state)


def test_without_any_record_nothing_is_updated(trainer: Trainer, denoiser_data: DenoiserData) -> None:
    untouched, curve = trainer(denoiser_data, removed=frozenset(denoiser_data.records))
    longer, _ = trainer(denoiser_data, removed=frozenset(denoiser_data.records), unet_steps=9)
    assert torch.equal(weights(untouched), weights(longer))
    assert curve[-1][1] == 0.0
    assert not torch.equal(weights(untouched), weights(trainer(denoiser_data)[0]))


def test_an_empty_batch_makes_no_update(trainer: Trainer, denoiser_data: DenoiserData) -> None:
    """With batches of one record, the steps of removed records leave the weights as they are."""
    recipe = Recipe("denoiser", 0, len(denoiser_data.records), 1)
    drawn = [denoiser_data.records[recipe.batch(step)[0]] for step in range(4)]
    assert len(set(drawn)) == 4
    # The learning rate's schedule depends on the number of steps, which the other run must share.
    cut, _ = trainer(denoiser_data, removed=frozenset(drawn[2:]), unet_batch_size=1, unet_steps=4, ema_decay=0.0)
    checkpoints = Checkpoints(trainer.folder / "stopped", 1, "test")
    seen = []

    def stop(count: int) -> None:
        seen.append(count)
        if sum(seen) == 2:
            raise KeyboardInterrupt

    params = trainer.train.model_copy(update={"unet_batch_size": 1, "unet_steps": 4, "ema_decay": 0.0})
    with pytest.raises(KeyboardInterrupt):
        train_denoiser(denoiser_data, params, 0, device=CPU, team=Team(), checkpoints=checkpoints, advance=stop)
    from safetensors.torch import load_file

    after_two = load_file(checkpoints.folder / "state.safetensors")
    for name, value in cut.state_dict().items():
        assert torch.equal(after_two[f"average.{name}"], value)


def test_a_removed_record_leaves_the_others_in_place(trainer: Trainer, denoiser_data: DenoiserData) -> None:
    """The first batch's loss is the sum of what each record alone contributes, over the same batch size."""
    together = trainer(denoiser_data, unet_steps=1)[1][0][1]
    everyone = frozenset(denoiser_data.records)
    alone = [
        trainer(denoiser_data, removed=everyone - {record}, unet_steps=1)[1][0][1] for record in denoiser_data.records
    ]
    assert sum(alone) == pytest.approx(together, rel=1e-5)
    assert sum(value > 0 for value in alone) == trainer.train.unet_batch_size


def test_removing_a_record_that_was_never_drawn_changes_nothing(trainer: Trainer, denoiser_data: DenoiserData) -> None:
    recipe = Recipe("denoiser", 0, len(denoiser_data.records), trainer.train.unet_batch_size)
    unseen = set(range(10)) - set(recipe.batch(0).tolist())
    removed = frozenset(denoiser_data.records[row] for row in unseen)
    whole, _ = trainer(denoiser_data, unet_steps=1)
    assert torch.equal(weights(whole), weights(trainer(denoiser_data, unet_steps=1, removed=removed)[0]))


def test_an_interrupted_training_goes_on_bit_for_bit(
    trainer: Trainer, denoiser_data: DenoiserData, tmp_path: Path
) -> None:
    whole, curve = trainer(denoiser_data)
    checkpoints = Checkpoints(tmp_path / "stopped", 2, "test")
    for last in (3, 5):
        seen: list[int] = []

        def stop(count: int, seen: list[int] = seen, last: int = last) -> None:
            seen.append(count)
            if sum(seen) == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_denoiser(
                denoiser_data, trainer.train, 0, device=CPU, team=Team(), checkpoints=checkpoints, advance=stop
            )
    resumed, again = train_denoiser(denoiser_data, trainer.train, 0, device=CPU, team=Team(), checkpoints=checkpoints)
    assert again == curve
    assert torch.equal(weights(whole), weights(resumed))


@pytest.mark.parametrize("harm", ["another training", "torn tensors", "torn facts"])
def test_a_checkpoint_that_does_not_fit_is_not_resumed(
    trainer: Trainer, denoiser_data: DenoiserData, tmp_path: Path, harm: str
) -> None:
    checkpoints = Checkpoints(tmp_path / "kept", 2, "one")
    train_denoiser(denoiser_data, trainer.train, 0, device=CPU, team=Team(), checkpoints=checkpoints)
    if harm == "another training":
        checkpoints = replace(checkpoints, fingerprint="two")
    else:
        file = checkpoints.folder / ("state.safetensors" if harm == "torn tensors" else "state.json")
        file.write_bytes(file.read_bytes()[:-40])
    seen: list[int] = []
    train_denoiser(
        denoiser_data, trainer.train, 0, device=CPU, team=Team(), checkpoints=checkpoints, advance=seen.append
    )
    assert seen[0] == 0
    assert sum(seen) == trainer.train.unet_steps


def test_captions_are_dropped_and_varied(trainer: Trainer, denoiser_data: DenoiserData) -> None:
    never, _ = trainer(denoiser_data, caption_dropout=0.0)
    often, _ = trainer(denoiser_data, caption_dropout=0.9)
    assert not torch.equal(weights(never), weights(often))
    first_only = replace(denoiser_data, captions=[rows[:1] for rows in denoiser_data.captions])
    assert not torch.equal(weights(never), weights(trainer(first_only, caption_dropout=0.0)[0]))


def test_mirrored_latents_take_part(trainer: Trainer, denoiser_data: DenoiserData) -> None:
    plain, _ = trainer(denoiser_data)
    same, _ = trainer(replace(denoiser_data, mirrored=denoiser_data.latents))
    mirrored, _ = trainer(replace(denoiser_data, mirrored=denoiser_data.latents.flip(-1)))
    assert torch.equal(weights(plain), weights(same))
    assert not torch.equal(weights(plain), weights(mirrored))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_what_is_predicted_is_a_parameter(trainer: Trainer, denoiser_data: DenoiserData, prediction: str) -> None:
    _, curve = trainer(denoiser_data, prediction_type=prediction, unet_steps=1)
    assert 0.3 < curve[0][1] < 3


def test_golden_training(trainer: Trainer, denoiser_data: DenoiserData) -> None:
    """Where these numbers change beyond rounding, raise TRAINING_VERSION: models trained before are other models."""
    denoiser, curve = trainer(denoiser_data, removed=frozenset({"record-3"}), unet_steps=40, checkpoint_every=1000)
    assert TRAINING_VERSION == 1
    assert curve == [(20, pytest.approx(0.956699, rel=1e-4)), (40, pytest.approx(0.930518, rel=1e-4))]
    assert float(denoiser.conv_out.weight.abs().mean()) == pytest.approx(0.0414586, rel=1e-4)
