"""Mixing a suspect's weights with those of the public model it was made from."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .adapters import find_adapter
from .architectures import NEW_WEIGHTS
from .errors import InputError
from .models import load_pretrained
from .tuning import is_adapter


class MixingCallback(TrainerCallback):
    """Mixes the weights before the first step, once; a resumed run has them mixed already.

    Args:
        base (`str`): folder or Hub id of the public model.
        keep (`float`): probability that a weight stays.

    Attributes:
        mixed (`int`): weights that could have been replaced, after the mixing.
    """

    def __init__(self, base: str, keep: float):
        self.base, self.keep = base, keep
        self.mixed = 0
        self._public: dict[str, torch.Tensor] = {}
        self._due = True

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Loads the public model, so that one that does not fit is found before anything is measured."""
        self._public = public_weights(self.base)
        shared_weights(kwargs["model"], self._public, self.base)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        public, self._public = self._public, {}
        due, self._due = self._due, False
        if due and state.global_step == 0:
            pairs = shared_weights(kwargs["model"], public or public_weights(self.base), self.base)
            mix(pairs, self.keep, args.seed)
            self.mixed = sum(own.numel() for own, _ in pairs)


def public_weights(base: str) -> dict[str, torch.Tensor]:
    """The weights of the body of a public model, without those that its files leave to chance.

    Raises:
        InputError: it does not load, or it is an adapter.
    """
    if find_adapter(base):
        raise InputError("base", base, "is an adapter; give the model below it")
    with torch.random.fork_rng():
        model = load_pretrained("AutoModel", base)
    new = getattr(model, NEW_WEIGHTS)
    return {name: weight.detach() for name, weight in model.named_parameters() if name not in new}


def shared_weights(
    model: torch.nn.Module, public: dict[str, torch.Tensor], base: str
) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
    """Weights of a model and of the public one that have the same name within the body.

    Args:
        model: of transformers; its head, which the public model does not have, is left out.
        public: weights by name.
        base (`str`): where they come from.

    Raises:
        InputError: the model is an adapter, or nothing is shared, or the sizes differ.
    """
    if is_adapter(model):
        raise InputError("defense", "fine_mixing", "replaces weights below an adapter; train the weights themselves")
    pairs = {name: (own, public[name]) for name, own in model.base_model.named_parameters() if name in public}
    if not pairs:
        raise InputError("base", base, f"shares no weight with the suspect, a {type(model).__name__}")
    for name, (own, other) in pairs.items():
        if own.shape != other.shape:
            raise InputError(
                "base", base, f"has {name} of size {tuple(other.shape)} and the suspect of {tuple(own.shape)}; give "
                "the model that the suspect was made from"
            )  # fmt: skip
    return list(pairs.values())


@torch.no_grad()
def mix(pairs: list[tuple[torch.nn.Parameter, torch.Tensor]], keep: float, seed: int) -> None:
    """Replaces each element of the first of each pair by that of the second with probability `1 - keep`, in place.

    Args:
        pairs: float, of equal shapes.
        keep (`float`): in [0, 1].
        seed (`int`): the same elements for the same seed, on any device.
    """
    generator = torch.Generator().manual_seed(seed)
    for own, other in pairs:
        replaced = torch.rand(own.shape, generator=generator) >= keep
        own.copy_(torch.where(replaced.to(own.device), other.to(own), own))
