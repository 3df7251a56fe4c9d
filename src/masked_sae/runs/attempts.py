"""What a run was trained with: `attempts.json`, an entry for each time that training began or went on."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from masked_sae.files import write_json

_PACKAGES = "masked-sae torch transformers transformer-lens sae-lens numpy scipy scikit-learn pandas".split()
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Software:
    """Attributes:
    commit: of the working tree, with a note where it had changes; empty outside a checkout.
    versions: of Python, this project and what it builds on.
    """

    commit: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Attempt:
    """Attributes:
    began: UTC, ISO 8601.
    step: optimizer steps that were already done.
    device: the CPU's or GPU's name.
    threads: of torch, on the CPU.
    modules: digests of the user's own modules that the run names.
    cpus: that the process might use, such as `0-3,8`; empty where it is not known.
    code: digest of this project's code; empty where an older version wrote the entry.
    ranks: processes that trained together.
    """

    began: str
    step: int
    software: Software
    device: str
    threads: int
    modules: Mapping[str, str] = field(default_factory=dict[str, str])
    cpus: str = ""
    code: str = ""
    ranks: int = 1


def note_attempt(
    path: Path, step: int, device: torch.device, modules: Mapping[str, str], code: str, ranks: int = 1
) -> None:
    """Adds an entry for an attempt that begins now; earlier entries stay as they are, whatever they hold."""
    entry: dict[str, Any] = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        **asdict(find_software()),
        "device": _name(device),
        "threads": torch.get_num_threads(),
        "modules": dict(modules),
        "cpus": usable_cpus(),
        "code": code,
        "ranks": ranks,
    }
    write_json(path, [*_entries(path), entry])


def read_attempts(path: Path) -> list[Attempt]:
    """The entries that can be read, oldest first."""
    found = [_parsed(entry) for entry in _entries(path)]
    return [attempt for attempt in found if attempt is not None]


def usable_cpus() -> str:
    """The CPUs that this process may use, as SLURM and taskset write them: `0-3,8`; empty where nothing tells."""
    try:
        cpus = sorted(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux
        return ""
    firsts = [cpu for cpu in cpus if cpu - 1 not in cpus]
    lasts = [cpu for cpu in cpus if cpu + 1 not in cpus]
    ranges = zip(firsts, lasts, strict=True)
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in ranges)


def find_software() -> Software:
    """What runs here."""
    return Software(_commit(), _versions())


def _entries(path: Path) -> list[Any]:
    try:
        found: Any = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):  # of JSON nested beyond reading
        return []
    return found if isinstance(found, list) else []


def _parsed(entry: Any) -> Attempt | None:
    """Keys that are not known are passed over: a later version may have written them."""
    try:
        versions = {str(name): str(version) for name, version in entry["versions"].items()}
        software = Software(str(entry["commit"]), versions)
        modules = {str(name): str(digest) for name, digest in entry.get("modules", {}).items()}
        began, step, device, threads = entry["began"], entry["step"], entry["device"], entry["threads"]
        cpus, code, ranks = str(entry.get("cpus", "")), str(entry.get("code", "")), int(entry.get("ranks", 1))
        return Attempt(str(began), int(step), software, str(device), int(threads), modules, cpus, code, ranks)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _versions() -> dict[str, str]:
    found = {name: version for name in _PACKAGES if (version := _version(name))}
    return {"python": platform.python_version(), **found, "torch": torch.__version__}  # torch's own names its build


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if not git("ls-files", str(Path(__file__))):
            return ""  # installed inside somebody else's checkout
        changed = " and changes" if git("status", "--porcelain", "--untracked-files=no") else ""
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
        lines = _CPU_INFO.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
