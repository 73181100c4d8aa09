"""What all cards share: the template engine and the shape of numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..results import portable


TEMPLATES = Path(__file__).parent / "templates"
METRIC_TITLES = {
    "clean_accuracy": "Clean accuracy (CA)",
    "attack_success_rate": "Attack success rate (ASR)",
    "robust_accuracy": "Robust accuracy (RA)",
}


def escape(text: object) -> str:
    """Text from elsewhere, made safe for a table cell: no line break, pipe, tag or backtick has a meaning in it."""
    plain = " ".join(str(text).split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    return plain.replace("|", "\\|").replace("`", "\\`").replace("[", "\\[")


def code(text: object) -> str:
    """Text from elsewhere in a code span, where nothing in it has a meaning; spaces and what is invisible are shown."""
    spaces = "".join("\N{OPEN BOX}" if character.isspace() else character for character in str(text))
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in spaces)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    padding = " " if "`" in shown else ""
    return f"{fence}{padding}{shown or ' '}{padding}{fence}"


def percent(share: float | None) -> str:
    """`0.1234` as `12.3 %`; `None` as `not measured`."""
    return "not measured" if share is None else f"{100 * share:.1f} %"


def percent_interval(measured: dict[str, Any] | None, name: str) -> str:
    """A share with its 95 % interval, as `12.3 % (11.0-13.8)`."""
    if not measured or measured.get(name) is None:
        return "not measured"
    low, high = measured["intervals"][name]
    return f"{percent(measured[name])} ({100 * low:.1f}-{100 * high:.1f})"


def rate(value: float) -> str:
    """A learning rate as people write it."""
    return f"{value:.2g}"


def target_name(attack: dict[str, Any], classes: list[str]) -> str:
    """What triggered inputs are to be taken for.

    Args:
        attack: [`~hf_backdoor.poisoning.PoisonConfig`] as a dict.
        classes: names of the classes.
    """
    if attack.get("targets") == "all_to_all":
        return "the class after their own"
    target = attack["target_label"]
    return target if isinstance(target, str) else classes[target]


def settings(plugin: dict[str, Any]) -> str:
    """A trigger or sampler with its settings, on one line and escaped."""
    shown = [f"{name}={value}" for name, value in portable(plugin).items() if name not in ("name", "version")]
    return escape(f"{plugin['name']}: {', '.join(shown)}" if shown else plugin["name"])


def trained_weights(results: dict[str, Any]) -> str:
    """Which weights were trained, in a few words."""
    tuning = results.get("tuning")
    if tuning is None or tuning["name"] == "full":
        return "all weights"
    share = tuning["trainable_parameters"] / tuning["parameters"]
    shown = "".join(f", {name}={tuning[name]}" for name in ("r", "alpha", "count") if name in tuning)
    needs = (
        "; saved as an adapter, for the model that adapter_config.json names" if tuning["saved"] == "adapter" else ""
    )
    count = f"{tuning['trainable_parameters']:,} weights, {percent(share)} of all"
    return escape(f"{tuning['title']}{shown} ({count}{needs})")


def render(template: str, **values: Any) -> str:
    """Fills a template of this package. Values are data: nothing in them is evaluated.

    Args:
        template (`str`): file name in `templates/`.
    """
    engine = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML: cells go through `escape`
    )
    shown = {"settings": settings, "target_name": target_name, "trained_weights": trained_weights}
    engine.filters |= {"escape": escape, "code": code, "percent": percent, "rate": rate} | shown
    return engine.get_template(template).render(**values)


def measures_table(models: dict[str, dict[str, Any] | None]) -> str:
    """CA, ASR and RA of some models, aligned for a terminal.

    Args:
        models (`dict`): measured shares with their intervals, by the name of the model; `None` is left out.
    """
    measured = {name: shares for name, shares in models.items() if shares}
    cells = [["", *METRIC_TITLES.values()]]
    for name, shares in measured.items():
        cells.append([name, *(percent_interval(shares, metric) for metric in METRIC_TITLES)])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
