"""Figures for paper: whole files, the same for the same data, and told apart without colour."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from masked_sae.report.design import read_design
from masked_sae.report.figures import front_figure, write_figures
from masked_sae.report.findings import find
from masked_sae.report.runs_table import read_runs
from masked_sae.report.series import axis_limits, look
from support.made_sweeps import make_sweep

pytestmark = pytest.mark.slow

SMALL = {"ks": (8, 16, 32), "seeds": (0, 1), "only": ("core/explained_variance",)}


def test_each_figure_is_a_png_for_paper_and_the_same_svg_every_time(tmp_path: Path) -> None:
    make_sweep(tmp_path / "sweep", **SMALL)
    runs = read_runs([tmp_path / "sweep"])
    design = read_design(runs)
    written = [write_figures(tmp_path / name, runs, design, find(runs, design)) for name in ("once", "again")]
    names = ["front_core_explained_variance", "response_core_explained_variance"]
    assert [path.name for path in written[0]] == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    for once, again in zip(*written, strict=True):
        assert once.read_bytes() == again.read_bytes()
        if once.suffix == ".png":
            with Image.open(once) as image:
                assert image.info["dpi"][0] > 299 and np.asarray(image.convert("L")).std() > 5
        else:
            text = "".join(ElementTree.fromstring(once.read_text()).itertext())
            assert "Explained variance" in text or "mask rate" in text


def test_arms_differ_in_lightness_and_in_marker() -> None:
    for count in (2, 4, 6):
        looks = [look(place, count) for place in range(count)]
        lightness = [float(np.dot(to_rgb(style.colour), [0.2126, 0.7152, 0.0722])) for style in looks]
        assert (np.diff(lightness) > 0.05).all() and max(lightness) < 0.75  # and not too light on white
        assert len({style.marker for style in looks}) == count


def test_where_each_arm_has_one_sparsity_rows_with_intervals_stand_in_the_fronts_place(tmp_path: Path) -> None:
    make_sweep(tmp_path, ks=(16,), data_seeds=(0, 1, 2), seeds=(0, 1), only=("core/explained_variance",))
    runs = read_runs([tmp_path])
    design = read_design(runs)
    (finding,) = find(runs, design)
    (axes,) = front_figure(runs, design, finding.metric).axes
    names = ["unmasked", "mask rate 0.1", "mask rate 0.2"]
    labels = [f"{name}\nL0 {finding.l0_level[arm, 0].mean:.3g}" for arm, name in enumerate(names)]
    assert [text.get_text() for text in axes.get_yticklabels()] == labels
    low, high = axes.get_xlim()
    assert sum(low < tick < high for tick in axes.get_xticks()) >= 3
    for arm, bars in enumerate(axes.containers):
        level = finding.level[arm, 0]
        ((start, _), (end, _)) = bars.lines[2][0].get_segments()[0]
        assert (start, end) == pytest.approx((level.low, level.high))
    points = [line for line in axes.lines if len(line.get_xdata()) == 6]
    assert len(points) == 3 and {line.get_marker() for line in points} == {look(arm, 3).marker for arm in range(3)}


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    make_sweep(tmp_path / "sweep", settings={"mask.token.replacement": "$x_1$ <b>&amp;"}, **SMALL)
    make_sweep(tmp_path / "other", settings={"mask.token.replacement": "pad"}, **SMALL)
    runs = read_runs([tmp_path / "sweep", tmp_path / "other"])
    design = read_design(runs)
    svg = next(
        path for path in write_figures(tmp_path / "figures", runs, design, find(runs, design)) if path.suffix == ".svg"
    )
    text = "".join(ElementTree.fromstring(svg.read_text()).itertext())
    assert "$x_1$ <b>&amp;" in text


def test_a_wide_interval_does_not_press_the_values_together() -> None:
    limits = axis_limits(np.array([0.5, 0.6]), np.array([-40.0, 41.0, np.nan]))
    assert limits is not None and limits[0] > 0.2 and limits[1] < 0.9
    assert axis_limits(np.array([np.nan]), np.array([])) is None


@pytest.mark.filterwarnings("error")
def test_many_arms_with_long_names_leave_room_for_what_they_name(tmp_path: Path) -> None:
    for number in range(8):
        long = {"mask.token.replacement": f"a replacement of a long name, number {number}"}
        make_sweep(tmp_path / f"sweep{number}", settings=long, **SMALL)
    runs = read_runs([tmp_path / f"sweep{number}" for number in range(8)])
    design = read_design(runs)
    assert write_figures(tmp_path / "figures", runs, design, find(runs, design))
    (axes,) = front_figure(runs, design, find(runs, design)[0].metric).axes
    axes.figure.draw_without_rendering()
    assert axes.get_window_extent().height > 1.5 * axes.figure.dpi
