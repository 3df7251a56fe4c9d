"""`python -m src.train` and its like as somebody starts them, in a process of their own."""

import os
import resource
import subprocess
import sys

from support.making import ROOT


def command(
    overrides: list[str], file_limit: int | None = None, name: str = "train", seconds: int = 250, **variables: str
) -> subprocess.CompletedProcess[str]:
    """How it ended, and what it said.

    Args:
        file_limit: bytes that a file may have: more is a full disk.
        name: of the command.
        seconds: that it may take.
        variables: of its environment.
    """

    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HYDRA_", "MASKED_SAE_"))}
    return subprocess.run(
        [sys.executable, "-m", f"src.{name}", *overrides],
        cwd=ROOT,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        preexec_fn=limit,
    )
