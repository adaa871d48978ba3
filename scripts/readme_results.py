"""Write the numbers of `benchmarks/results/` into README.md; with `--check`, only say whether it is up to date."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"

LINES: tuple[tuple[str, str, str], ...] = (
    ("main_job", "first_audit_seconds", "first `make audit`, training included, installation aside: {:.0f} s"),
    ("main_job", "install_seconds", "installation: {:.0f} s"),
    ("main_job", "unchanged_seconds", "`make audit` with nothing changed: {:.1f} s"),
    ("main_job", "requery_seconds", "`make audit` with three other prompts: {:.0f} s"),
    (
        "main_job",
        "generation_concept_at_1",
        "generated pictures whose nearest training picture shows the prompt's concept (30 prompts): {:.0%}",
    ),
    ("concept_recall", "concept_recall_at_10", "share of a concept's five drawings among the ten top records: {:.2f}"),
    ("concept_recall", "concept_recall_at_10.text", "the same by text similarity: {:.2f}"),
    ("concept_recall", "concept_recall_at_10.latent_pixel", "the same by latent-pixel similarity: {:.2f}"),
    ("concept_recall", "same_caption_in_top_3", "queries whose very caption is among the three top records: {:.0%}"),
    (
        "concept_recall",
        "planted_recall_at_10_kv",
        "near-copies planted under unrelated captions found in the top ten, moving keys and values: {:.0%}",
    ),
    ("concept_recall", "planted_recall_at_10_all", "the same, moving all weights: {:.0%}"),
    ("scoring_overhead", "wall_ratio", "wall time of exact scoring over a bare loop through the same network: {:.2f}"),
    (
        "scoring_overhead",
        "peak_memory_ratio_4n",
        "peak memory of scoring four times the records over once: {:.2f}",
    ),
    ("startup", "step_start_seconds", "start of a step in the container image, the slowest one: {:.1f} s"),
)


def results() -> str:
    """The measured lines, as Markdown."""
    loaded: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    lines = [
        f"- {text.format(loaded[b]['figures'][f])}" for b, f, text in LINES if b in loaded and f in loaded[b]["figures"]
    ]
    machines = {f"{r['machine']['cores']} cores, {r['machine']['cpu']}" for r in loaded.values()}
    return "\n".join([*lines, "", f"Machine: {'; '.join(sorted(machines))}; no GPU.", ""]) if loaded else ""


def main() -> None:
    """Renew README.md, or check it."""
    text = README.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    renewed = f"{head}{BEGIN}{results()}{END}{tail}"
    if "--check" in sys.argv:
        sys.exit(0 if renewed == text else "README.md is stale: run `make docs`")
    README.write_text(renewed)


if __name__ == "__main__":
    main()
