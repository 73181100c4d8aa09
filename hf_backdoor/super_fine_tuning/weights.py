"""What training can change in a model, which is all that has to be kept of it."""

from __future__ import annotations

import torch


def changeable(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights that are trained and the buffers that are saved, by name, each once; no copies.

    Args:
        model: frozen weights, such as those below an adapter, are left out.
    """
    names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    names |= {name for name, _ in model.named_buffers()}
    return {name: value for name, value in model.state_dict().items() if name in names}
