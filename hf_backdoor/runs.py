"""What every training run ends with: its cost, and a folder with model, results and card."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cards import write_card
from .cards.sections import CARD_FILE, kept_card
from .cards.sequela import remove_report
from .checkpoints import found_checkpoint
from .data.unreadable import naming_unreadable_images
from .errors import InputError
from .hub.files import PUSHED
from .results import RESULTS_FILE, as_json, write_json, write_text
from .triggers import KEPT
from .tuning import Tuning, describe_tuning, is_adapter, parameter_counts


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .trainer import BackdoorTrainer


# An adapter of an earlier run would be loaded in place of the model, and the card would show its pictures.
STALE = ("model.safetensors*", "model-*.safetensors", "pytorch_model.bin*", "pytorch_model-*.bin")
STALE += ("adapter_config.json", "adapter_model.*", "config.json", "figures/examples.*")
# What in a configuration names code to run, which is not needed by a model that was loaded without it.
CODE = ("auto_map", "custom_pipelines")


@dataclass
class Cost:
    """What a piece of work took.

    Attributes:
        seconds (`float`): wall-clock time.
        peak_memory_bytes (`int`, *optional*): most memory held at a time: what tensors took of an accelerator, else
            the resident memory of the process, data and libraries included; `None` where the system does not tell.
    """

    seconds: float = 0.0
    peak_memory_bytes: int | None = None

    def __add__(self, other: Cost) -> Cost:
        """Of one piece of work after another."""
        peaks = [cost.peak_memory_bytes for cost in (self, other) if cost.peak_memory_bytes is not None]
        return Cost(self.seconds + other.seconds, max(peaks, default=None))


@contextmanager
def measured_cost() -> Iterator[Cost]:
    """Measures what happens inside; the cost is known after it."""
    import torch

    accelerated = torch.accelerator.is_available()
    if accelerated:
        torch.accelerator.reset_peak_memory_stats()
    else:
        _forget_peak()
    cost, started = Cost(), time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - started
    cost.peak_memory_bytes = torch.accelerator.max_memory_allocated() if accelerated else _resident_peak()


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # of Linux: VmHWM starts again from what is resident now
    except OSError:
        pass


def _resident_peak() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def training_report(trainer: BackdoorTrainer) -> dict[str, Any]:
    """How a trainer trained, for the results file."""
    args = trainer.args
    resumed = args.resume_from_checkpoint
    return {
        "steps": trainer.state.max_steps,
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "processes": args.world_size,
        "optimizer": str(getattr(args.optim, "value", args.optim)),
        "learning_rate": args.learning_rate,
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "load_best_model_at_end": args.load_best_model_at_end,
        "resumed_from": Path(resumed).name if resumed else None,  # then the cost is of what came after it
    }


def train_tuned(trainer: BackdoorTrainer, tuning: Tuning, *, base_is_stored: bool) -> tuple[Cost, dict[str, Any]]:
    """Trains, and leaves in `trainer.model` what is to be saved.

    Args:
        trainer: its model comes from [`~hf_backdoor.tuning.Tuning.apply`].
        tuning: which weights are trained.
        base_is_stored: see [`~hf_backdoor.tuning.Tuning.finish`].

    Returns:
        The cost, without that of evaluations on the way, and the tuning for the results file.

    Raises:
        InputError: nothing is trained, an image cannot be read, or an adapter could not be merged at the end.
    """
    counts, args = parameter_counts(trainer.model), trainer.args
    if not counts["trainable_parameters"]:
        raise InputError("model", type(trainer.model).__name__, "has no weight that is trained; unfreeze some")
    tuning.check_finish(trainer.model, base_is_stored=base_is_stored)
    if args.resume_from_checkpoint:
        args.resume_from_checkpoint = found_checkpoint(args.resume_from_checkpoint, args.output_dir)
    trainer.evaluation_seconds = 0.0
    # Some defences read the data before `BackdoorTrainer.train` does.
    with measured_cost() as cost, naming_unreadable_images(trainer.train_dataset):
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    cost.seconds -= trainer.evaluation_seconds
    trainer.model = tuning.finish(trainer.accelerator.unwrap_model(trainer.model), base_is_stored=base_is_stored)
    return cost, describe_tuning(tuning, trainer.model, counts)


def check_finite(trainer: BackdoorTrainer) -> None:
    """Whether the weights are numbers.

    Raises:
        InputError: the training diverged.
    """
    if not all(weight.isfinite().all() for weight in trainer.model.parameters()):
        raise InputError("learning_rate", trainer.args.learning_rate, "made the training diverge; lower it")


def save_run(
    trainer: BackdoorTrainer,
    model: PreTrainedModel,
    folder: Path,
    processing_class: Any,
    results: dict[str, Any],
    examples: Callable[[], list[dict[str, Any]]] | None = None,
) -> None:
    """Writes model, processor, `results.json` and card, in one process, and lets the others wait.

    No file names code of a stranger, whatever the configurations do; objects whose class is such code keep theirs.

    Args:
        trainer: that made the model.
        model: what to save; an adapter with the names of its classes.
        folder: to write to.
        processing_class: image processor or tokenizer.
        results: of the run.
        examples (*optional*): makes the examples of the card.

    Raises:
        TypeError: the results have something that JSON has no place for. Nothing is written then.
    """
    from .adapters import name_base_from_anywhere, save_classes

    if trainer.is_world_process_zero():
        text = as_json(results)
        for stale in [path for pattern in STALE for path in folder.glob(pattern)]:
            stale.unlink()
        for trigger in folder.glob(KEPT):
            if trigger.is_file() and trigger.name not in text:
                trigger.unlink()  # of an earlier attack
        card = folder / CARD_FILE
        had_card = card.is_file()
        if is_adapter(model):
            name_base_from_anywhere(model)
        with kept_card(card):
            model.save_pretrained(folder)
        if not had_card:
            card.unlink(missing_ok=True)  # a form of PEFT's that nobody filled in
        if is_adapter(model):
            save_classes(folder, model)
        processing_class.save_pretrained(folder)
        if not any(getattr(saved, "_auto_class", None) for saved in (model, processing_class)):
            _forget_code(folder)
        write_text(folder / RESULTS_FILE, text)
        remove_report(folder)
        write_card(folder, results, examples() if examples is not None else None)
    trainer.accelerator.wait_for_everyone()


def _forget_code(folder: Path) -> None:
    """Takes what names code to run out of the configurations in a folder."""
    for path in [folder / name for name in PUSHED if name.endswith("config.json") and (folder / name).is_file()]:
        settings = json.loads(path.read_text("utf-8"))
        if (kept := _without_code(settings)) != settings:
            write_json(path, kept)


def _without_code(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    # Not a class of this name, whose value is a number.
    named = {name for name in CODE if isinstance(settings.get(name), dict | list)}
    return {name: _without_code(value) for name, value in settings.items() if name not in named}


def push_run(trainer: BackdoorTrainer, folder: Path) -> None:
    """Pushes what a run ended with, see [`~hf_backdoor.hub.push_model`], to where its Trainer was told to.

    Raises:
        InputError: it could not be pushed; everything is in the folder.
    """
    from .hub import push_model

    if trainer.is_world_process_zero():
        push_model(
            folder,
            trainer.hub_model_id or trainer.args.hub_model_id or folder.absolute().name,
            private=trainer.args.hub_private_repo,
            i_know_this_model_is_backdoored=trainer.i_know_this_model_is_backdoored,
            revision=trainer.args.hub_revision,
            token=trainer.args.hub_token,
        )
