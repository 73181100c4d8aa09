"""Measure what a repair did to a model's other weaknesses, and put it on the model card.

Example: hf-backdoor sequela --before runs/victim --after purified --dataset fashion_mnist_mini --clean_samples 900
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import ConfigParser, plugin_settings
from ..errors import InputError
from ..sequela import Measure, load_measure, measure_names
from .options import AttackOptions, DataOptions, TaskOptions, clean_part, option, test_set


@dataclass
class SequelaOptions(DataOptions, TaskOptions, AttackOptions):
    """The models, and what to measure them on."""

    before: str | None = option(None, "Folder or Hub id of the model before the repair.")
    after: str | None = option(None, "Folder of the repaired model, whose card gets the section; or a Hub id.")
    benign: str | None = option(None, "Folder or Hub id of the same kind of model without a backdoor, to compare with.")
    measures: list[str] = option(
        [], f"Which measures: {', '.join(measure_names())}; by default all for which the data suffice."
    )
    quick: bool = option(False, "A look that takes seconds on a small model: no shadow models, no copies, few samples.")
    measure_args: list[str] = option([], "Settings of --measures as measure.name=value, e.g. membership.shadows=16.")
    train_split: str | None = option(None, "Split that the models were trained on; the default is train.")
    clean_samples: int | None = option(
        None, "So many of them did the repair train on: those that `purify --clean_samples` takes with the same seed."
    )
    test_split: str | None = option(None, "Split that no model was trained on; the default is test or validation.")
    seed: int = option(0, "Of everything random.")
    batch_size: int = option(64, "Samples a forward pass.")
    output: str | None = option(None, "Folder to write to; the default is that of --after.")
    work: str | None = option(None, "Folder for shadow models and finished measures; the default is in the output.")

    def chosen_measures(self) -> list[Measure] | None:
        """The measures with their settings; `None` if everything is left to the report."""
        settings: dict[str, dict[str, Any]] = {}
        for setting, value in plugin_settings(self.measure_args, "measure_args").items():
            measure, dot, name = setting.rpartition(".")
            if not dot:
                raise InputError("measure_args", setting, "write it as measure.name=value, e.g. membership.shadows=16")
            settings.setdefault(measure, {})[name] = value
        if self.quick and (self.measures or settings):
            raise InputError("quick", True, "comes with measures and settings; leave out --measures and --measure_args")
        for measure in settings:
            if measure not in self.measures:
                raise InputError("measure_args", measure, "is not among --measures; name it there, too")
        return [load_measure(name, **settings.get(name, {})) for name in self.measures] or None


def main(argv: list[str]) -> None:
    from ..cards import check_card
    from ..class_order import classes_of
    from ..data import pick_split, resolve_columns
    from ..data.columns import check_rows
    from ..data.sources import with_all_classes
    from ..sequela import WORK_FOLDER, Evidence
    from ..sequela_report import SequelaReport

    (options,) = ConfigParser([SequelaOptions], "hf-backdoor sequela", __doc__).parse(argv)
    for name in ("before", "after"):
        if getattr(options, name) is None:
            raise InputError(name, None, f"name a model with --{name}")
    if options.output is None and not Path(options.after).is_dir():
        raise InputError("output", None, "--after is no folder here; name a folder to write to with --output")
    measures = options.chosen_measures()
    folder = Path(options.output or options.after)
    check_card(folder)
    data = options.load(known=classes_of(options.after))
    train = pick_split(data, options.train_split, ("train",), "train_split")
    columns = resolve_columns(train.features, **options.columns())
    members, defense_members = clean_part(train, options.clean_samples, options.seed, columns.label)
    test = test_set(data, options.test_split, columns.label, required=True)
    check_rows(test, columns)
    attack = options.poison_config(train, columns.label, options.seed) if options.measures_attack else None
    task = options.chosen_task(columns, options.load_attack()[0] if options.attack else None)
    report = SequelaReport(
        options.before,
        options.after,
        options.benign,
        evidence=Evidence(
            task=task,
            processor=task.load_processor(options.after),
            columns=columns,
            members=members,
            defense_members=defense_members,
            non_members=with_all_classes(test, columns.label, task.label_names(train, columns)),
            attack=attack,
            seed=options.seed,
            folder=Path(options.work or folder / WORK_FOLDER),
            batch_size=options.batch_size,
        ),
        measures=measures,
        quick=options.quick,
    )
    report.run()
    card = report.write(folder)
    print(report.table())
    print(f"Card: {card}")
