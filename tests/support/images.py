"""The files of docker/ as they are read, and images that are built of them where there is no container engine."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.making import ROOT

DOCKER = ROOT / "docker"
Result = subprocess.CompletedProcess[str]


def missing() -> str | None:
    """What keeps images from being built here."""
    if os.geteuid() != 0:
        return "images are built by root"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    programs = [name for name in ("buildah", "debootstrap") if shutil.which(name, path=path) is None]
    return f"no {' and no '.join(programs)} here: install Debian's buildah and debootstrap" if programs else None


def stages() -> dict[str, str]:
    """The text of each stage of the Dockerfile, by its name; what stands above the first under the empty one."""
    return _parts(r"^FROM \S+ AS (\w+)$", DOCKER / "Dockerfile")


def sections() -> dict[str, str]:
    """The header of the Apptainer definition under the empty name, and each section."""
    return _parts(r"^%(\w+)$", DOCKER / "apptainer.def")


def _parts(heading: str, file: Path) -> dict[str, str]:
    first, *rest = re.split(heading, file.read_text(), flags=re.MULTILINE)
    return {"": first} | dict(zip(rest[::2], rest[1::2], strict=True))


def build(*targets: str, root: Path = ROOT, **environment: str) -> Result:
    return _done([str(root / "docker" / "build.sh"), *targets], **environment)


def run_in(image: str, *command: str, options: Sequence[str] = ()) -> Result:
    return _done([str(DOCKER / "run.sh"), *options, image, *command])


def inspected(image: str) -> Any:
    return json.loads(_done(["buildah", "inspect", "--type", "image", image]).stdout)


def _done(command: list[str], **environment: str) -> Result:
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
