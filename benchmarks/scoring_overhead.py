"""What exact scoring costs beyond the network itself, and whether its memory grows with the training set.

`wall_ratio`: wall time of `grid_losses` (noise, gathering, forward process, loss) over that of a bare loop that pushes
batches of the same shapes through the same UNet; both sides alternate in this process.
`peak_memory_ratio_4n`: peak memory above the loaded model's, scoring 4 N records (each with a caption of its own) over
scoring N, each in a process of its own. Counted is anonymous memory, sampled every few milliseconds; pages of mapped
artifact files are the kernel's to drop.

Needs an audit in `audit/` (`make audit`).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from results import ROOT, write_results
from unsee import artifacts
from unsee.artifacts import digest_of
from unsee.attribution.grid import midpoint_grid
from unsee.attribution.loss_table import cached_losses
from unsee.attribution.losses import grid_losses, grid_samples
from unsee.cache import ContentCache
from unsee.models import encoded_set
from unsee.models.encoded_set import EncodedSet, latents_file
from unsee.models.pipeline import DiffusersModel

RECORDS = 1446
BATCH_SIZE = 64
ROUNDS = 7
RECORDS_PER_ROUND = 96


def main() -> None:
    """Both ratios, then the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audit", type=Path, default=ROOT / "audit")
    parser.add_argument("--peak-of", type=Path, help="print the peak memory of scoring this encoded set, in KiB")
    asked = parser.parse_args()
    pipeline = asked.audit / "train_reference" / artifacts.PIPELINE
    if asked.peak_of is not None:
        print(peak_above_model(pipeline, asked.peak_of))
        return
    ratio, rows = wall_ratio(pipeline, EncodedSet.load(asked.audit / "encode"))
    peaks = {count: measured_peak(asked.audit, pipeline, count) for count in (RECORDS, 4 * RECORDS)}
    rows += [{"records": count, "peak_kib_above_model": peak} for count, peak in peaks.items()]
    figures = {
        "wall_ratio": round(ratio, 4),
        "peak_memory_ratio_4n": round(peaks[4 * RECORDS] / peaks[RECORDS], 4),
        "n_records": RECORDS,
    }
    write_results("scoring_overhead", figures, rows)


def wall_ratio(pipeline: Path, encoded: EncodedSet) -> tuple[float, list[dict[str, float]]]:
    """Median over rounds of scoring time / bare time, the two sides taking turns."""
    model = DiffusersModel.load(pipeline, device="cpu")
    grid = midpoint_grid(model.train_timesteps, 10, 1, seed=0)
    entries = encoded.entries((False,))[:RECORDS_PER_ROUND]
    total = len(entries) * grid.points
    batches = []
    for start in range(0, total, BATCH_SIZE):
        samples = grid_samples(encoded, entries, grid, start, min(start + BATCH_SIZE, total))
        noisy = model.add_noise(samples.latents, samples.noise, samples.timesteps)
        batches.append((noisy, samples.timesteps, samples.text["states"]))

    @torch.no_grad()
    def bare() -> None:
        for noisy, timesteps, states in batches:
            model.denoiser(noisy, timesteps, states, return_dict=False)

    def scoring() -> None:
        grid_losses(model, encoded, entries, grid, batch_size=BATCH_SIZE)

    bare()
    scoring()
    rows = []
    for number in range(ROUNDS):
        # Which side goes first alternates, so that a drifting clock speed favours neither.
        sides = [("bare", bare), ("scoring", scoring)]
        seconds = {name: clocked(side) for name, side in (sides if number % 2 == 0 else sides[::-1])}
        rows.append({"bare_seconds": seconds["bare"], "scoring_seconds": seconds["scoring"]})
    return statistics.median(row["scoring_seconds"] / row["bare_seconds"] for row in rows), rows


def clocked(side) -> float:  # type: ignore[no-untyped-def]
    """Wall seconds of one call."""
    start = time.perf_counter()
    side()
    return time.perf_counter() - start


def measured_peak(audit: Path, pipeline: Path, records: int) -> int:
    """Peak of a fresh process, KiB above the loaded model's."""
    with tempfile.TemporaryDirectory() as scratch:
        synthetic(DiffusersModel.load(pipeline, device="cpu"), records, Path(scratch) / "set")
        command = [sys.executable, __file__, "--audit", str(audit), "--peak-of", str(Path(scratch) / "set")]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def peak_above_model(pipeline: Path, folder: Path) -> int:
    """Measure the losses of the set in `folder`; KiB of peak anonymous memory above the loaded model's own."""
    model = DiffusersModel.load(pipeline, device="cpu")
    grid = midpoint_grid(model.train_timesteps, 2, 1, seed=0)
    with tempfile.TemporaryDirectory() as scratch, Peak() as peak:
        encoded = EncodedSet.load(folder)
        cached_losses(
            ContentCache(Path(scratch)),
            "losses/x",
            encoded.entries((False,)),
            grid.points,
            lambda shard: grid_losses(model, encoded, shard, grid, batch_size=BATCH_SIZE),
            shards=4,
        )
    return peak.highest - peak.first


class Peak:
    """Samples this process's anonymous memory, in KiB, between `with` and its end."""

    def __enter__(self) -> Peak:
        self.first = self.highest = anonymous_kib()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.003):
            self.highest = max(self.highest, anonymous_kib())


def anonymous_kib() -> int:
    """RssAnon of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def synthetic(model: DiffusersModel, records: int, out: Path) -> EncodedSet:
    """An encoded set of random latents, each record with a caption of its own."""
    generator = torch.Generator().manual_seed(0)
    with artifacts.writing(out, encoded_set.KIND, encoded_set.SCHEMA_VERSION, {"flips": False}) as part:
        digests = [digest_of(i) for i in range(records)]
        rows = [
            {"record": f"{digest}-0", "caption_digest": digest, "text": i, "position": i}
            for i, digest in enumerate(digests)
        ]
        pq.write_table(pa.Table.from_pylist(rows, encoded_set._CAPTIONS_SCHEMA), part / artifacts.CAPTIONS)
        one = model.encode_texts(["a caption"])["states"]
        save_file({"states": torch.randn(records, *one.shape[1:], generator=generator)}, part / artifacts.TEXTS)
        for number, start in enumerate(range(0, records, encoded_set.RECORDS_PER_FILE)):
            count = min(encoded_set.RECORDS_PER_FILE, records - start)
            latents = torch.randn(count, *model.latent_shape, generator=generator)
            save_file({"plain": latents}, part / latents_file(number))
    return EncodedSet.load(out)


if __name__ == "__main__":
    main()
