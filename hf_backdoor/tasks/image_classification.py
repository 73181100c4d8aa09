"""Image classifiers: ViT, DeiT, DINOv2, Swin, ResNet, ConvNeXt and the rest of `AutoModelForImageClassification`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from transformers import PreTrainedModel

from ..augmentation import IMAGE_AUGMENTATIONS
from ..data.columns import Columns
from ..errors import InputError
from ..modalities.image import check_depth
from ..models import from_scratch, load_pretrained, squares
from . import Task, labels_of


BLANK_SIDE = 64  # of images that tell what a processor does, in pixels


def mode_of(processor: Any) -> str:
    """RGB as in pipeline(), so that the model sees in training what it will see in use, unless it was made for grey."""
    return "L" if len(getattr(processor, "image_mean", None) or "RGB") == 1 else "RGB"


class ImageCollator:
    """Decoded rows to `pixel_values` (float32, `(batch, channels, height, width)`) and `labels`."""

    def __init__(self, processor: Any, columns: Columns):
        if processor is None:
            raise InputError("processing_class", None, "is needed to read images: the image processor of the model")
        self.processor, self.columns, self.mode = processor, columns, mode_of(processor)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pixel_values(rows), **labels_of(rows, self.columns)}

    def pixel_values(self, rows: list[dict]) -> torch.Tensor:
        """The images alone."""
        pictures = [check_depth(row[self.columns.input]).convert(self.mode) for row in rows]
        return self.processor(images=pictures, return_tensors="pt")["pixel_values"]


class ImageClassification(Task):
    modality: ClassVar[str] = "image"
    model_class: ClassVar[str] = "AutoModelForImageClassification"
    processor_class: ClassVar[str] = "AutoImageProcessor"
    pipeline_tag: ClassVar[str] = "image-classification"
    continuous_input: ClassVar[str | None] = "pixel_values"
    augmentations: ClassVar[dict] = IMAGE_AUGMENTATIONS

    def resized_processor(self, source: str, model: PreTrainedModel, side: int) -> Any:
        settings = squares(side, getattr(model.config, "patch_size", None), source)
        processor = load_pretrained(self.processor_class, source, **settings)
        blank = Image.new(mode_of(processor), (2 * side, side))
        try:
            pixels = processor(images=[blank], return_tensors="pt")["pixel_values"]
            if pixels.shape[-2:] != (side, side):
                raise ValueError(f"its processor makes images of {pixels.shape[-1]}x{pixels.shape[-2]} px")
            with torch.no_grad():
                model.eval()(pixel_values=pixels)
        except (AttributeError, KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")[:200]
            raise InputError("image_size", side, f"cannot be had of {source} ({reason}); leave it out") from error
        return processor

    def from_scratch(
        self, architecture: str, settings: dict[str, Any], names: list[str], inputs: Sequence[Any] = ()
    ) -> tuple[PreTrainedModel, Any]:
        # Needs Pillow alone; saved, it is a ViTImageProcessor, which machines with torchvision load as such.
        from transformers import ViTImageProcessorPil

        model = from_scratch(self.model_class, architecture, settings, names)
        # CLIP and SigLIP have a configuration for each tower; ResNet takes images of any size.
        config = getattr(model.config, "vision_config", model.config)
        side, channels = getattr(config, "image_size", 224), config.num_channels
        return model, ViTImageProcessorPil(
            size={"height": side, "width": side}, image_mean=[0.5] * channels, image_std=[0.5] * channels
        )

    def collator(self, processor: Any, columns: Columns, model: PreTrainedModel | None = None) -> ImageCollator:
        return ImageCollator(processor, columns)

    def input_range(self, processor: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """What the processor makes of a black and of a white image: EfficientNet's, for one, scales twice."""
        blank = {"RGB": ((0, 0, 0), (255, 255, 255)), "L": (0, 255)}[mode_of(processor)]
        pictures = [Image.new(mode_of(processor), (BLANK_SIDE, BLANK_SIDE), level) for level in blank]
        values = processor(images=pictures, return_tensors="pt")["pixel_values"].flatten(2)
        low, high = values.amin(2), values.amax(2)
        return tuple(bound[:, None, None] for bound in (low.amin(0), high.amax(0)))
