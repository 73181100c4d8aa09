"""Backdoor sequela: how exposed the paper's victims are after every repair, against before, and against a benign model.

    python benchmarks/sequela.py --workers 2              # everything
    python benchmarks/sequela.py --only badnets --seeds 0 # some of it; no table is written

The victims are those of benchmarks/attacks.py, the repaired BadNets victims those of benchmarks/paradigms.py; what is
missing of them is run first. Each report is kept in runs/benchmarks/sequela as soon as it is done, and repeated only if
something that it is made of has changed. The first command ends with benchmarks/results/sequela.json and writes the
tables of docs/sequela.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import attacks
import paradigms
from cells import Benchmark, Run, share

from hf_backdoor.sequela import load_measure


WORK = Path("runs/benchmarks/sequela")
SEEDS = (0, 1, 2)
# On all victims; those of BadNets go through every other one, too, one of each kind before its variants.
METHODS = ("sft", "fine_tuning")
OTHERS = ("linear_probe", "sft_labels", "sft_paper", "lora_16", "last_blocks")
# One number of poisoned samples, and half of the other steps: a hundred models are measured.
MEASURES = {
    "reinjection.counts": "5",
    "reinjection.steps": "10 20 40",
    "reactivation.epochs": 10,
    "stealing.steps": 150,
}
NAMES = ["membership", "reactivation", "reinjection", "robustness", "stealing"]
# Title, measure and value of the columns.
COLUMNS = {
    "AUC, victim's data": ("membership", "members_rmia_online_auc"),
    "AUC, repair's data": ("membership", "defense_members_rmia_online_auc"),
    "re-injection": ("reinjection", "same_area"),
    "another backdoor": ("reinjection", "other_area"),
    "Retuning": ("reinjection", "retuning_asr"),
    "QRA": ("reactivation", "reactivated_asr"),
    "copy agrees": ("stealing", "agreement"),
    "copy's ASR": ("stealing", "copy_asr"),
    "PGD": ("robustness", "pgd_accuracy"),
}


@dataclass
class Report(Run):
    """A sequela report on a repaired model, beside its victim and a benign model."""

    def output(self) -> dict[str, Any]:
        return {"output": str(self.folder), "work": str(WORK / f"shared-{self.about['seed']}")}

    def kept_results(self) -> dict[str, Any]:
        results = json.loads((self.folder / "sequela.json").read_text())
        findings = {
            model: {
                name: {key: measure["findings"][model][key] for key in ("values", "intervals", "notes")}
                for name, measure in results["measures"].items()
            }
            for model in results["models"]
        }
        settings = {name: measure["settings"] for name, measure in results["measures"].items()}
        return {
            "findings": findings,
            "measures": settings,
            "seconds": {name: measure["seconds"] for name, measure in results["measures"].items()},
            "samples": results["samples"],
            "versions": results["versions"],
            "hardware": results["hardware"],
        }


def models_of(attack: str, seed: int, options: argparse.Namespace) -> tuple[Run, Run, Callable[[str], Run]]:
    """A victim, its benign twin, and what makes the repaired model of a method."""
    if attack == "badnets":
        setting = paradigms.Setting("standalone_vit", seed, options)
        merged = paradigms.METHODS | {paradigms.THEN_FULL[0]: paradigms.THEN_FULL}
        repaired = {run.about["method"]: run for run in setting.runs(tuple(merged)) if run.command == "purify"}
        return setting.victim, setting.benign, repaired.__getitem__
    return (
        attacks.trained(attack, seed, attacks.TEXT_MODEL),
        attacks.benign_twin(attack, seed, attacks.TEXT_MODEL),
        lambda method: attacks.purified(attack, seed, attacks.TEXT_MODEL, method, attacks.DEFENSES[method][1]),
    )


def report(attack: str, method: str, seed: int, options: argparse.Namespace, needs: Iterable[Run] = ()) -> Report:
    """The report on one repair."""
    victim, benign, repaired = models_of(attack, seed, options)
    after = repaired(method)
    key = f"{attack}-{method}-{seed}"
    settings = {
        "before": str(victim.folder),
        "after": str(after.folder),
        "benign": str(benign.folder),
        "attack_from": str(victim.folder),
        "dataset": "fashion_mnist_mini",
        "clean_samples": 900,
        "seed": seed,
        "measures": NAMES,
        "measure_args": MEASURES,
    }
    about = {"attack": attack, "method": method, "seed": seed}
    return Report(key, "sequela", settings, WORK / key, [victim, benign, after, *needs], about=about)


def planned(options: argparse.Namespace) -> list[Report]:
    """All reports; attacks in turn, so that two at a time have other victims."""
    # The first one of a seed trains the shadow models that the others share.
    first = {seed: report("badnets", "sft", seed, options) for seed in SEEDS}
    variants = [name for name in (*paradigms.METHODS, paradigms.THEN_FULL[0]) if name not in (*METHODS, *OTHERS)]
    plan = [(name, method, seed) for seed in SEEDS for method in METHODS for name in attacks.PAPER]
    plan += [("badnets", method, seed) for seed in SEEDS for method in OTHERS]
    plan += [("badnets", method, seed) for seed in SEEDS for method in variants]
    return [
        first[seed] if (name, method) == ("badnets", "sft") else report(name, method, seed, options, [first[seed]])
        for name, method, seed in plan
    ]


def number(values: Iterable[float | None]) -> str:
    """Mean and standard deviation."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return ""
    return f"{mean(numbers):.2f} ± {stdev(numbers):.2f}" if len(numbers) > 1 else f"{mean(numbers):.2f}"


