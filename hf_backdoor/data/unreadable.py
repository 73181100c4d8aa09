"""Which file of a data set cannot be read: Pillow says that there is one, and not where."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from datasets import Dataset, Image
from PIL.Image import DecompressionBombError

from ..errors import InputError


# What Pillow raises, of a PNG with a broken part a SyntaxError. A full disk is an OSError as well.
UNREADABLE = (OSError, SyntaxError, DecompressionBombError)
READS_IMAGES = re.compile(r"[/\\]PIL[/\\]|[/\\]datasets[/\\]features[/\\]image\.py")


def unreadable_image(where: str, error: Exception) -> InputError:
    """The error to raise for a broken image."""
    return InputError("image", where, f"cannot be read ({str(error)[:100]}); replace it, or leave it out")


@contextmanager
def naming_unreadable_images(*data: Any) -> Iterator[None]:
    """Where reading an image fails inside, finds the first such row, which takes reading the images before it again.

    Args:
        *data: data sets that are read inside. What is no `Dataset`, or has no images, is left out.

    Raises:
        InputError: an image cannot be read.
    """
    try:
        yield
    except UNREADABLE as error:
        if _is_of_an_image(error):
            for one in data:
                _look_for_broken_images(one)
        raise


def _is_of_an_image(error: BaseException) -> bool:
    """Whether it was raised while an image was read, here or in a worker, whose traceback is in the text."""
    files = {frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)}
    return any(READS_IMAGES.search(place) for place in (*files, str(error)))


def _look_for_broken_images(data: Any) -> None:
    features = data.features if isinstance(data, Dataset) else {}
    columns = [name for name, feature in features.items() if isinstance(feature, Image) and feature.decode]
    if not columns:
        return
    data = data.with_format(None).select_columns(columns)
    for row in range(len(data)):
        try:
            data[row]
        except UNREADABLE as error:
            stored = data.select([row])
            for name in columns:
                stored = stored.cast_column(name, Image(decode=False))
            names = [stored[0][name]["path"] for name in columns if stored[0][name] is not None]
            raise unreadable_image(", ".join([f"row {row}", *filter(None, names)]), error) from error
