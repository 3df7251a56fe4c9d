"""What follows the last step: thresholds, export, metrics. Members of a pack share the LM's forwards here too."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from masked_sae.errors import DamagedFileError
from masked_sae.evals.context import EvalContext
from masked_sae.interop.saelens import export_sae, load_sae
from masked_sae.runs.curve import read_metrics
from masked_sae.runs.results import describe_own
from masked_sae.runs.run import Run
from masked_sae.saes import InferenceSAE, for_inference
from masked_sae.training.assemble import TrainingParts
from masked_sae.training.calibration import ToCalibrate, calibrate_all
from masked_sae.training.done import find_lacking, wrong_with_sae
from masked_sae.training.evaluation import evaluate_all, make_context
from masked_sae.training.out_of_memory import CALIBRATION, telling
from masked_sae.training.run_in_training import RunInTraining


@dataclass(frozen=True)
class Done:
    """A run that is done, and what it is measured with."""

    run: Run
    parts: TrainingParts


AtHookPoint = TypeVar("AtHookPoint", RunInTraining, Done)


def finish(members: Sequence[RunInTraining]) -> None:
    """Calibrates, exports and measures the SAEs of members that are at their last step; each ends done or failed."""
    context: EvalContext | None = None
    for together in _alike(members):
        with telling(CALIBRATION, together[0].run, len(members)):
            saes = _calibrated(together)
        for member in together:
            with member.guarded(), telling(CALIBRATION, member.run, len(members)):
                if isinstance(sae := saes[member], Exception):
                    raise sae
                _export(member, sae)
        exported = [(member, sae) for member, sae in saes.items() if isinstance(sae, InferenceSAE) and not member.error]
        if exported:
            config, parts = together[0].run.config, together[0].parts
            context = make_context(config, parts.lm, parts.held_out, beside=context)
            _measure(exported, context)


def measure_done(done: Sequence[Done]) -> list[Exception | None]:
    """Of runs that are done: what is asked for and not measured; of each what went wrong."""
    wrong: dict[str, Exception] = {}
    context: EvalContext | None = None
    for together in _alike(done):
        parts = together[0].parts
        context = make_context(together[0].run.config, parts.lm, parts.held_out, beside=context)
        loaded: list[tuple[Run, InferenceSAE]] = []
        for run in (one.run for one in together):
            try:
                if find_lacking(run.folder, run.config):
                    loaded.append((run, load_sae(run.sae, run.config.digest_memory)[0].to(parts.device)))
            except Exception as error:  # noqa: BLE001 - whatever befalls one, the others are measured
                wrong[run.folder.run_id] = error
        runs = [run for run, _ in loaded]
        found = evaluate_all(runs, [sae for _, sae in loaded], context, [describe_own(run.config) for run in runs])
        wrong |= {run.folder.run_id: one for run, one in zip(runs, found, strict=True) if isinstance(one, Exception)}
    return [wrong.get(one.run.folder.run_id) for one in done]


def _alike(members: Sequence[AtHookPoint]) -> list[list[AtHookPoint]]:
    """By what is read of the LM."""
    found: dict[str, list[AtHookPoint]] = {}
    for member in members:
        found.setdefault(member.parts.lm.hook_name, []).append(member)
    return list(found.values())


def _calibrated(members: Sequence[RunInTraining]) -> dict[RunInTraining, InferenceSAE | Exception]:
    parts, config = members[0].parts, members[0].run.config
    wanted = [_to_calibrate(member) for member in members]
    found = calibrate_all(wanted, parts.lm, parts.held_out, config.lm.batch_size)
    return dict(zip(members, found, strict=True))


def _to_calibrate(member: RunInTraining) -> ToCalibrate:
    member.training.optimizer.state.clear()  # saved, and as large as two more SAEs
    sae = for_inference(member.training.sae.eval(), member.point.scale)
    sae = sae.to(member.parts.device)  # after its last step Lightning puts a module on the CPU
    return ToCalibrate(sae, member.run.config.sae, lambda: _last_l0(member))


def _last_l0(member: RunInTraining) -> float:
    """Of the last batch of the training, which may have been another attempt's."""
    path, steps = member.run.folder.metrics, member.step
    rows = [member.last_row] if member.last_row else read_metrics(path)[-1:]  # of one from before checkpoints had it
    if not rows or rows[0].get("step") != steps or "l0" not in rows[0]:
        why = f"no row of step {steps}, whose L0 calibrates the thresholds"
        raise DamagedFileError(path, why, "force=true trains it again")
    return rows[0]["l0"]


def _export(member: RunInTraining, sae: InferenceSAE) -> None:
    run = member.run
    member.watch.refuse_another()
    if run.sae.exists() and wrong_with_sae(run.folder, run.config):
        shutil.rmtree(run.sae)
    export_sae(run.sae, sae, _provenance(run, member.point.scale))


def _measure(exported: Sequence[tuple[RunInTraining, InferenceSAE]], context: EvalContext) -> None:
    runs = [member.run for member, _ in exported]
    results = evaluate_all(runs, [sae for _, sae in exported], context, [describe_own(run.config) for run in runs])
    for (member, _), found in zip(exported, results, strict=True):
        with member.guarded():
            if isinstance(found, Exception):
                raise found
            member.conclude(found)


def _provenance(run: Run, scale: float) -> dict[str, Any]:
    """What SAELens keeps of an SAE's origin, and what we do."""
    config = run.config
    return {
        "model_name": config.lm.name,
        "hook_name": config.lm.hook_name,
        "context_size": config.data.context_length,
        "model_class_name": "TransformerBridge",
        "masked_sae_run_id": run.folder.run_id,
        "masked_sae_scale": scale,
        "masked_sae_calibrate": config.sae.calibrate,
        "masked_sae_mask": run.settings["mask"],
    }