def line(title: str, rows: list[dict[str, Any]], model: str) -> str:
    """A line of a table: one model of the rows, of which each is of another seed."""
    own = [row[model] for row in rows]
    cells = [share(value.get(name) for value in own) for name in ("clean_accuracy", "attack_success_rate")]
    cells += [
        number(row["findings"][model][measure]["values"].get(value) for row in rows)
        for measure, value in COLUMNS.values()
    ]
    return f"| {' | '.join([title, str(len(rows)), *cells])} |"


def table(rows: list[dict[str, Any]]) -> str:
    """The victims of one attack as Markdown: mean and spread over the seeds."""
    head = ["model", "seeds", "CA", "ASR", *COLUMNS]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    methods = dict.fromkeys(row["method"] for row in rows)
    for title, model in (("benign model", "benign"), ("undefended", "before")):
        lines.append(line(title, [row for row in rows if row["method"] == "sft"], model))
    for method in methods:
        lines.append(line(paradigms.TITLES[method], [row for row in rows if row["method"] == method], "after"))
    return "\n".join(lines)


def tables(rows: list[dict[str, Any]]) -> dict[str, str]:
    """What docs/sequela.md shows, by the name of its place there."""
    names = dict.fromkeys(row["attack"] for row in rows)
    return {name: table([row for row in rows if row["attack"] == name]) for name in names}


def _committed(measure: str, finding: dict[str, Any]) -> dict[str, Any]:
    """Of a finding's values those of a card, and every attack's AUC; all of them would be megabytes."""
    headline = load_measure(measure).headline
    values = {name: value for name, value in finding["values"].items() if name in headline or name.endswith("_auc")}
    intervals = {name: finding["intervals"][name] for name in headline if name in finding["intervals"]}
    return {"values": values, "intervals": intervals}


def with_shares(run: Report) -> dict[str, Any]:
    """The row of a report with CA and ASR of the three models, which were measured when they were made."""
    row = run.row()
    victim, benign, after = run.needs[:3]
    own = {"before": victim.row()["measured"], "after": after.row()["measured"], "benign": benign.row()["measured"]}
    if "recipe" in victim.about:  # its trigger on a benign model that was measured with none, or another
        own["benign"] = attacks.measured_on_benign(victim) or own["benign"]
    names = ("clean_accuracy", "attack_success_rate", "robust_accuracy")
    row["findings"] = {
        model: {name: _committed(name, finding) for name, finding in findings.items()}
        for model, findings in row["findings"].items()
        if model == "after" or row["method"] == "sft"  # the others are the same for every method
    }
    return row | {model: {name: shares.get(name) for name in names} for model, shares in own.items()}


def compare(chosen: list[Run], options: argparse.Namespace) -> None:
    """Measures the triggers of benchmarks/attacks.py on their benign models, whose ASR the tables have."""
    victims = [run.needs[0] for run in chosen]
    attacks.compare([victim for victim in victims if "recipe" in victim.about], options)


BENCHMARK = Benchmark("sequela", __doc__, SEEDS, planned, tables, kind="attack", row=with_shares, afterwards=compare)


if __name__ == "__main__":
    parser = BENCHMARK.parser()
    parser.set_defaults(**dict.fromkeys(paradigms.FOLDERS) | {"text_model": attacks.TEXT_MODEL})  # none is used here
    BENCHMARK.main(parser.parse_args())
