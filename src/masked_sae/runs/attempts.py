"""What a run was trained with: `attempts.json`, an entry for each time that training began or went on."""

import json
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from masked_sae.files import write_json

_PACKAGES = "masked-sae torch transformers transformer-lens sae-lens numpy scipy scikit-learn pandas".split()
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Attempt:
    """Attributes:
    began: UTC, ISO 8601.
    step: optimizer steps that were already done.
    commit: of the working tree, with a note where it had changes; empty outside a checkout.
    versions: of Python, this project and what it builds on.
    device: the CPU's or GPU's name.
    threads: of torch, on the CPU.
    """

    began: str
    step: int
    commit: str
    versions: dict[str, str]
    device: str
    threads: int


def note_attempt(path: Path, step: int, device: torch.device) -> None:
    """Adds an entry for an attempt that begins now."""
    began = datetime.now(UTC).isoformat(timespec="seconds")
    attempt = Attempt(began, step, find_commit(), find_versions(), _name(device), torch.get_num_threads())
    write_json(path, [asdict(earlier) for earlier in read_attempts(path)] + [asdict(attempt)])


def read_attempts(path: Path) -> list[Attempt]:
    """The entries, oldest first; none where there is no such file, or it cannot be read."""
    try:
        return [Attempt(**entry) for entry in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def find_versions() -> dict[str, str]:
    """Of Python and the installed packages."""
    return {"python": platform.python_version()} | {name: found for name in _PACKAGES if (found := _version(name))}


def find_commit() -> str:
    """Of this project's working tree, as `Attempt.commit` tells it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if not git("ls-files", str(Path(__file__))):
            return ""  # installed inside somebody else's checkout
        changed = " with changes that are not committed" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        names = [line.partition(":")[2].strip() for line in _CPU_INFO.open() if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
