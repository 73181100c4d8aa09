"""Training a victim and the network that makes its trigger together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from ..checkpoints import state_file
from ..errors import InputError
from ..modalities.image import to_array
from ..pixel_model import PixelTransform, quantised
from .batches import InLoopTrainer
from .networks import InputAwareNet, LiraNet, TriggerNet


STATE_FILE = "trigger_training.pt"
BETAS = (0.5, 0.9)  # of Adam, as the authors of Input-aware


class ImagesCollator:
    """Raw images, uint8 `(batch, channels, height, width)`, and labels, int64 `(batch,)`."""

    def __init__(self, columns: Any):
        self.columns = columns

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        arrays = [torch.tensor(to_array(row[self.columns.input])).permute(2, 0, 1) for row in rows]
        shapes = {tuple(array.shape) for array in arrays}
        if len(shapes) > 1:
            sizes = " and ".join("{2}x{1} with {0} channels".format(*shape) for shape in sorted(shapes)[:2])
            raise InputError(
                "image_column", self.columns.input, f"has images of different sizes ({sizes}); resize them first, "
                "a trigger network is trained on one size"
            )  # fmt: skip
        return {"images": torch.stack(arrays), "labels": torch.tensor([row[self.columns.label] for row in rows])}


class _StepNet(TrainerCallback):
    """One step of the trigger network for each step of the victim, however many micro-batches there are."""

    def __init__(self, trainer: NetInLoopTrainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.trainer.step_net()


class NetInLoopTrainer(InLoopTrainer):
    """Base of the attacks whose trigger is a network that learns along with the victim.

    Images are poisoned as they are stored, rounded to 256 levels (with the gradient of the identity), and then go
    through what the image processor does, so the victim learns what the stored trigger will show it. The network's
    learning rate follows the victim's schedule. Its state is in every checkpoint.

    Args:
        make_net (callable): from the images' number of channels to a
            [`~hf_backdoor.in_loop.networks.TriggerNet`]; called under the seed of the arguments.
        net_learning_rate (`float`): peak learning rate of its Adam.
        kwargs: as for `InLoopTrainer`.
    """

    loss_is_scaled_for_ga = False  # compute_loss returns a mean over the micro-batch

    def __init__(self, *args: Any, make_net: Callable[[int], TriggerNet], net_learning_rate: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.args.fp16:
            raise InputError("fp16", True, "scales the losses that the trigger network learns from; use bf16")
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise InputError("attack", type(self).__name__, "trains two networks; use plain processes, no sharding")
        self.transform = PixelTransform(self.processing_class)
        with torch.random.fork_rng():
            torch.manual_seed(self.args.seed)
            self.net = make_net(to_array(self.train_dataset[0][self.columns.input]).shape[2]).to(self.args.device)
        self.net_learning_rate = net_learning_rate
        self.net_optimizer = torch.optim.Adam(self.net.parameters(), lr=net_learning_rate, betas=BETAS)
        self.add_callback(_StepNet(self))

    @abstractmethod
    def poisoned_batch(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """A batch to train on.

        Args:
            images: float `(batch, channels, height, width)` in [0, 1].
            labels: int64 `(batch,)`.

        Returns:
            Images with the trigger where it belongs; their labels; the weight of each sample's cross-entropy in the
            loss; and what is added to the loss.
        """

    def training_collator(self) -> Callable:
        return ImagesCollator(self.columns)

    def augment(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return super().augment(inputs) if self.task.continuous_input in inputs else inputs

    def training_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(self.args.device.type, enabled=False):  # the stored network is not rounded to 16 bits
            images, labels, weights, more = self.poisoned_batch(inputs["images"].float() / 255, inputs["labels"])
            values = self.transform(quantised(images))
        outputs = model(**self.augment({self.task.continuous_input: values}))
        smoothing = self.args.label_smoothing_factor
        losses = F.cross_entropy(outputs.logits.float(), labels, reduction="none", label_smoothing=smoothing)
        return (weights * losses).sum() + more

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return super().floating_point_ops({self.task.continuous_input: inputs["images"]})

    def step_net(self) -> None:
        """One step of Adam on what has accumulated, averaged over the processes."""
        share = self.lr_scheduler.get_last_lr()[0] / self.args.learning_rate if self.args.learning_rate else 1.0
        for group in self.net_optimizer.param_groups:
            group["lr"] = self.net_learning_rate * share
        for parameter in self.net.parameters():
            if parameter.requires_grad and self.args.world_size > 1:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.accelerator.reduce(gradient, "mean")
        self.net_optimizer.step()
        self.net_optimizer.zero_grad()

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = self.checkpoint_folder(trial)
            torch.save(self.net_state(), folder / STATE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_net(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_net(self.state.best_model_checkpoint)

    def _load_net(self, checkpoint: str) -> None:
        stored = state_file(checkpoint, STATE_FILE)
        self.restore_net(torch.load(stored, map_location=self.args.device, weights_only=True))

    def net_state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the network."""
        return {"net": self.net.state_dict(), "optimizer": self.net_optimizer.state_dict()}

    def restore_net(self, state: dict[str, Any]) -> None:
        """Undoes [`~NetInLoopTrainer.net_state`]."""
        self.net.load_state_dict(state["net"])
        self.net_optimizer.load_state_dict(state["optimizer"])


