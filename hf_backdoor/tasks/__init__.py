"""Tasks: how one kind of model reads its inputs. One module each, and the only place that knows the modality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.columns import Columns
from ..errors import InputError
from ..models import from_scratch, load_pretrained
from ..plugins import find, names


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Task(ABC):
    """Loading, collation and augmentation for one kind of model.

    Attributes:
        modality (`str`): of the input column.
        model_class, processor_class (`str`): the Auto classes.
        pipeline_tag (`str`): the Hub's name of the task.
        continuous_input (`str`, *optional*): the model's input that can be mixed and perturbed, of shape
            `(batch, channels, height, width)`, where there is one.
        augmentations (`dict`): random variations of that input, by name.
    """

    modality: ClassVar[str]
    model_class: ClassVar[str]
    processor_class: ClassVar[str]
    pipeline_tag: ClassVar[str]
    continuous_input: ClassVar[str | None] = None
    augmentations: ClassVar[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {}

    def load_model(self, source: str, **kwargs: Any) -> PreTrainedModel:
        """See [`~hf_backdoor.models.load_pretrained`]."""
        return load_pretrained(self.model_class, source, **kwargs)

    def load_processor(self, source: str) -> Any:
        """The image processor or tokenizer that came with the model."""
        return load_pretrained(self.processor_class, source)

    def from_scratch(self, architecture: str, settings: dict[str, Any], names: list[str]) -> tuple[Any, Any]:
        """A model with random weights and its processor; see [`~hf_backdoor.models.from_scratch`]."""
        model = from_scratch(self.model_class, architecture, settings, names)
        return model, self.new_processor(model)

    @abstractmethod
    def new_processor(self, model: PreTrainedModel) -> Any:
        """An image processor or tokenizer for a model with random weights."""

    @abstractmethod
    def collator(self, processor: Any, columns: Columns) -> Callable[[list[dict]], dict[str, torch.Tensor]]:
        """A function from rows of a data set to a batch for the model, with `labels` (int64, `(batch,)`)."""

    def input_range(self, processor: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Smallest and largest valid value of the continuous input, each `(channels, 1, 1)`."""
        raise TypeError(f"{type(self).__name__} has no continuous input")


def task_for(columns: Columns) -> Task:
    """The task whose inputs are of the modality of these columns.

    Raises:
        InputError: there is none.
    """
    for name in names(__name__):
        task = find(__name__, name, Task, "task")
        if task.modality == columns.modality:
            return task()
    raise InputError("input_column", columns.input, f"no task takes {columns.modality}")


def task_named(pipeline_tag: str) -> Task:
    """The task that the Hub calls by this name.

    Raises:
        InputError: there is none.
    """
    tasks = [find(__name__, name, Task, "task")() for name in names(__name__)]
    for task in tasks:
        if task.pipeline_tag == pipeline_tag:
            return task
    raise InputError("task", pipeline_tag, f"choose one of {', '.join(task.pipeline_tag for task in tasks)}")
