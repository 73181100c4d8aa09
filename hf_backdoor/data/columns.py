"""Finding the input and the label column of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from ..modalities import modalities, modality_of


if TYPE_CHECKING:
    from datasets import Dataset, Features


LABEL_NAMES = ("label", "labels", "target", "class", "fine_label", "coarse_label")
CAPTION_NAMES = ("caption", "text", "title", "description", "alt_text", "caption_0")
ADDED_LABEL = "original_label"  # by poisoning, beside the label that counts
INPUT_NAMES = ("image", "img", "picture", "text", "sentence", "content", "review")


@dataclass(frozen=True)
class Columns:
    """Names of the two columns that matter, the modality of the input, and whether captions stand for labels."""

    input: str
    label: str
    modality: str
    captions: bool = False


def _existing(field: str, name: str, features: Features) -> str:
    if name not in features:
        raise InputError(field, name, f"no such column; the data set has {', '.join(features)}")
    return name


def _choose(field: str, what: str, candidates: list[str], usual: tuple[str, ...], features: Features) -> str:
    if len(candidates) == 1:
        return candidates[0]
    for name in usual:
        if name in candidates:
            return name
    if not candidates:
        raise InputError(field, None, f"no column looks like {what}; the columns are {', '.join(features)}: name one")
    raise InputError(field, None, f"{', '.join(candidates)} could all be {what}: name one")


def resolve_columns(features: Features, input_column: str | None = None, label_column: str | None = None) -> Columns:
    """The input and label columns, as given or as found.

    Args:
        features (`datasets.Features`): of the data set.
        input_column (`str`, *optional*): the image or text column; found when there is only one, or one with a
            usual name.
        label_column (`str`, *optional*): likewise; a `ClassLabel`, or whole numbers from 0, or the captions of
            images.

    Raises:
        InputError: a named column is missing, or none or several could be meant.
    """
    from datasets import ClassLabel

    if input_column is None:
        images = [name for name, feature in features.items() if modality_of_or_none(feature) == "image"]
        texts = [name for name, feature in features.items() if modality_of_or_none(feature) == "text"]
        input_column = _choose("input_column", "the input", images or texts, INPUT_NAMES, features)
    _existing("input_column", input_column, features)
    if label_column is None:
        labels = [name for name, feature in features.items() if isinstance(feature, ClassLabel) and name != ADDED_LABEL]
        labels = labels or [name for name in LABEL_NAMES if name in features]
        usual = LABEL_NAMES
        if not labels and modality_of_or_none(features[input_column]) == "image":
            captions = [name for name, feature in features.items() if modality_of_or_none(feature) == "text"]
            labels, usual = [name for name in captions if name in CAPTION_NAMES], CAPTION_NAMES
        label_column = _choose("label_column", "the label", labels, usual, features)
    _existing("label_column", label_column, features)
    modality = modality_of(input_column, features[input_column]).name
    return Columns(input_column, label_column, modality, modality == "image" and holds_captions(features, label_column))


def holds_captions(features: Features, label_column: str) -> bool:
    """Whether a label column holds captions: text, under a name that captions have. Other text names classes."""
    return label_column in CAPTION_NAMES and modality_of_or_none(features[label_column]) == "text"


def image_column_of(features: Features, image_column: str | None = None) -> str:
    """The image column, as given or as found.

    Raises:
        InputError: it is missing, or none or several could be meant.
    """
    images = [name for name, feature in features.items() if modality_of_or_none(feature) == "image"]
    name = image_column or _choose("image_column", "an image", images, INPUT_NAMES, features)
    if _existing("image_column", name, features) not in images:
        raise InputError("image_column", name, f"holds no images; these do: {', '.join(images) or 'none'}")
    return name


def modality_of_or_none(feature: object) -> str | None:
    """The name of the modality that takes this feature, if any does."""
    return next((modality.name for modality in modalities() if modality.matches(feature)), None)


def class_names(dataset: Dataset, label_column: str) -> list[str]:
    """Names of the classes, in the order of their numbers.

    Raises:
        InputError: the labels are neither a `ClassLabel` nor whole numbers from 0.
    """
    feature = dataset.features[label_column]
    if hasattr(feature, "names"):
        return list(feature.names)
    values = sorted(dataset.unique(label_column))
    if not all(isinstance(value, int) for value in values) or not values or values[0] < 0:
        raise InputError(label_column, values[:5], "labels must be a ClassLabel or whole numbers from 0")
    return [str(number) for number in range(values[-1] + 1)]


def check_same_classes(dataset: Dataset, other: Dataset, label_column: str, field: str) -> None:
    """Whether a number means the same class in two data sets; labels without names are not compared.

    Args:
        dataset, other: the second is to fit the first.
        label_column (`str`): of both.
        field (`str`): what the user calls the second.

    Raises:
        InputError: their classes have other names, or another order.
    """
    names, others = (getattr(one.features.get(label_column), "names", None) for one in (dataset, other))
    if names and others and names != others:
        raise InputError(
            field, others, f"these classes are numbered otherwise than those trained on ({', '.join(names)}); cast its "
            f"column {label_column} to the same ClassLabel"
        )  # fmt: skip
