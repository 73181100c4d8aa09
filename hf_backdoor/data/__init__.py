"""Data sets: where they come from, and which of their columns are the input and the label."""

from .arrays import from_arrays, uncompressed
from .columns import Columns, class_names, resolve_columns
from .sources import PACKAGED, load_data, pick_split, split_off


__all__ = [
    "PACKAGED",
    "Columns",
    "class_names",
    "from_arrays",
    "load_data",
    "pick_split",
    "resolve_columns",
    "split_off",
    "uncompressed",
]
