"""Where a run's files lie: the layout that users and scripts rely on."""

import shutil
from dataclasses import dataclass
from pathlib import Path

_AGAINST = "absorption_against_"  # what the page of two runs is called, before the other's id


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def histograms(self) -> Path:
        """Of latents, at the steps that were validated."""
        return self.path / "histograms.jsonl"

    @property
    def attempts(self) -> Path:
        """What each attempt to train the run was made with."""
        return self.path / "attempts.json"

    @property
    def asked_end(self) -> Path:
        """Where somebody asks a run that trains to end: see `runs/asked_end.py`."""
        return self.path / "asked_end.json"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def evals(self) -> Path:
        """One file for each family of metrics."""
        return self.path / "evals"

    def family(self, name: str) -> Path:
        """Of the metrics of one family."""
        return self.evals / f"{name}.json"

    @property
    def sae(self) -> Path:
        return self.path / "sae"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    def absorption(self, against: str = "") -> Path:
        """The page of what its latents absorb, alone or beside another run.

        Args:
            against: the other's id.
        """
        return self.path / (f"{_AGAINST}{against}.html" if against else "absorption.html")

    def absorption_pages(self) -> dict[str, Path]:
        """Those that are there, by the id of the other run; empty for the run alone."""
        alone = self.absorption()
        beside = {path.stem.removeprefix(_AGAINST): path for path in sorted(self.path.glob(f"{_AGAINST}?*.html"))}
        return ({"": alone} if alone.exists() else {}) | beside


def run_folder_of(path: Path) -> RunFolder:
    """The run's of this folder, or of the `sae/` within it."""
    return RunFolder(path.parent if path.name == "sae" and (path.parent / "config.yaml").exists() else path)


def clear_run(folder: RunFolder) -> None:
    """Empties a run's folder, but for the lock that the caller holds."""
    for path in folder.path.iterdir():
        if path.name.startswith(folder.lock.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
