"""The command that the report gives makes the same runs again."""

import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

from masked_sae.report.defaults import train_defaults
from masked_sae.report.reproduce import reproduce
from masked_sae.report.runs import read_runs
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.members import Member, record_members
from support.made_sweeps import write_done
from support.making import compose


@pytest.mark.parametrize(
    ("chosen", "key"),
    [
        ([], "sae.k"),
        (["sae=topk", "sae.d_sae=512"], "sae.k"),
        (["sae=jumprelu", "sae.bandwidth=2"], "sae.sparsity_coefficient"),
    ],
)
def test_it_composes_to_the_configurations_of_the_runs(tmp_path: Path, chosen: list[str], key: str) -> None:
    members: list[Member] = []
    configs = []
    for rate in (0.0, 0.1):
        for value in (4, 8):
            swept = {"mask.token.rate": str(rate), key: str(value)}
            configs.append(compose([*chosen, *(f"{name}={one}" for name, one in swept.items())]))
            members.append(Member(RunFolder(tmp_path / "sweep" / f"run{len(members)}"), swept))
            write_done(members[-1].folder, asdict(configs[-1]), {"core/l0": 10.0})
    record_members(tmp_path / "sweep", members)
    told = reproduce(read_runs([tmp_path / "sweep"]), [tmp_path / "sweep"], train_defaults)
    words = shlex.split(told.sweep)
    assert words[:3] == ["python", "-m", "src.train"] and words[-1] == "-m"
    fixed, (rates, values) = words[3:-3], words[-3:-1]
    assert (rates, values) == ("mask.token.rate=0,0.1", f"{key}=4,8")
    assert compose([*fixed, "mask.token.rate=0.1", f"{key}=8"]).sae == configs[-1].sae
