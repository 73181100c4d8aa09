"""Finding the input and the label column of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers.utils import logging

from ..errors import InputError
from ..modalities import modalities, modality_of


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features


LABEL_NAMES = ("label", "labels", "target", "class", "fine_label", "coarse_label")
CAPTION_NAMES = ("caption", "text", "title", "description", "alt_text", "caption_0")
ADDED_LABEL = "original_label"  # by poisoning, beside the label that counts
INPUT_NAMES = ("image", "img", "picture", "text", "sentence", "content", "review")
ABOUT_TEXT = ("source", "id", "url", "language", "label_text")  # text, too, and no part of the input
MOST_CLASSES = 100_000  # more are numbers of something else
logger = logging.get_logger(__name__)


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

    Columns of further text are warned of where the input column was found among them.

    Raises:
        InputError: a named column is missing, or none or several could be meant; or the features are not known, as of
            a stream that was mapped.
    """
    from datasets import ClassLabel

    if features is None:
        raise InputError(
            "dataset", None, "the columns of this stream are not known; tell `map` its features, or load a Dataset "
            "without streaming=True"
        )  # fmt: skip
    others: list[str] = []
    if input_column is None:
        columns = {modality.name: _columns_of(modality.name, features) for modality in modalities()}
        preferred = next(filter(None, columns.values()), [])
        input_column = _choose("input_column", "the input", preferred, INPUT_NAMES, features)
        texts = columns["text"]
        others = [name for name in texts if input_column in texts and name not in (input_column, *ABOUT_TEXT)]
    _existing("input_column", input_column, features)
    if label_column is None:
        labels = [name for name, feature in features.items() if isinstance(feature, ClassLabel) and name != ADDED_LABEL]
        labels = labels or [name for name in LABEL_NAMES if name in features]
        usual = LABEL_NAMES
        if not labels and modality_of(input_column, features[input_column]).has_captions:
            labels, usual = [name for name in _columns_of("text", features) if name in CAPTION_NAMES], CAPTION_NAMES
        label_column = _choose("label_column", "the label", labels, usual, features)
    _existing("label_column", label_column, features)
    if others := [name for name in others if name not in (label_column, ADDED_LABEL)]:
        logger.warning_once(
            f"Texts are read from the column {input_column} alone, and not from {', '.join(others)}: pairs of texts "
            "are not supported. If another one is meant, name it with --text_column (input_column)."
        )
    modality = modality_of(input_column, features[input_column])
    captions = modality.has_captions and holds_captions(features, label_column)
    return Columns(input_column, label_column, modality.name, captions)


def _columns_of(modality: str, features: Features) -> list[str]:
    return [name for name, feature in features.items() if modality_of_or_none(feature) == modality]


def holds_captions(features: Features, label_column: str) -> bool:
    """Whether a label column holds captions: text, under a name that captions have. Other text names classes."""
    return label_column in CAPTION_NAMES and modality_of_or_none(features[label_column]) == "text"


def image_column_of(features: Features, image_column: str | None = None) -> str:
    """The image column, as given or as found.

    Raises:
        InputError: it is missing, or none or several could be meant.
    """
    images = _columns_of("image", features)
    name = image_column or _choose("image_column", "an image", images, INPUT_NAMES, features)
    if _existing("image_column", name, features) not in images:
        raise InputError("image_column", name, f"holds no images; these do: {', '.join(images) or 'none'}")
    return name


def modality_of_or_none(feature: object) -> str | None:
    """The name of the modality that takes this feature, if any does."""
    return next((modality.name for modality in modalities() if modality.matches(feature)), None)


def check_dataset(dataset: object, field: str) -> None:
    """Whether something is one `Dataset`, and neither a stream nor several splits.

    Args:
        dataset: what the user gave.
        field (`str`): what the user calls it.

    Raises:
        InputError: it is something else.
    """
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        raise InputError(
            field, type(dataset).__name__, "must be a datasets.Dataset; pass one split of several, and load a stream "
            "without streaming=True, or collect it by Dataset.from_generator"
        )  # fmt: skip


def _missing(dataset: Dataset, column: str) -> pa.ChunkedArray:
    """Which rows have nothing in a column, bool: `None`, or a number below 0, as test sets without labels have."""
    import pyarrow as pa
    import pyarrow.compute as pc

    stored = dataset.data[column]  # below any format, and with images as they are stored
    missing = stored.is_null()
    if pa.types.is_signed_integer(stored.type):
        missing = pc.or_kleene(missing, pc.less(stored, 0))
    return missing if dataset._indices is None else missing.take(dataset._indices.column(0))


def check_filled(dataset: Dataset, column: str, what: str) -> None:
    """Whether every row has something in a column; numbers below 0 stand for nothing.

    Raises:
        InputError: a row has none of `what` the column holds.
    """
    import pyarrow.compute as pc

    row = pc.index(_missing(dataset, column), True).as_py()
    if row >= 0:
        value = dataset.select_columns(column).with_format(None)[row][column]
        raise InputError(column, value, f"row {row} has no {what}; filter such rows out first")


def check_labels(dataset: Dataset, label_column: str) -> None:
    """Whether every row has one label.

    Raises:
        InputError: a row has none, see [`check_filled`], or the column holds lists or the like.
    """
    from datasets import ClassLabel, Value

    feature = dataset.features[label_column]
    if not isinstance(feature, ClassLabel | Value):
        raise InputError(label_column, feature, "must hold one class or caption a row; name another label_column")
    check_filled(dataset, label_column, "label")


def check_rows(dataset: Dataset, columns: Columns) -> None:
    """Whether every row has an input and one label, before a model finds out in the middle of a run.

    Raises:
        InputError: one of them has not.
    """
    check_filled(dataset, columns.input, "input")
    check_labels(dataset, columns.label)


def has_labels(dataset: Dataset, label_column: str) -> bool:
    """Whether any row has a label; some test sets come with -1 for all, or without the column."""
    import pyarrow.compute as pc

    return label_column in dataset.features and not pc.all(_missing(dataset, label_column)).as_py()


def class_names(dataset: Dataset, label_column: str) -> list[str]:
    """Names of the classes, in the order of their numbers.

    Raises:
        InputError: the labels are neither a `ClassLabel` nor whole numbers from 0, one for each row.
    """
    feature = dataset.features[label_column]
    if hasattr(feature, "names"):
        return list(feature.names)
    check_labels(dataset, label_column)
    values = sorted(dataset.unique(label_column))
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values) or not values:
        raise InputError(label_column, values[:5], "labels must be a ClassLabel or whole numbers from 0")
    if values[-1] >= MOST_CLASSES:
        raise InputError(
            label_column, values[-1], f"is more than {MOST_CLASSES:,} classes; name the column of the labels"
        )
    return [str(number) for number in range(values[-1] + 1)]
