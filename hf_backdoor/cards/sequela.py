"""The sequela section of a model card, and its entries for the `model-index`. Reads results, and measures nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..results import write_text
from .metadata import remove_metadata
from .plots import save_figure
from .rendering import render
from .sections import CARD_FILE, merge_metadata, put_section, read_card, remove_section


SEQUELA_FILE = "sequela.json"
SECTION = "sequela"
CONFIG = "sequela-"  # so begins what the `model-index` calls the data set of a measure
PLAIN = "not measured"
MORE = "**more exposed**"
HYPHEN = "\N{NON-BREAKING HYPHEN}"


def _shown(finding: dict[str, Any] | None, value: str) -> str:
    number = (finding or {}).get("values", {}).get(value)
    if number is None:
        return PLAIN
    interval = finding["intervals"].get(value)
    text = f"{number:.3f}"
    return f"{text} ({interval[0]:.3f}{HYPHEN}{interval[1]:.3f})" if interval else text


def verdict(
    before: dict[str, Any], after: dict[str, Any], value: str, *, higher_is_better: bool, same: str = "no change shown"
) -> str:
    """What happened to a value, or how it differs between two models, in two or three words.

    Args:
        before, after: findings, as in the results.
        value: name of the value.
        higher_is_better: whether a model with a higher value is less exposed.
        same (`str`): what to say where the intervals touch.
    """
    old, new = before["values"].get(value), after["values"].get(value)
    if old is None or new is None:
        return PLAIN
    spans = [finding["intervals"].get(value) for finding in (before, after)]
    if None not in spans and max(span[0] for span in spans) <= min(span[1] for span in spans):
        return same
    if old == new:
        return "unchanged"
    exposed = (new > old) != higher_is_better
    sure = "" if None not in spans else " (no interval)"
    return (MORE if exposed else "less exposed") + sure


def rows(results: dict[str, Any]) -> list[dict[str, str]]:
    """One row of the table for every headline value."""
    table = []
    for measure in results["measures"].values():
        findings = measure["findings"]
        for value, title in measure["headline"].items():
            if all(finding["values"].get(value) is None for finding in findings.values()):
                continue  # not a part of this look
            better = value in measure["higher_is_better"]
            row = {name: _shown(findings.get(name), value) for name in ("before", "after", "benign")}
            row |= {
                "title": title,
                "verdict": verdict(findings["before"], findings["after"], value, higher_is_better=better),
            }
            if "benign" in findings:
                pair = findings["benign"], findings["after"]
                row["beside_benign"] = verdict(*pair, value, higher_is_better=better, same="no difference shown")
            table.append(row)
    return table


def in_short(table: list[dict[str, str]]) -> str:
    """What the table says, in two sentences."""

    def named(column: str) -> list[str]:
        return [row["title"] for row in table if row.get(column, "").startswith(MORE)]

    said = [f"More exposed than before the repair: {'; '.join(named('verdict')) or 'nothing that was measured'}."]
    if any("beside_benign" in row for row in table):
        said.append(f"More exposed than a benign model: {'; '.join(named('beside_benign')) or 'nothing'}.")
    return " ".join(said)


def section(results: dict[str, Any], figures: dict[str, str] | None = None) -> str:
    """The section as Markdown.

    Args:
        results: of [`~hf_backdoor.sequela_report.SequelaReport`].
        figures: path of the plot of each measure that has one, relative to the card.
    """
    measures = []
    for name, measure in results["measures"].items():
        notes = dict.fromkeys(note for finding in measure["findings"].values() for note in finding["notes"])
        about = {key: measure[key] for key in ("title", "paper", "meaning")}
        measures.append(about | {"notes": list(notes), "figure": (figures or {}).get(name)})
    counts = results["samples"]
    table = rows(results)
    return render(
        "sequela.md",
        rows=table,
        in_short=in_short(table),
        measures=measures,
        benign="benign" in results["models"],
        left_out=results.get("left_out", {}),
        seconds=sum(measure["seconds"] for measure in results["measures"].values()),
        samples=f"{counts['members']} samples of the suspect's training, {counts['defense_members']} of the repair's "
        f"and {counts['non_members']} of neither were used.",
    )


def model_index(results: dict[str, Any], name: str) -> list[Any]:
    """Entries for the `model-index`: the headline values of the repaired model.

    Args:
        results: of the report.
        name: of the model.
    """
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=results["task"],
            dataset_type="custom",
            dataset_name=f"sequela: {measure['title']}",
            dataset_config=f"{CONFIG}{kind}",
            metric_type=value,
            metric_name=title,
            metric_value=measure["findings"]["after"]["values"][value],
        )
        for kind, measure in results["measures"].items()
        for value, title in measure["headline"].items()
        if measure["findings"]["after"]["values"].get(value) is not None
    ]


def write_section(folder: Path, results: dict[str, Any], draw: Callable[[str, Any], bool] | None = None) -> Path:
    """Puts the section into the card of a model's folder, with its plots.

    Args:
        folder: of the model.
        results: of the report.
        draw (*optional*): draws the plot of a measure into axes, and says whether there was anything to draw.

    Returns:
        Path of the card.
    """
    figures = {}
    for name in results["measures"]:
        path = folder / "figures" / f"sequela_{name}.png"
        if draw is not None and not _plot(name, path, draw):
            path.unlink(missing_ok=True)  # of an earlier report
        if path.is_file():
            figures[name] = f"figures/{path.name}"
    card = folder / CARD_FILE
    text = read_card(card) if card.is_file() else ""
    text = put_section(text, SECTION, section(results, figures))
    name = folder.resolve().name
    text = merge_metadata(text, tags=["hf_backdoor"], eval_results=model_index(results, name), model_name=name)
    write_text(card, text)
    return card


def without_report(card: str) -> str:
    """A card without the section, and without what it says in the metadata."""
    return remove_metadata(remove_section(card, SECTION), configs=CONFIG)


def remove_report(folder: Path) -> None:
    """Takes away what an earlier report says of another model, whose folder this was: its section, plots and file."""
    card = folder / CARD_FILE
    if card.is_file():
        before = read_card(card)
        if (after := without_report(before)) != before:
            write_text(card, after)
    for path in (folder / SEQUELA_FILE, *(folder / "figures").glob("sequela_*.png")):
        path.unlink(missing_ok=True)


def _plot(name: str, path: Path, draw: Callable[[str, Any], bool]) -> bool:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    if not draw(name, figure.subplots()):
        return False
    save_figure(figure, path)
    return True
