"""A run goes on under the code that it was trained with, or says that it does not."""

import shutil
from pathlib import Path

import pytest
import torch

from masked_sae.bundled import PACKAGE
from masked_sae.errors import InputError
from masked_sae.runs import code
from masked_sae.runs.attempts import note_attempt
from masked_sae.runs.code import bound_code, code_digest, digest_of_code, refuse_other_code
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import RunState, write_state


def test_the_digest_is_of_what_results_come_from(tmp_path: Path) -> None:
    copy = shutil.copytree(PACKAGE, tmp_path / "masked_sae", ignore=shutil.ignore_patterns("__pycache__"))
    assert digest_of_code(copy) == code_digest()
    for room in ("report/page.py", "sweeps/status.py", "tracking/tables.py"):
        (copy / room).write_text("# other\n")
    assert digest_of_code(copy) == code_digest()
    with (copy / "saes" / "topk.py").open("a") as file:
        file.write("# other\n")
    assert digest_of_code(copy) != code_digest()


def test_a_run_that_has_a_checkpoint_is_bound_to_the_code_of_its_latest_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    refuse_other_code(folder, "submitted")
    note_attempt(folder.attempts, 0, torch.device("cpu"), {}, "aa")
    assert bound_code(folder) is None, "it begins anew, so nothing of the other code is in it"
    folder.checkpoints.mkdir()
    assert bound_code(folder) == "aa"
    with pytest.raises(InputError, match=r"^code=submitted: expected current, .* run has been trained with .*aa;"):
        refuse_other_code(folder, "submitted")
    write_state(folder.state, RunState("run", "done"))
    refuse_other_code(folder, "submitted")  # it is only measured
    write_state(folder.state, RunState("run", "preempted"))
    for asked in ("current", "live"):
        refuse_other_code(folder, asked)
    note_attempt(folder.attempts, 8, torch.device("cpu"), {}, "bb")
    monkeypatch.setattr(code, "code_digest", lambda: "bb")
    refuse_other_code(folder, "submitted")
