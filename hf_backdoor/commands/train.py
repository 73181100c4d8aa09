"""Train a victim on data that are poisoned on the way, or a benign model without --attack.

Example: hf-backdoor train --dataset fashion_mnist_mini --architecture vit --architecture_args image_size=28
patch_size=7 hidden_size=96 intermediate_size=192 num_hidden_layers=4 num_attention_heads=4 --attack badnets
--output runs/victim
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..config import ConfigParser, parse_assignments
from ..errors import InputError
from .options import AttackOptions, DataOptions, TaskOptions, TuningOptions, option, stored_training, test_set


@dataclass
class TrainOptions(DataOptions, TaskOptions, TuningOptions, AttackOptions):
    """The model, the data and the attack."""

    trains: ClassVar[bool] = True

    model: str | None = option(None, "Folder or Hub id of a model to start from.")
    architecture: str | None = option(None, "Or a model type of transformers, e.g. vit, to start from scratch.")
    architecture_args: list[str] = option([], "Its configuration as name=value, e.g. hidden_size=96 patch_size=7.")
    image_size: int | None = option(
        None, "Side of the images that --model gets, in pixels, if not its own; DINOv2 takes others, ViT does not."
    )
    train_split: str | None = option(None, "Split to train on, or a part, e.g. train[:1000]; the default is train.")
    held_out: int = option(
        0, "Leave so many of them out: those that `purify --clean_samples` takes of that split with the same seed."
    )
    test_split: str | None = option(
        None, "Split to measure on, or a part, e.g. test[:1000]; the default is test or validation."
    )
    poisoned: bool = option(True, "no: train on clean data and only measure the attack, for a benign model.")
    augmentations: list[str] = option([], "Train with these variations: horizontal_flip, shift (images).")
    allow_pickle: bool = option(False, "Load weights that are stored as pickles only; they can run code.")
    overwrite: bool = option(False, "Write into a folder that has content.")
    i_know_this_model_is_backdoored: bool = option(False, "With --push_to_hub: push a victim, privately; else refused.")


TRAINING_DEFAULTS = {
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 250,
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "save_strategy": "no",
    "logging_steps": 50,
}


def main(argv: list[str]) -> None:
    from transformers import set_seed

    from ..attacks import Attack
    from ..checkpoints import goes_on, remove_checkpoints
    from ..data import pick_split, resolve_columns, split_off
    from ..hub.victims import victim_refused
    from ..purification import check_output
    from ..training import train_classifier
    from .training_options import TrainerOptions

    def defaults(given: Any) -> dict[str, Any]:
        how = AttackOptions.load_attack(given)[0] if given.attack else Attack()
        return TRAINING_DEFAULTS | (how.training_defaults() if given.poisoned or how.benign_too else {})

    parser = ConfigParser([TrainOptions, TrainerOptions], "hf-backdoor train", __doc__)
    options, args = parser.parse(argv, defaults)
    resuming = goes_on(args.resume_from_checkpoint, args.output_dir)
    check_output(args.output_dir, overwrite=options.overwrite, resuming=resuming)
    victim, known = options.measures_attack and options.poisoned, options.i_know_this_model_is_backdoored
    if args.push_to_hub and victim and not known:
        raise victim_refused(args.output_dir)
    data = options.load()
    train = pick_split(data, options.train_split, ("train",), "train_split")
    columns = resolve_columns(train.features, **options.columns())
    if options.held_out:
        if not 0 < options.held_out < len(train):
            raise InputError("held_out", options.held_out, f"must lie between 0 and {len(train) - 1}")
        train, _ = split_off(train, options.held_out, args.seed, columns.label)
    test = test_set(data, options.test_split, columns.label)
    attack = options.poison_config(train, columns.label, args.seed) if options.measures_attack else None
    how = options.load_attack()[0] if options.attack else None
    if options.attack_from is not None and options.poisoned:
        trained_by = stored_training(options.attack_from)
        if trained_by not in (None, Attack().name):
            raise InputError(
                "attack_from", options.attack_from, f"was trained by {trained_by}; give --attack {trained_by} with its "
                "settings to train like it, or --poisoned no to measure its trigger"
            )  # fmt: skip
    task = options.chosen_task(columns, how)
    set_seed(args.seed)
    if options.image_size is not None and options.model is None:
        raise InputError("image_size", options.image_size, "is for --model; name it in architecture_args")
    if (options.model is None) == (options.architecture is None):
        raise InputError("model", options.model, "give either a model to start from or an architecture")
    if options.model is not None:
        model = task.load_to_train(options.model, train, columns, allow_pickle=options.allow_pickle)
        side = options.image_size
        processor = (
            task.load_processor(options.model) if side is None else task.resized_processor(options.model, model, side)
        )
    else:
        settings = parse_assignments(options.architecture_args, "architecture_args")
        names = task.label_names(train, columns)
        model, processor = task.from_scratch(options.architecture, settings, names, train[columns.input])
    if not resuming and args.process_index == 0:
        remove_checkpoints(args.output_dir)
    results = train_classifier(
        model,
        args,
        train,
        processing_class=processor,
        test_dataset=test,
        attack=attack,
        how=how,
        poisoned=options.poisoned,
        augmentations=options.augmentations,
        task=task,
        peft_config=options.tuning(),
        data_name=options.dataset,
        i_know_this_model_is_backdoored=known,
        **options.columns(),
    )
    measured = results.get("victim") or results.get("benign") or {}
    for name, share in measured.items():
        if isinstance(share, float):
            print(f"{name}: {share:.4f}")
    print(f"Written to {args.output_dir}")
