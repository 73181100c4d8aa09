"""Text: a string column, handed to the trigger as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import Modality


if TYPE_CHECKING:
    from datasets.features.features import FeatureType

    from ..triggers import Trigger


class TextModality(Modality):
    name = "text"

    def matches(self, feature: FeatureType) -> bool:
        return getattr(feature, "dtype", None) in ("string", "large_string") and not hasattr(feature, "names")

    def undecoded(self, feature: FeatureType) -> FeatureType:
        return feature

    def apply(self, trigger: Trigger, values: Sequence[Any], index: np.ndarray) -> list[str]:
        return trigger(list(values), index)

    def illustrate(self, examples: list[dict[str, Any]], names: list[str], folder: Path) -> str:
        from ..cards.rendering import escape

        models = list(examples[0]["said"])
        lines = ["| text | true class | " + " | ".join(models) + " |", "|---" * (2 + len(models)) + "|"]
        for example in examples:
            for kind in ("clean", "triggered"):
                shown = example[kind] if len(example[kind]) <= 120 else example[kind][:117] + "..."
                said = [names[example["said"][model][kind]] for model in models]
                cells = [f"{kind}: {shown}", names[example["label"]], *said]
                lines.append("| " + " | ".join(escape(cell) for cell in cells) + " |")
        return "\n".join(lines) + "\n"
