"""`registry.py FOLDER [TORCH_INDEX]`: settings of registries here, as arguments of `buildah build`, one a line.

What pip is set to (its files, its `PIP_…` variables) becomes a pip.conf in FOLDER, and how apt connects an apt.conf;
both enter a build as secrets. Indexes that are folders of this machine are mounted while it lasts.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

_WHERE = "index-url extra-index-url find-links".split()
_HOW = "no-index trusted-host proxy timeout default-timeout retries".split()
_INSTALLING = ("global", "install", ":env:")  # in pip's order: the later ones win
_MOUNTS = "/run/registry"
_PATIENCE_S = 10


def pip_settings() -> dict[str, str]:
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    found: dict[str, dict[str, str]] = {section: {} for section in _INSTALLING}
    for section, key, value in re.findall(r"^([^.\n]+)\.\.?([\w-]+)=(.*)$", done.stdout, re.MULTILINE):
        if section in found:
            found[section][key] = str(ast.literal_eval(value))
    return {key: value for section in _INSTALLING for key, value in found[section].items()}


def local_path(place: str) -> Path | None:
    """Where on this machine an index lies; None of one that a network has."""
    parts = urlsplit(place)
    if parts.scheme not in ("", "file"):
        return None
    path = Path(unquote(parts.path) if parts.scheme else place).expanduser()
    return path if path.exists() else None


def mounted(places: str, volumes: list[Path], pages: bool) -> str:
    """The places as the build sees them. An index's pages link to files beside them, so what is around is mounted."""
    seen: list[str] = []
    for place in places.split():
        path = local_path(place)
        if path is None:
            seen.append(place)
            continue
        around = path.parent if pages else path
        if around not in volumes:
            volumes.append(around)
        inside = f"{_MOUNTS}/{volumes.index(around)}" + (f"/{path.name}" if pages else "")
        seen.append(f"file://{inside}")
    return " ".join(seen)


def pip_arguments(folder: Path) -> list[str]:
    settings, volumes, arguments = pip_settings(), list[Path](), list[str]()
    lines = [f"{key} = {settings[key]}" for key in _HOW if key in settings]
    lines += [f"{key} = {mounted(settings[key], volumes, key != 'find-links')}" for key in _WHERE if key in settings]
    certificates = Path(settings.get("cert", ""))
    if certificates.is_file():
        lines.append("cert = /run/secrets/ca")
        arguments += ["--secret", f"id=ca,src={certificates.resolve()}"]
    if lines:
        (folder / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
        arguments += ["--secret", f"id=pip,src={folder / 'pip.conf'}"]
    for number, path in enumerate(volumes):
        arguments += ["--volume", f"{path}:{_MOUNTS}/{number}:ro"]
    return arguments


def apt_arguments(folder: Path) -> list[str]:
    try:
        dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return []
    lines = re.findall(r'^Acquire::(?:https?|Check|Max|Retries).* ".+";$', dumped, re.MULTILINE)
    (folder / "apt.conf").write_text("\n".join([*lines, ""]))
    return ["--secret", f"id=apt,src={folder / 'apt.conf'}"]


def torch_arguments(index: str) -> list[str]:
    """Where PyTorch's own index does not answer, its CPU build has to come from what pip is set to."""
    try:
        urlopen(f"{index}/torch/", timeout=_PATIENCE_S).close()
    except OSError as error:
        print(f"registry.py: {index} does not answer ({error}): torch is to come from where pip looks", file=sys.stderr)
        return ["--build-arg", "TORCH_INDEX="]
    return []


if __name__ == "__main__":
    given = sys.argv[1:]
    arguments = [*apt_arguments(Path(given[0])), *pip_arguments(Path(given[0]))]
    if len(given) > 1:
        arguments += torch_arguments(given[1])
    print(*arguments, sep="\n")
