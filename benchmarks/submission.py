"""A large sweep on SLURM: from the command to the first running job and to the last submitted one, and how long looking
at it takes. Needs a SLURM, such as docker/slurm gives; jobs are cancelled once that is measured.

    eval "$(docker/slurm/start.sh)" && python benchmarks/submission.py 1 100 2000
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = [sys.executable, "-m"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("members", type=int, nargs="+")
    parser.add_argument("settings", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    print("members  first job runs after  all submitted after  src.status takes  cancel=all takes")
    for members in arguments.members:
        with tempfile.TemporaryDirectory() as folder:
            first, submitted = submit(members, Path(folder))
            sweep = str(Path(folder) / "train")
            shown = timed([*PYTHON, "src.status", sweep])
            ended = timed([*PYTHON, "src.status", sweep, "cancel=all"])
            print(f"{members:7,}  {first:18.1f} s  {submitted:17.1f} s  {shown:14.1f} s  {ended:14.1f} s", flush=True)


def submit(members: int, folder: Path) -> tuple[float, float]:
    """Seconds until a job runs, and until the command returns. A job for each member."""
    seeds = ",".join(map(str, range(members)))
    settings = [f"seed={seeds}", "data.seed=0", "pack=1", "eval=none", "logger.wandb.mode=disabled", "detach=true"]
    settings += [f"output_dir={folder}", "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "-m"]
    began = time.monotonic()
    command = subprocess.Popen([*PYTHON, "src.train", *settings], cwd=ROOT, stdout=subprocess.DEVNULL)
    while not running() and command.poll() is None:
        time.sleep(0.1)
    while not running():
        time.sleep(0.1)
    first = time.monotonic() - began
    assert command.wait() == 0, "the command failed"
    return first, time.monotonic() - began


def running() -> bool:
    queue = ["squeue", "--noheader", "--me", "--states=RUNNING"]
    return bool(subprocess.run(queue, check=True, capture_output=True).stdout)


def timed(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
