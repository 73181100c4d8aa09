"""The demo's victims under every way of fine-tuning them: CA, ASR and RA over several seeds.

    python benchmarks/purification.py                        # everything, in one process
    python benchmarks/purification.py --seeds 0 &            # or a process a seed, then once more to collect
    python benchmarks/purification.py --seeds 1 &
    python benchmarks/purification.py --seeds 3 4 5 --attacks badnets blended --methods sft    # fresh seeds

Each run is kept in runs/benchmarks/purification as soon as it is done, and not repeated. The last command to find all
of them there writes benchmarks/results/purification.json and prints the tables of the README.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev

import datasets
import transformers
from transformers import TrainingArguments, set_seed

from hf_backdoor import PoisonConfig, load_data, load_defense, load_trigger, purify, split_off
from hf_backdoor.commands import demo
from hf_backdoor.data import class_names
from hf_backdoor.metrics import METRICS
from hf_backdoor.purification import default_arguments
from hf_backdoor.results import describe_run, write_json
from hf_backdoor.tasks import task_named
from hf_backdoor.training import train_classifier


ATTACKS = ("badnets", "blended", "benign")
SEEDS, FRESH_SEEDS = (0, 1, 2), (3, 4, 5)  # the method was developed with the first three in view
PAPER = {"peak_lr_1": 0.1, "peak_lr_2": 0.001, "base_lr": 3e-4}
LABELS_ONLY = {"distillation": False, "averaging": False}
# Title, defence, its settings, TrainingArguments. All get the same clean images and batches.
METHODS = {
    "fine_tuning": ("Fine-tuning at the victim's rate", "fine_tuning", {}, {"max_steps": 800}),
    "sft_paper_sgd": (
        "SFT, the paper's constants (SGD)",
        "super_fine_tuning",
        PAPER | LABELS_ONLY,
        {"optim": "sgd", "optim_args": "momentum=0.9", "weight_decay": 5e-4, "max_steps": 800},
    ),
    "sft_labels": (
        "SFT, self-tuned, labels only",
        "super_fine_tuning",
        LABELS_ONLY,
        {},
    ),
    "sft": ("SFT as `purify` does it", "super_fine_tuning", {}, {}),
}
WORK = Path("runs/benchmarks/purification")
ROOT = Path(__file__).resolve().parent


def train_victim(attack: str, seed: int, data: datasets.DatasetDict, poison: PoisonConfig) -> Path:
    """Trains the demo's victim, or its benign twin, once."""
    folder = WORK / f"{attack}-{seed}"
    if (folder / "results.json").is_file():
        return folder
    train, _ = split_off(data["train"], demo.CLEAN_SAMPLES, seed)
    set_seed(seed)
    names = class_names(train, "label")
    model, processor = task_named("image-classification").from_scratch("vit", demo.VIT, names)
    args = TrainingArguments(str(folder), seed=seed, eval_strategy="no", disable_tqdm=True, **demo.TRAINING)
    train_classifier(
        model, args, train, processing_class=processor, test_dataset=data["test"], attack=poison,
        poisoned=attack != "benign", data_name=demo.DATA,
    )  # fmt: skip
    return folder


def run(attack: str, seed: int, method: str, data: datasets.DatasetDict) -> None:
    """One defence on one victim, unless it is there already."""
    target = WORK / f"{attack}-{seed}-{method}.json"
    if target.is_file():
        return
    poison = PoisonConfig(load_trigger("badnets" if attack == "benign" else attack), seed=seed)
    victim = train_victim(attack, seed, data, poison)
    _, clean = split_off(data["train"], demo.CLEAN_SAMPLES, seed)
    _, name, settings, training = METHODS[method]
    defense = load_defense(name, **settings)
    training = {"seed": seed, "eval_strategy": "no", "disable_tqdm": True, **training}
    cost = json.loads((victim / "results.json").read_text())["cost"]["training_seconds"]
    result = purify(
        str(victim), clean, defense=defense, args=default_arguments(defense, WORK / "scratch", **training),
        test_dataset=data["test"], attack=poison, victim_seconds=cost,
    ).results  # fmt: skip
    kept = {name: result[name] for name in ("suspect", "purified", "cost", "cost_ratio", "defense", "training")}
    write_json(target, {"attack": attack, "seed": seed, "method": method, **kept})
    shares = {name: result["purified"][name] for name in METRICS}
    print(time.strftime("%H:%M:%S"), attack, seed, method, shares, f"cost {result['cost_ratio']:.2f}", flush=True)


def methods_for(attack: str, methods: Iterable[str]) -> list[str]:
    """The benign model has nothing to remove: it shows what the default costs those who need it not."""
    return [method for method in methods if attack != "benign" or method == "sft"]


def table(rows: list[dict], seeds: Iterable[int]) -> str:
    """Mean and standard deviation over these seeds, as Markdown."""
    rows = [row for row in rows if row["seed"] in seeds]

    def cell(values: list[float]) -> str:
        return f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f}" if len(values) > 1 else f"{100 * values[0]:.1f}"

    lines = ["| model | method | steps | CA | ASR | RA | cost |", "|---|---|---|---|---|---|---|"]
    for attack in ATTACKS:
        of_attack = [row for row in rows if row["attack"] == attack]
        if not of_attack:
            continue
        undefended = {row["seed"]: row["suspect"] for row in of_attack}.values()
        cells = [cell([share[name] for share in undefended]) for name in METRICS]
        lines.append(f"| {attack} | undefended | | {' | '.join(cells)} | |")
        for method, (title, *_) in METHODS.items():
            of_method = [row for row in of_attack if row["method"] == method]
            if not of_method:
                continue
            cells = [cell([row["purified"][name] for row in of_method]) for name in METRICS]
            cost, steps = mean(row["cost_ratio"] for row in of_method), of_method[0]["training"]["steps"]
            lines.append(f"| {attack} | {title} | {steps} | {' | '.join(cells)} | {cost:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=ATTACKS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    data = load_data(demo.DATA)
    for seed in options.seeds:
        for attack in options.attacks:
            for method in methods_for(attack, options.methods):
                run(attack, seed, method, data)
    collect()


def collect() -> None:
    """Writes the results, once every run of the first seeds is there; those of the fresh seeds as far as they are."""
    expected = [WORK / f"{a}-{s}-{m}.json" for a in ATTACKS for s in SEEDS for m in methods_for(a, METHODS)]
    if not all(path.is_file() for path in expected):
        return
    fresh = [path for seed in FRESH_SEEDS for path in sorted(WORK.glob(f"*-{seed}-*.json"))]
    rows = [json.loads(path.read_text()) for path in [*expected, *fresh]]
    head = describe_run("benchmarks/purification.py", seeds=SEEDS, clean_samples=demo.CLEAN_SAMPLES)
    write_json(ROOT / "results" / "purification.json", head | {"fresh_seeds": FRESH_SEEDS, "rows": rows})
    print(table(rows, SEEDS), table(rows, FRESH_SEEDS), sep="\n\n")


if __name__ == "__main__":
    main()
