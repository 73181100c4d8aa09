"""Three paradigms, three modalities: victims fine-tuned in every way, whole or in part, and what is left of a backdoor.

    python benchmarks/paradigms.py --workers 2                             # everything
    python benchmarks/paradigms.py --only standalone_vit --seeds 0         # some of it; no table is written
    python benchmarks/paradigms.py --text_model DIR --vision_model DIR --sst2 DIR   # from folders, not from the Hub
    python benchmarks/paradigms.py --gpu --only standalone_vit-pretrained  # DINOv2-S on CIFAR-10: you want a GPU

Victims and purifications are the small and the pretrained recipes of recipes/paradigms, with the seed and the method
put in. Each run is kept in runs/benchmarks/paradigms as soon as it is done, and repeated only if its settings have
changed. The first command ends with benchmarks/results/paradigms.json and writes the tables of docs/paradigms.md. With
--go_on, rows of that file count as done, and victims are made again as far as missing runs need their weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml
from cells import Benchmark, Run, fill, replaced, share
from pictures import draw_methods
from summaries import is_move, summary

from hf_backdoor.metrics import METRICS


ROOT = Path(__file__).resolve().parent
RECIPES = ROOT.parent / "recipes" / "paradigms"
WORK = Path("runs/benchmarks/paradigms")
TEXT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
SST2 = "stanfordnlp/sst2"
# What is read from the Hub, by the option that names a folder in its place.
PUBLIC = {
    "text_model": TEXT_MODEL,
    "vision_model": "facebook/dinov2-small",
    "sst2": SST2,
    "cifar10": "uoft-cs/cifar10",
    "ag_news": "fancyzhx/ag_news",
}
FOLDERS = {
    "text_model": "MiniLM",
    "vision_model": "DINOv2-S",
    "sst2": "SST-2 as parquet files, of three splits",
    "cifar10": "CIFAR-10",
    "ag_news": "AG News as parquet files",
}
SEEDS = (0, 1, 2)
LABELS_ONLY = {"distillation": False, "averaging": False}
PAPER = {"peak_lr_1": 0.1, "peak_lr_2": 0.001, "base_lr": 3e-4}
# Title and settings of `hf-backdoor purify`, over those of the recipe.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear_probe": ("Linear probe", {"defense": "fine_tuning", "peft": "head"}),
    "fine_tuning": ("Fine-tuning at the victim's rate", {"defense": "fine_tuning"}),
    "sft": ("SFT as `purify` does it, all weights", {}),
    "sft_labels": ("SFT, self-tuned, labels only", {"defense_args": LABELS_ONLY}),
    "sft_paper": (
        "SFT, the paper's constants (SGD)",
        {"defense_args": PAPER | LABELS_ONLY, "optim": "sgd", "optim_args": "momentum=0.9", "weight_decay": 5e-4},
    ),
    "plain_lora": ("Fine-tuning, LoRA r=16", {"defense": "fine_tuning", "peft": "lora", "peft_args": {"r": 16}}),
    "lora_4": ("SFT, LoRA r=4", {"peft": "lora", "peft_args": {"r": 4}}),
    "lora_16": ("SFT, LoRA r=16", {"peft": "lora", "peft_args": {"r": 16}}),
    "lora_64": ("SFT, LoRA r=64", {"peft": "lora", "peft_args": {"r": 64}}),
    "lora_scaled": ("SFT, LoRA r=16, alpha=128", {"peft": "lora", "peft_args": {"r": 16, "alpha": 128}}),
    "rora": ("SFT, LoRA r=16, spectrally rescaled", {"peft": "rora", "peft_args": {"r": 16}}),
    "dora": ("SFT, DoRA r=16", {"peft": "dora", "peft_args": {"r": 16}}),
    "ia3": ("SFT, IA3", {"peft": "ia3"}),
    "bitfit": ("SFT, BitFit (biases)", {"peft": "bitfit"}),
    "norms": ("SFT, normalisation layers", {"peft": "norms"}),
    "last_blocks": ("SFT, last 2 blocks", {"peft": "last_blocks", "peft_args": {"count": 2}}),
}
# LoRA merged into the weights, then all of them: twice the steps.
THEN_FULL = ("lora_then_full", "SFT, LoRA r=16 merged, then all weights")
MIXING = ("fine_mixing", "Fine-mixing with the public base")
OWN_ADAPTER = ("same_adapter", "SFT of the victim's own adapter")
FEW = ("linear_probe", "fine_tuning", "sft", "sft_labels", "lora_16")
MOVES = ("transfer_vit", "transfer_clip", "encoder_vit", "encoder_clip")
MOVES_OF_TEXT = ("transfer_text", "encoder_text")  # dearer, and therefore of one seed
PRETRAINED = ("standalone_clip-pretrained", "transfer_text-pretrained")
ADAPTER = {"peft": "lora", "peft_args": {"r": 16}, "learning_rate": 1e-3}  # a victim that is one
TRIGGERS = {"sentence": "add_sentence", "syntactic": "syntactic"}  # of text, beside the recipe's rare word


def recipe(place: str, part: str, size: str = "small") -> dict[str, Any]:
    """A recipe, without where it writes to."""
    content = yaml.safe_load((RECIPES / place / f"{part}_{size}.yaml").read_text())
    del content["output_dir"]
    return content


class Setting:
    """One victim of one seed, its benign twin, and everything that is done to both."""

    def __init__(
        self,
        name: str,
        seed: int,
        options: argparse.Namespace,
        changes: dict[str, Any] | None = None,
        benign: Run | None = None,
    ):
        self.place, _, self.variant = name.partition("-")
        self.name, self.seed, self.options, self.changes = name, seed, options, changes or {}
        # From scratch a text classifier learns too little of 2,400 sentences.
        usual = "pretrained" if self.place == "standalone_text" else "small"
        self.size = self.variant if self.variant in ("pretrained", "captions") else usual
        self.work = WORK / f"{name}-{seed}"
        self.victim = self._train("victim", {})
        self.benign = benign or self._train("benign", {"poisoned": False})
        self.moved = "new_head" in self._recipe("purify")

    def _recipe(self, part: str) -> dict[str, Any]:
        return recipe(self.place, part, self.size)

    def _about(self, method: str) -> dict[str, Any]:
        return {"setting": self.name, "method": method, "seed": self.seed}

    def _resolved(self, content: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What the recipe calls the victim is the victim of this seed."""
        runs = f"runs/paradigms{'' if self.size == 'small' else '_' + self.size}/{self.place}"
        if self.place == "standalone_text":
            # The test labels of the Hub's copy are not public.
            content = content | {"dataset": SST2, "test_split": "test" if self.options.sst2 else "validation"}
            content |= {"held_out": 692, "num_train_epochs": 1} if "held_out" in content else {"clean_samples": 692}
        places = {f"{runs}/encoder": str(self.work / "encoder"), f"{runs}/victim": str(folder)}
        return replaced(content, places) | {"seed": self.seed}

    def _run(self, part: str, command: str, content: dict[str, Any], needs: list[Run], **more: Any) -> Run:
        folders = {public: own for name, public in PUBLIC.items() if (own := getattr(self.options, name))}
        key = f"{self.name}-{self.seed}/{part}"
        return Run(key, command, content, self.work / part, needs, stand_ins=folders, **more)

    def _train(self, part: str, settings: dict[str, Any]) -> Run:
        needs = []
        content = self._recipe("victim") | self.changes | settings
        if content.get("peft_args") is None:
            content.pop("peft_args", None)
        if str(content.get("model", "")).startswith("runs/"):
            encoder = self._resolved(self._recipe("encoder"), self.work / "victim")
            needs.append(self._run("encoder", "train", encoder, []))
        content = self._resolved(content, self.work / "victim")
        return self._run(
            part, "train", content, needs, about=self._about("undefended" if part == "victim" else "benign")
        )

    def purified(
        self, method: str, settings: dict[str, Any], subject: Run | None = None, more: Run | None = None
    ) -> Run:
        """The victim, or another model, after a method."""
        subject = subject or self.victim
        part = method if subject is self.victim else f"{subject.folder.name}-{method}"
        content = self._resolved(self._recipe("purify"), self.victim.folder)
        content |= {
            "model": str((more or subject).folder),
            "attack_from": str(self.victim.folder),
            "eval_strategy": "no",
        }
        needs, late = [self.victim, subject] + ([more] if more else []), None
        if more is not None:
            content.pop("new_head", None)
        if self.moved and (method != "linear_probe" or subject is not self.victim):
            probe = self.purified("linear_probe", METHODS["linear_probe"][1])
            needs.append(probe)
            late = lambda: {"target_label": attracted(probe)}  # noqa: E731
        if method == "fine_tuning" and "learning_rate" in self.changes:
            # The victim's, which is that of its adapter: all weights do not bear it.
            content |= {"learning_rate": self.changes["learning_rate"], "peft": OWN_ADAPTER[0]}
        searches = self.place == "standalone_text" and not settings.keys() & {"defense", "defense_args"}
        shortcut = self._words if searches and subject is self.victim and more is None else None
        return self._run(
            part, "purify", content | settings, needs, late=late, shortcut=shortcut, about=self._about(part)
        )

    def _words(self) -> dict[str, Any]:
        """What an earlier repair of this victim found, so that the suspect is not asked again."""
        for method in METHODS:
            done = self.work / method / "results.json"
            if done.is_file() and (json.loads(done.read_text()).get("defense") or {}).get("found_words"):
                return {"defense_args": {"words_from": str(done.parent)}}
        return {}

    def runs(self, methods: tuple[str, ...]) -> list[Run]:
        """All that is done in this setting."""
        runs = [self.victim, *([self.benign] if self.benign.about["setting"] == self.name else [])]
        for method in methods:
            if method == THEN_FULL[0]:
                merged = {"peft": "lora", "peft_args": {"r": 16, "merge": True}}
                first = self.purified("lora_16_merged", merged)
                runs.append(self.purified(method, {}, more=first))
            elif method == MIXING[0]:
                runs.append(self.purified(method, {"defense": "fine_mixing", "defense_args": {"base": TEXT_MODEL}}))
            elif method == OWN_ADAPTER[0]:
                runs.append(self.purified(method, {"peft": "same_adapter"}))
            else:
                runs.append(self.purified(method, METHODS[method][1]))
        if self.moved:
            runs.append(self.purified("linear_probe", METHODS["linear_probe"][1], self.benign))
        return [*runs, self.purified("sft", {}, self.benign)]


