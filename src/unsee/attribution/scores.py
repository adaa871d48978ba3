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

KIND = "Scores"
SCHEMA_VERSION = 1

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
    """Rankings by query."""

    def __init__(self, folder: Path, header: artifacts.Header) -> None:
        self.folder = folder
        self.digest = header.digest
        self.meta = header.meta
        rows = pq.read_table(folder / artifacts.SCORE_SUMMARY, schema=_SUMMARY_SCHEMA).to_pylist()
        self.summaries = {row["query"]: ScoreSummary(**row) for row in rows}

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True) -> Scores:
        """Open scores; raises `ArtifactError` where they are missing, corrupt or of another version."""
        return cls(folder, artifacts.read_header(folder, KIND, SCHEMA_VERSION, verify=verify))

    def ranking(self, query: str) -> Ranking:
        """The full ranking of a query that did not fail."""
        table = pq.read_table(self.folder / artifacts.SCORES, filters=pc.field("query") == query)
        column = {name: table.column(name).to_numpy() for name in ("score", "standard_error", "rank", "p_noise")}
        return Ranking(query, table.column("record").to_pylist(), **column)


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
        """Append a query's rows, best rank first."""
        order = np.argsort(ranking.rank)
        columns = {
            "query": [ranking.query] * len(order),
            "record": [ranking.records[i] for i in order],
            "score": ranking.score[order],
            "standard_error": ranking.standard_error[order],
            "rank": ranking.rank[order],
            "p_noise": ranking.p_noise[order],
        }
        self._file.write_table(pa.table(columns, schema=self._schema))

    def finish(self, summaries: Sequence[ScoreSummary]) -> None:
        """Close the table and write the summary."""
        self._file.close()
        rows = [asdict(summary) for summary in summaries]
        pq.write_table(pa.Table.from_pylist(rows, _SUMMARY_SCHEMA), self._part / artifacts.SCORE_SUMMARY)
