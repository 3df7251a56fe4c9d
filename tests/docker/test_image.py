"""The images, built of the Dockerfile by buildah: what is in them and what is not, and that sweeps train there."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from support.images import build, inspected, missing, run_in
from support.making import ROOT

pytestmark = [pytest.mark.container, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(2400)]

TRAIN, SLURM = "localhost/masked-sae-train:cpu", "localhost/masked-sae-slurm:cpu"
COMMAND = ["python", "-m", "src.train"]
SMALL = [
    "data.train_tokens=20_480", "sae.d_sae=256", "sae.calibration_tokens=2048", "eval.families=[core]",
    "eval.tokens=1024", "trainer.validate_every_steps=null", "logger.wandb.mode=disabled",
]  # fmt: skip
DEMO = [*COMMAND, "+sweep=demo", "-m", "mask.token.rate=0.0,0.3", "sae.k=16", "seed=0", *SMALL]


@pytest.fixture(scope="module", autouse=True)
def built() -> str:
    """What the build said."""
    if reason := missing():
        if os.environ.get("MASKED_SAE_REQUIRE_CONTAINER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    done = build()
    if other := re.search(r"install\.sh: (.*the registry gave torch built for .*)", done.stderr + done.stdout):
        pytest.skip(other[1])  # the build refuses it in a line; a machine's registry may have one kind of torch alone
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def root_of_image(built: str) -> Generator[Path]:
    """The files of the larger image."""

    def buildah(*arguments: str) -> str:
        return subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    container = buildah("from", "--pull-never", SLURM)
    yield Path(buildah("mount", container))
    buildah("rm", container)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder that the image's user may write to, as a volume would be."""
    folder = tmp_path / "runs"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def mounts(runs: Path) -> list[str]:
    return [f"--volume={runs}:/app/runs"]


def sweep_is_done(folder: Path) -> bool:
    states = [json.loads(path.read_text())["status"] for path in folder.glob("*/state.json")]
    return states == ["done", "done"]


def test_the_demo_trains_as_somebody_who_is_not_root_and_is_reported(runs: Path) -> None:
    done = run_in(TRAIN, *DEMO, options=mounts(runs))
    assert done.returncode == 0 and sweep_is_done(runs / "demo"), done.stdout + done.stderr
    assert {path.stat().st_uid for path in runs.rglob("*")} == {1000}
    page = run_in(TRAIN, "python", "-m", "src.report", "sweep=runs/demo", options=mounts(runs))
    assert page.returncode == 0 and list((runs / "demo").glob("*.html")), page.stdout + page.stderr


def test_without_a_command_it_would_train(built: str) -> None:
    config = inspected(TRAIN)["OCIv1"]["config"]
    assert config["Cmd"] == COMMAND and "Entrypoint" not in config
    assert (config["User"], config["WorkingDir"]) == ("1000", "/app")


def test_somebody_whom_the_image_does_not_know_can_train(runs: Path) -> None:
    said = run_in(TRAIN, *COMMAND, *SMALL, options=[*mounts(runs), "--user=4321:4321"])
    assert said.returncode == 0, said.stdout + said.stderr
    assert {path.stat().st_uid for path in runs.rglob("*")} == {4321}


def test_a_sweep_goes_through_the_slurm_of_the_other_image(runs: Path) -> None:
    ports = ["--env=MASKED_SAE_SLURM_CTLD_PORT=26897", "--env=MASKED_SAE_SLURM_SLURMD_PORT=26898"]
    done = run_in(SLURM, *DEMO, "hydra.launcher.cpus_per_task=1", options=[*mounts(runs), *ports])
    assert done.returncode == 0 and sweep_is_done(runs / "demo"), done.stdout + done.stderr
    assert list((runs / "demo" / ".submitit").glob("*/*.out")), "no job's log"
    assert "stop.sh: stopped" in done.stderr


def test_versions_are_those_of_the_constraints(built: str) -> None:
    pinned = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    frozen = run_in(TRAIN, "pip", "freeze", "--exclude-editable").stdout
    installed = dict(re.findall(r"^([\w.-]+)==([^+\s]+)", frozen, re.MULTILINE))
    assert {"torch", "transformer-lens", "hydra-core"} <= set(installed)
    assert {name: version for name, version in installed.items() if pinned.get(name) != version} == {}


def test_nothing_stays_of_where_packages_came_from(root_of_image: Path, built: str) -> None:
    root = root_of_image
    secrets = root / "run" / "secrets"
    assert not secrets.exists() or not any(path.stat().st_size for path in secrets.rglob("*") if path.is_file())
    assert not list((root / "root" / ".cache").rglob("*.whl")) and not list((root / "var/lib/apt/lists").glob("*_*"))
    assert not list(root.glob("root/.config/pip/*")) and not (root / "etc" / "pip.conf").exists()
    packages = root / "opt/venv/lib"
    assert [path.parent.name.split("-")[0] for path in packages.rglob("direct_url.json")] == ["masked_sae"]
    assert "/run/registry" not in json.dumps(inspected(SLURM)["OCIv1"])


def test_a_checkouts_tests_history_and_own_launcher_are_not_in_it(root_of_image: Path) -> None:
    app = root_of_image / "app"
    assert {path.name for path in app.iterdir()} == {
        "LICENSE", "README.md", "assets", "conf", "constraints.txt", "docker", "pyproject.toml", "runs", "src", "sweeps"
    }  # fmt: skip
    assert not (app / "conf/hydra/launcher/mine.yaml").exists()
    assert {path.stat().st_uid for path in app.rglob("*")} == {0}


def test_a_change_of_code_installs_nothing_anew(built: str, tmp_path: Path) -> None:
    before = inspected(TRAIN)["OCIv1"]["rootfs"]["diff_ids"]
    checkout = tmp_path / "checkout"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, checkout / name, follow_symlinks=False)
        shutil.copymode(ROOT / name, checkout / name, follow_symlinks=False)
    (checkout / "src" / "masked_sae" / "errors.py").open("a").write("\nCHANGED = True\n")
    done = build("train", root=checkout, TAG="changed")
    assert done.returncode == 0, done.stderr[-2000:]
    changed = TRAIN.replace(":cpu", ":changed")
    after = inspected(changed)["OCIv1"]["rootfs"]["diff_ids"]
    # the project's files and its installation are the last two
    assert after[:-2] == before[:-2] and after[-2] != before[-2]
    said = run_in(changed, "python", "-c", "from masked_sae.errors import CHANGED; print(CHANGED)")
    subprocess.run(["buildah", "rmi", changed], check=True, capture_output=True)
    assert said.stdout.strip() == "True"
