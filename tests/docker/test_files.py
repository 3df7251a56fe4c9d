"""Of docker/, what needs no image: its files agree with each other and with the checkout, and say what is wrong."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.images import DOCKER, build, sections, stages
from support.making import ROOT

COMPOSE = DOCKER / "compose.yaml"
SERVICES = ["train", "gpu", "slurm"]


def compose() -> Any:
    return yaml.safe_load(COMPOSE.read_text())


def defaults(dockerfile: str) -> dict[str, str]:
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", dockerfile, re.MULTILINE))


def steps(text: str) -> list[str]:
    """What install.sh is told to do, in order."""
    return re.findall(r"""install(?:\.sh|")\s+(python|requirements|packages|project|slurm)\b""", text)


def test_the_last_stage_trains_and_both_images_are_of_one_project() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert list(stages())[-1] == "train" and 'CMD ["python", "-m", "src.train"]' in stages()["train"]
    assert re.findall(r"^FROM project AS (\w+)$", text, re.MULTILINE) == ["slurm", "train"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_built_of_a_stage_with_arguments_that_it_has(name: str) -> None:
    service = compose()["services"][name]
    built = service["build"]
    dockerfile = (COMPOSE.parent / built["context"] / built["dockerfile"]).resolve()
    assert dockerfile == DOCKER / "Dockerfile" and (COMPOSE.parent / built["context"]).resolve() == ROOT
    assert built["target"] in stages() and set(built["args"]) <= set(defaults(dockerfile.read_text()))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_keeps_runs_and_caches_where_the_image_has_them(name: str) -> None:
    found = compose()
    mounts = dict(volume.split(":")[::-1] for volume in found["services"][name]["volumes"])
    assert mounts["/app/runs"] == "../runs" and mounts["/cache"] in found["volumes"]
    assert "WORKDIR /app" in stages()["project"] and "MASKED_SAE_CACHE=/cache/" in stages()["project"]


def test_only_the_service_with_cuda_asks_for_gpus() -> None:
    services = compose()["services"]
    assert list(services) == SERVICES
    for name, service in services.items():
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        assert [device["capabilities"] for device in devices] == ([["gpu"]] if name == "gpu" else [])
        assert service["build"]["args"]["DEVICE"] == ("cuda" if name == "gpu" else "cpu")


def test_compose_takes_its_file() -> None:
    command = [
        "docker",
        "compose",
        "--file",
        str(COMPOSE),
        "--profile",
        "gpu",
        "--profile",
        "slurm",
        "config",
        "--quiet",
    ]
    if shutil.which("docker") is None or subprocess.run([*command[:2], "version"], capture_output=True).returncode != 0:
        pytest.skip("no `docker compose` here")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_apptainer_image_takes_the_steps_of_the_dockerfile() -> None:
    found = sections()
    assert set(found) == {"", "arguments", "files", "post", "environment", "runscript", "test", "labels"}
    assert steps(found["post"]) == steps("".join(text for name, text in stages().items() if name != "slurm"))
    assert found["runscript"].split("exec ")[1].split()[:3] == ["python", "-m", "src.train"]


def test_the_apptainer_image_has_the_base_and_the_defaults_of_the_dockerfile() -> None:
    found, arguments = sections(), defaults((DOCKER / "Dockerfile").read_text())
    header = dict(line.split(": ") for line in found[""].splitlines() if not line.startswith("#") and line)
    assert header["Bootstrap"] == "docker" and arguments.pop("BASE") == f"docker.io/library/{header['From']}"
    assert dict(re.findall(r"(\w+)=(\S+)", found["arguments"])) == arguments
    assert set(re.findall(r"{{ (\w+) }}", found["post"])) == set(arguments)


def test_both_images_have_the_same_of_a_checkout() -> None:
    let_in = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = [line.split() for line in sections()["files"].strip().splitlines()]
    assert all((ROOT / name).exists() for name in let_in)
    assert {source for source, _ in copied} == set(let_in) - {"docker/slurm"}
    assert all(place in (f"/app/{source}", "/usr/local/lib/masked-sae/install.sh") for source, place in copied)


@pytest.mark.parametrize("name", ["post", "environment", "runscript", "test"])
def test_the_sections_are_shell(name: str) -> None:
    done = subprocess.run(["sh", "-n"], input=sections()[name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_build_asks_for_torch_where_the_dockerfile_does() -> None:
    index = re.findall(r"^index=\${TORCH_INDEX-(\S+)}", (DOCKER / "build.sh").read_text(), re.MULTILINE)
    assert index == [defaults((DOCKER / "Dockerfile").read_text())["TORCH_INDEX"]]


def test_a_target_or_a_device_that_there_is_not_is_one_line() -> None:
    for done, line in [
        (build("trian"), "build.sh: trian: expected train or slurm"),
        (build(DEVICE="rocm"), "build.sh: DEVICE=rocm: expected cpu or cuda"),
    ]:
        assert (done.returncode, done.stderr.strip()) == (2, line)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["pakages"], "install.sh: pakages: expected python, requirements, packages, project or slurm"),
        (["packages", "requirements.txt", "constraints.txt"], "install.sh: DEVICE=rocm: expected cpu or cuda"),
    ],
)
def test_a_step_says_what_it_expected(arguments: list[str], line: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(DOCKER / "install.sh"), *arguments], env={"DEVICE": "rocm"}, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.strip()) == (2, line)
