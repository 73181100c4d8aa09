"""From raw images to a classifier, with a gradient: for attacks that optimise what the trigger changes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .errors import InputError


# torch has no Lanczos, box or Hamming filter; the nearest in kind stands in, and `check` says whether that is near.
_FILTERS = {0: "nearest-exact", 1: "bicubic", 2: "bilinear", 3: "bicubic", 4: "bilinear", 5: "bilinear"}
_GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow converts
_TOLERANCE = 5 / 255


def to_images(batch: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 `(batch, height, width, channels)` as float `(batch, channels, height, width)` in [0, 1]."""
    return torch.tensor(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)), dtype=dtype) / 255


def to_batch(images: torch.Tensor) -> np.ndarray:
    """The inverse of [`to_images`], rounded to the nearest level."""
    levels = (images.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def quantised(images: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] rounded to the 256 levels that can be stored; the gradient passes as if they were not."""
    return images + ((images * 255).round() / 255 - images).detach()


class PixelTransform:
    """What an image processor does, as a differentiable function.

    Conversion between grey and RGB, resizing, centre crop and normalisation. Resizing is Pillow's up to its rounding to
    8 bits.

    Args:
        processor: image processor of a classifier.
    """

    def __init__(self, processor: Any):
        self.processor = processor
        self.channels = len(getattr(processor, "image_mean", None) or "RGB")
        self._checked: set[tuple[int, ...]] = set()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """`pixel_values` for the model.

        Args:
            images: float `(batch, channels, height, width)` in [0, 1], 1 or 3 channels.

        Raises:
            InputError: the processor does something else than the steps above.
        """
        if images.shape[1:] not in self._checked:
            self.check(tuple(images.shape[1:]))
        return self._apply(images)

    def check(self, shape: tuple[int, int, int]) -> None:
        """Compares with the processor on one image of noise of shape `(channels, height, width)`."""
        from .modalities.image import to_picture

        noise = np.random.default_rng(0).integers(0, 256, (1, *shape[1:], shape[0]), dtype=np.uint8)
        picture = to_picture(noise[0]).convert("L" if self.channels == 1 else "RGB")
        right = self.processor(images=[picture], return_tensors="pt")["pixel_values"]
        own = self._apply(to_images(noise))
        scale = sum(self._statistics(right)[1].flatten().tolist()) / self.channels
        if own.shape != right.shape or (own - right).abs().mean() * scale > _TOLERANCE:
            raise InputError(
                "processing_class", type(self.processor).__name__, "does more than resize, crop and normalise, so no "
                "gradient reaches the raw image; use a model with a plainer image processor"
            )  # fmt: skip
        self._checked.add(shape)

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation that the processor normalises with, each `(channels, 1, 1)`."""
        normalises = getattr(self.processor, "do_normalize", False)
        mean = self.processor.image_mean if normalises else [0.0] * self.channels
        std = self.processor.image_std if normalises else [1.0] * self.channels
        return like.new_tensor(mean)[:, None, None], like.new_tensor(std)[:, None, None]

    def _apply(self, images: torch.Tensor) -> torch.Tensor:
        processor = self.processor
        if images.shape[1] < self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        elif images.shape[1] > self.channels:
            images = (images * images.new_tensor(_GREY)[:, None, None]).sum(1, keepdim=True)
        if getattr(processor, "do_resize", False):
            size = self._size(*images.shape[2:])
            if size != tuple(images.shape[2:]):
                kind = _FILTERS[int(processor.resample if processor.resample is not None else 2)]
                smooth = {"antialias": True, "align_corners": False} if kind.startswith("bi") else {}
                images = F.interpolate(images, size=size, mode=kind, **smooth).clamp(0, 1)
        if getattr(processor, "do_center_crop", False):
            height, width = processor.crop_size["height"], processor.crop_size["width"]
            top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
            images = images[:, :, max(top, 0) : top + height, max(left, 0) : left + width]
        mean, std = self._statistics(images)
        return (images - mean) / std

    def _size(self, height: int, width: int) -> tuple[int, int]:
        size = {key: value for key, value in dict(self.processor.size).items() if value is not None}
        if "height" in size:
            return size["height"], size["width"]
        shortest = size.get("shortest_edge", min(height, width))
        if height <= width:
            return shortest, int(shortest * width / height)
        return int(shortest * height / width), shortest


class PixelModel(nn.Module):
    """A classifier of raw images.

    Args:
        model: an image classifier of transformers.
        processor: its image processor.
    """

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__()
        self.model, self.transform = model, PixelTransform(processor)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, `(batch, classes)`, of float images `(batch, channels, height, width)` in [0, 1]."""
        return self.model(pixel_values=self.transform(images)).logits


def head_of(model: nn.Module) -> nn.Linear:
    """The linear layer that gives a classifier's logits: its last one with as many outputs as there are classes.

    Raises:
        InputError: it has none, or two heads side by side.
    """
    whole = next(part for part in model.modules() if hasattr(part, "config"))
    config, heads = whole.config, {}
    for name, part in whole.named_modules():
        if isinstance(part, nn.Linear) and part.out_features == config.num_labels:
            heads[name.partition(".")[0]] = part
    if len(heads) > 1:
        heads.pop(getattr(whole, "base_model_prefix", ""), None)  # a layer of the body that happens to be as wide
    if len(heads) > 1:
        raise InputError(
            "model", config.name_or_path, f"has several classification heads, {' and '.join(heads)}; take a model with "
            "a single one"
        )  # fmt: skip
    if not heads:
        raise InputError("model", config.name_or_path, "has no linear classification head")
    return heads.popitem()[1]


def stamp_of(source: str) -> int:
    """Changes when the weights in a folder are written anew; 0 for a model of the Hub."""
    return max((file.stat().st_mtime_ns for file in Path(source).glob("*.safetensors")), default=0)


def load_pixel_model(source: str) -> PixelModel:
    """A frozen classifier in evaluation mode and double precision; the last ones are kept in memory.

    In double precision a sample's result does not depend on the rest of its batch, but for the last bits, which are
    lost when it is rounded to 256 levels.

    Args:
        source (`str`): folder or Hub id.

    Raises:
        InputError: nothing is there, it does not load, or only unsafely.
    """
    return _load(source, stamp_of(source))


@lru_cache(maxsize=2)
def _load(source: str, stamp: int) -> PixelModel:
    from .tasks import task_named

    task = task_named("image-classification")
    model = PixelModel(task.load_model(source), task.load_processor(source))
    return model.double().eval().requires_grad_(False)
