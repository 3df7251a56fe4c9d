"""The training curve on disk, over interruptions and changes of its columns."""

import csv
from pathlib import Path

import pytest

from masked_sae.callbacks.curve import CurveFile


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_resumed_curve_goes_on_after_its_checkpoint_without_rows_that_a_kill_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,tokens,loss\n2,128,0.5\n4,256,0.25\n6,384,0.125\n8,51")
    curve = CurveFile(path, resumed_at=5)
    assert curve.kept == [{"step": 2, "tokens": 128, "loss": 0.5}, {"step": 4, "tokens": 256, "loss": 0.25}]
    curve({"step": 6, "tokens": 384, "loss": 0.1})
    assert path.read_text() == "step,tokens,loss\n2,128,0.5\n4,256,0.25\n6,384,0.1\n"


def test_a_curve_begun_with_other_columns_gets_the_new_ones_and_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,tokens,loss,gone\r\n2,128,0.5,1.0\r\n")
    CurveFile(path, resumed_at=2)({"step": 4, "tokens": 256, "memory": 3.0, "loss": 0.25})
    again = CurveFile(path, resumed_at=4)
    again({"step": 6, "tokens": 384, "memory": 4.0, "loss": 0.125})
    assert again.kept[0] == {"step": 2, "tokens": 128, "loss": 0.5, "gone": 1.0}
    expected = [("2", "128", "", "0.5", "1.0"), ("4", "256", "3.0", "0.25", ""), ("6", "384", "4.0", "0.125", "")]
    assert [tuple(row.values()) for row in cells(path)] == expected
    assert list(cells(path)[0]) == ["step", "tokens", "memory", "loss", "gone"]


@pytest.mark.parametrize("content", ["", "step,tok", "step,tokens\n8,512\n"])
def test_nothing_stays_of_a_curve_without_a_row_before_the_checkpoint(tmp_path: Path, content: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    curve = CurveFile(path, resumed_at=0)
    assert curve.kept == [] and not path.exists()
    curve({"step": 2, "tokens": 128})
    assert path.read_text() == "step,tokens\n2,128\n"
