"""A real SLURM on this machine, started by docker/slurm; where it is not installed these tests are skipped."""

import os
import shutil
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from support.composing import ROOT

SCRIPTS = ROOT / "docker" / "slurm"
Start = Callable[[str], dict[str, str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.timeout(900))  # the tests' own limits are shorter and say what was waited for


@pytest.fixture(scope="session")
def start_slurm(tmp_path_factory: pytest.TempPathFactory) -> Generator[Start]:
    """Starts the cluster, or starts it anew, with one way of preemption: `user` (submitit's signal) or `term`.

    Gives the environment in which commands find it.
    """
    if shutil.which("slurmctld") is None:
        if os.environ.get("MASKED_SAE_REQUIRE_SLURM") == "1":
            pytest.fail("SLURM is required here and not installed: run docker/slurm/install.sh")
        pytest.skip("SLURM is not installed: run docker/slurm/install.sh")
    port = 26827 + 2 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))  # each worker has its own
    settings = {
        "MASKED_SAE_SLURM_DIR": f"/tmp/masked-sae-slurm-test-{os.getpid()}",
        "MASKED_SAE_SLURM_GRACE": "3",
        "MASKED_SAE_SLURM_CPUS": "2",
        "MASKED_SAE_SLURM_ARRAY": "2",  # so that a sweep of three takes two
        "MASKED_SAE_SLURM_CTLD_PORT": str(port),
        "MASKED_SAE_SLURM_SLURMD_PORT": str(port + 1),
    }
    environment = os.environ | settings
    stop = [str(SCRIPTS / "stop.sh"), "--purge"]
    running: list[str] = []

    def start(preempt_signal: str) -> dict[str, str]:
        environment["MASKED_SAE_SLURM_PREEMPT_SIGNAL"] = preempt_signal
        if running and running[-1] != preempt_signal:
            subprocess.run(stop, env=environment, check=True, capture_output=True)
            running.clear()
        if not running:
            done = subprocess.run([str(SCRIPTS / "start.sh")], env=environment, text=True, capture_output=True)
            assert done.returncode == 0, done.stdout + done.stderr
            running.append(preempt_signal)
            line = next(line for line in done.stdout.splitlines() if line.startswith("export SLURM_CONF="))
            environment["SLURM_CONF"] = line.partition("=")[2].strip("'\"")
        return environment | {"MASKED_SAE_LAUNCHER": "slurm"}

    yield start
    subprocess.run(stop, env=environment, check=False, capture_output=True)
