"""Every command that README and docs print: it is there, its settings are; without a hub, GPU or cluster it runs."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from support.making import HOOK, ROOT, make_neox
from support.printed_commands import PAGES, Printed, printed_commands

COMMANDS = list(dict.fromkeys(command for page in PAGES for command in printed_commands(page)))
TRAINING = list({one.text: one for one in COMMANDS if one.module == "src.train" and "--help" not in one.words}.values())
OTHERS = ("git", "source", "pip", "hf", "wandb", "docker", "apptainer", "buildah")


def test_pages_print_commands() -> None:
    assert len(TRAINING) > 20 and {"README.md", "docs/clusters.md", "docs/search.md"} <= {one.page for one in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: f"{one.page}: {one.text}"[:90])
def test_what_is_started_is_there(command: Printed) -> None:
    program = command.words[0]
    if command.module is not None:
        if command.module.startswith(("src.", "masked_sae.")):
            source = command.module.replace(".", "/") + ".py"
            assert (ROOT / source).is_file() or (ROOT / "src" / source).is_file()
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert set(command.words[1:]) <= set(targets)
    elif program.startswith("masked-sae-"):
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
        assert program in scripts
    elif command.words[1:] == ("merge.py",):
        assert "`merge.py`" in (ROOT / command.page).read_text()
    elif program.startswith("python"):
        script = (ROOT / command.words[1]).read_text()
        for option in (word for word in command.words[2:] if word.startswith("--")):
            assert f'"{option}"' in script
    else:
        assert program in OTHERS or (ROOT / program).is_file()


FROM_NOTHING = [one for one in TRAINING if "hydra.sweeper.confirm=5" not in one.words]  # it confirms what was found


@pytest.mark.parametrize("command", FROM_NOTHING, ids=lambda one: f"{one.page}: {one.text}"[:110])
@pytest.mark.usefixtures("hydra_as_it_was")
def test_a_training_is_composed_and_checked_to_the_end(command: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra_plugins.masked_sae_launchers import SweepLauncher
    from masked_sae.sweeps import local

    checked: list[int] = []

    def members(self: Any, jobs: list[list[str]], *_: Any, **__: Any) -> list[Any]:
        checked.append(len(self._configs(jobs)))
        raise SystemExit(0)  # before a search goes on by what members came to

    monkeypatch.setattr(SweepLauncher, "launch", members)
    monkeypatch.setattr(SweepLauncher, "run_of", lambda self, overrides: members(self, [overrides]))
    monkeypatch.setattr(local, "train_alone", lambda settings: checked.append(1))
    mine = {"experiment=mine": "experiment=paper_pythia_160m"}  # what a reader's own is to be copied from
    monkeypatch.setattr(sys, "argv", [command.words[2], *(mine.get(word, word) for word in command.words[3:])])
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    for name in ("MASKED_SAE_LAUNCHER", "HYDRA_FULL_ERROR", "MASKED_SAE_FULL_ERROR_SET"):
        monkeypatch.delenv(name, raising=False)
    try:
        runpy.run_module("src.train", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        assert not ended.code
    assert checked and checked[0] > 0


# The settings that are appended, so that each command takes seconds.
SMALL = (
    "data.train_tokens=4096 data.batch_size=512 data.scale_tokens=2048 data.context_length=64 sae.d_sae=256 "
    "sae.calibration_tokens=2048 optim.warmup_steps=2 trainer.validate_every_steps=null trainer.progress=false "
    "trainer.threads=1 eval.tokens=2048 eval.families=[core] logger.wandb.mode=disabled"
).split()
SMALL_EVALUATION = ["eval.tokens=2048", "eval.families=[core]", "trainer.progress=false", "trainer.threads=1"]
FEWER = {
    "+sweep=mask_rate_x_sparsity": ["mask.token.rate=0.0,0.1", "sae.k=8,16"],
    "+sweep=seeds": ["seed=0,1", "logger.wandb.mode=offline"],
    "+sweep=mask_rate": ["logger.wandb.mode=offline"],
    "+sweep=cures": ["seed=10"],
    "+sweep=search": ["hydra.sweeper.n_trials=2", "objective=core/explained_variance"],
    "hydra/sweeper=search": ["hydra.sweeper.n_trials=2", "objective=core/explained_variance"],
    "hydra.sweeper.confirm=5": ["hydra.sweeper.confirm=1"],
    "hydra/launcher=workstation": ["hydra.launcher.workers=1"],
}
# What can't be had here; such commands are composed to the end above, or are tested where they can be.
NEEDS = {
    "experiment=mine": "somebody's own file",
    "experiment=paper": "a GPU and a hub: test_experiments.py has stand-ins",
    "trainer.device=cuda": "a GPU",
    "lm=minilm": "a package's weights",
    "+sweep=study": "hours",
    "+sweep=noise": "a quarter of an hour",
    "runs/paper": "a cluster: tests/sweeps/slurm",
    "sae.compute_dtype=float32,bfloat16": "minutes",
    "name=grid": "minutes",
    "name=results": "an hour",
    "runs/results": "the sweep before it",
    "runs/study_": "the sweeps before it",
    "runs/cures": "the sweep before it, at size",
    "--config-dir": "modules of one's own: test_extending.py",
    "init_from=NAME": "test_train_run.py",
}


def runs_here(command: Printed) -> bool:
    ours = command.module is not None and command.module.startswith("src.")
    return ours and not any(part in command.text for part in NEEDS)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory, corpus_folder: Path) -> Path:
    """A checkout as far as commands see one, an LM of one's own, and some text."""
    folder = tmp_path_factory.mktemp("sandbox")
    for name in ("src", "conf", "sweeps", "assets", "docs", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    make_neox(folder / "my-lm")
    shutil.copytree(corpus_folder, folder / "corpus")
    return folder


def small(command: Printed) -> list[str]:
    """The command with sizes cut, and with names in place of what a reader is to fill in."""
    words = list(command.words)
    module = words[2]
    appended: list[str] = []
    if module in ("src.train", "src.prepare") and "--help" not in words:
        appended = [*SMALL, *(one for key, more in FEWER.items() if key in words for one in more)]
    elif module == "src.evaluate":
        appended = SMALL_EVALUATION
    elif module == "src.latents" and not any(word.startswith("against=") for word in words):
        appended = ["tokens=2048", "eval.concepts=[token_class]", "eval.concept_tokens=2048"]
    elif module == "src.latents":
        appended = ["eval.concepts=[token_class]", "eval.concept_tokens=2048"]
    elif module in ("src.publish", "src.dashboard"):
        appended = ["dry_run=true"]
    last = {word.partition("=")[0]: word for word in appended}
    return [word for word in words if word.partition("=")[0] not in last] + list(last.values())


def trained_in(folder: Path) -> list[str]:
    return [str(path.parent.relative_to(folder)) for path in sorted(folder.glob("runs/train/*/results.json"))]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_what_needs_no_hub_gpu_or_cluster_runs(sandbox: Path) -> None:
    """All of it, in the order of the pages, from one folder, as somebody would who tries things out."""
    ours = list({one.text: one for one in COMMANDS if runs_here(one)}.values())
    first = [one for one in ours if one.module == "src.train"]
    sweeps = {name for one in ours for name in re.findall(r"runs/(\w+)", one.text)} - {"train"}
    trained = run(sandbox, [filled(small(one), sandbox) for one in first])
    runs = trained_in(sandbox)
    assert len(runs) >= 2 and (sandbox / "runs" / "seeds" / "sweep.json").is_file()
    for name in sweeps:
        if not (sandbox / "runs" / name).exists():
            shutil.copytree(
                sandbox / "runs" / "seeds", sandbox / "runs" / name, symlinks=True
            )  # some of W&B lead nowhere
    looked_at = run(sandbox, [filled(small(one), sandbox) for one in ours if one not in first])
    failed = {" ".join(one["words"]): one["code"] for one in [*trained, *looked_at] if one["code"] != 0}
    assert not failed and len(trained) + len(looked_at) == len(ours) > 30
    assert (sandbox / "runs" / "seeds" / "report.html").is_file()
    assert (sandbox / "published" / "NAME").is_dir() and list(sandbox.glob("runs/train/*/latents.html"))


def run(folder: Path, commands: list[list[str]]) -> list[dict[str, Any]]:
    """What each came to; what they say is in the test's own output."""
    results = folder / "results.jsonl"
    results.unlink(missing_ok=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HYDRA_", "MASKED_SAE_"))}
    environment |= {"MASKED_SAE_CACHE": str(folder / ".cache"), "COLUMNS": "80"}
    subprocess.run(
        [sys.executable, ROOT / "tests" / "support" / "in_order.py", results],
        input=json.dumps(commands),
        cwd=folder,
        env=environment,
        text=True,
        check=True,
        timeout=1100,
    )
    return [json.loads(line) for line in results.read_text().splitlines()]


def filled(words: list[str], sandbox: Path) -> list[str]:
    """With what a reader has in place of what the pages cannot know."""
    runs = [*trained_in(sandbox), *["none"] * 2]
    names = {
        "runs/train/RUN": runs[0],
        "runs/train/UNMASKED": runs[0],
        "runs/train/MASKED": runs[1],
        "run=RUN": f"run={runs[0]}",
        "OTHER": runs[1],
        "sae=NAME": f"sae={runs[0]}/sae",
        "FOLDER": f"{runs[0]}/sae",
        "=LM": "=assets/tiny_lm",
        "TEXT": "corpus",
        "name=SWEEP": "name=seeds",
        "/models/my-lm": "my-lm",
        "/models/my-llama": "my-lm",
        "lm.hook_name=blocks.6.hook_resid_post": f"lm.hook_name={HOOK}",
    }
    filled = [replaced(word, names) for word in words]
    return [*filled, "data.max_epochs=100", "name=own"] if "lm.name=my-lm" in filled else filled


def replaced(word: str, names: dict[str, str]) -> str:
    for placeholder, name in names.items():
        word = word.replace(placeholder, name)
    return word
