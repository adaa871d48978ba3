"""Step `verify` (optional): what the retrained models have lost on the queries, and what they draw instead."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unsee import artifacts
from unsee.errors import ArtifactError, EnvironmentProblem, InputError
from unsee.evaluation import counterfactual_artifact
from unsee.evaluation.counterfactual import (
    Encoder,
    Estimate,
    chance,
    delta_l,
    excess,
    picture_mse,
    picture_similarity,
)
from unsee.evaluation.counterfactual_artifact import Drawing, Effect, Proof, Removal
from unsee.params import Params
from unsee.progress import Progress
from unsee.retraining.jobs import KIND, SCHEMA_VERSION
from unsee.steps.registry import made_with

if TYPE_CHECKING:
    from torch import Tensor

    from unsee.attribution.grid import Grid
    from unsee.attribution.losses import Picture
    from unsee.models.pipeline import DiffusersModel
    from unsee.records.query_set import Query
    from unsee.retraining.machine import Machine
    from unsee.retraining.retrained import Trained
    from unsee.steps.common import Inputs

PURPOSE = "verify"
"""Of the noises: other ones than unlearning and scoring used."""

AUDITED, NOTHING = "audited", "nothing"
_ENCODER = "EfficientNet-Lite0"

_log = logging.getLogger(__name__)


def run(inputs: Inputs, params: Params, out: Path) -> None:
    """Measure Delta-L of every query and Delta-G of those that are proven, under every retrained model.

    Where nothing was retrained the artifact is empty, and no model is loaded.

    Args:
        inputs: `train_reference`, `make_queries`, `retrain` (an artifact, or a folder of its parts).
        params: all parameters.
        out: folder of the Counterfactual to write.

    Raises:
        ArtifactError: a retraining is missing, or the inputs do not belong together.
    """
    parts = artifacts.read_parts(inputs["retrain"], KIND, SCHEMA_VERSION, verify=False)
    meta: dict[str, Any] = {"enabled": parts.meta["enabled"], "retrained": parts.digest, **made_with("verify", params)}
    kind = (counterfactual_artifact.KIND, counterfactual_artifact.SCHEMA_VERSION)
    with artifacts.writing(out, *kind, meta) as part:
        if parts.meta["planned"] == 0:
            counterfactual_artifact.write(
                part, timesteps=[], draws=0, queries=[], removals=[], effects=[], drawings=[], proofs=[], losses={}
            )
            return
        work = _Verification.open(inputs, params)
        encoder = None if work.encode is None else _ENCODER
        told = {key: parts.meta[key] for key in ("model", "queries", "scores")}
        meta.update({**told, "encoder": encoder})
        meta["metrics"] = work.carry_out(part)


@dataclass
class _Verification:
    """The models, the queries and what is measured on them."""

    model: DiffusersModel
    machine: Machine
    jobs: list[Trained]
    pictures: list[Picture]
    drawn: dict[str, tuple[str, int, float, int]]
    grid: Grid
    batch_size: int
    encode: Encoder | None

    @classmethod
    def open(cls, inputs: Inputs, params: Params) -> _Verification:
        from unsee.attribution.grid import midpoint_grid
        from unsee.attribution.losses import Picture
        from unsee.records.query_set import QuerySet
        from unsee.retraining.paired import training_of
        from unsee.retraining.retrained import Retrained
        from unsee.steps.common import MODEL_KIND, MODEL_SCHEMA_VERSION, audited_model, require_same

        retrained, queries = Retrained.load(inputs["retrain"]), QuerySet.load(inputs["make_queries"])
        # Small differences of losses are measured: half precision would round them away.
        exact = params.model_copy(update={"run": params.run.model_copy(update={"dtype": "float32"})})
        model = audited_model(inputs, exact)
        folder = inputs["train_reference"]
        header = artifacts.read_header(folder, MODEL_KIND, MODEL_SCHEMA_VERSION, verify=False)
        require_same("retrain", retrained.meta["model"], model.digest, retrained.folder, "model")
        require_same("retrain", retrained.meta["queries"], queries.digest, retrained.folder, "queries")
        proven = {trained.job.query for trained in retrained.jobs}
        if params.retrain.timesteps > model.train_timesteps:
            problem = f"is {params.retrain.timesteps}, the model has {model.train_timesteps} timesteps."
            raise InputError(problem, field="retrain.timesteps", remedy="Choose fewer.")
        usable = [query for query in queries.queries if query.failure is None]
        return cls(
            model,
            training_of(header.meta, folder).machine,
            retrained.jobs,
            [Picture(query.query, queries.latent(query.query), queries.text(query.query)) for query in usable],
            {
                query.query: _drawn(query, params.queries.seed + number, params)
                for number, query in enumerate(queries.queries)
                if query.query in proven
            },
            midpoint_grid(model.train_timesteps, params.retrain.timesteps, params.retrain.draws, params.seed),
            params.run.batch_size,
            _encoder(),
        )

    def carry_out(self, part: Path) -> dict[str, float]:
        """Measure, write the artifact's files, and return its metrics."""
        losses: dict[str, np.ndarray] = {}
        drawn: dict[tuple[int | None, str], np.ndarray] = {}
        total = (len(self.jobs) + 1) * len(self.pictures) * self.grid.points
        with Progress("Measuring retrained models", total=total, unit="evaluation") as progress:
            losses[AUDITED] = self._losses(progress)
            drawn.update({(None, query): self._draw(query) for query in self.drawn})
            for trained in self.jobs:
                with _holding(self.model, trained.weights()):
                    losses[str(trained.number)] = self._losses(progress)
                    drawn.update({(trained.number, query): self._draw(query) for query in self._to_draw(trained)})
        self._require_finite(losses)
        removals = [self._removal(trained) for trained in self.jobs]
        effects = [effect for removal in removals for effect in self._effects(removal, losses)]
        drawings = self._drawings(part, removals, drawn)
        proofs = [self._proof(removal, removals, losses) for removal in removals if removal.kind == "top"]
        counterfactual_artifact.write(
            part,
            timesteps=self.grid.timesteps,
            draws=self.grid.draws,
            queries=[picture.identity for picture in self.pictures],
            removals=removals,
            effects=effects,
            drawings=drawings,
            proofs=proofs,
            losses=losses,
        )
        return _metrics(removals, effects, drawings)

    def _losses(self, progress: Progress) -> np.ndarray:
        """Of every query on the grid under the model's weights as they are now, [queries, T, D] float64."""
        import torch

        from unsee.attribution.losses import sample_losses, split

        timesteps, draws = zip(*(self.grid.point(index) for index in range(self.grid.points)), strict=True)
        rows = []
        with torch.no_grad():
            for picture in self.pictures:
                samples = picture.samples(PURPOSE, self.grid.seed, timesteps, draws)
                parts = [sample_losses(self.model, batch).cpu() for batch in split(samples, self.batch_size)]
                rows.append(torch.cat(parts).double().numpy().reshape(len(self.grid.timesteps), self.grid.draws))
                progress.advance(self.grid.points)
        return np.stack(rows)

    def _draw(self, query: str) -> np.ndarray:
        """The query's prompt and initial noise drawn by the model as it is now, uint8 [H, W, 3]."""
        prompt, seed, guidance, steps = self.drawn[query]
        picture: np.ndarray = self.model.generate([prompt], [seed], guidance=guidance, steps=steps)[0].numpy()
        return picture

    def _to_draw(self, trained: Trained) -> list[str]:
        return [trained.job.query] if trained.job.query is not None else list(self.drawn)

    def _require_finite(self, losses: Mapping[str, np.ndarray]) -> None:
        for trained in self.jobs:
            if not np.isfinite(losses[str(trained.number)]).all():
                raise ArtifactError(
                    "gives a loss that is not finite.",
                    file=trained.folder,
                    remedy="The training without these records diverged: lower train.unet_learning_rate.",
                )

    def _removal(self, trained: Trained) -> Removal:
        """The job, with what it is measured against: a model that was trained on the same kind of machine, if any."""
        job = trained.job
        again = next((other for other in self.jobs if other.job.kind == "nothing"), None)
        control, machine = AUDITED, self.machine
        if again is not None and again is not trained and again.machine == trained.machine:
            control, machine = NOTHING, again.machine
        return Removal(
            trained.number, job.kind, job.query, job.control, job.removed, control, machine == trained.machine
        )

    def _before(self, removal: Removal, losses: Mapping[str, np.ndarray]) -> np.ndarray:
        return losses[AUDITED if removal.control_model == AUDITED else str(self._nothing())]

    def _nothing(self) -> int:
        return next(trained.number for trained in self.jobs if trained.job.kind == "nothing")

    def _effects(self, removal: Removal, losses: Mapping[str, np.ndarray]) -> Iterator[Effect]:
        before, after = self._before(removal, losses), losses[str(removal.number)]
        for row, picture in enumerate(self.pictures):
            found: Estimate = delta_l(before[row], after[row])
            means = float(before[row].mean()), float(after[row].mean())
            yield Effect(removal.number, picture.identity, found.value, found.standard_error, *means)

    def _proof(self, top: Removal, removals: list[Removal], losses: Mapping[str, np.ndarray]) -> Proof:
        assert top.query is not None  # noqa: S101  (a query's top records were removed)
        row = [picture.identity for picture in self.pictures].index(top.query)
        rises = {r.number: losses[str(r.number)][row] - self._before(r, losses)[row] for r in removals}
        random = np.stack([rises[r.number] for r in removals if r.kind == "random"])
        beyond = excess(rises[top.number], random)
        _, seed, guidance, steps = self.drawn[top.query]
        p = chance(float(rises[top.number].mean()), random.mean(axis=(1, 2)).tolist())
        return Proof(top.query, seed, guidance, steps, beyond.value, beyond.standard_error, p)

    def _drawings(
        self, part: Path, removals: list[Removal], drawn: Mapping[tuple[int | None, str], np.ndarray]
    ) -> list[Drawing]:
        (part / "pictures").mkdir()
        numbers = {query: number for number, query in enumerate(self.drawn)}
        found = []
        for (removal, query), pixels in drawn.items():
            by = "audited" if removal is None else f"job-{removal:03d}"
            name = f"pictures/{by}-query-{numbers[query]:03d}.png"
            (part / name).write_bytes(_png(pixels))
            mse = similarity = None
            if removal is not None:
                control = next(r.control_model for r in removals if r.number == removal)
                before = drawn[None if control == AUDITED else self._nothing(), query][None]
                mse = float(picture_mse(before, pixels[None])[0])
                if self.encode is not None:
                    similarity = float(picture_similarity(before, pixels[None], self.encode)[0])
            found.append(Drawing(removal, query, name, mse, similarity))
        return found


