"""Scores as an artifact: a row per query and record, and a summary row per query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unsee import artifacts
from unsee.attribution.scoring import RecordScores, ranks
from unsee.attribution.significance import significance

KIND = "Scores"
SCHEMA_VERSION = 2

_SUMMARY_SCHEMA = pa.schema(
    [
        ("query", pa.string()),
        ("failure", pa.string()),
        ("null_location", pa.float64()),
        ("null_scale", pa.float64()),
        ("signal_end", pa.int64()),
        ("mean_baseline_loss", pa.float64()),
    ]
)


@dataclass(frozen=True)
class ScoreSummary:
    """What holds for one query's ranking as a whole; the numbers are None where it failed.

    Attributes:
        null_location, null_scale: centre and width of the scores of uninvolved records.
        signal_end: how many top ranks stand out from them.
        mean_baseline_loss: mean loss of the training set at theta0, the yardstick of a score.
    """

    query: str
    failure: str | None
    null_location: float | None
    null_scale: float | None
    signal_end: int | None
    mean_baseline_loss: float | None


@dataclass(frozen=True)
class Ranking:
    """One query's scores, best first: record ids and columns of equal length."""

    query: str
    records: list[str]
    score: np.ndarray
    standard_error: np.ndarray
    rank: np.ndarray
    p_noise: np.ndarray


class Scores:
    """Rankings by query.

    Of parts, each with the scores of some records, the ranking and what it rests on are worked out here, exactly as
    the step does it where it scores every record itself.
    """

    def __init__(self, folder: Path, parts: artifacts.Parts) -> None:
        self.folder = folder
        self.digest = parts.digest
        self.meta = parts.meta
        self._folders = parts.folders
        self._merged: dict[str, Ranking] = {}
        tables = [pq.read_table(path / artifacts.SCORE_SUMMARY, schema=_SUMMARY_SCHEMA) for path in parts.folders]
        rows = [[ScoreSummary(**row) for row in table.to_pylist()] for table in tables]
        self.summaries = {summary.query: summary for summary in rows[0]}
        if len(rows) > 1:
            entries = [int(meta["counts"]["entries"]) for meta in parts.metas]
            for summaries in zip(*rows, strict=True):
                self.summaries[summaries[0].query] = self._merge(summaries, entries)

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True) -> Scores:
        """Open scores, or their parts; `ArtifactError` where one is missing, corrupt or of another version."""
        return cls(folder, artifacts.read_parts(folder, KIND, SCHEMA_VERSION, verify=verify))

    def ranking(self, query: str) -> Ranking:
        """The full ranking of a query that did not fail, best first."""
        if query in self._merged:
            return self._merged[query]
        table = self._rows(query)
        column = {name: table.column(name).to_numpy() for name in ("score", "standard_error", "rank", "p_noise")}
        return Ranking(query, table.column("record").to_pylist(), **column)

    def _rows(self, query: str) -> pa.Table:
        chosen = pc.field("query") == query
        return pa.concat_tables([pq.read_table(path / artifacts.SCORES, filters=chosen) for path in self._folders])

    def _merge(self, parts: Sequence[ScoreSummary], entries: Sequence[int]) -> ScoreSummary:
        query = parts[0].query
        failure = next((part.failure for part in parts if part.failure is not None), None)
        if failure is not None:
            return ScoreSummary(query, failure, None, None, None, None)
        table = self._rows(query)
        scored = RecordScores(
            table.column("record").to_pylist(),
            table.column("score").to_numpy(),
            table.column("standard_error").to_numpy(),
        )
        losses = [part.mean_baseline_loss or 0.0 for part in parts]
        mean = float(np.average(losses, weights=entries))
        self._merged[query], summary = ranked(query, scored, mean, float(self.meta["false_discovery_rate"]))
        return summary


def ranked(
    query: str, scored: RecordScores, mean_baseline_loss: float, false_discovery_rate: float
) -> tuple[Ranking, ScoreSummary]:
    """The ranking that follows from every record's score, best first, and where its signal ends."""
    tested = significance(scored.score, scored.standard_error, false_discovery_rate)
    rank = ranks(scored.score, scored.records)
    order = np.argsort(rank)
    ranking = Ranking(
        query,
        [scored.records[row] for row in order],
        scored.score[order],
        scored.standard_error[order],
        rank[order],
        tested.p_noise[order],
    )
    return ranking, ScoreSummary(query, None, tested.location, tested.scale, tested.signal_end, mean_baseline_loss)


class ScoresWriter:
    """Fills a Scores folder query by query, without holding the rankings in memory."""

    def __init__(self, part: Path) -> None:
        self._part = part
        self._schema = pa.schema(
            [
                ("query", pa.string()),
                ("record", pa.string()),
                ("score", pa.float64()),
                ("standard_error", pa.float64()),
                ("rank", pa.int64()),
                ("p_noise", pa.float64()),
            ]
        )
        self._file = pq.ParquetWriter(part / artifacts.SCORES, self._schema)

    def add(self, ranking: Ranking) -> None:
        """Append a query's rows."""
        columns = {
            "query": [ranking.query] * len(ranking.records),
            "record": ranking.records,
            "score": ranking.score,
            "standard_error": ranking.standard_error,
            "rank": ranking.rank,
            "p_noise": ranking.p_noise,
        }
        self._file.write_table(pa.table(columns, schema=self._schema))

    def finish(self, summaries: Sequence[ScoreSummary]) -> None:
        """Close the table and write the summary."""
        self._file.close()
        rows = [asdict(summary) for summary in summaries]
        pq.write_table(pa.Table.from_pylist(rows, _SUMMARY_SCHEMA), self._part / artifacts.SCORE_SUMMARY)