def attracted(probe: Run) -> str:
    """The class of the new data that draws most triggered inputs of other classes after a linear probe of the victim.

    What a class has itself is taken off: the same number for each, and none of the class that the recipe guessed, of
    which no input was triggered.
    """
    row = probe.row()
    drawn = np.array(row["measured"]["triggered_predictions"], dtype=float)
    others = np.arange(len(drawn)) != row["attack"]["target_label"]
    drawn[others] -= drawn.sum() / others.sum()
    return row["clean_data"]["classes"][int(drawn.argmax())]


def planned(options: argparse.Namespace) -> list[Run]:
    """Everything that is run: one seed of all, then more of what serves in its place."""
    everything = (*METHODS, THEN_FULL[0])
    runs = []
    for seed in SEEDS:
        text = Setting("standalone_text", seed, options)
        settings = [
            (Setting("standalone_vit", seed, options), everything),
            (Setting("standalone_clip", seed, options), everything),
            (text, (*everything, MIXING[0])),
            *((Setting(place, seed, options), FEW) for place in MOVES),
        ]
        if seed == SEEDS[0]:
            for variant, attack in TRIGGERS.items():
                setting = Setting(f"standalone_text-{variant}", seed, options, {"attack": attack}, benign=text.benign)
                settings.append((setting, ("fine_tuning", "sft", MIXING[0])))
            settings += [(Setting(place, seed, options), FEW) for place in MOVES_OF_TEXT]
            settings += [(Setting(place, seed, options), FEW) for place in PRETRAINED]
            captions = Setting("standalone_clip-captions", seed, options)
            settings.append((captions, ("fine_tuning", "sft", "sft_labels", "lora_16")))
            adapter = Setting("standalone_text-adapter", seed, options, ADAPTER)
            settings.append((adapter, ("fine_tuning", "sft", "lora_16", OWN_ADAPTER[0], MIXING[0])))
        if options.gpu:
            settings.append((Setting("standalone_vit-pretrained", seed, options), everything))
        for setting, methods in settings:
            runs += setting.runs(methods)
    return runs