def _drawn(query: Query, seed: int, params: Params) -> tuple[str, int, float, int]:
    """Prompt, seed, guidance and steps: a generated query's own, else those that the params would generate it with."""
    if query.seed is not None and query.guidance is not None and query.steps is not None:
        return query.prompt, query.seed, query.guidance, query.steps
    return query.prompt, seed, params.queries.guidance, params.queries.steps


def _encoder() -> Encoder | None:
    from unsee.baselines.encoders import picture_encoder

    try:
        return picture_encoder()
    except EnvironmentProblem as error:
        _log.warning("how alike the pictures are to an encoder is not measured: %s", error)
        return None


@contextmanager
def _holding(model: DiffusersModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the denoiser has other weights; afterwards its own again."""
    own = {name: value.detach().clone() for name, value in model.denoiser.state_dict().items()}
    model.denoiser.load_state_dict(weights)
    try:
        yield
    finally:
        model.denoiser.load_state_dict(own)


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _metrics(removals: list[Removal], effects: list[Effect], drawings: list[Drawing]) -> dict[str, float]:
    """Means over the proven queries; `control_queries` are the others, under the removals that were chosen for one."""
    own = {r.number: r.query for r in removals}
    kinds = {r.number: r.kind for r in removals}
    proven = {r.query for r in removals if r.kind == "top"}
    values: dict[str, list[float]] = {}

    def note(name: str, value: float | None) -> None:
        if value is not None:
            values.setdefault(name, []).append(value)

    for effect in effects:
        kind = kinds[effect.removal]
        if kind == "top" and own[effect.removal] != effect.query:
            note("delta_l_control_queries", effect.delta_l)
        elif effect.query in proven:
            note(f"delta_l_{kind}", effect.delta_l)
    for drawing in drawings:
        if drawing.removal is not None:
            note(f"delta_g_mse_{kinds[drawing.removal]}", drawing.mse)
            note(f"delta_g_similarity_{kinds[drawing.removal]}", drawing.similarity)
    return {name: float(np.mean(found)) for name, found in sorted(values.items())}
