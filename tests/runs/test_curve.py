"""The training curve on disk, over interruptions and changes of its columns."""

import csv
import json
from pathlib import Path

import pytest

from masked_sae.runs.curve import CurveFile, HistogramFile, Row, read_metrics, read_rows


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_resumed_curve_goes_on_after_its_checkpoint_without_rows_that_a_kill_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,tokens,loss\n2,128,0.5\n4,256,0.25\n6,384,0.125\n8,51")
    curve = CurveFile(path, resumed_at=5)
    kept = [row.metrics for row in read_rows(path, tmp_path / "none", 5)]
    assert kept == [{"step": 2, "tokens": 128, "loss": 0.5}, {"step": 4, "tokens": 256, "loss": 0.25}]
    curve(Row({"step": 6, "tokens": 384, "loss": 0.1}))
    assert path.read_text() == "step,tokens,loss\n2,128,0.5\n4,256,0.25\n6,384,0.1\n"


@pytest.mark.parametrize("cut", ["8,512,9.9e-", "8,512,-", "8,512,0.", "8,51", "8"])
def test_wherever_a_kill_cut_the_last_row_the_curve_goes_on(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(f"step,tokens,loss\n6,384,0.5\n{cut}")
    CurveFile(path, resumed_at=6)(Row({"step": 8, "tokens": 512, "loss": 0.25}))
    assert path.read_text() == "step,tokens,loss\n6,384,0.5\n8,512,0.25\n"


def test_a_curve_begun_with_other_columns_gets_the_new_ones_and_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,tokens,loss,gone\r\n2,128,0.5,1.0\r\n")
    CurveFile(path, resumed_at=2)(Row({"step": 4, "tokens": 256, "memory": 3.0, "loss": 0.25}))
    again = CurveFile(path, resumed_at=4)
    again(Row({"step": 6, "tokens": 384, "memory": 4.0, "loss": 0.125}))
    assert read_rows(path, tmp_path / "none", 4)[0].metrics == {"step": 2, "tokens": 128, "loss": 0.5, "gone": 1.0}
    expected = [("2", "128", "", "0.5", "1.0"), ("4", "256", "3.0", "0.25", ""), ("6", "384", "4.0", "0.125", "")]
    assert [tuple(row.values()) for row in cells(path)] == expected
    assert list(cells(path)[0]) == ["step", "tokens", "memory", "loss", "gone"]


@pytest.mark.parametrize("content", ["", "step,tok", "step,tokens\n8,512\n"])
def test_nothing_stays_of_a_curve_without_a_row_before_the_checkpoint(tmp_path: Path, content: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    curve = CurveFile(path, resumed_at=0)
    assert not path.exists()
    curve(Row({"step": 2, "tokens": 128}))
    assert path.read_text() == "step,tokens\n2,128\n"


def test_histograms_go_on_after_their_checkpoint_and_join_their_rows(tmp_path: Path) -> None:
    path, counted = tmp_path / "histograms.jsonl", {"h": {"counts": [1, 2], "edges": [0.0, 0.5, 1.0]}}
    first = HistogramFile(path, resumed_at=0)
    for step in (2, 4, 6):
        first(Row({"step": step, "tokens": 64 * step}, counted if step != 4 else {}))
    path.write_text(path.read_text() + '{"step": 8, "histo')  # cut by a kill
    again = HistogramFile(path, resumed_at=5)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2]
    again(Row({"step": 6, "tokens": 384}, counted))
    curve = tmp_path / "metrics.csv"
    curve.write_text("step,tokens\n2,128\n4,256\n6,384\n8,5")
    rows = [(row.step, row.histograms) for row in read_rows(curve, path, until=7)]
    assert rows == [(2, counted), (4, {}), (6, counted)]
    assert [row.step for row in read_rows(curve, path, until=4)] == [2, 4]


def test_no_histograms_stay_without_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "histograms.jsonl"
    HistogramFile(path, resumed_at=0)(Row({"step": 2}, {"h": {"counts": [1], "edges": [0, 1]}}))
    HistogramFile(path, resumed_at=0)
    assert not path.exists() and read_rows(tmp_path / "none", path, 0) == []


def test_lines_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,tokens,loss\n2,128,0.5\n4,256\n\xff\xfe,1,2\n6,384,x\n-1,2,3\n8,512,0.1,9\n10,640,0.25\n")
    rows = read_metrics(path)
    assert [row["step"] for row in rows] == [2, 10]
    assert f"{path} is damaged: 5 of its lines cannot be read" in capsys.readouterr().err
    curve = CurveFile(path, resumed_at=9)
    assert curve.last_step == 2 and path.read_text() == "step,tokens,loss\n2,128,0.5\n"


@pytest.mark.parametrize(
    "content", [b"\x00" * 50 + b"\n", bytes(range(256)), b'"\n"\n', b"a,b\n1,2\n", b"[" * 9999 + b"\n"]
)
def test_a_curve_that_is_none_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    CurveFile(path, resumed_at=5)(Row({"step": 6, "tokens": 384}))
    assert path.read_text() == "step,tokens\n6,384\n"


@pytest.mark.parametrize(
    "line", ["[1]", "{}", "[" * 100_000, '{"step": "x", "histograms": {}}', '{"step": 1, "histograms": 3}']
)
def test_histograms_that_cannot_be_read_are_left_out(tmp_path: Path, line: str) -> None:
    curve, path = tmp_path / "metrics.csv", tmp_path / "histograms.jsonl"
    curve.write_text("step,tokens\n2,128\n")
    path.write_text(line + '\n{"step": 2, "histograms": {}}\n')
    assert [row.step for row in read_rows(curve, path, 9)] == [2]