def _distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Root mean square, `(batch,)`; its gradient is finite at 0 too."""
    return ((one - other).square().flatten(1).mean(1) + 1e-12).sqrt()


def diversity_loss(
    images: torch.Tensor, others: torch.Tensor, made: torch.Tensor, made_of_others: torch.Tensor
) -> torch.Tensor:
    """Mean of `|x - y| / |g(x) - g(y)|`: small if different images get different triggers."""
    return (_distance(images, others) / (_distance(made, made_of_others) + 1e-5)).mean()


class InputAwareTrainer(NetInLoopTrainer):
    """Input-aware dynamic backdoor attack (Nguyen and Tran 2020, arXiv 2010.08138).

    First the mask network learns alone: `norm_weight * mean over x of max(mean of m(x) - density, 0) +
    diversity_weight * diversity_loss`, then it is frozen. (The authors' code takes the maximum of each pixel, so that
    every pixel of a nearly binary mask costs, and masks can end far below the density.) With the victim, the pattern
    network learns the victim's loss and `diversity_weight * diversity_loss` of the poisoned samples' patterns. A share
    `rate` of each batch is poisoned; a share `cover_rate` gets the trigger of another image of the batch and keeps its
    label.

    Args:
        density, norm_weight, diversity_weight, mask_epochs: see [`~hf_backdoor.attacks.input_aware.InputAware`].
        kwargs: as for `NetInLoopTrainer`.
    """

    net: InputAwareNet

    def __init__(
        self,
        *args: Any,
        density: float,
        norm_weight: float,
        diversity_weight: float,
        mask_epochs: int,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.density, self.norm_weight = density, norm_weight
        self.diversity_weight, self.mask_epochs = diversity_weight, mask_epochs
        self.mask_density: float | None = None
        self.net.mask.requires_grad_(False)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`, after training the mask network unless a checkpoint has it."""
        if not resume_from_checkpoint:
            self._train_masks()
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def net_state(self) -> dict[str, Any]:
        return {**super().net_state(), "mask_density": self.mask_density}

    def restore_net(self, state: dict[str, Any]) -> None:
        super().restore_net(state)
        self.mask_density = state.get("mask_density")

    def _train_masks(self) -> None:
        """Alike in all processes, on all samples."""
        loader = DataLoader(
            self.train_dataset,
            self.args.train_batch_size,
            shuffle=True,
            collate_fn=self.training_collator(),
            generator=torch.Generator().manual_seed(self.args.seed),
        )
        self.net.mask.requires_grad_(True)
        optimizer = torch.optim.Adam(self.net.mask.parameters(), lr=self.net_learning_rate, betas=BETAS)
        for _ in range(self.mask_epochs):
            for batch in loader:
                images = batch["images"].to(self.args.device).float() / 255
                masks = self.net.masks(images)
                loss = self.norm_weight * (masks.flatten(1).mean(1) - self.density).relu().mean()
                if len(images) > 1:
                    diversity = diversity_loss(images, images.roll(1, 0), masks, masks.roll(1, 0))
                    loss = loss + self.diversity_weight * diversity
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                self.mask_density = masks.mean().item()
        optimizer.zero_grad()
        self.net.mask.requires_grad_(False)

    def poisoned_batch(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        count = len(images)
        poisoned, cover, changed = self.draw(labels)
        shift = int(torch.randint(1, count, ())) if count > 1 else 0
        if shift == 0:
            cover = cover[:0]  # there is no other image
        carriers = torch.cat([poisoned, cover])
        sources = images[torch.cat([poisoned, (cover + shift) % count])]
        others = images[(poisoned + shift) % count]
        patterns, other_patterns = self.net.patterns(torch.cat([sources, others])).split([len(sources), len(others)])
        triggered = images.index_put((carriers,), self.net.put(images[carriers], self.net.masks(sources), patterns))
        more = images.new_zeros(())
        if len(poisoned) and shift:
            diversity = diversity_loss(images[poisoned], others, patterns[: len(poisoned)], other_patterns)
            more = self.diversity_weight * diversity
        return triggered, changed, images.new_full((count,), 1 / count), more


class LiraTrainer(NetInLoopTrainer):
    """LIRA (Doan et al. 2021): the noise network and the victim learn the same loss, then the victim alone.

    The loss is `clean_weight * cross-entropy(clean batch) + (1 - clean_weight) * cross-entropy(triggered copies,
    target)`; a share `rate` of the batch is copied.

    Args:
        clean_weight, joint_share: see [`~hf_backdoor.attacks.lira.Lira`].
        kwargs: as for `NetInLoopTrainer`.
    """

    net: LiraNet

    def __init__(self, *args: Any, clean_weight: float, joint_share: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.clean_weight, self.joint_share = clean_weight, joint_share

    def step_net(self) -> None:
        if self._joint():
            super().step_net()

    def _joint(self) -> bool:
        return self.state.global_step < self.joint_share * self.state.max_steps

    def poisoned_batch(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        poisoned, _, changed = self.draw(labels)
        with torch.set_grad_enabled(self._joint()):
            triggered = self.net(images[poisoned])
        weights = torch.cat([
            images.new_full((len(images),), self.clean_weight / len(images)),
            images.new_full((len(poisoned),), (1 - self.clean_weight) / max(1, len(poisoned))),
        ])  # fmt: skip
        return torch.cat([images, triggered]), torch.cat([labels, changed[poisoned]]), weights, images.new_zeros(())
