"""List the attacks with their papers and defaults, or draw a page that shows each of them.

Example: hf-backdoor attacks
Example: hf-backdoor attacks --gallery runs/gallery --dataset my_images/
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import ConfigParser
from ..data import load_data
from ..data.columns import image_column_of
from ..errors import InputError
from .options import option, stored_attack


@dataclass
class AttacksOptions:
    """What to list, and whether to draw it."""

    names: list[str] = option([], "Only these attacks; all when not given.")
    modality: str | None = option(None, "Only those for image or text.")
    gallery: str | None = option(None, "Folder to write a page to, with a picture or sentences for each.")
    dataset: list[str] = option(
        ["fashion_mnist_mini", "emoji_captions"], "Where the pictures on the page come from, one from each."
    )
    row: int = option(0, "Which picture of them.")
    overwrite: bool = option(False, "Write into a folder that has content.")
    victims: list[str] = option(
        [], "Folders of victims, for triggers that were learned or that need a model: the page shows those."
    )


def main(argv: list[str]) -> None:
    from ..catalog import catalog, shown
    from ..modalities import modalities
    from ..purification import check_output

    (options,) = ConfigParser([AttacksOptions], "hf-backdoor attacks", __doc__).parse(argv)
    entries = catalog()
    known = {entry.name for entry in entries}
    for name in options.names:
        if name not in known:
            raise InputError("names", name, f"unknown; choose from {', '.join(sorted(known))}")
    kinds = [modality.name for modality in modalities()]
    if options.modality not in (None, *kinds):
        raise InputError("modality", options.modality, f"choose {' or '.join(kinds)}")
    entries = [entry for entry in entries if not options.names or entry.name in options.names]
    entries = [entry for entry in entries if options.modality in (None, entry.modality)]
    if options.gallery is not None:
        check_output(options.gallery, overwrite=options.overwrite)
        print("Written to", _write(options, entries, argv))
        return
    for entry in entries:
        kind = "changes data and training" if entry.trains else "changes data"
        print(f"{entry.name}: {entry.title}, {entry.modality}, {kind}")
        print(f"    {entry.paper}")
        print(f"    settings  {shown(entry.settings) or 'none'}")
        if entry.poison:
            print(f"    poisons   {shown(entry.poison)}")


def _write(options: AttacksOptions, entries: list[Any], argv: list[str]) -> Path:
    from ..gallery import write_gallery
    from ..results import portable

    pictures = []
    for source in options.dataset:
        data = next(iter(load_data(source).values()))
        if not 0 <= options.row < len(data):
            raise InputError("row", options.row, f"{source} has the rows 0 to {len(data) - 1}")
        pictures.append(data[options.row][image_column_of(data.features)])
    configs = [stored_attack(folder) for folder in options.victims]
    learned = {config.trigger.name: config.trigger for config in configs}
    command = shlex.join(["hf-backdoor", "attacks", *portable(argv)])
    return write_gallery(Path(options.gallery), entries, pictures, learned, command)
