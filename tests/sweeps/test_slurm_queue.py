"""What SLURM says of its limits is read as it is written."""

import pytest

from masked_sae.sweeps import slurm_queue
from masked_sae.sweeps.slurm_queue import most_in_an_array, partition_minutes

YEAR = 365 * 24 * 60
PARTITIONS = """\
PartitionName=short Default=YES DefaultTime=NONE MaxTime=01:30:00 Nodes=a
PartitionName=long Default=NO DefaultTime=12:00:00 MaxTime=3-00:00:00 Nodes=a
PartitionName=days Default=NO DefaultTime=2-01:00:00 MaxTime=UNLIMITED Nodes=a
PartitionName=free Default=NO DefaultTime=NONE MaxTime=UNLIMITED Nodes=a
"""


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(command: list[str]) -> str:
        return PARTITIONS if "partition" in command else "MaxArraySize            = 50\nMaxJobCount = 10000\n"

    monkeypatch.setattr(slurm_queue, "_asked", asked)


@pytest.mark.parametrize(
    ("partitions", "minutes"),
    [
        (None, 90),
        ("long", 720),
        ("days", 49 * 60),
        ("free", YEAR),
        ("days,short", 90),
        ("no such", YEAR),
    ],
)
def test_a_time_limit_that_is_left_out_is_the_partitions(partitions: str | None, minutes: int) -> None:
    assert partition_minutes(partitions) == minutes


def test_so_is_the_size_of_arrays() -> None:
    assert most_in_an_array() == 50
