"""All files of a publication: each run in a folder of its own, as SAELens' releases have it, and a card above them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from masked_sae.errors import InputError
from masked_sae.files import write_json, write_text
from masked_sae.publishing.card import CARD, Place, Said, run_card, sweep_card, with_front_matter
from masked_sae.publishing.privacy import names_a_place, private_places, public_command, public_values
from masked_sae.publishing.trained_run import TrainedRun, read_trained_run, why_not_published
from masked_sae.publishing.training_figure import write_training_figure
from masked_sae.report.build import write_report
from masked_sae.report.design import read_design
from masked_sae.report.exports import write_tables
from masked_sae.report.reproduce import reproduce
from masked_sae.report.runs_table import read_runs
from masked_sae.runs.config_file import write_config
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.sweep_record import MEMBERS, read_commands, read_labels, read_members

_FIGURE = "training_curve.png"
_PAGES = ("latents*.html", "absorption*.html")
_PAGES_DATA = ("latents_data*", "absorption_data*")
_NAMED = 3  # in one line
_ELSEWHERE = "/path/to"  # a folder's place, in commands of a report that is published


@dataclass(frozen=True)
class Publication:
    """Attributes:
    files: by their path in the repository; weights and pages lie where they are, the others were written for this.
    notes: what a user should know of what goes and what does not.
    """

    files: Mapping[str, Path]
    notes: Sequence[str]


def prepare_run(folder: Path, place: Place, staging: Path) -> Publication:
    """What is published of one run.

    Args:
        staging: an empty folder.

    Raises:
        InputError: it is not done.
        DamagedFileError: its weights are not those that were exported.
    """
    run_folder = RunFolder(folder.resolve())
    if why := why_not_published(run_folder):
        raise InputError("run", folder, f"a run that is done: this folder {why}")
    run = read_trained_run(run_folder)
    files, pages = _write_run(run, staging / run.name)
    card = run_card(run, place, f"{run.name}/", _figure(staging / run.name), pages)
    write_text(staging / CARD, with_front_matter(card, [run], place))
    return _checked(files | _below(staging), [folder, staging], pages)


def prepare_sweep(folder: Path, place: Place, staging: Path) -> Publication:
    """What is published of a sweep: its runs that are done, and a report of these.

    Args, Raises: as `prepare_run`.
    """
    members = {member.folder.run_id: member for member in read_members(folder.resolve())}
    why = {name: why_not_published(member.folder) for name, member in members.items()}
    left = {name: reason for name, reason in why.items() if reason}
    if len(left) == len(members):
        raise InputError("sweep", folder, "a folder with runs that are done, such as runs/mask_rate")
    runs = [read_trained_run(one.folder, one.swept) for name, one in members.items() if name not in left]
    root = staging / folder.resolve().name
    files: dict[str, Path] = {}
    shown: list[str] = []
    for run in runs:
        of_run, pages = _write_run(run, root / run.name)
        write_text(root / run.name / CARD, run_card(run, place, "", _figure(root / run.name), pages))
        files |= of_run
        shown += pages
    _write_record(root, folder, runs)
    said = _write_report(root, staging)
    found = read_runs([root])
    card = sweep_card(root.name, runs, place, (found, read_design(found)), said, left)
    write_text(root / CARD, with_front_matter(card, runs, place))
    notes = [f"left out: {', '.join(list(left)[:_NAMED])}{'…' if len(left) > _NAMED else ''}: not done"] if left else []
    checked = _checked(files | _below(root), [folder, staging], shown)
    return replace(checked, notes=[*notes, *checked.notes])


def _write_run(run: TrainedRun, folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Writes a run's small files; returns the large ones as they lie, and the names of its pages."""
    folder.mkdir(parents=True)
    write_json(folder / "cfg.json", run.cfg)
    write_config(folder / "config.yaml", run.results.config)
    results = {"run_id": run.name, "status": "done", **{k: v for k, v in asdict(run.results).items() if v is not None}}
    write_json(folder / "results.json", results)
    write_json(folder / "attempts.json", [_public_attempt(one) for one in map(asdict, run.attempts)])
    if run.folder.metrics.exists():
        write_text(folder / "metrics.csv", run.folder.metrics.read_text(encoding="utf-8"))
    write_training_figure(folder / _FIGURE, run.folder.path)
    pages = [page for pattern in _PAGES for page in sorted(run.folder.path.glob(pattern)) if page.is_file()]
    beside = [one for pattern in _PAGES_DATA for one in run.folder.path.glob(pattern) if one.is_dir()]
    data = [file for one in beside for file in sorted(one.rglob("*")) if file.is_file() and not file.is_symlink()]
    lying = [run.weights, *pages, *data]
    named = {file: file.name if file == run.weights else str(file.relative_to(run.folder.path)) for file in lying}
    return {f"{run.name}/{name}": file for file, name in named.items()}, [page.name for page in pages]


def _public_attempt(attempt: dict[str, object]) -> dict[str, object]:
    """As `read_attempts` reads it, without which of the machine's CPUs it might use."""
    software = attempt.pop("software")
    assert isinstance(software, dict)
    return public_values({**attempt, **software, "cpus": ""})


def _write_record(root: Path, sweep: Path, runs: Sequence[TrainedRun]) -> None:
    """What the sweep is, so that src.report reads the downloaded folder as it reads the original."""
    members = {run.name: run.swept for run in runs}
    commands = [public_command(command) for command in read_commands(sweep)]
    write_json(root / MEMBERS, {"members": members, "commands": commands, "labels": read_labels(sweep)})


def _write_report(root: Path, staging: Path) -> Said:
    """A report of what is published, which knows of no other place."""
    page = write_report([root])
    write_text(page, page.read_text(encoding="utf-8").replace(str(staging), _ELSEWHERE))
    runs = read_runs([root])
    write_tables(root, replace(runs, table=runs.table.assign(folder=runs.table["run_id"])))
    commands = reproduce(runs, [root]).sweeps
    findings = (root / "findings.md").read_text(encoding="utf-8")
    return Said(findings, sorted((root / "figures").glob("*.png")), commands)


def _figure(folder: Path) -> str | None:
    return _FIGURE if (folder / _FIGURE).exists() else None


def _below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _checked(files: Mapping[str, Path], private: Sequence[Path], pages: Sequence[str]) -> Publication:
    """Without pages that name a folder of this machine; of what else would name one nothing is published."""
    places = private_places(private)
    telling = [name for name, file in files.items() if file.suffix != ".safetensors" and names_a_place(file, places)]
    refused = [name for name in telling if not name.endswith((".html", ".js"))]
    if refused:
        raise InputError("run", private[0], f"files that name no folder of this machine: {refused[0]} names one")
    notes = [f"{name} is left out: it names a folder of this machine; write it again elsewhere" for name in telling]
    notes += ["the pages of latents show passages of the text"] if pages else []
    return Publication({name: file for name, file in sorted(files.items()) if name not in telling}, notes)
