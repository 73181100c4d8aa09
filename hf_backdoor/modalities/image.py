"""Images: an `Image` column outside, uint8 arrays inside; PNG in storage, or what is uncompressed stays so."""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import pnm
from ..data.unreadable import UNREADABLE, unreadable_image
from ..errors import InputError
from . import INDEX_SHOWN, ROWS_AT_ONCE, Change, Modality


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from datasets.features.features import FeatureType
    from PIL.Image import Image as Picture

    from ..triggers import Trigger

PIXELS_AT_ONCE = 20_000_000


def check_depth(picture: Picture) -> Picture:
    """A PIL image as it is.

    Raises:
        InputError: it has more than 8 bits a channel, which conversion would cut to white.
    """
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        raise InputError("image", picture.mode, "has more than 8 bits a channel; convert it to 8 bits first")
    return picture


def to_array(picture: Picture) -> np.ndarray:
    """A PIL image as uint8 of shape `(height, width, channels)`, 1 channel for grey and 3 for anything else.

    Raises:
        InputError: the image has more than 8 bits a channel, which 8-bit storage would not keep.
    """
    check_depth(picture)
    grey = picture.mode in ("L", "1", "LA")
    array = np.asarray(picture.convert("L" if grey else "RGB"))
    return array[:, :, None] if grey else array


def to_picture(array: np.ndarray) -> Picture:
    """The inverse of [`to_array`]."""
    from PIL import Image

    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def to_png(array: np.ndarray) -> bytes:
    """A uint8 array of shape `(height, width, channels)` as PNG, which loses nothing."""
    buffer = io.BytesIO()
    to_picture(array).save(buffer, format="PNG")
    return buffer.getvalue()


def datasets_decoder(mode: str | None = None) -> Callable[[dict[str, Any]], Picture]:
    """From a stored image to a PIL image, of the mode that its column asks for."""
    from datasets import Image

    return Image(mode=mode).decode_example


def apply_to_arrays(
    trigger: Callable[[np.ndarray, np.ndarray], np.ndarray], arrays: Sequence[np.ndarray], index: np.ndarray
) -> list[np.ndarray]:
    """Puts the trigger on images of any sizes, one call for all images of one size.

    Args:
        trigger: an image trigger, or its `cover`.
        arrays: uint8 arrays `(height, width, channels)`.
        index: int64 `(len(arrays),)`.
    """
    by_shape = defaultdict(list)
    for position, array in enumerate(arrays):
        by_shape[array.shape].append(position)
    triggered: list[np.ndarray] = [None] * len(arrays)  # type: ignore[list-item]
    for positions in by_shape.values():
        for position, array in zip(
            positions, trigger(np.stack([arrays[i] for i in positions]), index[positions]), strict=True
        ):
            triggered[position] = array
    return triggered


def pixels_in(value: dict[str, Any]) -> int:
    """Of a stored image, from its header."""
    from PIL import Image

    with Image.open(value["path"] if value["bytes"] is None else io.BytesIO(value["bytes"])) as picture:
        return picture.width * picture.height


def _size_of(path: str) -> int:
    return os.path.getsize(path) if os.path.isfile(path) else 0


def rows_within(sizes: Sequence[int], limit: int) -> int:
    """How many rows to take at a time so that their sizes add up to about a limit; single ones may be larger."""
    rows, sizes = ROWS_AT_ONCE, np.minimum(np.asarray(sizes, dtype=np.int64), limit)
    while rows > 1 and np.add.reduceat(sizes, np.arange(0, len(sizes), rows)).max(initial=0) > 2 * limit:
        rows //= 2
    return rows