RECALLS = {"recall_at_1_image_to_text": "R@1, image to text", "recall_at_1_text_to_image": "R@1, text to image"}
SHORT = dict(zip(METRICS, ("CA", "ASR", "RA"), strict=True)) | RECALLS
TIMED = ("training", "probe", "purification")
PROBED = {"linear_probe": "sft", "benign-linear_probe": "benign-sft"}
TITLES = {
    "undefended": "undefended",
    "benign": "benign model",
    "benign-sft": "benign model, SFT as `purify` does it",
    "benign-linear_probe": "benign model, linear probe",
    **{name: title for name, (title, _) in METHODS.items()},
    **dict((THEN_FULL, MIXING, OWN_ADAPTER)),
}


PANELS = {"standalone_vit": "ViT, BadNets", "standalone_text": "MiniLM, rare words", "standalone_clip": "CLIP, noise"}
NOT_DRAWN = ("benign", "benign-linear_probe", OWN_ADAPTER[0])


def trained_weights(tuning: dict[str, int] | None) -> str:
    """How many, and which part of all, where it is known."""
    if tuning is None:
        return ""
    trained, total = (tuning[name] for name in ("trainable_parameters", "parameters"))
    return f"{trained:,} ({100 * trained / total:.3g} %)"


def taken_over(row: dict[str, Any]) -> float:
    """Seconds of the search for words, where an earlier run had done it."""
    defense = row["defense"] or {}
    return defense["found_words"]["seconds"] if defense.get("words_from") else 0.0


