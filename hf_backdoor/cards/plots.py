"""The plot of a card: the learning rate, with clean accuracy and attack success rate along it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..results import whole_file


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_training(results: dict[str, Any], path: Path) -> None:
    """Draws the learning rate of every step over the accuracies measured on the way.

    Args:
        results (`dict`): of a purification.
        path (`Path`): PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ..super_fine_tuning.schedule import TriangularSchedule

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    measures, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    steps = results["training"]["steps"]
    schedule = results["defense"].get("schedule")
    if schedule:
        rates.plot(range(steps + 1), [TriangularSchedule(**schedule)(step) for step in range(steps + 1)], color="C2")
        rates.axvline(schedule["phase_1_steps"], color="grey", lw=0.8, ls=":")
        measures.axvline(schedule["phase_1_steps"], color="grey", lw=0.8, ls=":")
        rates.set_title("phase 1: forget | phase 2: restore", fontsize=9)
    else:
        logged = [entry for entry in results["log"] if "learning_rate" in entry]
        rates.plot([entry["step"] for entry in logged], [entry["learning_rate"] for entry in logged], color="C2")
    rates.set_xlabel("optimizer step")
    rates.set_ylabel("learning rate")
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))

    for name, label, color in (
        ("clean_accuracy", "clean accuracy", "C0"),
        ("attack_success_rate", "attack success rate", "C3"),
    ):
        points = [(entry["step"], entry[f"eval_{name}"]) for entry in results["log"] if f"eval_{name}" in entry]
        before = results.get("suspect") or results.get("victim")
        if points and before:
            # One point a step: the evaluation after training stands in for the one at the last step.
            points = sorted(({0: before[name]} | dict(points)).items())
            measures.plot(*zip(*points, strict=True), marker="o", ms=4, label=label, color=color)
    measures.set_ylim(-0.03, 1.03)
    measures.set_ylabel("share of test inputs")
    measures.grid(alpha=0.3)
    if measures.lines[1 if schedule else 0 :]:
        measures.legend(loc="center right")
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a picture, the whole file or nothing, and the same one every time."""
    with whole_file(path) as draft:
        figure.savefig(draft, dpi=110, metadata={"Software": None})
