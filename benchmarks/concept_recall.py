"""Does the ranking find what the picture shows? On the emoji reference model, where the right answers are known.

1. For 30 captions (6 per style, drawn by seed) whose concept exists in all five styles: the share of the concept's five
   drawings among the ten top records, beside latent-pixel and text similarity on the same queries.
2. So that matching captions is not enough, 20 near-copies of query pictures are planted under unrelated captions in a
   second training set, a second model is trained on it, and the share of copies among the ten top records is taken for
   two presets of moved weights.

Needs an audit of the default reference model in `audit/` (`make audit`). Everything is kept in
`benchmarks/work/concept_recall` and resumed from there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emoji_queries import ConceptQuery, concept_of, draw_queries, generation_concept_at_1, pixels_of, require_emoji
from main_job import PROMPT_SEED
from results import ROOT, write_results
from unsee import artifacts
from unsee.attribution.scores import Scores
from unsee.baselines.encoders import sentence_encoder
from unsee.baselines.similarity import CosineSimilarity, LatentPixelSimilarity
from unsee.evaluation.retrieval import ranking_of, recall_at_k
from unsee.models.encoded_set import EncodedSet
from unsee.params import Params, load_params
from unsee.platform.tracking import Tracker
from unsee.records import training_set as training_sets
from unsee.records.query_set import QuerySet
from unsee.records.training_set import TrainingSet, TrainingSetWriter
from unsee.steps import make_queries, score, unlearn
from unsee.steps.runner import run_step

TOP = 10
PLANTED = 20
PLANTED_SEED = 7
PRESETS = {"kv": "cross-attn-kv", "all": "all"}


def main() -> None:
    """Both measurements, then the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audit", type=Path, default=ROOT / "audit")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work" / "concept_recall")
    asked = parser.parse_args()
    training_set = TrainingSet.load(asked.audit / "version_data")
    require_emoji(training_set)
    queries = draw_queries(training_set, per_style=6, seed=PROMPT_SEED)
    figures, rows = concept_recall(asked.audit, asked.work, training_set, queries)
    write_results("concept_recall", figures, rows)
    # Written after every part: what was measured is kept if the rest is interrupted.
    for planted, planted_rows in planted_recall(asked.work, training_set, queries):
        figures, rows = {**figures, **planted}, rows + planted_rows
        write_results("concept_recall", figures, rows)


