"""A picture of tables: what each method leaves of a backdoor and what it costs, a dot for each seed."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_backdoor.cards.plots import save_figure


LEFT, LOST = ("C3", "attack success rate"), ("C0", "points of clean accuracy lost")


def _left(rows: list[dict[str, Any]]) -> list[float]:
    """Attack success rates in percent."""
    return [100 * row["measured"]["attack_success_rate"] for row in rows]


def _lost(rows: list[dict[str, Any]]) -> list[float]:
    """Clean accuracy against that of the model before, in points."""
    name = "clean_accuracy"
    return [100 * ((row["suspect"] or row["measured"])[name] - row["measured"][name]) for row in rows]


def draw_methods(rows: list[dict[str, Any]], panels: dict[str, str], methods: dict[str, str], path: Path) -> None:
    """One panel a setting, one line a method.

    Args:
        rows: of a results file.
        panels: titles by setting.
        methods: titles by method, in their order. What a setting has no row of stays empty there.
        path: PNG to write.
    """
    figure = Figure(figsize=(3.1 * len(panels) + 2.6, 0.26 * len(methods) + 1.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (setting, title) in zip(axes, panels.items(), strict=True):
        of_method = {
            method: [row for row in rows if (row["setting"], row["method"]) == (setting, method)]
            for method in ("benign", *methods)
        }
        if of_method["benign"]:
            axis.axvline(mean(_left(of_method["benign"])), color="grey", lw=1, ls=":", label="a benign model's rate")
        for place, method in enumerate(methods):
            own = of_method[method]
            axis.scatter(_lost(own), [place + 0.16] * len(own), s=16, color=LOST[0], marker="|", zorder=2)
            axis.scatter(_left(own), [place - 0.1] * len(own), s=16, color=LEFT[0], zorder=3)
        axis.set(title=title, xlim=(-4, 103), xlabel="%")
        axis.grid(axis="y", alpha=0.3)
        axis.set_yticks(range(len(methods)), methods.values(), fontsize=8)
    axes[0].invert_yaxis()
    for (color, label), marker in ((LEFT, "o"), (LOST, "|")):
        axes[0].scatter([], [], s=16, color=color, marker=marker, label=label)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    save_figure(figure, path)
