"""`python -m src.train` as somebody starts it, in a process of its own."""

import os
import resource
import subprocess
import sys

from support.making import ROOT


def command(overrides: list[str], file_limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """How it ended, and what it said.

    Args:
        file_limit: bytes that a file may have: more is a full disk.
    """

    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HYDRA_", "MASKED_SAE_"))}
    return subprocess.run(
        [sys.executable, "-m", "src.train", *overrides],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        preexec_fn=limit,
    )
