"""The main job in a few minutes: poison, train a victim, purify it, measure, write the card.

Builds a backdoored Vision Transformer from 9,100 images of Fashion-MNIST, trains a benign twin to compare it with,
purifies the victim with 900 clean images that it never saw, looks at what else the repair did to the model, and writes
models, results and cards to runs/demo.

Example: hf-backdoor demo --attack blended --seed 1
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..config import ConfigParser, plugin_settings
from ..errors import InputError
from .options import AttackOptions, option, stored_attack
from .train import TRAINING_DEFAULTS


FULL_ADDS = (
    "membership by shadow models (LiRA, RMIA), reactivation, stealing, and re-injection with more counts and steps, on "
    "more samples, in some 5 minutes more"
)


@dataclass
class DemoOptions(AttackOptions):
    """What to show."""

    trains: ClassVar[bool] = True

    attack: str = option("badnets", "Name of an image attack, e.g. badnets or blended; see `hf-backdoor attacks`.")
    seed: int = option(0, "Of the split, the poison, the weights and the order of the data.")
    output: str = option("runs/demo", "Folder for everything that is made.")
    defense: str = option("super_fine_tuning", "Name of the defence, or package.module:Class.")
    defense_args: list[str] = option([], "Settings of the defence as name=value.")
    full: bool = option(False, f"Measure all sequela: adds {FULL_ADDS}.")
    overwrite: bool = option(False, "Write into a folder that has content.")


DATA = "fashion_mnist_mini"
CLEAN_SAMPLES = 900
VIT = {
    "image_size": 28,
    "patch_size": 7,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TRAINING = TRAINING_DEFAULTS | {"num_train_epochs": 8}


def main(argv: list[str]) -> None:
    import torch
    from transformers import TrainingArguments, set_seed
    from transformers.utils import logging

    from ..cards import write_card
    from ..cards.rendering import measures_table
    from ..data import class_names, load_data, resolve_columns, split_off
    from ..defenses import load_defense
    from ..purification import check_output, default_arguments, purify
    from ..results import RESULTS_FILE, write_json
    from ..sequela import WORK_FOLDER, Evidence
    from ..sequela_report import SequelaReport
    from ..tasks import task_named
    from ..training import train_classifier

    (options,) = ConfigParser([DemoOptions], "hf-backdoor demo", __doc__).parse(argv)
    started = time.perf_counter()
    logging.set_verbosity_error()
    if "OMP_NUM_THREADS" not in os.environ:
        # A model this small gains little from a second thread, and stalls on it when the machine is busy.
        torch.set_num_threads(1)
    folder = check_output(options.output, overwrite=options.overwrite)
    data = load_data(DATA)
    if options.attack_from is not None:
        raise InputError("attack_from", options.attack_from, "the demo trains a victim of its own; use purify")
    how, _ = options.load_attack()
    if how.task is not None:
        raise InputError("attack", options.attack, f"is for {how.task}, and the demo has a classifier; see recipes/")
    attack = options.poison_config(data["train"], "label", options.seed)
    defense = load_defense(options.defense, **plugin_settings(options.defense_args, "defense_args"))
    train, clean = split_off(data["train"], CLEAN_SAMPLES, options.seed)
    common = {"test_dataset": data["test"], "attack": attack, "data_name": DATA}

    trained = {}
    for number, name in enumerate(("victim", "benign"), 1):
        print(f"\n[{number}/4] Training the {name} model on {len(train)} images", flush=True)
        set_seed(options.seed)
        model, processor = task_named("image-classification").from_scratch("vit", VIT, class_names(train, "label"))
        quiet = {"eval_strategy": "no", "logging_strategy": "no"}
        settings = TRAINING | how.training_defaults() | quiet
        args = TrainingArguments(str(folder / name), seed=options.seed, **settings)
        trained[name] = train_classifier(
            model,
            args,
            train,
            processing_class=processor,
            how=how,
            poisoned=name == "victim",
            **common,
        )
        if name == "victim" and how.learns_trigger:
            common["attack"] = stored_attack(str(folder / name))
    print(f"\n[3/4] Purifying the victim with {len(clean)} clean images: {defense.title}", flush=True)
    args = default_arguments(defense, folder / "purified", seed=options.seed, logging_strategy="no", eval_steps=0.2)
    victim_seconds = trained["victim"]["cost"]["training_seconds"]
    result = purify(
        str(folder / "victim"),
        clean,
        output_dir=folder / "purified",
        defense=defense,
        args=args,
        victim_seconds=victim_seconds,
        overwrite=True,
        **common,
    )
    measured = {
        "victim": trained["victim"]["victim"],
        "purified": result.results["purified"],
        "benign": trained["benign"]["benign"],
    }
    print("\n[4/4] Measuring what else the repair did to the model" + (", at a glance" if not options.full else ""))
    evidence = Evidence(
        task=task_named("image-classification"), processor=processor, columns=resolve_columns(train.features),
        members=train, defense_members=clean, non_members=data["test"], attack=common["attack"], seed=options.seed,
        folder=folder / WORK_FOLDER,
    )  # fmt: skip
    models = (str(folder / name) for name in ("victim", "purified", "benign"))
    report = SequelaReport(*models, evidence=evidence, quick=not options.full)
    report.run()
    results = {
        **{name: value for name, value in result.results.items() if name not in ("suspect", "purified", "log")},
        "command": "demo",
        "name": f"vit-fashion-mnist-{attack.trigger.name.rpartition(':')[2].lower()}-purified",
        "seeds": dict.fromkeys(("split", "poison", "weights", "order"), options.seed),
        **measured,
        "log": result.results["log"],
        "seconds": time.perf_counter() - started,
    }
    write_json(folder / RESULTS_FILE, results)
    write_json(folder / "purified" / RESULTS_FILE, results)
    card = write_card(folder / "purified", results)
    report.write(folder / "purified")
    print("\n" + measures_table(measured))
    print(f"In brackets: 95 % intervals. Purification took {results['cost_ratio']:.2f} of the victim's training time.")
    print("\n" + report.table())
    if not options.full:
        print(f"This was a glance. --full (make demo ARGS=--full) adds {FULL_ADDS}.")
    print(f"Card:    {card}\nResults: {Path(folder) / RESULTS_FILE}")
