"""Which file of a data set cannot be read: Pillow says that there is one, and not where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from datasets import Dataset, Image
from PIL.Image import DecompressionBombError

from ..errors import InputError


# What Pillow raises, of a PNG with a broken part a SyntaxError. A full disk is an OSError as well.
UNREADABLE = (OSError, SyntaxError, DecompressionBombError)


def unreadable_image(where: str, error: Exception) -> InputError:
    """The error to raise for a broken image."""
    return InputError("image", where, f"cannot be read ({str(error)[:100]}); replace it, or leave it out")


@contextmanager
def naming_unreadable_images(*data: Any) -> Iterator[None]:
    """Where reading an image fails inside, finds the first such row.

    Args:
        *data: data sets that are read inside. What is no `Dataset`, or has no images, is left out.

    Raises:
        InputError: an image cannot be read.
    """
    try:
        yield
    except UNREADABLE as error:
        for one in data:
            if isinstance(one, Dataset):
                _look_for_broken_images(one)
        raise error  # it was something else


def _look_for_broken_images(data: Dataset) -> None:
    columns = [name for name, feature in data.features.items() if isinstance(feature, Image) and feature.decode]
    data = data.with_format(None).select_columns(columns)
    for row in range(len(data) if columns else 0):
        try:
            data[row]
        except UNREADABLE as error:
            stored = data.select([row])
            for name in columns:
                stored = stored.cast_column(name, Image(decode=False))
            names = [stored[0][name]["path"] for name in columns if stored[0][name] is not None]
            raise unreadable_image(", ".join([f"row {row}", *filter(None, names)]), error) from error