def concept_recall(
    audit: Path, work: Path, training_set: TrainingSet, queries: list[ConceptQuery]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Recall of the concept's drawings by unlearning and by similarity."""
    params = load_params(None, {"queries.prompts": [query.prompt for query in queries]})
    inputs = {name: audit / name for name in ("train_reference", "encode", "cache_baseline", "estimate_fisher")}
    make_queries.run(inputs, params, work / "make_queries")
    unlearn.run({**inputs, "make_queries": work / "make_queries"}, params, work / "unlearn")
    score.run({**inputs, "unlearn": work / "unlearn"}, params, work / "score")

    query_set = QuerySet.load(work / "make_queries")
    scores = Scores.load(work / "score")
    encoded = EncodedSet.load(audit / "encode")
    pixel, text = similarities(training_set, encoded, query_set)
    by_prompt = {query.prompt: (row, query) for row, query in enumerate(query_set.queries)}
    rows = []
    for query in queries:
        row, made = by_prompt[query.prompt]
        rankings = {
            "unsee": scores.ranking(made.query).records,
            "latent_pixel": ranking_of(pixel.scores(row), encoded.records),
            "text": ranking_of(text.scores(row), encoded.records),
        }
        rows.append(
            {
                "part": "concept",
                "prompt": query.prompt,
                **{f"recall_at_{TOP}.{m}": recall_at_k(r, query.relevant, TOP) for m, r in rankings.items()},
                "rank_of_same_caption": rankings["unsee"].index(query.record) + 1,
            }
        )
    pictures = {query.prompt: query.png for query in query_set.queries if query.png is not None}
    concept_at_1, _ = generation_concept_at_1(training_set, queries, pictures)
    mean = {m: float(np.mean([r[f"recall_at_{TOP}.{m}"] for r in rows])) for m in ("unsee", "latent_pixel", "text")}
    figures = {
        f"concept_recall_at_{TOP}": round(mean["unsee"], 4),
        f"concept_recall_at_{TOP}.latent_pixel": round(mean["latent_pixel"], 4),
        f"concept_recall_at_{TOP}.text": round(mean["text"], 4),
        "same_caption_in_top_3": round(float(np.mean([r["rank_of_same_caption"] <= 3 for r in rows])), 4),
        "generation_concept_at_1": round(concept_at_1, 4),
        "n_queries": len(queries),
    }
    return figures, rows


def similarities(
    training_set: TrainingSet, encoded: EncodedSet, query_set: QuerySet
) -> tuple[LatentPixelSimilarity, CosineSimilarity]:
    """The two baselines over the same records and queries."""
    latents = encoded.latents(range(len(encoded)), [False] * len(encoded)).numpy()
    asked = np.stack([query_set.latent(query.query).numpy() for query in query_set.queries])
    encode = sentence_encoder()
    captions = [(row, caption) for row, record in enumerate(training_set.records) for caption in record.captions]
    text = CosineSimilarity(
        "text",
        encode([caption for _, caption in captions]),
        [row for row, _ in captions],
        encode([query.prompt for query in query_set.queries]),
    )
    return LatentPixelSimilarity(latents, asked), text


def planted_recall(
    work: Path, training_set: TrainingSet, queries: list[ConceptQuery]
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Train on a set with planted near-copies and look for them; yields the figures and rows of each preset."""
    # Every style gets its share: queries are ordered by style.
    chosen = [queries[i * len(queries) // PLANTED] for i in range(PLANTED)]
    made = {query.prompt: query for query in QuerySet.load(work / "make_queries").queries}
    folder = work / "planted"
    plant(folder / "version_data", training_set, chosen, {q.prompt: made[q.prompt].png or b"" for q in chosen})
    planted = TrainingSet.load(folder / "version_data")
    copy_of = {r.source.partition("/")[2]: r.record for r in planted.records if r.source.startswith("planted/")}
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    names = []
    for query in chosen:
        path = pictures / f"{made[query.prompt].query}.png"
        path.write_bytes(made[query.prompt].png or b"")
        names.append(str(path))
    overrides = {
        "queries.prompts": [query.prompt for query in chosen],
        "queries.pictures": names,
        "tracking.enabled": False,
    }
    params = load_params(None, overrides)
    run_steps(("train_reference", "encode", "cache_baseline", "make_queries"), params, folder)
    for short, preset in PRESETS.items():
        params = load_params(None, {**overrides, "weights.preset": preset})
        run_steps(("estimate_fisher", "unlearn", "score"), params, folder)
        scores = Scores.load(folder / "score")
        by_prompt = {query.prompt: query.query for query in QuerySet.load(folder / "make_queries").queries}
        recalls, rows = [], []
        for query in chosen:
            ranking = scores.ranking(by_prompt[query.prompt]).records
            copy = copy_of[made[query.prompt].query]
            recalls.append(recall_at_k(ranking, {copy}, TOP))
            rows.append({"part": f"planted_{short}", "prompt": query.prompt, "rank_of_copy": ranking.index(copy) + 1})
        recall = round(float(np.mean(recalls)), 4)
        yield {"n_planted": len(chosen), f"planted_recall_at_{TOP}_{short}": recall}, rows


def run_steps(names: tuple[str, ...], params: Params, folder: Path) -> None:
    """Run steps one after another, untracked; finished ones are skipped."""
    with Tracker.open(params, folder) as tracker:
        for name in names:
            run_step(name, params, folder, tracker=tracker)


def plant(out: Path, training_set: TrainingSet, queries: list[ConceptQuery], pictures: dict[str, bytes]) -> None:
    """Write the training set with a near-copy of each query's picture under another concept's caption."""
    query_set = QuerySet.load(out.parent.parent / "make_queries")
    source = {"of": training_set.digest, "queries": query_set.digest}
    if out.exists() and TrainingSet.load(out).meta["planted_from"] == source:
        return
    rng = np.random.default_rng(PLANTED_SEED)
    meta: dict[str, Any] = {"source": "emoji", "planted": len(queries), "planted_from": source}
    by_prompt = {query.prompt: query.query for query in query_set.queries}
    with artifacts.writing(out, training_sets.KIND, training_sets.SCHEMA_VERSION, meta) as part:
        writer = TrainingSetWriter(part, training_set.resolution)
        for record, picture in training_set.iter_pictures():
            writer.add(picture, record.captions, record.source, group=record.group, license=record.license)
        for query in queries:
            others = [r for r in training_set.records if concept_of(r) != query.concept]
            caption = others[int(rng.integers(len(others)))].captions[0]
            copy = near_copy(pixels_of(pictures[query.prompt]), rng)
            writer.add(copy, [caption], f"planted/{by_prompt[query.prompt]}", group="planted")
        meta.update(writer.finish(out))


def near_copy(pixels: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """The picture moved by a pixel, a little darker or brighter, with faint noise: close, but no exact duplicate."""
    moved = np.roll(pixels, tuple(rng.integers(-1, 2, size=2)), axis=(0, 1)).astype(np.float64)
    changed = moved * rng.uniform(0.95, 1.05) + rng.normal(0, 2.0, size=moved.shape)
    return Image.fromarray(np.clip(changed.round(), 0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
