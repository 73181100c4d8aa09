"""Measure clean accuracy, and attack success rate and robust accuracy for a known trigger.

Example: hf-backdoor evaluate --model runs/victim --dataset fashion_mnist_mini --attack badnets
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config import ConfigParser
from ..errors import InputError
from ..exposure import at_least
from .options import AttackOptions, DataOptions, TaskOptions, option, test_set


@dataclass
class EvaluateOptions(DataOptions, TaskOptions, AttackOptions):
    """The model and what to measure it on."""

    model: str | None = option(None, "Folder or Hub id of the model.")
    revision: str | None = option(None, "Of a model on the Hub: a branch, a tag or a commit; the default is main.")
    split: str | None = option(
        None, "Split to measure on, or a part, e.g. test[:1000]; the default is test or validation."
    )
    batch_size: int = option(64, "Samples a forward pass.")
    seed: int = option(0, "Of the attack.")
    output: str = option("evaluation.json", "Results file to write.")
    allow_pickle: bool = option(False, "Load weights that are stored as pickles only; they can run code.")


def main(argv: list[str]) -> None:
    import tempfile

    from transformers import TrainingArguments

    from ..cards.rendering import measures_table
    from ..class_order import classes_of
    from ..data import resolve_columns
    from ..data.columns import check_rows
    from ..data.sources import names_of_test_set, with_all_classes
    from ..measuring import measure
    from ..models import commit_of
    from ..poisoning import triggered
    from ..results import describe_run, local_name, portable, write_json
    from ..trainer import BackdoorTrainer

    (options,) = ConfigParser([EvaluateOptions], "hf-backdoor evaluate", __doc__).parse(argv)
    if options.model is None:
        raise InputError("model", None, "name a model with --model")
    commit = commit_of(options.model, options.revision)
    revision = commit or options.revision  # nobody changes it while it is loaded
    at_least("batch_size", options.batch_size, 1)
    output = Path(options.output)
    if output.is_dir() or any(parent.is_file() for parent in output.parents):
        raise InputError("output", options.output, "is a folder, or lies in a file; name a file to write")
    data = options.load(known=classes_of(options.model, revision))
    columns = resolve_columns(next(iter(data.values())).features, **options.columns())
    dataset = test_set(data, options.split, columns.label, required=True, field="split")
    check_rows(dataset, columns)
    task = options.chosen_task(columns, options.load_attack()[0] if options.attack else None)
    model = task.load_model(options.model, allow_pickle=options.allow_pickle, revision=revision)
    if task.has_head:
        dataset = with_all_classes(dataset, columns.label, [str(number) for number in range(model.config.num_labels)])
    task.check_model(model, task.label_names(dataset, columns))
    attack = options.poison_config(dataset, columns.label, options.seed) if options.measures_attack else None
    with tempfile.TemporaryDirectory() as scratch:
        trainer = BackdoorTrainer(
            model,
            TrainingArguments(scratch, per_device_eval_batch_size=options.batch_size),
            eval_dataset=dataset,
            triggered_dataset=triggered(dataset, attack, **options.columns()) if attack else None,
            processing_class=task.load_processor(options.model, revision=revision),
            task=task,
            **options.columns(),
        )
        measured = measure(trainer)
    name = local_name(options.model)
    results = describe_run(
        "evaluate",
        task=task.pipeline_tag,
        model=name,
        model_revision=commit,
        seed=options.seed,
        data={
            "name": local_name(options.dataset),
            "samples": len(dataset),
            **names_of_test_set(dataset, options.dataset),
        },
        attack=portable(attack.to_dict()) if attack else None,
        measured=measured,
    )
    write_json(output, results)
    print(measures_table({name: measured}))
    print(f"Written to {options.output}")
