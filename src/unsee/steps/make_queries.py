"""Step `make_queries`: generate the pictures that are asked about, or take the ones that were given."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unsee import artifacts
from unsee.errors import InputError
from unsee.models.encoded_set import pixels_to_unit
from unsee.models.pipeline import DiffusersModel
from unsee.params import Params
from unsee.records import imagefolder, query_set
from unsee.records.identity import pixel_digest
from unsee.records.images import Unreadable, open_rgb
from unsee.records.query_set import Query, query_id
from unsee.records.training_set import fit
from unsee.steps.common import Inputs, audited_model
from unsee.steps.registry import made_with


def run(inputs: Inputs, params: Params, out: Path) -> None:
    """Make the QuerySet; a picture that cannot be read fails its own query, not the others.

    Args:
        inputs: `train_reference`.
        params: all parameters.
        out: folder of the QuerySet to write.

    Raises:
        InputError: the same picture and prompt were given twice.
    """
    model = audited_model(inputs, params)
    files = given_pictures(params)
    queries = _generated(params, model) if files is None else _given(files, params, model)
    seen: set[str] = set()
    for query in queries:
        if query.query in seen:
            problem = f"names the same picture and prompt twice ('{query.prompt}')."
            raise InputError(problem, field="queries", remedy="Name each once.")
        seen.add(query.query)
    usable = [query for query in queries if query.failure is None]
    meta: dict[str, Any] = made_with("make_queries", params)
    with artifacts.writing(out, query_set.KIND, query_set.SCHEMA_VERSION, meta) as part:
        latents = model.encode_pictures(pixels_to_unit(_pixels(usable))) if usable else None
        texts = model.encode_texts([query.prompt for query in usable]) if usable else {}
        query_set.write(part, queries, latents, texts)
        meta.update(
            {
                **made_with("make_queries", params),
                "model": model.digest,
                "queries": len(queries),
                "failed": len(queries) - len(usable),
            }
        )


def outside(params: Params) -> Any:
    """The content of the given picture files."""
    files = given_pictures(params)
    if files is None:
        return []
    return [[prompt, artifacts.file_sha256(path) if path.is_file() else None] for path, prompt in files]


def given_pictures(params: Params) -> list[tuple[Path, str]] | None:
    """The picture files to ask about, each with its prompt; None where pictures are to be generated.

    Raises:
        InputError: the folder, or what its metadata names, is not there.
    """
    asked = params.queries
    if asked.folder is not None:
        folder = Path(asked.folder)
        entries = imagefolder.read_metadata(folder, asked.folder)
        return [(folder / entry.file_name, entry.captions[0]) for entry in entries]
    if asked.pictures:
        return list(zip(map(Path, asked.pictures), asked.prompts, strict=True))
    return None


def _generated(params: Params, model: DiffusersModel) -> list[Query]:
    asked = params.queries
    seeds = [asked.seed + i for i in range(len(asked.prompts))]
    pictures = model.generate(asked.prompts, seeds, guidance=asked.guidance, steps=asked.steps)
    queries = []
    for prompt, seed, pixels in zip(asked.prompts, seeds, pictures, strict=True):
        picture = Image.fromarray(pixels.numpy())
        queries.append(
            Query(
                query_id(prompt, pixel_digest(picture)),
                prompt,
                _png(picture),
                source=None,
                seed=seed,
                guidance=asked.guidance,
                steps=asked.steps,
                failure=None,
            )
        )
    return queries


def _given(files: list[tuple[Path, str]], params: Params, model: DiffusersModel) -> list[Query]:
    queries = []
    for path, prompt in files:
        name = str(path)
        try:
            picture, _ = open_rgb(path, params.data.max_megapixels)
        except Unreadable as error:
            failed = query_id(prompt, name)
            queries.append(Query(failed, prompt, None, name, None, None, None, failure=f"{name}: {error}"))
            continue
        identity = query_id(prompt, pixel_digest(picture))
        queries.append(Query(identity, prompt, _png(fit(picture, model.resolution)), name, None, None, None, None))
    return queries


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _pixels(queries: list[Query]) -> np.ndarray:
    pictures = []
    for query in queries:
        with Image.open(io.BytesIO(query.png or b"")) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    return np.stack(pictures)
