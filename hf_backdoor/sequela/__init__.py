"""Backdoor sequela: how far a repaired model is more exposed to other attacks than before (arXiv 2212.09067).

One module a measure; its name is the measure's name. A measure is a frozen dataclass of its settings. It looks at one
model at a time, and knows nothing of the others or of how they were made; comparing is the report's business.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .. import plugins
from ..exposure import at_least


if TYPE_CHECKING:
    from datasets import Dataset
    from matplotlib.axes import Axes
    from transformers import PreTrainedModel

    from ..data.columns import Columns
    from ..poisoning import PoisonConfig
    from ..tasks import Task

# Beside a model: `Trainer` pushes all that it finds there, but for what begins so, and who was a member is nobody's
# business.
WORK_FOLDER = Path("_sequela")


@dataclass
class Evidence:
    """What all measures of one report work with.

    Attributes:
        task, processor, columns: of the models.
        members (`Dataset`): clean samples that the suspect was trained on, as far as known.
        defense_members (`Dataset`): clean samples that the defence trained on.
        non_members (`Dataset`): samples of the same kind that no model was trained on: a test set.
        attack ([`~hf_backdoor.poisoning.PoisonConfig`], *optional*): the backdoor, where it is known.
        seed (`int`): of everything random.
        folder (`Path`): for what is expensive and shared by the models, such as shadow models, so that a report that
            was interrupted goes on. Answers to single samples are in it.
        batch_size (`int`): of forward passes.
        quiet (`bool`): no progress bars.

    Raises:
        InputError: a negative seed, or no batch.
    """

    task: Task
    processor: Any
    columns: Columns
    members: Dataset
    defense_members: Dataset
    non_members: Dataset
    attack: PoisonConfig | None = None
    seed: int = 0
    folder: Path = WORK_FOLDER
    batch_size: int = 64
    quiet: bool = False

    def __post_init__(self):
        at_least("seed", self.seed, 0)
        at_least("batch_size", self.batch_size, 1)


@contextmanager
def hushed() -> Iterator[None]:
    """No progress bars of datasets, transformers and huggingface_hub inside; as they were after it.

    A report shows how far it is by bars of its own. Bars that somebody forces by an environment variable stay.
    """
    import datasets.utils
    import huggingface_hub.utils
    import transformers.utils.logging as of_transformers

    shown = [module for module in (datasets.utils, huggingface_hub.utils) if not module.are_progress_bars_disabled()]
    loading = of_transformers.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Cannot (dis|en)able progress bars")
        for module in shown:
            module.disable_progress_bars()
        of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        if loading:
            of_transformers.enable_progress_bar()  # and those of huggingface_hub
            huggingface_hub.utils.disable_progress_bars()
        for module in shown:
            module.enable_progress_bars()


@dataclass
class Finding:
    """What one measure says of one model, ready for JSON.

    Attributes:
        values (`dict`): numbers by name; a share lies between 0 and 1.
        intervals (`dict`): 95 % confidence intervals `[low, high]` of those of the values that have one.
        curves (`dict`): for plots; by name, `{"x": [...], "y": [...]}` and whatever else the plot needs.
        notes (`list[str]`): what a reader has to know, such as how few shadow models were used.
    """

    values: dict[str, float | None]
    intervals: dict[str, list[float]] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Measure(plugins.Plugin, ABC):
    """One way in which a model can be exposed.

    Attributes:
        title (`str`): as it stands on a card.
        paper (`str`): where it comes from.
        headline (`dict`): the values that a card shows, with their titles; each is *higher for a more exposed model*
            unless it is named in `higher_is_better`.
        higher_is_better (`tuple` of `str`): the others.
        meaning (`str`): one sentence on what a change means for the owner.
        needs_attack (`bool`): cannot be taken where the backdoor is not known.
        quick (`dict`, *optional*): settings with which it takes seconds on a small model; `None` if there are none, and
            a quick look leaves it out.
    """

    home: ClassVar[str] = __name__
    title: ClassVar[str]
    paper: ClassVar[str]
    headline: ClassVar[dict[str, str]]
    higher_is_better: ClassVar[tuple[str, ...]] = ()
    meaning: ClassVar[str]
    needs_attack: ClassVar[bool] = False
    quick: ClassVar[dict[str, Any] | None] = None

    def prepare(self, models: dict[str, PreTrainedModel], evidence: Evidence) -> None:  # noqa: B027, most need nothing
        """Called once before the models are measured, for what they share; may write into `evidence.folder`.

        Args:
            models: by name: `before`, `after`, and `benign` where there is one.
        """

    @abstractmethod
    def measure(self, model: PreTrainedModel, evidence: Evidence) -> Finding:
        """How exposed a model is.

        Args:
            model: in evaluation mode, on its device; must come out as it went in, bit for bit.

        Raises:
            InputError: the evidence does not suffice.
        """

    def check(self, evidence: Evidence) -> None:  # noqa: B027, most take anything
        """Before anything is computed.

        Raises:
            InputError: the task or the data are not for this measure.
        """

    def draw(self, findings: dict[str, Finding], axes: Axes) -> bool:
        """Draws the curves of all models into one plot.

        Returns:
            Whether there was anything to draw.
        """
        return False


def measure_names() -> list[str]:
    """Names of the measures that come with the package."""
    return plugins.names(__name__)


def load_measure(name: str, **settings: Any) -> Measure:
    """Makes a measure from its name and settings.

    Raises:
        InputError: unknown name or setting.
    """
    return plugins.build(plugins.find(__name__, name, Measure, "measure"), settings, "measure_args")


def quick_measures() -> list[Measure]:
    """The measures of a look that takes seconds on a small model, where all of them take minutes."""
    measures = (plugins.find(__name__, name, Measure, "measure") for name in measure_names())
    return [measure(**measure.quick) for measure in measures if measure.quick is not None]
