"""Step `encode`: the training set as the audited model sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unsee import artifacts
from unsee.models import encoded_set
from unsee.models.encoding_cache import RowCache, latents_place, texts_place
from unsee.models.pipeline import model_digest
from unsee.params import Params
from unsee.progress import Progress
from unsee.records.training_set import TrainingSet
from unsee.steps.common import Inputs, audited_folder, audited_model, content_cache, flips
from unsee.steps.registry import made_with


def run(inputs: Inputs, params: Params, out: Path) -> None:
    """Encode every picture and every distinct caption that the cache does not hold.

    Args:
        inputs: `version_data`, `train_reference`.
        params: all parameters.
        out: folder of the EncodedSet to write.
    """
    training_set = TrainingSet.load(inputs["version_data"])
    model = audited_model(inputs, params)
    folder = audited_folder(inputs)
    cache = content_cache(params)
    text_encoder = [model_digest(folder / part) for part in ("text_encoder", "tokenizer")]
    meta: dict[str, Any] = made_with("encode", params)
    with (
        artifacts.writing(out, encoded_set.KIND, encoded_set.SCHEMA_VERSION, meta) as part,
        Progress("Encoding records", total=len(training_set), unit="record") as progress,
    ):
        mirrored = True in flips(params, model)
        meta.update(
            encoded_set.encode_training_set(
                model,
                training_set,
                part,
                flips=mirrored,
                advance=progress.advance,
                latents=RowCache(cache, latents_place(model_digest(folder / "vae"), model.resolution)),
                texts=RowCache(cache, texts_place(text_encoder, model.name)),
            )
        )