def _decoded(
    stored: pa.StructArray, positions: np.ndarray, index: np.ndarray, decode: Callable[[dict[str, Any]], Picture]
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Positions and their images, in groups of at most `PIXELS_AT_ONCE`, but for a single larger one."""
    group: list[int] = []
    arrays: list[np.ndarray] = []
    pixels = 0
    for position in positions.tolist():
        image = stored[position].as_py()
        try:
            array = to_array(decode(image))
        except UNREADABLE as error:
            raise unreadable_image(image["path"] or f"of index {index[position]}", error) from error
        size = array.shape[0] * array.shape[1]
        if group and pixels + size > PIXELS_AT_ONCE:
            yield group, arrays
            group, arrays, pixels = [], [], 0
        group.append(position)
        arrays.append(array)
        pixels += size
    if group:
        yield group, arrays


def _change_block(
    block: np.ndarray, shape: tuple[int, int, int], changes: list[Change], index: np.ndarray
) -> pa.BinaryArray:
    """Uncompressed images of one size, without a detour over files."""
    before = pnm.pixels_of(block, shape)
    if len(changes) == 1 and changes[0][0].all():
        return pnm.from_pixels(changes[0][1](before, index))
    changed = block.copy()
    after = pnm.pixels_of(changed, shape)
    for mask, function in changes:
        if mask.any():
            after[mask] = function(before[mask], index[mask])
    return pnm.from_block(changed)


class ImageModality(Modality):
    name = "image"
    usual_triggers = ("blended", "badnets")
    has_captions = True

    def matches(self, feature: FeatureType) -> bool:
        from datasets import Image

        return isinstance(feature, Image)

    def undecoded(self, feature: FeatureType) -> FeatureType:
        from datasets import Image

        return Image(mode=feature.mode, decode=False)

    def change(
        self, stored: pa.StructArray, changes: list[Change], index: np.ndarray, feature: FeatureType
    ) -> pa.StructArray:
        import pyarrow as pa

        files, paths = stored.field("bytes"), stored.field("path")
        block = pnm.to_block(files)
        if block is not None and feature.mode in (None, "L" if block[1][2] == 1 else "RGB"):
            return pa.StructArray.from_arrays([_change_block(*block, changes, index), paths], fields=list(stored.type))
        contents, names = files.to_pylist(), paths.to_pylist()
        for position, content in enumerate(contents):
            if content is None and names[position] is not None:
                path = Path(names[position])
                try:
                    contents[position], names[position] = path.read_bytes(), path.name
                except OSError as error:
                    raise unreadable_image(str(path), error) from error
        decode = datasets_decoder(feature.mode)
        for mask, function in changes:
            for positions, arrays in _decoded(stored, np.flatnonzero(mask), index, decode):
                changed = apply_to_arrays(function, arrays, index[positions])
                for position, array in zip(positions, changed, strict=True):
                    contents[position], names[position] = to_png(array), None
        return pa.StructArray.from_arrays(
            [pa.array(contents, type=files.type), pa.array(names, type=paths.type)], fields=list(stored.type)
        )

    def rows_at_once(self, dataset: Dataset, column: str) -> int:
        import pyarrow.compute as pc

        stored, rows = dataset.data[column], dataset._indices  # as it is stored, below what was filtered out
        lengths, names = pc.binary_length(pc.struct_field(stored, "bytes")), pc.struct_field(stored, "path")
        if rows is not None:
            lengths, names = (values.take(rows.column(0)) for values in (lengths, names))
        sizes = lengths.to_pylist()
        if lengths.null_count:
            named = zip(sizes, names.to_pylist(), strict=True)
            sizes = [_size_of(name) if size is None and name else size or 0 for size, name in named]
        return rows_within(sizes, 3 * PIXELS_AT_ONCE)

    def illustrate(self, examples: list[dict[str, Any]], names: list[str], folder: Path) -> str:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        from ..cards.plots import save_figure

        kinds = ("clean", "triggered")
        figure = Figure(figsize=(1.35 * len(examples), 3.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(kinds), len(examples), squeeze=False)
        for row, kind in zip(axes, kinds, strict=True):
            for axis, example in zip(row, examples, strict=True):
                axis.imshow(to_array(example[kind]), cmap="gray", vmin=0, vmax=255)
                axis.set_xticks([])
                axis.set_yticks([])
                for line, (model, said) in enumerate(example["said"].items()):
                    right = said[kind] == example["label"]
                    axis.text(
                        0.5, -0.06 - 0.16 * line, f"{model}: {names[said[kind]]}", transform=axis.transAxes, fontsize=7,
                        ha="center", va="top", color="C2" if right else "C3", parse_math=False,
                    )  # fmt: skip
            row[0].set_ylabel(kind)
        for axis, example in zip(axes[0], examples, strict=True):
            axis.set_title(names[example["label"]], fontsize=8, parse_math=False)
        save_figure(figure, folder / "examples.png")
        return (
            "![Clean and triggered inputs with the predictions before and after](figures/examples.png)\n\n"
            "Above each column the true class; below each image what the model said before and after, green if right.\n"
        )

    def show_trigger(self, trigger: Trigger, name: str, title: str, pictures: list[Picture], folder: Path) -> str:
        from ..cards.rendering import escape
        from ..trigger_pictures import draw

        draw(folder / f"{name}.png", trigger, [to_array(picture) for picture in pictures], INDEX_SHOWN)
        return f"![{escape(title)}: clean, triggered and the difference]({name}.png)"
