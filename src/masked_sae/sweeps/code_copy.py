"""The code of a sweep on a cluster: a copy in the sweep's folder, once for each content, that its jobs run from.

`.code/<digest>/` has `src`, `conf` and `sweeps` of this project, or `src` alone of an installed package, which has the
others inside; and in `own` the user's modules that a configuration names, with those that they import from beside them.
"""

import hashlib
import shlex
import shutil
import site
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from masked_sae.bundled import ASSETS, ASSETS_VARIABLE, INSTALLED, PACKAGE
from masked_sae.errors import DamagedFileError, InputError
from masked_sae.files import folder_aside, read_object, write_json
from masked_sae.runs.attempts import find_software
from masked_sae.runs.code import bound_code, code_digest, digest_of_code, other_code
from masked_sae.runs.run import Run
from masked_sae.settings import own_modules

_FOLDER, _ABOUT = ".code", "code.json"
_SOURCES = PACKAGE.parent
_OURS = (PACKAGE.name, "hydra_plugins")
_LARGEST_BYTES = 1 << 20  # of a file beside somebody's modules that is no module


@dataclass(frozen=True)
class CodeCopy:
    """Attributes:
    path: the copy's folder.
    code: what `runs/code.py` calls the code in it.
    """

    path: Path
    code: str

    def setup(self, folder: Path) -> list[str]:
        """Shell lines that have a job's Python import from the copy, and what is not in it from a folder as ever."""
        places = [self.path / "src", self.path / "own", folder]
        path = ":".join(shlex.quote(str(place)) for place in places)
        # -P: else Python would look into the working folder first
        return [
            f'export PYTHONSAFEPATH=1 PYTHONPATH={path}"${{PYTHONPATH:+:$PYTHONPATH}}"',
            f"export {ASSETS_VARIABLE}={shlex.quote(str(ASSETS))}",
        ]


def code_of(runs: Sequence[Run]) -> dict[Path, CodeCopy]:
    """For each run, by its folder, the copy that it is to be trained with: of the code that it has been trained with,
    or of today's. None of runs that take what is there when they start (`code=live`).

    Raises:
        InputError: a run has been trained with code of which there is no copy.
    """
    found: dict[Path, CodeCopy] = {}
    todays: dict[Path, CodeCopy] = {}
    for run in runs:
        sweep, bound = run.folder.path.parent.absolute(), bound_code(run.folder)
        if run.config.code == "live":
            continue
        if run.config.code == "submitted" and bound not in (None, code_digest()):
            copies = [copy for copy in _copies(sweep) if copy.code == bound]
            if not copies:
                raise InputError("code", run.config.code, other_code(run.folder, bound))
            found[run.folder.path] = copies[-1]
            continue
        if sweep not in todays:
            here = [other for other in runs if other.folder.path.parent.absolute() == sweep]
            todays[sweep] = _copy(sweep, {module for one in here for module, _ in own_modules(one.config).values()})
        found[run.folder.path] = todays[sweep]
    return found


def _copies(sweep: Path) -> list[CodeCopy]:
    """Oldest first."""
    abouts = sorted(sweep.glob(f"{_FOLDER}/*/{_ABOUT}"), key=lambda about: about.stat().st_mtime)
    found: list[CodeCopy] = []
    for about in abouts:
        try:
            found.append(CodeCopy(about.parent, str(read_object(about)["code"])))
        except (OSError, DamagedFileError, KeyError):
            continue
    return found


def _copy(sweep: Path, modules: Iterable[str]) -> CodeCopy:
    files = {**_of_project(), **_of_modules(modules)}
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(files):
        digest.update(f"{name}\0".encode() + files[name].read_bytes() + b"\0")
    path = sweep / _FOLDER / digest.hexdigest()
    if not (path / _ABOUT).exists():
        with folder_aside(path) as aside:
            for name, source in files.items():
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, aside / name)
            code = digest_of_code(aside / "src" / PACKAGE.name)
            write_json(aside / _ABOUT, {"code": code, "commit": find_software().commit})
    return CodeCopy(path, str(read_object(path / _ABOUT)["code"]))


def _of_project() -> Mapping[str, Path]:
    plugins = (_SOURCES / "hydra_plugins").glob("masked_sae_*.py")  # beside them lie other people's
    library = (path for path in _files(PACKAGE) if not path.is_relative_to(ASSETS))
    found = {f"src/{path.relative_to(_SOURCES)}": path for path in (*plugins, *library)}
    if INSTALLED:
        return found
    found |= {f"src/{path.name}": path for path in _SOURCES.glob("*.py")}
    root = _SOURCES.parent
    return found | {str(path.relative_to(root)): path for name in ("conf", "sweeps") for path in _files(root / name)}


def _of_modules(named: Iterable[str]) -> Mapping[str, Path]:
    """The files of the user's modules, as Python would find them in `own`."""
    tops = {name.partition(".")[0] for name in named}
    places = {place for top in tops if (place := _place(top)) is not None}
    installed = {Path(folder).resolve() for folder in [*site.getsitepackages(), site.getusersitepackages()]}
    beside = {
        name for name in list(sys.modules) if "." not in name and name != "src" and _place(name) in places - installed
    }
    found: dict[str, Path] = {}
    for name in sorted(tops | beside):
        place = _place(name)
        if place is None or name in _OURS:
            continue
        sources = _files(place / name) if (place / name).is_dir() else [place / f"{name}.py"]
        found |= {f"own/{path.relative_to(place)}": path for path in sources if _is_code(path)}
    return found


def _is_code(path: Path) -> bool:
    return path.is_file() and (path.suffix == ".py" or path.stat().st_size <= _LARGEST_BYTES)


def _place(name: str) -> Path | None:
    """The folder that a module, or the package of this name, was imported from; None of what is in no folder."""
    module = sys.modules.get(name)
    file, paths = getattr(module, "__file__", None), list(getattr(module, "__path__", []))
    if name == "__main__" or not (file or paths):
        return None
    return Path(paths[0] if paths else str(file)).resolve().parent


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
