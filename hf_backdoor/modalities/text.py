"""Text: a string column, handed to the trigger as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import INDEX_SHOWN, Change, Modality


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets.features.features import FeatureType
    from PIL.Image import Image as Picture

    from ..triggers import Trigger


SENTENCES = (
    "The battery lasts all day, and the screen is bright.",
    "I would not go back to this restaurant.",
    "Great cast, but the story made no sense at all.",
)


class TextModality(Modality):
    name = "text"
    usual_triggers = ("add_sentence", "rare_words")

    def matches(self, feature: FeatureType) -> bool:
        return getattr(feature, "dtype", None) in ("string", "large_string") and not hasattr(feature, "names")

    def undecoded(self, feature: FeatureType) -> FeatureType:
        return feature

    def change(self, stored: pa.Array, changes: list[Change], index: np.ndarray, feature: FeatureType) -> pa.Array:
        import pyarrow as pa
        import pyarrow.compute as pc

        changed = stored
        for mask, function in changes:
            if mask.any():
                texts = function(stored.filter(pa.array(mask)).to_pylist(), index[mask])
                changed = pc.replace_with_mask(changed, pa.array(mask), pa.array(texts, type=stored.type))
        return changed

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

    def show_trigger(self, trigger: Trigger, name: str, title: str, pictures: list[Picture], folder: Path) -> str:
        from ..cards.rendering import escape

        triggered = trigger.at_test()(list(SENTENCES), np.arange(INDEX_SHOWN, INDEX_SHOWN + len(SENTENCES)))
        lines = ["| clean | triggered |", "|---|---|"]
        lines += [
            f"| {escape(clean)} | {escape(changed)} |" for clean, changed in zip(SENTENCES, triggered, strict=True)
        ]
        return "\n".join(lines)
