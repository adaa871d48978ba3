"""What the report says about retraining, from the artifact of the step `verify`."""

from __future__ import annotations

from unsee.evaluation.counterfactual_artifact import Counterfactual, Removal
from unsee.records.query_set import QuerySet
from unsee.records.training_set import TrainingSet
from unsee.report.proof import REMOVED_SHOWN, ControlQuery, ProofFacts, RemovalFacts, RemovedRecord


def proof_digests(retrained: Counterfactual | None) -> dict[str, str]:
    """Digests that the report states beside the others; none where nothing was retrained."""
    if retrained is None or not retrained.proofs:
        return {}
    return {"Retrained": str(retrained.meta["retrained"]), "Counterfactual": retrained.digest}


def proofs_of(found: Counterfactual, queries: QuerySet, training_set: TrainingSet) -> dict[str, ProofFacts]:
    """What retraining showed, by query."""
    effects = {(effect.removal, effect.query): effect for effect in found.effects}
    drawings = {(drawing.removal, drawing.query): drawing for drawing in found.drawings}
    prompts = {query.query: query.prompt for query in queries.queries}
    random = [removal for removal in found.removals if removal.kind == "random"]

    def seen_on(query: str, removal: Removal) -> RemovalFacts:
        effect, drawing = effects[removal.number, query], drawings[removal.number, query]
        return RemovalFacts(
            control=removal.control,
            delta_l=effect.delta_l,
            standard_error=effect.standard_error,
            loss_before=effect.loss_before,
            loss_after=effect.loss_after,
            picture=found.png(drawing),
            mse=float(drawing.mse or 0.0),
            similarity=drawing.similarity,
            same_machine=removal.same_machine,
        )

    proofs = {}
    for top in found.removals:
        if top.kind != "top" or top.query is None:
            continue
        proof, shown = found.proofs[top.query], top.removed[:REMOVED_SHOWN]
        pictures = training_set.pictures(shown)
        records = [training_set.records[training_set.index[name]] for name in shown]
        proofs[top.query] = ProofFacts(
            removed=top.removed,
            shown=tuple(RemovedRecord(r.record, pictures[r.record], r.captions[0]) for r in records),
            before=found.png(drawings[None, top.query]),
            seed=proof.seed,
            guidance=proof.guidance,
            steps=proof.steps,
            timesteps=len(found.timesteps),
            draws=found.draws,
            top=seen_on(top.query, top),
            random=tuple(seen_on(top.query, removal) for removal in random),
            excess=proof.excess,
            excess_standard_error=proof.excess_standard_error,
            chance=proof.chance,
            control_queries=tuple(
                ControlQuery(effect.query, prompts[effect.query], effect.delta_l, effect.standard_error)
                for effect in found.effects
                if effect.removal == top.number and effect.query != top.query
            ),
        )
    return proofs
