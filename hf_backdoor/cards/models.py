"""Cards of models: purified ones, and victims."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..results import write_text
from .metadata import TERMS, read_metadata
from .plots import plot_training
from .rendering import METRIC_TITLES, percent_interval, render
from .sections import CARD_FILE, read_card, write_over


MODEL_NAMES = {"suspect": "before", "victim": "before", "purified": "after", "benign": "benign model"}
# Below this share of triggered inputs going to the target, the literature calls a backdoor removed.
# ASR of what has a backdoor, since some triggers move benign models, too; and of what has none that works any more.
VICTIM_ABOVE, REMOVED_BELOW = 0.5, 0.1


@dataclass
class ModelCard:
    """A card as data. Subclasses say which template it fills and which tags it carries.

    Args:
        results (`dict`): what a command wrote to `results.json`.
        name (`str`): of the model, as its folder or repository is called.
        examples (`str`): Markdown that shows inputs and predictions, made by the modality.
    """

    template: ClassVar[str]
    tags: ClassVar[tuple[str, ...]]
    subject: ClassVar[str]

    results: dict[str, Any]
    name: str
    examples: str = ""
    metadata: dict[str, Any] = field(init=False)

    def __post_init__(self):
        self.metadata = self._metadata()

    def _metadata(self) -> dict[str, Any]:
        from huggingface_hub import ModelCardData

        base = self.results.get("suspect_model")
        card = ModelCardData(
            library_name="transformers",
            pipeline_tag=self.results["task"],
            tags=[*self.tags, "hf_backdoor"],
            base_model=base if base and base.count("/") == 1 else None,
            metrics=["accuracy"],
            model_name=self.name,
            **{name: value for name, value in (self.results.get("suspect_card") or {}).items() if name in TERMS},
            eval_results=self._evaluations() or None,
        )
        return card.to_dict()

    def _evaluations(self) -> list[Any]:
        from huggingface_hub import EvalResult

        of_data = self.results.get("data", {})
        data = of_data.get("test_name") or of_data.get("name") or "custom"
        measured = self.results.get(self.subject) or {}
        attack = self.results.get("attack")
        evaluations = []
        for name, title in METRIC_TITLES.items():
            attacked = name != "clean_accuracy"
            if measured.get(name) is None or (attacked and attack is None):
                continue  # a benign model was measured with a trigger that is not its own
            evaluations.append(
                EvalResult(
                    task_type=self.results["task"],
                    dataset_type=data,
                    dataset_name=data + (f" with the {attack['trigger']['name']} trigger" if attacked else ""),
                    dataset_config=attack["trigger"]["name"] if attacked else None,
                    dataset_split=of_data.get("test_split") or "test",
                    metric_type="accuracy" if not attacked else name,
                    metric_name=title,
                    metric_value=measured[name],
                )
            )
        return evaluations

    def table(self) -> list[list[str]]:
        """Rows of the before/after table: a header, then a row a measure."""
        models = [name for name in MODEL_NAMES if self.results.get(name)]
        header = ["", *(MODEL_NAMES[name] for name in models)]
        rows = [
            [title, *(percent_interval(self.results[model], name) for model in models)]
            for name, title in METRIC_TITLES.items()
        ]
        return [header, *rows] if models else []

    def render(self) -> str:
        """The whole card, metadata first."""
        import yaml

        metadata = yaml.safe_dump(self.metadata, sort_keys=False, allow_unicode=True)
        body = render(self.template, card=self, results=self.results)
        return f"---\n{metadata}---\n{body}"

    @property
    def class_count(self) -> int:
        return len(self.results["clean_data"]["classes"]) if "clean_data" in self.results else 0


@dataclass
class PurifiedCard(ModelCard):
    """Card of a model that went through a defence."""

    template: ClassVar[str] = "purified.md"
    tags: ClassVar[tuple[str, ...]] = ("backdoor-defense", "purified")
    subject: ClassVar[str] = "purified"

    @property
    def verdict(self) -> str:
        """One sentence on what was reached, or that it is not known."""
        before = self.results.get("suspect") or self.results.get("victim")
        after = self.results.get("purified")
        if not after:
            return "No test set was given, so neither utility nor the backdoor was measured."
        change = 100 * (after["clean_accuracy"] - before["clean_accuracy"])
        utility = f"clean accuracy changed by {change:+.1f} points"
        if after["attack_success_rate"] is None:
            return f"No trigger was known, so whether a backdoor is gone is not measured; {utility}."
        if before["attack_success_rate"] <= VICTIM_ABOVE:
            state = "This trigger did not work on the model before"
        elif after["attack_success_rate"] <= REMOVED_BELOW:
            state = "The backdoor is no longer triggered"
        else:
            state = "**The backdoor is not removed**"
        fall = f"{100 * before['attack_success_rate']:.1f} % to {100 * after['attack_success_rate']:.1f} %"
        return f"{state}: the attack success rate went from {fall}, and {utility}."


@dataclass
class VictimCard(ModelCard):
    """Card of a model that was backdoored on purpose."""

    template: ClassVar[str] = "victim.md"
    tags: ClassVar[tuple[str, ...]] = ("backdoored",)
    subject: ClassVar[str] = "victim"


@dataclass
class BenignCard(VictimCard):
    """Card of its counterpart, trained on clean data."""

    tags: ClassVar[tuple[str, ...]] = ("benign-counterpart",)
    subject: ClassVar[str] = "benign"


def check_card(folder: Path) -> None:
    """Whether a card can be written into a folder, before the work that it is about.

    Raises:
        InputError: the metadata of the card that is there cannot be read.
    """
    path = folder / CARD_FILE
    if path.is_file():
        read_metadata(read_card(path))


def write_card(folder: Path, results: dict[str, Any], examples: list[dict[str, Any]] | None = None) -> Path:
    """Writes `README.md` and its figures into a model's folder.

    A card that is there keeps its other sections, such as that of the sequela, and what was written by hand.

    Args:
        folder (`Path`): of the model.
        results (`dict`): of `purify`, `demo` or `train`.
        examples (`list`, *optional*): see [`~hf_backdoor.measuring.example_rows`]. Without them, a picture that is
            in the folder already stays on the card.

    Returns:
        Path of the card.

    Raises:
        InputError: the metadata of the card that is there cannot be read.
    """
    from ..modalities import modality_named
    from ..tasks import task_named

    figures = folder / "figures"
    stored = figures / "examples.md"
    if examples:
        figures.mkdir(parents=True, exist_ok=True)
        modality = modality_named(task_named(results["task"]).modality)
        write_text(stored, modality.illustrate(examples, results["clean_data"]["classes"], figures))
    shown = stored.read_text(encoding="utf-8") if stored.is_file() else ""
    kind = PurifiedCard if "purified" in results else VictimCard if results.get("attack") else BenignCard
    path = folder / CARD_FILE
    card = kind(results, results.get("name") or folder.resolve().name, shown).render()
    if path.is_file():
        tags = {tag for other in (PurifiedCard, VictimCard, BenignCard) for tag in other.tags}
        card = write_over(read_card(path), card, tags=tags, metrics=METRIC_TITLES.values())
    if "purified" in results:
        plot_training(results, figures / "learning_rate.png")
    write_text(path, card)
    return path
