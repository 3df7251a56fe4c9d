"""A run's training curve as a picture."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from masked_sae.files import write_aside
from masked_sae.report.training_curves import read_curve

_SHOWN = {"explained_variance": "explained variance", "l0": "L0 [latents per token]"}


def write_training_figure(path: Path, run: Path) -> bool:
    """Explained variance and L0 while the run trained; returns whether there was anything to draw."""
    rows = read_curve(run).rows
    shown = [column for column in _SHOWN if column in rows and rows[column].notna().any()]
    if not shown:
        return False
    figure = Figure(figsize=(7.0, 2.6), layout="constrained")
    for axes, column in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _draw(axes, rows, column)
    write_aside(path, lambda aside: figure.savefig(aside, format="png", dpi=150))
    return True


def _draw(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    axes.plot(rows["tokens"], rows[column], linewidth=1.2, label="in training")
    held_out = f"val/{column}"
    if held_out in rows and rows[held_out].notna().any():
        measured = rows[rows[held_out].notna()]
        axes.plot(measured["tokens"], measured[held_out], marker="o", markersize=3, linewidth=1, label="held-out text")
        axes.legend(frameon=False, fontsize=8)
    axes.set(xlabel="activations trained on", ylabel=_SHOWN[column], ylim=(0, None) if column == "l0" else None)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9")
