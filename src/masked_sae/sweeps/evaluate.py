"""What `python -m src.evaluate` does: finds the SAEs, makes what they share, measures, and prints.

SAEs of one LM, hook point and text share its activations and probes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm
from yaml import YAMLError

from masked_sae.config import RunConfig, check_measuring, recorded_config
from masked_sae.errors import InputError, one_line
from masked_sae.evals.context import EvalContext
from masked_sae.evals.texts.task_settings import check_tasks
from masked_sae.files import write_text
from masked_sae.interop.saelens import load_sae, read_metadata
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import HeldError, hold
from masked_sae.runs.results import read_own
from masked_sae.runs.run import Run, find_inputs
from masked_sae.runs.state import RunState, read_state, write_state
from masked_sae.runs.sweep_record import read_members
from masked_sae.settings import without_neutral
from masked_sae.sweeps.summary import print_members
from masked_sae.tracking.run_tracker import begin_tracking
from masked_sae.tracking.sweep import log_sweep
from masked_sae.training.assemble import find_device, load_lm_and_text
from masked_sae.training.evaluation import evaluate, forget, make_context, unmeasured

_OWN = ("lm", "data", "eval", "trainer")  # of a run's configuration, what the command line may change


def evaluate_folders(kind: str, folders: Sequence[Path], settings: RunConfig, overrides: Sequence[str]) -> None:
    """Measures what `sae=` or `sweep=` names and prints the results.

    Args:
        kind: `sae` or `sweep`.
        folders: that exist.
        settings: of the command: defaults and overrides.
        overrides: what stood on the command line.

    Raises:
        InputError: a folder holds no SAE, or its LM or text cannot be used.
    """
    check_tasks(settings.eval.tasks)
    found = [run for folder in folders for run in _find(kind, folder, settings, overrides)]
    pending = [run for run in found if settings.force or unmeasured(run.folder, run.config.eval)]
    contexts: dict[str, EvalContext] = {}
    for run in tqdm(pending, desc="SAEs", leave=False, disable=not settings.trainer.progress or len(pending) < 2):
        try:
            _measure(run, contexts, force=settings.force)
        except HeldError as held:
            print(held)  # another process trains or measures it
    shown = [run for run in (found if kind == "sweep" else pending) if run.origin is None]
    for sweep, settings_there in {run.folder.path.parent: run.config.logger.wandb for run in shown}.items():
        log_sweep(sweep, settings_there)
    print_members(found)
    if len(found) == 1:
        _print_metrics(found[0].folder, found[0].config.eval.families)


def _find(kind: str, folder: Path, settings: RunConfig, overrides: Sequence[str]) -> list[Run]:
    if kind == "sae":
        return [_find_run(folder, settings, overrides)]
    members = read_members(folder)
    if not members:
        raise InputError("sweep", folder, "a sweep's folder, such as runs/mask_rate")
    done = [member.folder for member in members if (member.folder.sae / "cfg.json").exists()]
    for member in members:
        if member.folder not in done:
            state = read_state(member.folder.state)
            status = "missing" if state is None else state.status
            print(f"left out: {member.folder.run_id}: {status}, without an SAE yet")
    return [_find_run(run.path, settings, overrides) for run in done]


def _find_run(folder: Path, settings: RunConfig, overrides: Sequence[str]) -> Run:
    """Of a run's folder, its sae/ folder, or an SAE from elsewhere."""
    run = RunFolder(folder.parent if folder.name == "sae" and (folder.parent / "config.yaml").exists() else folder)
    if run.config.exists():
        if not run.sae.is_dir():
            raise InputError("sae", folder, "a run that is done: this one has no SAE yet")
        return _run_in(run, settings, overrides)
    config = _config_for(folder, read_metadata(folder), settings, overrides)
    read_on = json.dumps([asdict(config.lm), asdict(config.data)], sort_keys=True)
    digest = hashlib.blake2b(read_on.encode(), digest_size=4)
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    name = folder.resolve().parent.name if folder.name == "sae" else folder.resolve().name
    place = Path(config.output_dir) / config.name / f"{name}-{digest.hexdigest()}"
    return Run(RunFolder(place), {}, config, origin=folder)


