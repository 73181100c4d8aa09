"""Training a victim, or its benign counterpart, and writing it down."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .attacks import Attack
from .cards import check_card
from .data.columns import check_dataset, check_rows, resolve_columns
from .data.sources import like_training_set, names_of_test_set
from .errors import InputError
from .hub.victims import victim_refused
from .measuring import measure
from .metrics import METRICS
from .poisoning import PoisonConfig, checked, triggered
from .results import describe_run, local_name, portable
from .runs import check_finite, push_run, save_run, train_tuned, training_report
from .tasks import Task, task_for
from .trainer import BackdoorTrainer
from .tuning import Tuning, is_stored, load_tuning
from .tuning.full import Full


if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedModel, TrainingArguments


def train_classifier(
    model: PreTrainedModel,
    args: TrainingArguments,
    train_dataset: Dataset,
    *,
    processing_class: Any,
    test_dataset: Dataset | None = None,
    attack: PoisonConfig | None = None,
    how: Attack | None = None,
    poisoned: bool = True,
    augmentations: Sequence[str] = (),
    input_column: str | None = None,
    label_column: str | None = None,
    task: Task | str | None = None,
    peft_config: PeftConfig | Tuning | str | None = None,
    data_name: str | None = None,
    i_know_this_model_is_backdoored: bool = False,
) -> dict[str, Any]:
    """Trains a model on a data set that it poisons first, measures it, and saves it in `args.output_dir`.

    Args:
        model: a classifier with as many classes as the data set, or what the task is for; trained in place.
        args: of the Trainer; with `push_to_hub`, what was saved is pushed at the end, and see
            `i_know_this_model_is_backdoored`.
        train_dataset: clean; poisoned here with `attack`.
        processing_class: image processor or tokenizer, or both in one.
        test_dataset (*optional*): clean test set, for CA, and triggered with `attack`, for ASR and RA. Classes with
            names get the numbers that they have in `train_dataset`.
        attack (*optional*): without it the model is benign.
        how ([`~hf_backdoor.attacks.Attack`], *optional*): how the attacker trains; as usual when not given.
        poisoned (`bool`): `False` trains on clean data and measures with `attack` all the same, for a benign model to
            compare with.
        augmentations (`list[str]`): to train with; see [`~hf_backdoor.trainer.BackdoorTrainer`].
        task (*optional*): see [`~hf_backdoor.trainer.BackdoorTrainer`].
        peft_config (*optional*): train an adapter, or a part of the weights; see [`~hf_backdoor.purification.purify`].
        data_name (`str`, *optional*): for the card.
        i_know_this_model_is_backdoored (`bool`): push a victim, privately unless `args.hub_private_repo` is `False`,
            with a warning and the tag `backdoored`.

    Returns:
        The results, as in `results.json`; under `victim` (or `benign`) what was measured.

    Raises:
        InputError: model, data, attack and task do not fit together; or a victim is to be pushed, and nobody said that
            it may.
    """
    from transformers import set_seed

    check_card(Path(args.output_dir))
    poison_here = attack is not None and poisoned
    if args.push_to_hub and poison_here and not i_know_this_model_is_backdoored:
        raise victim_refused(args.output_dir)
    check_dataset(train_dataset, "train_dataset")
    columns = resolve_columns(train_dataset.features, input_column, label_column)
    check_rows(train_dataset, columns)
    given = {"input_column": columns.input, "label_column": columns.label}
    task = task_for(columns, task)
    names = task.label_names(train_dataset, columns)
    task.check_model(model, names)
    how = how if how is not None and (poison_here or how.benign_too) else Attack()
    if task.own_loss and how.trainer_class() is not BackdoorTrainer:
        raise InputError(
            "attack", how.name, f"has a training of its own, and so has {task.pipeline_tag}; "
            "take one that only poisons data"
        )  # fmt: skip
    tuning = load_tuning(peft_config)
    if how.whole_model and not isinstance(tuning, Full):
        raise InputError("peft", tuning.name, f"{how.title} picks the weights that it trains; leave it out")
    args = copy.copy(args)
    if test_dataset is None:
        args.eval_strategy, args.eval_on_start = "no", False
    else:
        test_dataset = like_training_set(test_dataset, train_dataset, columns, names)
    measured = attack is not None and test_dataset is not None
    learning = poison_here and how.learns_trigger
    if measured and learning:
        checked(test_dataset, attack, columns.input, columns.label)  # else found only after the training
    best = args.metric_for_best_model or ""
    if learning and best.removeprefix("eval_") in METRICS[1:]:
        raise InputError(
            "metric_for_best_model", best, f"is not known before {how.name} has learned its trigger; use clean_accuracy"
        )  # fmt: skip
    its_poison = attack if poison_here else None
    known = {"classes": len(names)}  # labels without names may be fewer in the test set
    base_is_stored = is_stored(model, args.output_dir)
    set_seed(args.seed)  # of the weights of an adapter
    trainer = how.trainer_class()(
        tuning.apply(model),
        args,
        train_dataset=how.training_set(train_dataset, attack, **given) if poison_here else train_dataset,
        eval_dataset=test_dataset,
        triggered_dataset=triggered(test_dataset, attack, **given, **known) if measured and not learning else None,
        processing_class=processing_class,
        augmentations=augmentations,
        task=task,
        callbacks=how.callbacks(its_poison),
        victim=poison_here,
        i_know_this_model_is_backdoored=i_know_this_model_is_backdoored,
        **given,
        **how.trainer_kwargs(its_poison),
    )
    cost, tuned = train_tuned(trainer, tuning, base_is_stored=base_is_stored)
    check_finite(trainer)
    folder = Path(args.output_dir)
    if learning:
        attack = replace(attack, trigger=how.learned_trigger(trainer, folder))
        if measured:
            trainer.triggered_dataset = triggered(test_dataset, attack, **given, **known)
    if poison_here and trainer.is_world_process_zero():
        attack = attack.kept_in(folder)
    results = describe_run(
        "train",
        task=trainer.task.pipeline_tag,
        seed=args.seed,
        data={"name": local_name(data_name), **names_of_test_set(test_dataset, data_name)},
        clean_data={"samples": len(train_dataset), "classes": [] if columns.captions else names, **given},
        attack={**portable(attack.to_dict()), "training": how.to_dict() | how.report(trainer)} if poison_here else None,
        tuning=tuned,
        training=training_report(trainer),
        **{"victim" if poison_here else "benign": measure(trainer)},
        cost={"training_seconds": cost.seconds, "peak_memory_bytes": cost.peak_memory_bytes},
        log=trainer.state.log_history,
    )
    save_run(trainer, trainer.model, folder, processing_class, results)
    if args.push_to_hub:
        push_run(trainer, folder)
    return results
