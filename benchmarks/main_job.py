"""How long the main job takes a new user: fresh clone, `make install`, `make audit`, again, and with other prompts.

The clone and all caches are new, so everything is really done. Writes `main_job.json`: `install_seconds`,
`first_audit_seconds`, `unchanged_seconds`, `requery_seconds` and `generation_concept_at_1` of the model it trained.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from emoji_queries import draw_queries, generation_concept_at_1, require_emoji
from results import ROOT, write_results
from unsee.params import load_params
from unsee.records.query_set import QuerySet
from unsee.records.training_set import TrainingSet
from unsee.steps import make_queries

OTHER_PROMPTS = ["pear, openmoji style", "carrot, fluent-3d style", "hamburger, noto style"]
PROMPT_SEED = 20240610


def main() -> None:
    """Time the four commands in a fresh clone, then judge its model."""
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "unsee"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("UNSEE_", "MLFLOW_", "VIRTUAL_ENV"))}
        caches = {"UNSEE_CACHE": "cache", "XDG_CACHE_HOME": "xdg", "npm_config_cache": "npm"}
        environment.update({name: str(Path(scratch) / folder) for name, folder in caches.items()})
        prompts = Path(scratch) / "prompts.txt"
        prompts.write_text("\n".join(OTHER_PROMPTS) + "\n")

        def timed(*command: str) -> float:
            start = time.perf_counter()
            subprocess.run(command, cwd=clone, env=environment, check=True, stdout=sys.stderr)
            return round(time.perf_counter() - start, 1)

        install = timed("make", "install")
        first = timed("make", "audit")
        unchanged = timed("make", "audit")
        requery = timed("make", "audit", f"PROMPTS={prompts}")
        share, rows = judge(clone / "audit", Path(scratch) / "queries")
    figures = {
        "install_seconds": install,
        "first_audit_seconds": first,
        "unchanged_seconds": unchanged,
        "requery_seconds": requery,
        "generation_concept_at_1": round(share, 4),
    }
    write_results("main_job", figures, rows)


def judge(audit: Path, out: Path) -> tuple[float, list[dict[str, object]]]:
    """Draw 30 prompts with the audit's model and look for each one's nearest training picture."""
    training_set = TrainingSet.load(audit / "version_data")
    require_emoji(training_set)
    queries = draw_queries(training_set, per_style=6, seed=PROMPT_SEED)
    params = load_params(None, {"queries.prompts": [query.prompt for query in queries]})
    make_queries.run({"train_reference": audit / "train_reference"}, params, out)
    pictures = {query.prompt: query.png for query in QuerySet.load(out).queries if query.png is not None}
    return generation_concept_at_1(training_set, queries, pictures)


if __name__ == "__main__":
    main()
