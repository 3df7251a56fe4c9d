"""What `python -m src.evaluate` does: finds the SAEs, makes their suites, measures, and prints.

SAEs of one LM, hook point and text share a suite, and so its activations and probes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from masked_sae.commands import typed_config
from masked_sae.config import RunConfig, check
from masked_sae.errors import InputError
from masked_sae.evals.suite import Suite
from masked_sae.files import write_text
from masked_sae.interop.saelens import load_sae, read_metadata
from masked_sae.runs.curve import read_rows
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.lock import HeldError, hold
from masked_sae.runs.members import Member, read_members
from masked_sae.runs.state import RunState, read_state, write_state
from masked_sae.sweeps.summary import print_members
from masked_sae.tracking.run import make_wandb_logger
from masked_sae.tracking.sweep import log_sweep
from masked_sae.training.evaluation import evaluate, forget, make_suite, unmeasured
from masked_sae.training.preparation import find_device, identify, read

_OWN = ("lm", "data", "eval", "trainer")  # of a run's configuration, what the command line may change


@dataclass(frozen=True)
class Measurable:
    """An SAE, the configuration it is measured with, and where the results go."""

    sae: Path
    config: RunConfig
    folder: RunFolder
    is_run: bool


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
    found = [one for folder in folders for one in _find(kind, folder, settings, overrides)]
    pending = [one for one in found if settings.force or unmeasured(one.folder, one.config.eval)]
    suites: dict[str, Suite] = {}
    for one in tqdm(pending, desc="SAEs", leave=False, disable=not settings.trainer.progress or len(pending) < 2):
        try:
            _measure(one, suites, force=settings.force)
        except HeldError as held:
            print(held)  # another process trains or measures it
    shown = [one for one in (found if kind == "sweep" else pending) if one.is_run]
    for sweep, settings_there in {one.folder.path.parent: one.config.logger.wandb for one in shown}.items():
        log_sweep(sweep, settings_there)
    print_members([Member(one.folder, {}) for one in found])
    if len(found) == 1:
        _print_metrics(found[0].folder, found[0].config.eval.families)


def _find(kind: str, folder: Path, settings: RunConfig, overrides: Sequence[str]) -> list[Measurable]:
    if kind == "sae":
        return [_measurable(folder, settings, overrides)]
    members = read_members(folder)
    if not members:
        raise InputError("sweep", folder, "a sweep's folder, such as runs/mask_rate")
    done = [member.folder for member in members if (member.folder.sae / "cfg.json").exists()]
    for member in members:
        if member.folder not in done:
            state = read_state(member.folder.state)
            status = "missing" if state is None else state.status
            print(f"left out: {member.folder.run_id}: {status}, without an SAE yet")
    return [_measurable(run.path, settings, overrides) for run in done]


def _measurable(folder: Path, settings: RunConfig, overrides: Sequence[str]) -> Measurable:
    """A run's folder, its sae/ folder, or an SAE from elsewhere."""
    run = RunFolder(folder.parent if folder.name == "sae" and (folder.parent / "config.yaml").exists() else folder)
    if run.config.exists():
        if not run.sae.is_dir():
            raise InputError("sae", folder, "a run that is done: this one has no SAE yet")
        return Measurable(run.sae, _config_of(run, settings, overrides), run, is_run=True)
    config = _config_for(folder, read_metadata(folder), settings, overrides)
    read_on = json.dumps([asdict(config.lm), asdict(config.data)], sort_keys=True)
    digest = hashlib.blake2b(read_on.encode(), digest_size=4)
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    name = folder.resolve().parent.name if folder.name == "sae" else folder.resolve().name
    place = Path(config.output_dir) / config.name / f"{name}-{digest.hexdigest()}"
    return Measurable(folder, config, RunFolder(place), is_run=False)


def _config_of(run: RunFolder, settings: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The run's own configuration, with this command's `eval`, and what else stood on the command line."""
    try:
        asked = OmegaConf.structured(settings)
        stored = OmegaConf.merge(asked, OmegaConf.load(run.config))  # an older run may lack a key
        assert isinstance(stored, DictConfig)
        stored["eval"] = asked.eval
        for key in _keys(overrides):
            if key.split(".")[0] in _OWN:
                OmegaConf.update(stored, key, OmegaConf.select(asked, key), merge=False)
        stored["trainer"]["progress"] = settings.trainer.progress
        config = typed_config(stored)
    except (OmegaConfBaseException, KeyError) as error:
        raise InputError("sae", run.config, f"a run's configuration ({' '.join(str(error).split())})") from error
    check(config)
    return config


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


def _measure(one: Measurable, suites: dict[str, Suite], *, force: bool) -> None:
    config, device = one.config, find_device(one.config.trainer.device)
    key = json.dumps([asdict(config.lm), asdict(config.data), asdict(config.eval)], sort_keys=True)
    if key not in suites:
        suites.clear()  # one LM in memory at a time
        found = read(identify(config, {}), device)
        suites[key] = make_suite(config, found.lm, found.held_out)
    sae, _ = load_sae(one.sae)
    if sae.d_in != suites[key].d_in:
        valid = f"an SAE for the {suites[key].d_in} dimensions of {config.lm.name} at {config.lm.hook_name}"
        raise InputError("sae", one.sae, f"{valid}: this one has {sae.d_in}")
    one.folder.path.mkdir(parents=True, exist_ok=True)
    with hold(one.folder.lock):
        if force:
            forget(one.folder, config.eval.families)
        if not one.is_run:
            write_text(one.folder.config, OmegaConf.to_yaml(OmegaConf.create(asdict(config))))
        metrics = evaluate(one.folder, config, sae.to(device), suites[key])
        if one.is_run:
            _summarize(one, metrics)
        else:
            write_state(one.folder.state, RunState(one.folder.run_id, "created"), status="done")


def _summarize(one: Measurable, metrics: dict[str, float]) -> None:
    """Into the run's W&B run."""
    config, state = one.config, read_state(one.folder.state)
    logger = make_wandb_logger(
        config.logger.wandb,
        run_id=one.folder.run_id,
        group=config.name,
        folder=one.folder.path,
        config=asdict(config),
        resumes=True,
    )
    if logger is not None and state is not None:
        logger.begin(read_rows(one.folder.metrics, one.folder.histograms, state.step))
        logger.conclude(metrics, state.tokens, one.folder)
        logger.finish(failed=False)


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
