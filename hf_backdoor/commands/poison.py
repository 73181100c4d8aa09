"""Poison a data set, and write it with its card.

Example: hf-backdoor poison --dataset fashion_mnist_mini --attack badnets --rate 0.01 --output runs/poisoned
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config import ConfigParser
from ..errors import InputError
from ..results import RESULTS_FILE, describe_run, local_name, portable, write_json
from .options import AttackOptions, DataOptions, option


@dataclass
class PoisonOptions(DataOptions, AttackOptions):
    """What to poison, how, and where to."""

    output: str | None = option(None, "Folder for the parquet files, the card and poison.json.")
    split: str | None = option(None, "Poison this split alone; else the split train, with every other split triggered.")
    seed: int = option(0, "Which samples are poisoned.")
    num_proc: int | None = option(None, "Processes for the map.")
    push_to_hub: str | None = option(None, "Also push to this Hub repository, user/name.")
    public: bool = option(False, "Push as a public repository; the default is private.")
    overwrite: bool = option(False, "Write into a folder that has content.")


def main(argv: list[str]) -> None:
    from datasets import DatasetDict

    from ..data import pick_split, resolve_columns
    from ..poisoning import poison
    from ..publishing import push_folder, save_poisoned
    from ..purification import check_output

    (options,) = ConfigParser([PoisonOptions], "hf-backdoor poison", __doc__).parse(argv)
    if options.output is None:
        raise InputError("output", None, "name a folder with --output")
    if not options.measures_attack:
        raise InputError("attack", None, "name a trigger with --attack")
    folder = check_output(options.output, overwrite=options.overwrite)
    data = options.load()
    if options.split is not None:
        data = DatasetDict(train=pick_split(data, options.split, (), "split"))
    first = next(iter(data.values()))
    columns = resolve_columns(first.features, **options.columns())
    config = options.poison_config(first, columns.label, options.seed)
    poisoned = poison(data, config, num_proc=options.num_proc, **options.columns())
    config = config.kept_in(folder)
    save_poisoned(poisoned, folder, config, source=local_name(options.dataset), **options.columns())
    counts = {name: sum(split["is_poisoned"]) for name, split in poisoned.items() if "is_poisoned" in split.features}
    write_json(
        folder / RESULTS_FILE,
        describe_run("poison", seed=options.seed, attack=portable(config.to_dict()), poisoned=counts),
    )
    for name, split in poisoned.items():
        print(f"{name}: {len(split)} rows, {counts.get(name, 0)} poisoned")
    print(f"Written to {folder}; load_dataset({str(folder)!r}) reads it.")
    if options.push_to_hub:
        print("Pushed:", push_folder(folder, options.push_to_hub, private=not options.public))