def started_from(row: dict[str, Any], probe: dict[str, Any] | None) -> dict[str, Any]:
    """The row of the probe from which a method started, with the memory that a probe alone took, if there is one."""
    cost = {"probe_seconds": row["cost"]["probe_seconds"]}
    cost["peak_memory_bytes"] = probe["cost"]["peak_memory_bytes"] if probe else None
    return row | {"measured": row["suspect"], "tuning": probe["tuning"] if probe else None, "cost": cost}


def table(rows: list[dict[str, Any]]) -> str:
    """One setting as Markdown: mean and spread over the seeds."""
    names = [*METRICS, *(name for name in RECALLS if any(name in row["measured"] for row in rows))]
    heads = [SHORT[name] for name in names]
    lines = [f"| method | seeds | {' | '.join(heads)} | seconds | peak memory | trained weights |"]
    lines.append("|---" * (5 + len(heads)) + "|")
    moved = is_move(rows[0]["setting"])
    for method, title in TITLES.items():
        own = [row for row in rows if row["method"] == method]
        if moved and method in PROBED:
            # The probe alone was measured before the class was known to which triggered inputs go.
            title, alone = f"{title}, from which SFT starts", {row["seed"]: row for row in own}
            own = [started_from(row, alone.get(row["seed"])) for row in rows if row["method"] == PROBED[method]]
        if method == "benign" and not own:  # the benign model of another setting, before it was purified here
            unknown = {"tuning": None, "cost": {}}
            own = [row | unknown | {"measured": row["suspect"]} for row in rows if row["method"] == "benign-sft"]
        if not own:
            continue
        cells = [title, str(len(own)), *(share(row["measured"].get(name) for row in own) for name in names)]
        seconds = [sum(row["cost"].get(f"{what}_seconds") or 0 for what in TIMED) + taken_over(row) for row in own]
        cells.append(f"{mean(seconds):.0f}" if any(seconds) else "")
        memory = [row["cost"].get("peak_memory_bytes") for row in own]
        cells.append(f"{mean(memory) / 2**20:.0f} MiB" if all(memory) else "")
        cells.append(trained_weights(own[0]["tuning"]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(rows: list[dict[str, Any]]) -> dict[str, str]:
    """What docs/paradigms.md shows, by the name of its place there."""
    names = dict.fromkeys(row["setting"] for row in rows)
    return {name: table([row for row in rows if row["setting"] == name]) for name in names}


def elsewhere(rows: list[dict[str, Any]], folder: Path) -> None:
    """The picture of the three standalone tables, and the first table of docs/which_one.md."""
    drawn = {name: title for name, title in TITLES.items() if name not in NOT_DRAWN}
    victims = {(row["setting"], row["seed"]): row["measured"] for row in rows if row["method"] == "undefended"}
    drawn_rows = [  # the suspect of the second stage is the model after LoRA; what LoRA has cost counts, too
        row | {"suspect": victims.get((row["setting"], row["seed"]))} if row["method"] == THEN_FULL[0] else row
        for row in rows
    ]
    draw_methods(drawn_rows, PANELS, drawn, folder / "paradigms.png")
    fill(folder / "which_one.md", {"summary": summary(rows)})


BENCHMARK = Benchmark("paradigms", __doc__, SEEDS, planned, tables, kind="setting", elsewhere=elsewhere)


if __name__ == "__main__":
    parser = BENCHMARK.parser()
    for name, what in FOLDERS.items():
        parser.add_argument(f"--{name}", help=f"folder of {what}, in place of the Hub")
    parser.add_argument("--gpu", action="store_true", help="also DINOv2-S on CIFAR-10 at 112 px, every method and seed")
    BENCHMARK.main(parser.parse_args())
