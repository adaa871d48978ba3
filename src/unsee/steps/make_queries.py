"""Step `make_queries`: generate the pictures that are asked about, or take the ones that were given."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
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
from unsee.steps.places import folder_at
from unsee.steps.registry import made_with


@dataclass(frozen=True)
class GivenPicture:
    """A picture file to ask about, the prompt it came from, and what it is called in the report."""

    path: Path
    prompt: str
    name: str


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
    with pictures_given(params) as files:
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
    with pictures_given(params) as files:
        if files is None:
            return []
        return [[g.prompt, artifacts.file_sha256(g.path) if g.path.is_file() else None] for g in files]


@contextlib.contextmanager
def pictures_given(params: Params) -> Iterator[list[GivenPicture] | None]:
    """The picture files to ask about; None where pictures are to be generated.

    Raises:
        InputError: the folder, or what its metadata names, is not there.
    """
    asked = params.queries
    if asked.folder is not None:
        with folder_at(asked.folder, params, "queries.folder") as folder:
            entries = imagefolder.read_metadata(folder, asked.folder)
            yield [
                GivenPicture(folder / e.file_name, e.captions[0], f"{asked.folder.rstrip('/')}/{e.file_name}")
                for e in entries
            ]
    elif asked.pictures:
        pairs = zip(asked.pictures, asked.prompts, strict=True)
        yield [GivenPicture(Path(name), prompt, name) for name, prompt in pairs]
    else:
        yield None


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


def _given(files: list[GivenPicture], params: Params, model: DiffusersModel) -> list[Query]:
    queries = []
    for given in files:
        name, prompt = given.name, given.prompt
        try:
            picture, _ = open_rgb(given.path, params.data.max_megapixels)
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
