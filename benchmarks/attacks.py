"""Every attack by its recipe: what its victim reaches, what a benign model makes of its trigger, and what SFT leaves.

    python benchmarks/attacks.py --workers 2                       # everything
    python benchmarks/attacks.py --only badnets blended            # some of it; no table is written
    python benchmarks/attacks.py --text_model DIR                  # MiniLM from a folder instead of the Hub

Each run is kept in runs/benchmarks/attacks as soon as it is done, and repeated only if its recipe has changed since.
The first command ends with benchmarks/results/attacks.json, and writes the tables of docs/attacks.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from cells import Benchmark, Run, run_all, share, with_needs

from hf_backdoor.metrics import METRICS


ROOT = Path(__file__).resolve().parent
RECIPES = ROOT.parent / "recipes" / "attacks"
WORK = Path("runs/benchmarks/attacks")
TEXT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PAPER = ("badnets", "blended", "low_frequency", "wanet", "input_aware", "bad_encoder")  # of arXiv 2212.09067
SEEDS = (0, 1, 2)
LOW_RATES, LOW_RATE_ATTACKS = (0.003, 0.01, 0.05), ("badnets", "blended", "low_frequency")
KNOWING = ("forget_me_not", "sbl", "peta")  # attackers who know the defence, against those who do not
DEFENDED = (*PAPER, *KNOWING)
# Name, seeds, settings of `hf-backdoor purify`.
DEFENSES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "fine_tuning": (SEEDS, {"defense": "fine_tuning", "max_steps": 1000}),
    "sft_labels": (
        SEEDS[:1],
        {"defense": "super_fine_tuning", "defense_args": {"distillation": False, "averaging": False}},
    ),
    "sft": (SEEDS, {"defense": "super_fine_tuning"}),
}


def resolved(recipe: str, seed: int, text_model: str) -> dict[str, Any]:
    """A recipe with its seed, and with what the runs before it have left in place of the recipes' folders."""

    def replace(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: replace(item) for name, item in value.items()}
        if isinstance(value, list):
            return [replace(item) for item in value]
        if isinstance(value, str):
            value = text_model if value == TEXT_MODEL else value
            for other in sorted(recipe_names(), key=len, reverse=True):
                if f"runs/attacks/{other}" in value:
                    return value.replace(f"runs/attacks/{other}", str(WORK / f"{other}-{seed}"))
        return value

    content = replace(yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text()))
    del content["output_dir"]
    return content | {"seed": seed}


def trained(recipe: str, seed: int, text_model: str, variant: str = "", settings: dict[str, Any] | None = None) -> Run:
    """The run of a recipe, after those whose models or triggers it builds on."""
    name = recipe + variant
    content = resolved(recipe, seed, text_model) | (settings or {})
    text = json.dumps(content)
    needs = [
        trained(other, seed, text_model)
        for other in recipe_names()
        if other != name and any(f"{WORK / other}-{seed}{end}" in text for end in ('"', "/"))
    ]
    about = {"name": name, "recipe": recipe, "seed": seed, "method": "train"}
    return Run(f"{name}-{seed}", "train", content, WORK / f"{name}-{seed}", needs, about=about)


def purified(recipe: str, seed: int, text_model: str, method: str, settings: dict[str, Any]) -> Run:
    """The run of a defence on what came out of a recipe."""
    victim = trained(recipe, seed, text_model)
    given = {
        "model": str(victim.folder), "attack_from": str(victim.folder), "dataset": "fashion_mnist_mini",
        "clean_samples": 900, "eval_strategy": "no", "seed": seed,
    }  # fmt: skip
    name = f"{recipe}+{method}"
    about = {"name": name, "recipe": recipe, "seed": seed, "method": method}
    return Run(f"{name}-{seed}", "purify", given | settings, WORK / f"{name}-{seed}", [victim], about=about)


@lru_cache(maxsize=1)
def recipe_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))


def benign_of(recipe: str) -> str:
    """The benign model to compare with: of the same kind, trained on clean data."""
    content = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    if "task" in content:
        return "clip_benign"
    if content.get("attack") == "self_supervised":
        return "self_supervised_benign"
    if content.get("attack") in ("bad_encoder", "drupe"):
        return "bad_encoder@benign"
    return "benign_text" if "sentiment" in content["dataset"] else "benign"


def benign_twin(recipe: str, seed: int, text_model: str) -> Run:
    """The run of the benign model to compare with; where the victim trains longer from scratch, that does too."""
    name, _, variant = benign_of(recipe).partition("@")
    if variant:
        return trained(name, seed, text_model, f"@{variant}", {"poisoned": False})
    victim, benign = (yaml.safe_load((RECIPES / f"{one}.yaml").read_text()) for one in (recipe, name))
    epochs = victim["num_train_epochs"]
    if "architecture" not in victim or epochs <= benign["num_train_epochs"]:
        return trained(name, seed, text_model)
    return trained(name, seed, text_model, f"@{epochs}_epochs", {"num_train_epochs": epochs})


def share_on_benign(run: Run) -> Path:
    """Where it is kept what the benign model makes of a victim's trigger."""
    return run.folder.with_name(f"{run.folder.name}.on_benign.json")


