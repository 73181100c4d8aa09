"""`BackdoorTrainer`: a Trainer that reports clean accuracy, attack success rate and robust accuracy."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import is_compiled_module
from transformers import TrainingArguments
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from .by_length import BatchesByLength
from .cards.sections import CARD_FILE, kept_card
from .checkpoints import ReliableCheckpoints
from .data.columns import ADDED_LABEL, Columns, check_dataset, resolve_columns
from .data.flags import decoded, has_bare_images, has_poison, is_prepared, selected, unformatted
from .data.unreadable import naming_unreadable_images
from .errors import InputError
from .hub.cards import keep_sections_of_hub, mark_victim
from .hub.commits import UnsavedToken, is_private, public_refused
from .hub.victims import victim_refused
from .metrics import attack_success_rate, clean_accuracy, robust_accuracy
from .tasks import Task, task_for


logger = logging.get_logger(__name__)


# Settings of `TrainingArguments` that would change what is measured, or the model that is.
REFUSED = {
    "batch_eval_metrics": "the measures need all predictions at once",
    "bf16_full_eval": "an evaluation would turn the weights themselves into bfloat16",
    "fp16_full_eval": "an evaluation would turn the weights themselves into float16",
}


def predicted_classes(predictions: Any) -> np.ndarray:
    """Classes, int64 `(samples,)`, from what `Trainer.predict` returns: logits, class numbers, or a tuple with one."""
    scores = predictions[0] if isinstance(predictions, tuple) else predictions
    return scores.argmax(-1) if scores.ndim > 1 else scores


def true_classes(label_ids: Any) -> np.ndarray | None:
    """Classes, int64 `(samples,)`, from the labels that `Trainer` gathers, the first of several; `None` if none are."""
    labels = label_ids[0] if isinstance(label_ids, tuple) else label_ids
    return labels if np.ndim(labels) == 1 else None


def mean_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """In nats, of float `(samples, classes)` and int `(samples,)`."""
    return torch.nn.functional.cross_entropy(torch.from_numpy(logits).float(), torch.from_numpy(labels).long()).item()


class BackdoorTrainer(BatchesByLength, ReliableCheckpoints):
    """Trains a victim (or anything else) and measures the backdoor at every evaluation.

    Everything a `transformers.Trainer` does works here. On top:

    - `eval_clean_accuracy`, `eval_attack_success_rate` and `eval_robust_accuracy` come from two passes: the clean set
      once, the triggered set once. Any of them can be `metric_for_best_model`.
    - `eval_loss` is the mean over samples, whatever the number of processes.
    - Texts of like length are evaluated together, since padding would double the work; the results keep the order of
      the data. `train_sampling_strategy="group_by_length"` needs no column of lengths.
    - Evaluation draws no random number of the training run: with or without it, the trained weights are the same.
    - Checkpoints restore ViT-family models too.
    - Data sets with an `Image` or string column need no preparation: the processor is applied when a batch is made.
      One that is prepared already, by `map` or `with_transform`, is taken as `Trainer` takes it.

    Args:
        model, args, train_dataset, eval_dataset, processing_class, ...: as for `Trainer`. `eval_dataset` is the clean
            test set.
        triggered_dataset (`Dataset`, *optional*): made by [`~hf_backdoor.poisoning.triggered`]; has `original_label`.
        augmentations (`list[str]`, *optional*): variations to train with, by the names that the task gives them, e.g.
            `["horizontal_flip"]`. Evaluation is without.
        input_column, label_column (`str`, *optional*): found when not given. Not used with a `data_collator`.
        task ([`~hf_backdoor.tasks.Task`] or `str`, *optional*): what the model is for, e.g.
            `"zero-shot-image-classification"`; by the kind of data when not given. Not used with a `data_collator`.
        victim (`bool`, *optional*): whether the model is being backdoored; by default, whether a row of the training
            set is poisoned.
        i_know_this_model_is_backdoored (`bool`): allows a victim to be pushed to the Hub: privately unless
            `hub_private_repo` is `False`, and with a warning and a tag on its card.

    Raises:
        InputError: the columns are not there, or the task does not take them; or a victim is to be pushed, and nobody
            said that it may.

    A task with a loss of its own, such as a contrastive one, compares the samples of one micro-batch: accumulated
    batches and several processes are then not the same as one large batch.

    Example:

    ```python
    config = PoisonConfig(load_trigger("badnets"), target_label=0, rate=0.1)
    trainer = BackdoorTrainer(
        model,
        TrainingArguments("victim"),
        train_dataset=poison(data["train"], config),
        eval_dataset=data["test"],
        triggered_dataset=triggered(data["test"], config),
        processing_class=image_processor,
    )
    trainer.train()
    ```
    """

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        *,
        triggered_dataset: Any = None,
        augmentations: Sequence[str] = (),
        input_column: str | None = None,
        label_column: str | None = None,
        task: Task | str | None = None,
        victim: bool | None = None,
        i_know_this_model_is_backdoored: bool = False,
        **kwargs: Any,
    ):
        if triggered_dataset is not None:
            check_dataset(triggered_dataset, "triggered_dataset")
        args = TrainingArguments("trainer_output") if args is None else copy.copy(args)  # Trainer's own default
        self._victim, self.i_know_this_model_is_backdoored = victim, i_know_this_model_is_backdoored
        self.triggered_dataset = triggered_dataset
        self.evaluation_seconds = 0.0
        self._triggered_pass_due = False
        self._triggered_loaders: dict[str, Any] = {}
        self._still: list[torch.nn.Module] = []  # frozen batch normalisation, whose statistics are not to move either
        self.triggered_predictions: np.ndarray | None = None
        some_dataset = next(
            (kwargs[name] for name in ("train_dataset", "eval_dataset") if kwargs.get(name) is not None),
            triggered_dataset,
        )
        if isinstance(some_dataset, dict):
            some_dataset = next(iter(some_dataset.values()))
        some_dataset = selected(some_dataset)
        self.columns: Columns | None = None
        self.task: Task | None = None
        if kwargs.get("data_collator") is None and hasattr(some_dataset, "features") and not is_prepared(some_dataset):
            self.columns = resolve_columns(some_dataset.features, input_column, label_column)
            self.task = task_for(self.columns, task)
            self.task.prepare(kwargs.get("processing_class"), self.columns, some_dataset)
            args.remove_unused_columns = False  # the collator reads the image or the text
            kwargs |= {name: decoded(kwargs.get(name)) for name in ("train_dataset", "eval_dataset")}
            self.triggered_dataset = decoded(triggered_dataset)
        elif kwargs.get("data_collator") is None and not hasattr(some_dataset, "features"):
            if any(map(has_bare_images, (kwargs.get("eval_dataset"), triggered_dataset))):
                raise InputError(
                    "train_dataset", type(some_dataset).__name__, "has no columns by which the images of the other "
                    "data sets could be prepared; give a Dataset (concatenate_datasets makes one), or a data_collator"
                )  # fmt: skip
        for name, why in REFUSED.items():
            if getattr(args, name):
                raise InputError(name, True, f"{why}; leave it out")
        if args.n_gpu > 1:
            # DataParallel would split batches whose samples are compared with each other.
            logger.warning("Using one of %d accelerators; `accelerate launch` uses them all.", args.n_gpu)
            args._n_gpu = 1
        self.augmentations = tuple(augmentations)
        for name in self.augmentations:
            if self.columns is None or name not in self.task.augmentations:
                known = ", ".join(self.task.augmentations) if self.columns else "none, with a data_collator of your own"
                raise InputError("augmentations", name, f"this task has {known or 'none'}")
        super().__init__(model, args, **kwargs)
        if self.task is not None:  # with the model, which may have been made only now
            self.task.adapt_model(self.accelerator.unwrap_model(self.model), self.processing_class)
            self.data_collator = self.task.collator(self.processing_class, self.columns, self.model)
        self.check_sampling_strategy(some_dataset)  # a wrong setting is refused before anything else
        if self.args.hub_token is not None:
            self.args.hub_token = UnsavedToken(self.args.hub_token)
        # BERT and others take `num_items_in_batch` and ignore it, and Trainer then does not divide accumulated losses.
        # Without it, every model's loss is the mean of a micro-batch, and Trainer divides.
        self.model_accepts_loss_kwargs = False
        # A few models take no labels, such as DeiT with its distillation token.
        self._task_has_loss = self.task is not None and (self.task.own_loss or not self.label_names)
        if self._task_has_loss:
            self.label_names = ["labels"]
            self.loss_is_scaled_for_ga = False
            if self.args.label_smoothing_factor or self.compute_loss_func is not None:
                name = "label_smoothing_factor" if self.args.label_smoothing_factor else "compute_loss_func"
                raise InputError(
                    name, getattr(self.args, name, None), f"the loss of {self.task.pipeline_tag} for a "
                    f"{type(self.model).__name__} is that of the task, which takes none; leave it out"
                )  # fmt: skip
            if self.args.per_device_train_batch_size < self.task.smallest_batch:
                raise InputError(
                    "per_device_train_batch_size", self.args.per_device_train_batch_size, f"the loss of "
                    f"{self.task.pipeline_tag} compares samples; raise it to {self.task.smallest_batch} or more"
                )  # fmt: skip

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As `Trainer.compute_loss`, with [`~BackdoorTrainer.training_loss`] where there is one."""
        if model.training:
            for module in self._still:
                module.eval()
            loss = self.training_loss(model, inputs)
            if loss is not None:
                return (loss, {}) if return_outputs else loss
        if not self._task_has_loss:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = self.task.outputs(self.accelerator.unwrap_model(model), inputs)
        loss = torch.nn.functional.cross_entropy(outputs["logits"].float(), inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    def training_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor | None:
        """The mean loss of a training batch, where it is not the model's own; a subclass sets it, or the task."""
        return self.task.loss(model, inputs) if self._task_has_loss else None

    def training_collator(self) -> Callable[[list[dict]], dict[str, Any]]:
        """What makes a batch for training; evaluation keeps the task's collator."""
        return self.data_collator

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; callbacks with an attribute `task` are told it if the loss is the task's.

        Those with an attribute `still` are told which parts of the model are kept in evaluation mode.
        """
        model = self.accelerator.unwrap_model(self.model)
        if is_compiled_module(self.model_wrapped):  # by an evaluation; the training compiles it anew
            self.model_wrapped = self.model
        if self.model_wrapped is self.model:
            # An evaluation marks the model as prepared, and processes would then train it each on their own.
            for module in model.modules():
                module.__dict__.pop("_is_accelerate_prepared", None)
            self.accelerator._models.clear()
        self._still = [
            module
            for module in model.modules()
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
            and not any(weight.requires_grad for weight in module.parameters())
        ]
        told = {"task": self.task if self._task_has_loss else None, "still": self._still}
        for callback in self.callback_handler.callbacks:
            for name in [name for name in told if hasattr(callback, name)]:
                setattr(callback, name, told[name])
        with naming_unreadable_images(self.train_dataset):
            return super().train(*args, **kwargs)

    def callback_of(self, kind: type) -> Any:
        """Its callback of a kind that it has."""
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, kind))

    @property
    def victim(self) -> bool:
        """Whether the model is being backdoored."""
        if self._victim is not None:
            return self._victim
        return has_poison(self.train_dataset)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As `Trainer.init_hf_repo`; for a victim, privately unless told otherwise.

        Raises:
            InputError: it is a victim, and nobody said that it may be pushed, or the repository is public already.
        """
        if not self.victim:
            return super().init_hf_repo(token, private)
        self._refuse_victim()
        told = self.args.hub_private_repo if private is None else private
        super().init_hf_repo(token, told is not False)
        if told is not False and self.hub_model_id is not None:
            name, folder = self.hub_model_id, self.args.output_dir
            if not is_private(name, token or self.args.hub_token):
                self.hub_model_id = None
                raise public_refused(
                    "hub_model_id", name, "a model with a backdoor is", f"what there is is in {folder}"
                )
        return None

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.push_to_hub`.

        Raises:
            InputError: see [`~BackdoorTrainer.init_hf_repo`].
        """
        self._refuse_victim()
        return super().push_to_hub(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero() and self.victim:
            self._refuse_victim()
            path = Path(self.args.output_dir) / CARD_FILE
            mark_victim(path)  # else it would be there without a card until the end
            keep_sections_of_hub(path, self.hub_model_id, self.args.hub_revision, self.args.hub_token)
        super()._push_from_checkpoint(checkpoint_folder)

    def _refuse_victim(self) -> None:
        if self.victim and not self.i_know_this_model_is_backdoored:
            raise victim_refused(self.args.output_dir)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """As `Trainer.create_model_card`, but a card of hf_backdoor stays, and so do its sections in any other card."""
        if not self.is_world_process_zero():
            return
        path = Path(self.args.output_dir) / CARD_FILE
        with kept_card(path):
            super().create_model_card(*args, **kwargs)
        if self.hub_model_id is not None:
            keep_sections_of_hub(path, self.hub_model_id, self.args.hub_revision, self.args.hub_token)
        if self.victim:
            mark_victim(path)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As `Trainer._save`, in which PEFT writes over the card; that of a victim says what it is."""
        path = Path(output_dir or self.args.output_dir) / CARD_FILE
        with kept_card(path):
            super()._save(output_dir, state_dict)
        if self.is_world_process_zero() and self.victim:
            mark_victim(path)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        usual, self.data_collator = self.data_collator, self.training_collator()
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = usual

    @contextmanager
    def _dropping_nothing(self) -> Iterator[None]:
        """`dataloader_drop_last` is a matter of training."""
        told, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = told

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        with self._dropping_nothing():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        with self._dropping_nothing():
            return super().get_test_dataloader(*args, **kwargs)

    def augment(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch under the chosen augmentations, drawn from torch's global generator."""
        for name in self.augmentations:
            field = self.task.continuous_input
            inputs = {**inputs, field: self.task.augmentations[name](inputs[field])}
        return inputs

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        return super().training_step(model, self.augment(self._prepare_inputs(inputs)), num_items_in_batch)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """As `Trainer.evaluate`; the triggered set joins in unless another data set is given.

        Of several evaluation sets each is evaluated, and then the triggered set.
        """
        if not self.args.eval_do_concat_batches:
            raise InputError("eval_do_concat_batches", False, f"{REFUSED['batch_eval_metrics']}; leave it out")
        started, several, outermost = time.perf_counter(), isinstance(self.eval_dataset, dict), not self._sorting
        due = eval_dataset is None and self.triggered_dataset is not None
        self._triggered_pass_due = due and not several
        with torch.random.fork_rng():
            try:
                metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
            finally:
                self._triggered_pass_due = False  # after an error, too
            if due and several:
                self._prepare_task(next(iter(self.eval_dataset.values())), self.triggered_dataset)
                attack = self.attack_metrics(ignore_keys)
                attack = {f"{metric_key_prefix}_{name}": value for name, value in attack.items()}
                self.log(attack)
                metrics |= attack
        if outermost:
            self.evaluation_seconds += time.perf_counter() - started
        return metrics

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        attacked = self.triggered_dataset if self._triggered_pass_due else None
        self._prepare_task(getattr(dataloader, "dataset", None), attacked)
        with naming_unreadable_images(getattr(dataloader, "dataset", None)):
            output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        labels = true_classes(output.label_ids)
        if description == "Prediction" or labels is None:
            if self._triggered_pass_due:
                logger.warning_once("No attack is measured: there is not one label, a class, for each sample.")
            return output
        classes = predicted_classes(output.predictions)
        output.metrics[f"{metric_key_prefix}_clean_accuracy"] = clean_accuracy(classes, labels)
        logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
        if logits.ndim == 2:
            # Trainer averages batch means, and counts the samples that pad the last round of processes.
            output.metrics[f"{metric_key_prefix}_loss"] = mean_cross_entropy(logits, labels)
        if self.task is not None:
            more = self.task.measures(output.predictions, dataloader.dataset)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in more.items()})
        if self._triggered_pass_due:
            self._triggered_pass_due = False
            attack = self.attack_metrics(ignore_keys)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in attack.items()})
            output = output._replace(num_samples=output.num_samples + len(self.triggered_dataset))
        return output

    def _prepare_task(self, dataset: Any, attacked: Any) -> None:
        if self.task is not None:
            self.task.prepare_evaluation(self.accelerator.unwrap_model(self.model), dataset, attacked)

    def _triggered_loader(self) -> Any:
        """With persistent workers `get_eval_dataloader` keeps one loader for all sets: so this one is kept apart."""
        kept = getattr(self, "_eval_dataloaders", {})
        self._eval_dataloaders = self._triggered_loaders
        try:
            return self.get_eval_dataloader(self.triggered_dataset)
        finally:
            self._eval_dataloaders = kept

    def attack_metrics(self, ignore_keys: list[str] | None = None) -> dict[str, float]:
        """One pass over the triggered set: `attack_success_rate` and `robust_accuracy`."""
        user_metrics, self.compute_metrics = self.compute_metrics, None
        try:
            with self.sorted_by_length():
                loader = self._triggered_loader()
                output = super().evaluation_loop(loader, "Triggered evaluation", False, ignore_keys, "triggered")
        finally:
            self.compute_metrics = user_metrics
        classes = self.triggered_predictions = predicted_classes(output.predictions)
        truth = unformatted(self.triggered_dataset)[ADDED_LABEL]
        truth = np.asarray(truth if self.task is None else self.task.label_numbers(truth))
        targets = true_classes(output.label_ids)
        return {
            "attack_success_rate": attack_success_rate(classes, truth, targets),
            "robust_accuracy": robust_accuracy(classes, truth, targets),
        }