def _run_in(folder: RunFolder, settings: RunConfig, overrides: Sequence[str]) -> Run:
    """With the configuration of its folder, this command's `eval`, and what else stood on the command line."""
    try:
        asked = OmegaConf.create(_plain(settings))
        stored = OmegaConf.load(folder.config)
        assert isinstance(stored, DictConfig)
        for key in _keys(overrides):
            if key.split(".")[0] in _OWN:
                OmegaConf.update(stored, key, OmegaConf.select(asked, key), merge=False, force_add=True)
        OmegaConf.update(stored, "trainer.progress", settings.trainer.progress, force_add=True)
        stored["eval"] = asked["eval"]
        config = recorded_config(stored, settings, read_own(folder))
        record: Any = OmegaConf.to_container(stored, resolve=True)
    except (
        OSError, AssertionError, AttributeError, KeyError, TypeError, ValueError, YAMLError, OmegaConfBaseException
    ) as error:  # fmt: skip
        raise InputError("sae", folder.config, f"a run's configuration ({one_line(error)})") from error
    check_measuring(config)
    return Run(folder, {}, config, on_record=record)


def _plain(settings: RunConfig) -> dict[str, Any]:
    plain = without_neutral(settings)
    return {key: plain[key] for key in _OWN}


def _config_for(folder: Path, metadata: dict[str, Any], settings: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """For an SAE from elsewhere: LM and hook point of its metadata, unless the command line names them."""
    keys = _keys(overrides)
    lm = settings.lm
    for key, field in (("name", "model_name"), ("hook_name", "hook_name")):
        if f"lm.{key}" in keys or "lm" in keys:
            continue
        if not metadata.get(field):
            raise InputError(f"lm.{key}", None, f"the LM's, as {folder}/cfg.json does not name it")
        lm = replace(lm, **{key: str(metadata[field])})
    data = settings.data
    if metadata.get("context_size") and "data.context_length" not in keys:
        if not isinstance(metadata["context_size"], int):
            raise InputError("sae", folder, f"a cfg.json whose context_size is a number: {metadata['context_size']!r}")
        data = replace(data, context_length=metadata["context_size"])
    return replace(settings, lm=lm, data=data)


def _keys(overrides: Sequence[str]) -> list[str]:
    return [override.lstrip("+~").partition("=")[0] for override in overrides]


def _measure(run: Run, contexts: dict[str, EvalContext], *, force: bool) -> None:
    config, device = run.config, find_device(run.config.trainer.device)
    key = json.dumps([asdict(config.lm), asdict(config.data), asdict(config.eval)], sort_keys=True)
    if key not in contexts:
        contexts.clear()  # one LM in memory at a time
        found = load_lm_and_text(config, find_inputs(config), device)
        contexts[key] = make_context(config, found.lm, found.held_out)
    sae, _ = load_sae(run.sae)
    d_in = contexts[key].lm.d_in
    if sae.d_in != d_in:
        valid = f"an SAE for the {d_in} dimensions of {config.lm.name} at {config.lm.hook_name}"
        raise InputError("sae", run.sae, f"{valid}: this one has {sae.d_in}")
    run.folder.path.mkdir(parents=True, exist_ok=True)
    with hold(run.folder.lock):
        if force:
            forget(run.folder, config.eval.families)
        if run.origin is not None:
            write_text(run.folder.config, OmegaConf.to_yaml(OmegaConf.create(dict(run.settings))))
        metrics = evaluate(run, sae.to(device), contexts[key])
        if run.origin is None:
            _summarize(run, metrics)
        else:
            write_state(run.folder.state, RunState(run.folder.run_id, "created"), status="done")


def _summarize(run: Run, metrics: dict[str, float]) -> None:
    """Into the run's W&B run."""
    state = read_state(run.folder.state)
    if state is None:
        return
    tracker = begin_tracking(run, state.step, resumes=True)
    if tracker is not None:
        tracker.conclude(metrics, state.tokens, run.folder)
        tracker.finish(failed=False)


def _print_metrics(folder: RunFolder, families: Sequence[str]) -> None:
    if not folder.results.exists():
        return
    results = json.loads(folder.results.read_text())
    print(f"\n{folder.path}")
    for family in families:
        values = {key: value for key, value in results["metrics"].items() if key.startswith(f"{family}/")}
        for key, value in values.items():
            print(f"  {key:44}{value:12.4f}")
    for key, note in results.get("notes", {}).items():
        print(f"  {key}: {note}")