def measured_on_benign(run: Run) -> dict[str, Any] | None:
    """What the benign model makes of a victim's trigger, unless one of the two is newer than that."""
    target = share_on_benign(run)
    if not target.is_file():
        return None
    # Where a model is kept does not depend on where MiniLM comes from.
    models = (run.kept, benign_twin(run.about["recipe"], run.about["seed"], TEXT_MODEL).kept)
    fresh = all(model.is_file() and model.stat().st_mtime <= target.stat().st_mtime for model in models)
    return json.loads(target.read_text())["measured"] if fresh else None


def planned(options: argparse.Namespace) -> list[Run]:
    """Everything that is run, in an order in which what is needed comes first."""
    runs, text_model = [], options.text_model
    repeated = {*PAPER, "adap_blend", "sbl", "benign", "self_supervised_benign"}
    for recipe in recipe_names():
        runs += [trained(recipe, seed, text_model) for seed in (SEEDS if recipe in repeated else SEEDS[:1])]
    twins = [benign_twin(run.about["recipe"], run.about["seed"], text_model) for run in runs]
    runs = list({run.key: run for run in (*runs, *twins)}.values())
    for recipe in LOW_RATE_ATTACKS:
        runs += [trained(recipe, 0, text_model, f"@{rate}", {"rate": rate}) for rate in LOW_RATES]
    for recipe in DEFENDED:
        for method, (seeds, settings) in DEFENSES.items():
            for seed in seeds if recipe in PAPER else SEEDS[:1]:
                runs.append(purified(recipe, seed, text_model, method, settings))
    return sorted(runs, key=lambda run: run.about["seed"])  # one seed of everything first


def on_benign(run: Run, benign: Run) -> None:
    """What the benign model makes of the attack's trigger; without it, nobody knows what the attack has added."""
    target = share_on_benign(run)
    if "@" in run.about["name"] or not (run.done() and benign.done()) or run.row()["attack"] is None:
        return
    if measured_on_benign(run) is not None:
        return
    content = yaml.safe_load((RECIPES / f"{run.about['recipe']}.yaml").read_text())
    flags = {"model": benign.folder, "attack_from": run.folder, "dataset": content["dataset"], "output": target}
    flags |= {"batch_size": 250} | ({"task": content["task"]} if "task" in content else {})
    command = [sys.executable, "-m", "hf_backdoor.cli", "evaluate"]
    command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    with open(target.with_suffix(".log"), "w") as log:
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
            print(f"{run.key} on its benign model FAILED, see {log.name}", flush=True)


def tables(rows: list[dict[str, Any]]) -> dict[str, str]:
    """What docs/attacks.md shows, as Markdown, by the name of its place there."""
    by_name: dict[str, list[dict]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)

    def line(name: str, cells: list[str]) -> str:
        of_name = by_name[name]
        shares = [share(row["measured"][metric] for row in of_name) for metric in METRICS]
        return f"| {' | '.join([*cells, *shares])} |"

    attacks = ["| attack | model | poisoned | seeds | benign CA | benign ASR | CA | ASR | RA |", "|---" * 9 + "|"]
    for name, of_name in by_name.items():
        if "+" in name or "@" in name or of_name[0]["attack"] is None:
            continue
        benign = [row["on_benign"] or {} for row in of_name]
        cells = [name, of_name[0]["model_type"], f"{100 * of_name[0]['attack']['rate']:g} %", str(len(of_name))]
        cells += [share(shares.get(metric) for shares in benign) for metric in METRICS[:2]]
        attacks.append(line(name, cells))
    rates = ["| attack | poisoned | CA | ASR | RA |", "|---" * 5 + "|"]
    for recipe in LOW_RATE_ATTACKS:
        for name in (*(f"{recipe}@{rate}" for rate in LOW_RATES), recipe):
            if name in by_name:
                rates.append(line(name, [recipe, f"{100 * by_name[name][0]['attack']['rate']:g} %"]))
    defended = ["| attack | defence | seeds | CA | ASR | RA |", "|---" * 6 + "|"]
    for recipe in DEFENDED:
        for name in (recipe, *(f"{recipe}+{method}" for method in DEFENSES)):
            if name in by_name:
                defended.append(line(name, [recipe, name.partition("+")[2] or "none", str(len(by_name[name]))]))
    return {name: "\n".join(lines) for name, lines in (("attacks", attacks), ("rates", rates), ("defended", defended))}


def with_benign_share(run: Run) -> dict[str, Any]:
    """The row of a run, with what the benign model makes of the trigger."""
    return run.row() | {"on_benign": measured_on_benign(run)}


def compare(chosen: list[Run], options: argparse.Namespace) -> None:
    """Measures every trigger on its benign model."""
    victims = [run for run in with_needs(chosen) if run.command == "train"]
    twins = [benign_twin(run.about["recipe"], run.about["seed"], options.text_model) for run in victims]
    run_all(twins, options.workers)
    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(on_benign, victims, twins))


BENCHMARK = Benchmark(
    "attacks", __doc__, SEEDS, planned, tables, kind="recipe", row=with_benign_share, afterwards=compare
)


if __name__ == "__main__":
    parser = BENCHMARK.parser()
    parser.add_argument("--text_model", default=TEXT_MODEL, help="folder or Hub id of MiniLM")
    BENCHMARK.main(parser.parse_args())
