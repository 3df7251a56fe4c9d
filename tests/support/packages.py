"""The package as it would be published, installed in an environment of its own, and commands run there."""

import os
import subprocess
import sys
import venv
from pathlib import Path

from support.making import ROOT


def build(out: Path) -> Path:
    """Builds sdist and, from it, wheel; the path of the wheel."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    _do(command)
    (wheel,) = out.glob("*.whl")
    return wheel


class Environment:
    """A Python environment with the wheel in it. What the wheel needs is found where the tests find it; of these places
    the lines that make an editable install are not read.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.bin = folder / "bin"
        (self.site,) = folder.glob("lib/python*/site-packages")
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet", "--no-deps"]
        _do([*pip, str(wheel)])
        libraries = [place for place in sys.path if Path(place).name == "site-packages"]
        (self.site / "libraries.pth").write_text("".join(f"{place}\n" for place in libraries))

    def run(self, name: str, *arguments: str, cwd: Path) -> str:
        """What a command printed, whose exit was 0."""
        ours = ("PYTHON", "MASKED_SAE_", "HYDRA_")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        done = subprocess.run(
            [str(self.bin / name), *arguments], cwd=cwd, env=environment, text=True, capture_output=True, timeout=280
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def files(self) -> set[str]:
        found = (path.relative_to(self.site) for path in self.site.rglob("*"))
        return {str(path) for path in found if "__pycache__" not in path.parts}


def _do(command: list[str]) -> None:
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
