"""Purify a model of unknown origin on clean data, and write its card.

What has to do with an attack (--attack and so on) only measures: the defence is not told. --learning_rate is where the
search for peaks begins; give a pretrained transformer 1e-4 or less.

Example: hf-backdoor purify --model org/suspect --dataset clean_images/ --output purified
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config import ConfigParser, plugin_settings
from ..errors import InputError
from ..probing import PROBE_STEPS
from .options import (
    ROW,
    AttackOptions,
    DataOptions,
    TaskOptions,
    TuningOptions,
    clean_part,
    numbered,
    option,
    test_set,
    without_rows_of,
)


@dataclass
class PurifyOptions(DataOptions, TaskOptions, TuningOptions, AttackOptions):
    """The model, the clean data and the defence. --attack only measures; the defence is never told of it."""

    model: str | None = option(None, "Folder or Hub id of the suspect model.")
    revision: str | None = option(None, "Of a model on the Hub: a branch, a tag or a commit; the default is main.")
    clean_split: str | None = option(
        None, "Split of --dataset to train on, or a part, e.g. train[:1000]; the default is train."
    )
    clean_samples: int | None = option(None, "Use only this many of it, balanced over the classes.")
    test_dataset: str | None = option(None, "Where the test data are; the default is the test split of --dataset.")
    test_split: str | None = option(
        None, "Split to measure on, or a part, e.g. test[:1000]; the default is test or validation."
    )
    defense: str = option("super_fine_tuning", "Name of the defence, or package.module:Class.")
    defense_args: list[str] = option([], "Settings of the defence as name=value, e.g. peak_lr_1=3e-3.")
    new_head: bool = option(
        False,
        "The model is to serve other classes or captions: a probe of the frozen body first, a new head for classes.",
    )
    probe_steps: int = option(PROBE_STEPS, "Optimizer steps of that probe.")
    allow_pickle: bool = option(False, "Load weights that are stored as pickles only; they can run code.")
    overwrite: bool = option(False, "Write into a folder that has content.")
    sequela: bool = option(
        False, "Take a quick look at what the repair did to other weaknesses, too; `hf-backdoor sequela` measures more."
    )
    suspect_split: str | None = option(
        None, "With --sequela: split of --dataset that the suspect was trained on, if known, but for --clean_samples."
    )


def main(argv: list[str]) -> None:
    from ..class_order import classes_of
    from ..data import pick_split, resolve_columns
    from ..defenses import load_defense
    from ..purification import PURIFICATION_DEFAULTS, purify
    from .training_options import TrainerOptions

    def defense_of(options: PurifyOptions):
        return load_defense(options.defense, **plugin_settings(options.defense_args, "defense_args"))

    parser = ConfigParser([PurifyOptions, TrainerOptions], "hf-backdoor purify", __doc__)
    options, args = parser.parse(argv, lambda given: PURIFICATION_DEFAULTS | defense_of(given).training_defaults())
    if options.model is None:
        raise InputError("model", None, "name the suspect model with --model")
    known = [] if options.new_head else classes_of(options.model, options.revision)
    data = options.load(known=known)
    clean = pick_split(data, options.clean_split, ("train",), "clean_split")
    columns = resolve_columns(clean.features, **options.columns())
    suspect_data = None
    if options.suspect_split is not None:
        if not options.sequela:
            raise InputError("suspect_split", options.suspect_split, "serves to measure sequela; pass --sequela")
        rows = numbered(data)
        clean = pick_split(rows, options.clean_split, ("train",), "clean_split")
        suspect_data = pick_split(rows, options.suspect_split, (), "suspect_split")
    whole = clean
    _, clean = clean_part(whole, options.clean_samples, args.seed, columns.label)
    if suspect_data is not None:
        alone = without_rows_of(clean, suspect_data)
        if len(alone):
            suspect_data = alone
        elif len(clean) < len(whole):
            raise InputError(
                "suspect_split", options.suspect_split, "has no row but those of --clean_samples; name another part"
            )
        clean, suspect_data = (part.remove_columns(ROW) for part in (clean, suspect_data))
    tests = options.load(options.test_dataset) if options.test_dataset else data
    test = test_set(tests, options.test_split, columns.label, required=options.test_dataset is not None)
    attack = options.poison_config(clean, columns.label, args.seed) if options.measures_attack else None
    result = purify(
        options.model,
        clean,
        output_dir=args.output_dir,
        defense=defense_of(options),
        peft_config=options.tuning(),
        new_head=options.new_head,
        probe_steps=options.probe_steps,
        task=options.chosen_task(columns, options.load_attack()[0] if options.attack else None),
        args=args,
        test_dataset=test,
        attack=attack,
        data_name=options.dataset,
        test_name=options.test_dataset,
        overwrite=options.overwrite,
        allow_pickle=options.allow_pickle,
        revision=options.revision,
        sequela=options.sequela,
        suspect_data=suspect_data,
        **options.columns(),
    )
    if args.process_index == 0:
        print(result.table())
        print(f"Model, results and card are in {args.output_dir}")
