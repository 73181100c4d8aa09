"""`purify`: one call from a suspect model and clean data to a repaired model with the evidence beside it."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np

from .cards import check_card
from .cards.rendering import measures_table
from .checkpoints import checkpoint_name, goes_on, remove_checkpoints
from .class_order import classes_of, numbered_like
from .data.columns import Columns, check_dataset, check_rows, resolve_columns
from .data.flags import POISONED, decoded, is_flagged
from .data.sources import (
    like_training_set,
    load_data,
    names_of_test_set,
    pick_split,
    with_all_classes,
    with_class_labels,
)
from .defenses import Defense, load_defense
from .errors import InputError
from .hub.cards import terms_of
from .measuring import example_rows, measure
from .models import commit_of, label_maps, without_autocast
from .poisoning import PoisonConfig, triggered
from .probing import PROBE_STEPS, check_probe, fit_head
from .repairing import repair
from .results import describe_run, local_name, origin_name, portable
from .runs import measured_cost, push_run, save_run, training_report
from .sequela import WORK_FOLDER, Evidence, Measure
from .sequela_report import SequelaReport
from .tasks import Task, task_for
from .tuning import Tuning, is_stored, load_tuning, merged


if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedModel, TrainingArguments

    from .trainer import BackdoorTrainer

PURIFICATION_DEFAULTS = {"save_strategy": "no", "eval_strategy": "steps", "eval_steps": 0.1, "logging_steps": 50}


@dataclass
class Purification:
    """What [`purify`] returns.

    Attributes:
        model (`PreTrainedModel`): the purified model.
        results (`dict`): everything that was measured, as in `results.json`.
        output_dir (`Path`, *optional*): where the model, its processor, the results and the card are.
        sequela ([`~hf_backdoor.sequela_report.SequelaReport`], *optional*): if it was asked for.
    """

    model: PreTrainedModel
    results: dict[str, Any]
    output_dir: Path | None
    sequela: SequelaReport | None = None

    def table(self) -> str:
        """What was measured before and after, for a terminal."""
        measured = {"before": self.results["suspect"], "after": self.results["purified"]}
        table = measures_table(measured) if self.results["purified"] else "Nothing was measured: there is no test set."
        return f"{table}\n\n{self.sequela.table()}" if self.sequela else table


def check_output(output_dir: str | Path, *, overwrite: bool, resuming: bool = False) -> Path:
    """A folder to write to, not made yet.

    Raises:
        InputError: it has content, and it is to be neither overwritten nor resumed.
    """
    path = Path(output_dir)
    if in_the_way := next(filter(Path.is_file, path.parents), None):
        raise InputError("output", str(path), f"cannot be made, for {in_the_way} is a file; choose another folder")
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (overwrite or resuming)):
        begun = any(path.glob(checkpoint_name("*")))
        more = ", or go on with the run that stopped there by --resume_from_checkpoint last" if begun else ""
        raise InputError("output", str(path), f"is in use; choose another folder, or pass --overwrite{more}")
    return path


def check_clean_set(dataset: Dataset, columns: Columns, names: list[str], batch_size: int) -> None:
    """Whether a clean set can be trained on.

    Raises:
        InputError: it is known to be poisoned, or has fewer samples than one batch, or a class without a sample where
            there are classes.
    """
    if is_flagged(dataset):
        raise InputError("dataset", POISONED, "says that rows have a trigger; give samples that are clean")
    if len(dataset) < batch_size:
        raise InputError(
            "dataset", len(dataset), f"the clean set has fewer samples than one batch of {batch_size}; add samples, or "
            "lower per_device_train_batch_size"
        )  # fmt: skip
    if columns.captions:
        return
    present = set(np.unique(dataset[columns.label]).tolist())
    missing = [name for number, name in enumerate(names) if number not in present]
    if missing:
        raise InputError(
            "dataset", missing, "no clean sample of these classes, which the model would forget; add some of each"
        )  # fmt: skip


def _load_clean(
    clean_dataset: Dataset | str | os.PathLike[str],
    input_column: str | None,
    label_column: str | None,
    known: list[str],
) -> tuple[Dataset, Columns]:
    """The clean set with numbers for its classes, of strings those of a model that knows them, and its columns."""
    if isinstance(clean_dataset, str | os.PathLike):
        clean_dataset = pick_split(load_data(clean_dataset), None, ("train",), "dataset")
    check_dataset(clean_dataset, "clean_dataset")
    columns = resolve_columns(clean_dataset.features, input_column, label_column)
    clean = numbered_like(known, decoded(clean_dataset), columns.label)
    check_rows(clean, columns)
    return clean, columns


def purify(
    model: PreTrainedModel | str | os.PathLike[str],
    clean_dataset: Dataset | str | os.PathLike[str],
    *,
    output_dir: str | Path | None = None,
    defense: Defense | str = "super_fine_tuning",
    peft_config: PeftConfig | Tuning | str | None = None,
    new_head: bool = False,
    probe_steps: int = PROBE_STEPS,
    task: Task | str | None = None,
    processing_class: Any = None,
    args: TrainingArguments | None = None,
    test_dataset: Dataset | None = None,
    attack: PoisonConfig | None = None,
    input_column: str | None = None,
    label_column: str | None = None,
    victim_seconds: float | None = None,
    data_name: str | None = None,
    test_name: str | None = None,
    overwrite: bool = False,
    allow_pickle: bool = False,
    revision: str | None = None,
    sequela: bool | Sequence[Measure | str] = False,
    suspect_data: Dataset | None = None,
) -> Purification:
    """Removes a backdoor that may be hidden in a model, by training it on clean data.

    The defence sees the model and the clean set, nothing else: `test_dataset` and `attack` only serve to measure, and
    the purified weights are the same, bit for bit, with and without them.

    Args:
        model (`PreTrainedModel`, `PeftModel`, `str` or path): an image or text classifier, a CLIP-style pair of
            encoders, or a PEFT adapter on one; or its folder or Hub id. An object that is passed in is not changed.
        clean_dataset (`Dataset`, `str` or path): samples that the owner trusts, with labels (at least one of each
            class) or captions; or where to find them, see [`~hf_backdoor.data.load_data`] (of several splits, `train`).
            Labels that are strings get the numbers that the model gives these classes.
        output_dir (*optional*): folder for model, processor, results and card; with checkpoints if `args` asks.
        defense ([`~hf_backdoor.defenses.Defense`] or `str`): how. The default is super-fine-tuning.
        peft_config (`PeftConfig`, [`~hf_backdoor.tuning.Tuning`] or `str`, *optional*): train an adapter, or a part of
            the weights, and not all of them, e.g. `"lora"`; see [`~hf_backdoor.tuning.tuning_names`]. A suspect that is
            an adapter is merged first, except by `"same_adapter"`.
        new_head (`bool`): the model is to serve another data set: the classes of `clean_dataset` get a new head,
            which a linear probe trains on the frozen body (a BERT's pooler with it) before anything else. For a
            pretrained classifier that moves to other labels (transfer), and for an encoder that never had any. A
            CLIP-style pair that moves to other captions keeps its projections, and the probe trains them.
        probe_steps (`int`): optimizer steps of that probe.
        task ([`~hf_backdoor.tasks.Task`] or `str`, *optional*): what the model is for, e.g.
            `"zero-shot-image-classification"`; by the kind of data when not given.
        processing_class (*optional*): image processor or tokenizer; loaded with the model if that is a `str`.
        args (`TrainingArguments`, *optional*): replaces the defence's defaults as a whole. With `push_to_hub`, what
            the repair ended with is pushed, privately unless told otherwise, and nothing before it was measured.
        test_dataset (`Dataset`, *optional*): labelled data for the clean accuracy before and after. Classes with
            names get the numbers that they have in `clean_dataset`.
        attack ([`~hf_backdoor.poisoning.PoisonConfig`], *optional*): a known trigger, to measure ASR and RA on
            `test_dataset` before, during and after.
        input_column, label_column (`str`, *optional*): found when not given.
        victim_seconds (`float`, *optional*): training time of the model, for the cost ratio.
        data_name, test_name (`str`, *optional*): of the clean and of the test data, for the card; the test data are of
            the same data set when not given.
        overwrite (`bool`): write into a folder that has content.
        allow_pickle (`bool`): load weights that are stored as pickles only.
        revision (`str`, *optional*): of a model on the Hub: a branch, a tag or a commit. The results name the commit.
        sequela (`bool`, or measures): measure what the repair did to other weaknesses, and add it to the card; needs
            `test_dataset` and `output_dir`. `True` takes a quick look; for others, see
            [`~hf_backdoor.sequela_report.SequelaReport`].
        suspect_data (`Dataset`, *optional*): clean samples that the suspect was trained on, as far as known, for the
            sequela alone.

    Raises:
        InputError: the model, the data and the settings do not fit together. Nothing has been written then.

    Example:

    ```python
    >>> result = purify("org/suspect", "clean_images/", output_dir="purified")
    >>> result.results["purified"]["clean_accuracy"]
    ```
    """
    from transformers import TrainingArguments, set_seed

    defense = load_defense(defense) if isinstance(defense, str) else defense
    for name, given, kinds in (
        ("defense", defense, (Defense,)),
        ("attack", attack, (PoisonConfig, NoneType)),
        ("args", args, (TrainingArguments, NoneType)),
    ):
        if not isinstance(given, kinds):
            raise InputError(name, given, f"is no {kinds[0].__name__}; make one")
    defense = defense.for_suspect(new_head=new_head)
    defense.described()  # what it lacks is said before the training
    if output_dir is not None:
        resuming = args is not None and goes_on(args.resume_from_checkpoint, output_dir)
        output_dir = check_output(output_dir, overwrite=overwrite, resuming=resuming)
        check_card(output_dir)
    if attack is not None and test_dataset is None:
        raise InputError("attack", attack.trigger.name, "needs a test_dataset to be measured on")
    if sequela and test_dataset is None:
        raise InputError("sequela", sequela, "is measured on a test set; give test_dataset (--test_dataset)")
    if sequela and output_dir is None:
        raise InputError("sequela", sequela, "is written beside the model; give output_dir")
    if output_dir is None and args is not None and args.push_to_hub:
        raise InputError("push_to_hub", True, "pushes the folder of the run; give output_dir")
    known = [] if new_head else classes_of(model, revision)
    clean, columns = _load_clean(clean_dataset, input_column, label_column, known)
    task = task_for(columns, task)
    names = task.label_names(clean, columns)
    if test_dataset is not None:
        test_dataset = like_training_set(test_dataset, clean, columns, names)
        test_dataset = with_all_classes(test_dataset, columns.label, names)
    if suspect_data is not None:
        suspect_data = with_class_labels(decoded(suspect_data), columns.label, names)
    tuning = load_tuning(peft_config)
    model = os.fspath(model) if isinstance(model, os.PathLike) else model
    loaded = isinstance(model, str)
    commit = commit_of(model, revision)
    revision = commit or revision  # nobody changes it while it is loaded
    if new_head:
        check_probe(probe_steps, model)
    if not loaded:
        suspect = copy.deepcopy(model)
        if not getattr(model, "is_quantized", False):
            suspect = suspect.float()  # as a model is loaded: one in half precision does not train
    elif new_head:
        suspect = task.load_to_train(model, clean, columns, allow_pickle=allow_pickle, revision=revision)
        if task.has_head:
            suspect.config.update(label_maps(names))  # the old names are of other classes
    else:
        suspect = task.load_model(model, allow_pickle=allow_pickle, revision=revision)
    if loaded:
        processing_class = processing_class or task.load_processor(model, revision=revision)
    suspect_card = terms_of(model, revision) if loaded else {}
    if processing_class is None:
        raise InputError("processing_class", None, "is needed when the model is an object: its processor or tokenizer")
    task.check_model(suspect, names)
    task.adapt_model(suspect, processing_class)
    scratch = None
    if output_dir is None and args is None:  # it goes with its object, after an error too
        scratch = tempfile.TemporaryDirectory(prefix="hf_backdoor_", ignore_cleanup_errors=True)
    args = copy.copy(args) or default_arguments(defense, output_dir or scratch.name)
    # By the Trainer, checkpoints that nobody has measured would go there first.
    pushes, args.push_to_hub = args.push_to_hub, False
    if args.load_best_model_at_end:
        raise InputError(
            "load_best_model_at_end", True, "would choose by the test set, which only measures; leave it out"
        )
    if test_dataset is None:
        args.eval_strategy, args.eval_on_start = "no", False
    check_clean_set(clean, columns, names, args.per_device_train_batch_size)
    given_columns = {"input_column": columns.input, "label_column": columns.label}
    attacked = triggered(test_dataset, attack, **given_columns, classes=len(names)) if attack is not None else None

    base_is_stored = is_stored(suspect, output_dir) and loaded and not new_head
    with measured_cost() as probe_cost:
        if new_head:
            defense.check_model(tuning.apply(merged(copy.deepcopy(suspect))))  # else found only after the probe
            suspect = fit_head(suspect, args, clean, task, processing_class, probe_steps, given_columns)
    suspect = suspect.eval()

    def trainer_for(defense: Defense) -> BackdoorTrainer:
        set_seed(args.seed)  # of the weights of an adapter
        return defense.trainer_class()(
            tuning.apply(copy.deepcopy(suspect)),
            args,
            train_dataset=clean,
            eval_dataset=test_dataset,
            triggered_dataset=attacked,
            processing_class=processing_class,
            callbacks=defense.callbacks(),
            task=task,
            **given_columns,
            **defense.trainer_kwargs(),
        )

    def report_on(repaired: PreTrainedModel) -> SequelaReport:
        evidence = Evidence(
            task=task,
            processor=processing_class,
            columns=columns,
            members=clean.select([]) if suspect_data is None else suspect_data,
            defense_members=clean,
            non_members=test_dataset,
            attack=attack,
            seed=args.seed,
            folder=output_dir / WORK_FOLDER,
            batch_size=args.per_device_eval_batch_size,
            quiet=args.disable_tqdm,
        )
        measures = None if sequela is True else list(sequela)
        return SequelaReport(suspect, repaired, evidence=evidence, measures=measures, quick=sequela is True)

    report = report_on(suspect) if sequela else None  # what cannot be measured is refused before the training
    if output_dir is not None and not resuming and args.process_index == 0:
        remove_checkpoints(output_dir)
    done = repair(suspect, defense, trainer_for, tuning, base_is_stored=base_is_stored)
    trainer, defense, cost = done.trainer, done.defense, done.cost
    after = measure(trainer)
    # Without the precision of the training around its forward pass: as it is saved, and loaded again.
    purified = without_autocast(trainer.model).eval()
    both = {"before": suspect.to(purified.device), "after": purified}
    probe_seconds = probe_cost.seconds if new_head else 0
    if attack is not None and output_dir is not None and trainer.is_world_process_zero():
        attack = attack.kept_in(output_dir)

    results = describe_run(
        "purify",
        task=task.pipeline_tag,
        suspect_model=local_name(model) if loaded else origin_name(model),
        suspect_revision=commit,
        suspect_card=suspect_card,
        seed=args.seed,
        data={"name": local_name(data_name), **names_of_test_set(test_dataset, test_name or data_name)},
        clean_data={
            "samples": len(clean),
            "classes": [] if columns.captions else names,
            **given_columns,
            "answered_rightly": done.answered_rightly,
        },
        attack=portable(attack.to_dict()) if attack else None,
        defense={
            **defense.described(),
            **defense.report(trainer),
            "given_up": done.given_up,
        },
        tuning=done.tuning,
        training=training_report(trainer) | {"new_head_probed_for": probe_steps if new_head else None},
        suspect=done.before,
        purified=after,
        cost={
            "purification_seconds": cost.seconds,
            "probe_seconds": probe_seconds or None,
            "peak_memory_bytes": cost.peak_memory_bytes,
            "victim_seconds": victim_seconds,
        },
        cost_ratio=(cost.seconds + probe_seconds) / victim_seconds if victim_seconds else None,
        log=trainer.state.log_history,
    )

    def examples() -> list[dict[str, Any]]:
        return example_rows(both, trainer.task, trainer.data_collator, test_dataset, attacked)

    if output_dir is not None:
        illustrated = attacked is not None and not columns.captions
        save_run(trainer, purified, output_dir, processing_class, results, examples if illustrated else None)
        if sequela:
            report = report_on(purified)
            report.run()
            report.write(output_dir)
        if pushes:
            push_run(trainer, output_dir)
    if scratch is not None:
        scratch.cleanup()
    return Purification(purified, results, output_dir, report)


def default_arguments(defense: Defense, output_dir: str | Path, **settings: Any) -> TrainingArguments:
    """The `TrainingArguments` of [`purify`] when the user gives none, with `settings` over them."""
    from transformers import TrainingArguments

    return TrainingArguments(str(output_dir), **PURIFICATION_DEFAULTS | defense.training_defaults() | settings)
