"""Report content to start from: every test changes what it is about."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from unsee.params import default_values
from unsee.report.content import (
    CodeFacts,
    DataFacts,
    Generated,
    Given,
    GroupFacts,
    GroupShare,
    MethodFacts,
    ModelFacts,
    QuarantinedFile,
    QueryReport,
    RankingFacts,
    ReportContent,
    StepFacts,
    TopRecord,
)
from unsee.report.proof import REMOVED_SHOWN, ControlQuery, ProofFacts, RemovalFacts, RemovedRecord


class Build:
    """Makes content; keyword arguments replace fields."""

    @staticmethod
    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    @staticmethod
    def png(seed: int, side: int = 32) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    @classmethod
    def record(cls, rank: int, **changes: Any) -> TopRecord:
        record = TopRecord(
            rank=rank,
            record=f"{cls.digest(f'record {rank}')}-0",
            png=cls.png(rank),
            caption=f"caption {rank}",
            score=0.02 / rank,
            standard_error=0.0015,
            p_noise=1e-7 * rank,
            group="noto",
            license="Apache-2.0",
            source=f"noto/{rank}.png",
            duplicate_of=None,
            same_caption=False,
        )
        return replace(record, **changes)

    @classmethod
    def ranking(cls, top: int = 3, **changes: Any) -> RankingFacts:
        ranking = RankingFacts(
            records=300,
            null_location=0.0002,
            null_scale=0.0006,
            signal_end=2,
            mean_baseline_loss=0.065,
            top=tuple(cls.record(rank) for rank in range(1, top + 1)),
            shares=(GroupShare("noto", 0.7, 1), GroupShare(None, 0.3, 1)),
            curve=tuple(0.02 / rank for rank in range(1, 201)),
        )
        return replace(ranking, **changes)

    @classmethod
    def query(cls, prompt: str = "red apple, noto style", **changes: Any) -> QueryReport:
        query = QueryReport(
            query=cls.digest(prompt)[:16],
            prompt=prompt,
            picture=cls.png(1000),
            origin=Generated(seed=7, guidance=4.0, steps=50),
            failure=None,
            step=StepFacts(31842.7, 0.0612, 0.0918, 1.5, True, 11),
            ranking=cls.ranking(),
            proof=None,
        )
        return replace(query, **changes)

    @classmethod
    def removal(cls, control: int | None, **changes: Any) -> RemovalFacts:
        removal = RemovalFacts(
            control=control,
            delta_l=0.0264 if control is None else 0.001 * control,
            standard_error=0.0008,
            loss_before=0.0612,
            loss_after=0.0876,
            picture=cls.png(2000 + (control or 0)),
            mse=0.0412,
            similarity=0.731,
            same_machine=True,
        )
        return replace(removal, **changes)

    @classmethod
    def proof(cls, removed: int = 16, **changes: Any) -> ProofFacts:
        records = [cls.record(rank) for rank in range(1, removed + 1)]
        shown = tuple(RemovedRecord(r.record, r.png, r.caption) for r in records[:REMOVED_SHOWN])
        proof = ProofFacts(
            removed=tuple(r.record for r in records),
            shown=shown,
            before=cls.png(1000),
            seed=7,
            guidance=4.0,
            steps=50,
            timesteps=20,
            draws=10,
            top=cls.removal(None),
            random=(cls.removal(1), cls.removal(2)),
            excess=0.0249,
            excess_standard_error=0.0009,
            chance=1 / 3,
            control_queries=(ControlQuery("tiger", "tiger", 0.0021, 0.0004),),
        )
        return replace(proof, **changes)

    @classmethod
    def failed(cls, prompt: str = "strawberry", failure: str = "the gradient is not finite.") -> QueryReport:
        return cls.query(prompt, failure=failure, step=None, ranking=None)

    @classmethod
    def content(cls, *queries: QueryReport, **changes: Any) -> ReportContent:
        """Without queries: one with signal and proof, one without, one that failed, one whose picture is unreadable."""
        noise = cls.ranking(signal_end=0, shares=())
        lost = replace(cls.failed("pear", "is truncated."), picture=None, origin=Given("queries/pear.png"))
        default = (cls.query(proof=cls.proof()), cls.query("tiger", ranking=noise), cls.failed(), lost)
        content = ReportContent(
            title="An audit",
            model=ModelFacts("reference", cls.digest("model"), "cross-attn-kv", 540_672, 4_612_484, "epsilon", False),
            data=DataFacts(
                source="emoji",
                digest=cls.digest("data"),
                records=300,
                groups=(GroupFacts("noto", 200, ("Apache-2.0",)), GroupFacts(None, 100, ())),
                quarantined=(QuarantinedFile("bad.png", "0 bytes"),),
                duplicates=3,
                revision={"rev": "v2.1"},
            ),
            method=MethodFacts("unsee", 10, 1, False, 4, 0.1, 1.5, 400, 0, 0.05, False),
            queries=queries or default,
            digests={"training set": cls.digest("data"), "scores": cls.digest("scores")},
            code=CodeFacts("0.1.0", "5172faa"),
            params=default_values(),
            reproduce=("git checkout 5172faa", "make audit"),
            notes=("Tracking failed.",),
        )
        return replace(content, **changes)
