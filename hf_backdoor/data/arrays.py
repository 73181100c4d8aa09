"""Image data sets from numpy arrays, and without compression, so that they are read and written at memory speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

BYTES_AT_ONCE = 2**28


def _column(pixels: np.ndarray) -> pa.StructArray:
    import pyarrow as pa

    from .. import pnm

    files = pnm.from_pixels(pixels)
    return pa.StructArray.from_arrays([files, pa.nulls(len(files), pa.string())], names=["bytes", "path"])


def from_arrays(images: np.ndarray, labels: Any, names: list[str] | None = None) -> Dataset:
    """A data set with an uncompressed `Image` column `image` and a `ClassLabel` column `label`.

    Args:
        images (`np.ndarray`): uint8 `(samples, height, width)`, or `(samples, height, width, channels)` with 1 or 3
            channels.
        labels: whole numbers from 0, `(samples,)`.
        names (`list[str]`, *optional*): of the classes; their numbers when not given.

    Raises:
        InputError: wrong shapes or types, or no image.

    Example:

    ```python
    >>> data = from_arrays(np.zeros((100, 32, 32, 3), dtype=np.uint8), [0] * 50 + [1] * 50)
    >>> data[0]["image"].size
    (32, 32)
    ```
    """
    import pyarrow as pa
    from datasets import ClassLabel, Dataset, Features, Image
    from datasets.table import InMemoryTable

    images, labels = np.asarray(images), np.asarray(labels)
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not len(images):
        raise InputError(
            "images", f"{images.dtype} {images.shape}", "must be uint8 (samples, height, width[, 1 or 3]), one or more"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise InputError("labels", f"{labels.dtype} {labels.shape}", f"must be {len(images)} whole numbers from 0")
    names = names or [str(number) for number in range(int(labels.max(initial=0)) + 1)]
    if len(labels) and labels.max() >= len(names):
        raise InputError("labels", int(labels.max()), f"is too large for {len(names)} class names")
    at_once = max(1, BYTES_AT_ONCE // max(1, images[:1].nbytes))
    parts = [_column(images[start : start + at_once]) for start in range(0, len(images), at_once)]
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    table = pa.table({"image": pa.chunked_array(parts), "label": labels.astype(np.int64)}, schema=features.arrow_schema)
    return Dataset(InMemoryTable(table))


def uncompressed(dataset: Dataset, image_column: str | None = None, num_proc: int | None = None) -> Dataset:
    """The same data set with its images decoded once, and stored without compression.

    It remains an `Image` column that everything reads as before, several times larger in storage; poisoning it needs
    neither to decode nor to encode.

    Args:
        dataset (`Dataset`): with an `Image` column.
        image_column (`str`, *optional*): found when not given.
        num_proc (`int`, *optional*): processes for `datasets.map`.

    Raises:
        InputError: a row has no image, or one of more than 8 bits.
    """
    import pyarrow as pa
    from datasets import Image

    from .. import pnm
    from ..modalities.image import PIXELS_AT_ONCE, datasets_decoder, pixels_in, rows_within, to_array
    from .columns import check_filled, image_column_of

    name = image_column_of(dataset.features, image_column)
    check_filled(dataset, name, "image")
    feature = dataset.features[name]
    raw = dataset.cast_column(name, Image(mode=feature.mode, decode=False))
    decode = datasets_decoder()

    def convert(table: pa.Table) -> pa.Table:
        arrays = [to_array(decode(value)) for value in table[name].to_pylist()]
        if len({array.shape for array in arrays}) == 1:
            column = _column(np.stack(arrays))
        else:
            files = pa.array([pnm.from_pixels(array[None])[0].as_py() for array in arrays], type=pa.binary())
            column = pa.StructArray.from_arrays([files, pa.nulls(len(files), pa.string())], names=["bytes", "path"])
        return table.set_column(table.column_names.index(name), name, column)

    converted = raw.with_format("arrow").map(
        convert,
        batched=True,
        batch_size=rows_within([pixels_in(value) for value in raw.with_format(None)[name]], PIXELS_AT_ONCE),
        features=raw.features,
        num_proc=num_proc,
        desc="Decoding images",
    )
    return converted.with_format(None).cast_column(name, feature)
