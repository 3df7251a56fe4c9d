"""The package as it would be published, installed in an environment of its own, and commands run there."""

import os
import subprocess
import sys
import venv
from pathlib import Path

from support.making import ROOT


def build(out: Path) -> None:
    """Builds the sdist and, from it, the wheel."""
    _do([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)])


class Environment:
    """A Python environment with the wheel in it.

    Args:
        whole: what the wheel needs is installed too, as constraints.txt pins it. Otherwise it is found where the tests
            find it; of these places the lines that make an editable install are not read.
    """

    def __init__(self, folder: Path, wheel: Path, *, whole: bool) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.bin = folder / "bin"
        (self.site,) = folder.glob("lib/python*/site-packages")
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet"]
        if whole:
            pinned = ["--constraint", str(ROOT / "constraints.txt")]
            _do([*pip, *pinned, "torch"])  # first, so that what depends on it asks for no other build
            _do([*pip, *pinned, str(wheel)])
        else:
            _do([*pip, "--no-deps", str(wheel)])
            libraries = [place for place in sys.path if Path(place).name == "site-packages"]
            (self.site / "libraries.pth").write_text("".join(f"{place}\n" for place in libraries))

    def run(self, name: str, *arguments: str, cwd: Path) -> str:
        """What a command printed, whose exit was 0."""
        ours = ("PYTHON", "MASKED_SAE_", "HYDRA_")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        done = subprocess.run(
            [str(self.bin / name), *arguments], cwd=cwd, env=environment, text=True, capture_output=True, timeout=500
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def files(self) -> set[str]:
        found = (path.relative_to(self.site) for path in self.site.rglob("*"))
        return {str(path) for path in found if "__pycache__" not in path.parts}


def _do(command: list[str]) -> None:
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
