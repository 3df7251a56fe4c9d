"""Which of SLURM's jobs were submitted for which runs: `.queue/sent.jsonl` of a sweep, a line for each pack."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from masked_sae.errors import DamagedFileError

_FOLDER, _SENT = ".queue", "sent.jsonl"


@dataclass(frozen=True)
class SentJobs:
    """Attributes:
    ids: of the jobs, one after another where they are a chain.
    folder: submitit's, with `%j` where the id belongs.
    """

    ids: tuple[str, ...]
    folder: str

    def logs(self) -> list[Path]:
        """What the jobs printed and complained of, as far as there is any."""
        from submitit.core.utils import JobPaths

        paths = [JobPaths(self.folder, job_id=job, task_id=0) for job in self.ids]
        logs = [Path(log) for one in paths for log in (one.stdout, one.stderr)]
        return [log for log in logs if log.exists() and log.stat().st_size]


def queue_folder(sweep: Path) -> Path:
    """Where a sweep keeps what it has to do with a queue."""
    return sweep / _FOLDER


def note_sent(packs: Sequence[Sequence[Path]], ids: Sequence[Sequence[str]], folder: str) -> None:
    """Adds to the record of each sweep.

    Args:
        packs: folders of runs.
        ids: of each pack's jobs.
        folder: submitit's.
    """
    lines: dict[Path, list[str]] = {}
    for pack, jobs in zip(packs, ids, strict=True):
        for sweep in dict.fromkeys(run.parent for run in pack):
            runs = [run.name for run in pack if run.parent == sweep]
            lines.setdefault(sweep, []).append(json.dumps({"runs": runs, "jobs": list(jobs), "folder": folder}))
    for sweep, new in lines.items():
        place = queue_folder(sweep)
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / ".lock"), (place / _SENT).open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in new))


def sent_jobs(sweep: Path) -> dict[str, list[SentJobs]]:
    """Of each run by its id: what was submitted for it, latest last."""
    found: dict[str, list[SentJobs]] = {}
    for runs, sent in _lines(queue_folder(sweep) / _SENT):
        for run in runs:
            found.setdefault(run, []).append(sent)
    return found


def jobs_in_queue(sweep: Path, queued: set[str]) -> dict[str, list[str]]:
    """Of each run that has any by its id: those of its jobs that are in the queue."""
    found = {run: [job for one in sent for job in one.ids if job in queued] for run, sent in sent_jobs(sweep).items()}
    return {run: jobs for run, jobs in found.items() if jobs}


def _lines(path: Path) -> Iterator[tuple[list[str], SentJobs]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedFileError(path, str(error)) from error
    for line in text.splitlines():
        try:
            found: Mapping[str, list[str]] = json.loads(line)
            yield [str(run) for run in found["runs"]], SentJobs(tuple(map(str, found["jobs"])), str(found["folder"]))
        except (ValueError, KeyError, TypeError):
            continue  # of a submitter that was killed while it wrote
