"""Uncompressed images (PNM) as blocks of bytes: Pillow reads them like any other, and numpy at memory speed."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa


_HEADER = re.compile(rb"P([56])\n(\d+) (\d+)\n255\n")
_KIND = {1: b"P5", 3: b"P6"}


def header(shape: tuple[int, int, int]) -> bytes:
    """What stands before the pixels of an image of shape `(height, width, channels)`, with 1 or 3 channels."""
    height, width, channels = shape
    return b"%b\n%d %d\n255\n" % (_KIND[channels], width, height)


def from_pixels(pixels: np.ndarray) -> pa.BinaryArray:
    """Images, uint8 `(samples, height, width, channels)`, as a column of files."""
    start = np.frombuffer(header(pixels.shape[1:]), dtype=np.uint8)
    block = np.empty((len(pixels), len(start) + pixels[0].size), dtype=np.uint8)
    block[:, : len(start)] = start
    block[:, len(start) :] = pixels.reshape(len(pixels), -1)
    return from_block(block)


def from_block(block: np.ndarray) -> pa.BinaryArray:
    """Files of equal length, uint8 `(samples, length)`, as a column; nothing is copied."""
    samples, length = block.shape
    offsets = np.arange(0, (samples + 1) * length, length, dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), samples, [None, pa.py_buffer(offsets), pa.py_buffer(block)])


def to_block(files: pa.BinaryArray) -> tuple[np.ndarray, tuple[int, int, int]] | None:
    """A column of uncompressed images of one size and kind as one block, without a copy.

    Returns:
        Files, uint8 `(samples, length)`, read-only, of which the last `height * width * channels` bytes of each are
        its pixels; and that shape. `None` if the column holds anything else.
    """
    if len(files) == 0 or files.null_count:
        return None
    first = _HEADER.match(files[0].as_py())
    if first is None:
        return None
    shape = (int(first[3]), int(first[2]), 1 if first[1] == b"5" else 3)
    length = len(first[0]) + int(np.prod(shape))
    offsets = np.frombuffer(files.buffers()[1], dtype=np.int32)[files.offset : files.offset + len(files) + 1]
    if not (np.diff(offsets) == length).all():
        return None
    data = np.frombuffer(files.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]]
    block = data.reshape(len(files), length)
    same = (block[:, : len(first[0])] == np.frombuffer(first[0], dtype=np.uint8)).all()
    return (block, shape) if same else None


def pixels_of(block: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """A view of the pixels in a block, `(samples, height, width, channels)`."""
    return block[:, block.shape[1] - int(np.prod(shape)) :].reshape(len(block), *shape)
