"""Networks that make a trigger for each image, and the file that they are kept in."""

from __future__ import annotations

import os
from abc import abstractmethod
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ..errors import InputError
from ..triggers import TRIGGER_FILE


class Block(nn.Sequential):
    """3x3 convolution, normalisation of each sample by itself, ReLU."""

    def __init__(self, channels: int, width: int, stride: int = 1):
        super().__init__(nn.Conv2d(channels, width, 3, stride, 1), nn.GroupNorm(1, width), nn.ReLU())


class Autoencoder(nn.Module):
    """A small convolutional encoder and decoder with skip connections, for images of any size.

    Args:
        channels, outputs (`int`): channels in and out.
        width (`int`): channels at full resolution; twice as many at a half and a quarter of it.
    """

    def __init__(self, channels: int, outputs: int, width: int):
        super().__init__()
        self.down = nn.ModuleList([Block(channels, width), Block(width, 2 * width, 2), Block(2 * width, 2 * width, 2)])
        self.up = nn.ModuleList([Block(2 * width, 2 * width), Block(2 * width, width)])
        self.out = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Float `(batch, channels, height, width)` in [0, 1] to unbounded `(batch, outputs, height, width)`."""
        values, passed = 2 * images - 1, []
        for block in self.down:
            values = block(values)
            passed.append(values)
        for block, skip in zip(self.up, reversed(passed[:-1]), strict=True):
            values = F.interpolate(block(values), size=skip.shape[2:]) + skip
        return self.out(values)


class TriggerNet(nn.Module):
    """Puts a trigger on images; settings are whole numbers and floats.

    Args:
        channels (`int`): of the images, 1 or 3.
        width (`int`): of the networks.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.settings: dict[str, float] = {"channels": channels, "width": width}

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Float `(batch, channels, height, width)` in [0, 1] to the same, with the trigger, not yet rounded."""


class InputAwareNet(TriggerNet):
    """`x' = x + m(x) (p(x) - x)`, with a pattern `p` and a mask `m` in [0, 1] from a network each.

    Nguyen and Tran 2020 (arXiv 2010.08138). The mask network's output, squeezed into [0, 1], is made
    nearly binary by `(tanh(20 v - 10) + 1) / 2`.
    """

    def __init__(self, channels: int, width: int = 16):
        super().__init__(channels, width)
        self.pattern, self.mask = Autoencoder(channels, channels, width), Autoencoder(channels, 1, width)

    def patterns(self, images: torch.Tensor) -> torch.Tensor:
        return self.pattern(images).tanh() / 2 + 0.5

    def masks(self, images: torch.Tensor) -> torch.Tensor:
        """`(batch, 1, height, width)`."""
        return (20 * (self.mask(images).tanh() / 2 + 0.5) - 10).tanh() / 2 + 0.5

    def forward(self, images: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        """With the trigger of `source`, images of the same shape, where they are given."""
        source = images if source is None else source
        return self.put(images, self.masks(source), self.patterns(source))

    def put(self, images: torch.Tensor, masks: torch.Tensor, patterns: torch.Tensor) -> torch.Tensor:
        """Patterns on images, where the masks are."""
        return images + masks * (patterns - images)


class LiraNet(TriggerNet):
    """`x' = clip(x + eps tanh(g(x)), 0, 1)` with a network `g` (Doan et al. 2021)."""

    def __init__(self, channels: int, width: int = 16, eps: float = 0.01):
        super().__init__(channels, width)
        self.settings["eps"] = eps
        self.noise = Autoencoder(channels, channels, width)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images + self.settings["eps"] * self.noise(images).tanh()).clamp(0, 1)


KINDS = {"input_aware": InputAwareNet, "lira": LiraNet}


def save_net(net: TriggerNet, path: Path) -> None:
    """Weights, and in the metadata what is needed to make the network again."""
    kind = next(name for name, cls in KINDS.items() if type(net) is cls)
    metadata = {"trigger": kind, **{name: str(value) for name, value in net.settings.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}, path, metadata)


def load_net(path: str, kind: str) -> TriggerNet:
    """A frozen network in double precision, in which an image's result does not depend on its batch.

    Args:
        path (`str`): written by [`save_net`]; read once for each version of the file.
        kind (`str`): one of `KINDS`.

    Raises:
        InputError: it is no such file.
    """
    return _load(path, kind, os.stat(path).st_mtime_ns)


@lru_cache(maxsize=4)
def _load(path: str, kind: str, stamp: int) -> TriggerNet:
    try:
        with safe_open(path, "pt") as file:
            settings = dict(file.metadata() or {})
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise InputError("weights", path, f"cannot be read as safetensors ({error})") from error
    if settings.pop("trigger", None) != kind:
        raise InputError("weights", path, f"is not the {TRIGGER_FILE} of a victim of {kind}")
    numbers = {name: int(value) if value.isdigit() else float(value) for name, value in settings.items()}
    net = KINDS[kind](**numbers)
    net.load_state_dict(stored)
    return net.double().eval().requires_grad_(False)
