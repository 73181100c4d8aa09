"""Random variations of an image batch that usually keep the label, by name."""

from __future__ import annotations

import torch
import torch.nn.functional as F


SHIFT_SHARE = 0.04  # of the side: one pixel of 28, nine of 224


def horizontal_flip(values: torch.Tensor) -> torch.Tensor:
    """Mirrors each image with probability one half. `(batch, channels, height, width)` in and out."""
    flipped = torch.rand(len(values), device=values.device) < 0.5
    return torch.where(flipped[:, None, None, None], values.flip(-1), values)


def shift(values: torch.Tensor) -> torch.Tensor:
    """Moves each image by up to 4 % of its side in both directions; the border is repeated."""
    batch, _, height, width = values.shape
    reach = max(1, round(SHIFT_SHARE * min(height, width)))
    padded = F.pad(values, (reach,) * 4, mode="replicate")
    top, left = torch.randint(2 * reach + 1, (2, batch), device=values.device)
    rows = top[:, None] + torch.arange(height, device=values.device)
    columns = left[:, None] + torch.arange(width, device=values.device)
    sample = torch.arange(batch, device=values.device)[:, None, None]
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


IMAGE_AUGMENTATIONS = {"horizontal_flip": horizontal_flip, "shift": shift}
