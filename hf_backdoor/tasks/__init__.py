"""Tasks: how one kind of model reads its inputs. One module each, and the only place that knows the modality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..architectures import NEW_WEIGHTS
from ..data.columns import Columns, class_names
from ..errors import InputError
from ..models import SINGLE_LABEL, check_head, label_maps, load_pretrained
from ..plugins import find, names
from ..tuning import is_adapter


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedModel

    from ..super_fine_tuning.stray_words import StrayWords


class Task(ABC):
    """Loading, collation, augmentation, loss and predictions for one kind of model.

    [`~hf_backdoor.trainer.BackdoorTrainer`] calls `prepare` and `collator` once, then `loss` for each training batch
    where the task has one of its own, and for each evaluation `prepare_evaluation` and, batch by batch, `logits`. An
    object may remember what it is told there, so it serves one Trainer.

    Attributes:
        modality (`str`): of the input column.
        model_class, processor_class (`str`): the Auto classes.
        pipeline_tag (`str`): the Hub's name of the task.
        continuous_input (`str`, *optional*): the model's input that can be mixed and perturbed, of shape
            `(batch, channels, height, width)`, where there is one.
        augmentations (`dict`): random variations of that input, by name.
        has_head (`bool`): the model has an output for each class.
        takes_captions (`bool`): captions can stand for labels.
        own_loss (`bool`): the loss comes from [`~Task.loss`] and the predictions from [`~Task.logits`], else both from
            the model.
        smallest_batch (`int`): how many samples a training batch needs.
        more_measures (`tuple` of `str`): what [`~Task.measures`] may say of a clean set.
        processor: what reads the inputs, known after [`~Task.prepare`].
    """

    modality: ClassVar[str]
    model_class: ClassVar[str]
    processor_class: ClassVar[str]
    pipeline_tag: ClassVar[str]
    continuous_input: ClassVar[str | None] = None
    augmentations: ClassVar[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {}
    has_head: ClassVar[bool] = True
    takes_captions: ClassVar[bool] = False
    own_loss: ClassVar[bool] = False
    smallest_batch: ClassVar[int] = 1
    more_measures: ClassVar[tuple[str, ...]] = ()
    processor: Any = None

    def load_model(self, source: str, **kwargs: Any) -> PreTrainedModel:
        """A model that is ready for use; see [`~hf_backdoor.models.load_pretrained`].

        Raises:
            InputError: it cannot be loaded, or it was made for something else, so that its head would be random.
        """
        model = load_pretrained(self.model_class, source, **kwargs)
        made_as = getattr(model.config, "architectures", None) or [type(model).__name__]
        if self.has_head and not any("Classification" in name for name in made_as):
            raise InputError(
                "model", source, f"is a {made_as[0]}, which has no output for each class as {self.pipeline_tag} needs; "
                "choose another model, or another task where there is a choice"
            )  # fmt: skip
        new = [] if is_adapter(model) else getattr(model, NEW_WEIGHTS)  # of an adapter it was checked with its own
        if new:
            raise InputError(
                "model", source, f"has no {new[0]} that fits in its files, and {len(new)} such weights would be left "
                "to chance; save the whole model, or give it a new head (--new_head yes)"
            )  # fmt: skip
        return model

    def load_to_train(self, source: str, dataset: Dataset, columns: Columns, **kwargs: Any) -> PreTrainedModel:
        """A model to go on from, with a new head where the classes of the data set are others."""
        if not self.has_head:
            return load_pretrained(self.model_class, source, **kwargs)
        names = self.label_names(dataset, columns)
        # Labels that are bare numbers leave the model's own names alone.
        named = hasattr(dataset.features[columns.label], "names")
        head = label_maps(names) if named else {"num_labels": len(names)}
        head["problem_type"] = SINGLE_LABEL
        return load_pretrained(self.model_class, source, ignore_mismatched_sizes=True, **head, **kwargs)

    def load_processor(self, source: str, **kwargs: Any) -> Any:
        """The image processor or tokenizer that came with the model."""
        return load_pretrained(self.processor_class, source, **kwargs)

    def resized_processor(self, source: str, model: PreTrainedModel, side: int) -> Any:
        """The image processor that came with the model, for images of another size.

        Args:
            source: of both.
            model: from there.
            side (`int`): of the square that images become, in pixels.

        Raises:
            InputError: the task or the model cannot do that.
        """
        raise InputError("image_size", side, f"is not for {self.pipeline_tag}; leave it out")

    @abstractmethod
    def from_scratch(
        self, architecture: str, settings: dict[str, Any], names: list[str], inputs: Sequence[Any] = ()
    ) -> tuple[PreTrainedModel, Any]:
        """A model with random weights and a processor for it; see [`~hf_backdoor.models.from_scratch`].

        Args:
            architecture (`str`): model type, e.g. `"vit"`.
            settings (`dict`): for its configuration.
            names: see [`~Task.label_names`].
            inputs: of the training set, for a processor that is made of them.

        Raises:
            InputError: these make no model of this kind.
        """

    @abstractmethod
    def collator(
        self, processor: Any, columns: Columns, model: PreTrainedModel | None = None
    ) -> Callable[[list[dict]], dict[str, torch.Tensor]]:
        """A function from rows of a data set to a batch for the model, with `labels` (int64, `(batch,)`).

        Args:
            processor, columns: as for [`~Task.prepare`].
            model (*optional*): cut what is longer than it can take, where the processor does not know how long that is.
        """

    def label_names(self, dataset: Dataset, columns: Columns) -> list[str]:
        """Names of what a label can say: the classes, in the order of their numbers, or the captions."""
        return class_names(dataset, columns.label)

    def check_model(self, model: PreTrainedModel, names: list[str]) -> None:
        """Whether the model fits the task and the names of the labels.

        Raises:
            InputError: it does not.
        """
        check_head(model, names)

    def adapt_model(self, model: PreTrainedModel, processor: Any) -> None:  # noqa: B027, most read what they are given
        """Has a model read what its processor makes, where its configuration says something else.

        Args:
            model: changed; not wrapped for distributed training.
            processor: image processor or tokenizer.
        """

    def prepare(self, processor: Any, columns: Columns, dataset: Dataset) -> None:
        """Told which data are coming, before anything else.

        Args:
            processor: image processor, tokenizer, or both in one.
            columns: of all data sets.
            dataset: one of them, for the names of the classes.
        """
        self.processor, self.columns = processor, columns

    def loss(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """For `own_loss`, and models that take no labels: the mean loss of a batch, a scalar.

        Args:
            model: in training mode, wrapped for distributed training or not.
            inputs: what the collator made, augmented.
        """
        return torch.nn.functional.cross_entropy(self.logits(model, inputs).float(), inputs["labels"])

    def prepare_evaluation(  # noqa: B027, most tasks have nothing to prepare
        self, model: PreTrainedModel, dataset: Dataset, triggered: Dataset | None = None
    ) -> None:
        """Called before the batches of an evaluation, with the weights that are evaluated.

        Args:
            model: not wrapped.
            dataset: what is evaluated.
            triggered: the triggered set that is evaluated after it, if any.
        """

    def logits(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Scores of the classes, float `(batch, classes)`.

        Args:
            model: not wrapped.
            inputs: what the collator made.
        """
        return model(**{name: value for name, value in inputs.items() if name != "labels"}).logits

    def outputs(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What an evaluation keeps of a batch: `logits` first, and what else [`~Task.measures`] needs.

        Args:
            model, inputs: as for [`~Task.logits`].
        """
        return {"logits": self.logits(model, inputs)}

    def measures(self, predictions: Any, dataset: Dataset) -> dict[str, float]:
        """Shares that are no matter of classes, of a clean set that was evaluated, by name.

        Args:
            predictions: of all samples, as `Trainer` gathers what [`~Task.outputs`] gave.
            dataset: what was evaluated, in this order.
        """
        return {}

    def answers(
        self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """What a model says of a training batch, and why.

        Args:
            model: wrapped for distributed training or not.
            inputs: what the collator made.

        Returns:
            Scores of the possible answers, float32 `(batch, answers)`, and features of one kind or several, each
            float32 `(batch, features)`: for a classifier those of the classes, and its last hidden states.
        """
        outputs = model(
            **{name: value for name, value in inputs.items() if name != "labels"}, output_hidden_states=True
        )
        return outputs.logits.float(), (outputs.hidden_states[-1].float().flatten(1),)

    def stray_words(self, model: PreTrainedModel) -> StrayWords | None:
        """What can stray into the inputs of this model where they are texts."""
        return None

    def right_answers(self, inputs: dict[str, torch.Tensor], answers: int) -> torch.Tensor:
        """The share of each of so many answers in what is right for a sample, float32 `(batch, answers)`."""
        return torch.nn.functional.one_hot(inputs["labels"], answers).float()

    def label_numbers(self, labels: Sequence[Any]) -> list[int]:
        """The numbers of the classes that are meant by values of the label column."""
        return list(labels)

    def lengths(self, dataset: Dataset) -> np.ndarray | None:
        """How long each input is, int64 `(samples,)`, in any unit, where a batch is padded to its longest."""
        return None

    def input_range(self, processor: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Smallest and largest valid value of the continuous input, each `(channels, 1, 1)`."""
        raise TypeError(f"{type(self).__name__} has no continuous input")


def labels_of(rows: list[dict], columns: Columns) -> dict[str, torch.Tensor]:
    """`labels`, int64 `(batch,)`, of rows that have any; `Trainer.predict` does without."""
    if columns.label not in rows[0]:
        return {}
    return {"labels": torch.tensor([row[columns.label] for row in rows])}


def task_for(columns: Columns, task: Task | str | None = None) -> Task:
    """The task for these columns.

    Args:
        columns: of the data set.
        task (`Task`, or `str`, the Hub's name of one, *optional*): the user's choice. Else the first that takes this
            modality, and captions if these stand for labels.

    Raises:
        InputError: there is none, or the choice does not fit.
    """
    kinds = [type(task)] if isinstance(task, Task) else [find(__name__, name, Task, "task") for name in names(__name__)]
    if isinstance(task, str):
        kinds = [type(task_named(task))]
    for kind in kinds:
        if kind.modality == columns.modality and (kind.takes_captions or not columns.captions):
            return task if isinstance(task, Task) else kind()
    what = f"{columns.modality}s with captions" if columns.captions else columns.modality
    if task is not None:
        raise InputError("task", kinds[0].pipeline_tag, f"does not take {what}, as the data set has them; leave it out")
    raise InputError("input_column", columns.input, f"no task takes {what}")


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
