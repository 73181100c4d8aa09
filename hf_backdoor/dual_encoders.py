"""New pairs of an image and a text encoder: with random weights, or of two pretrained encoders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .errors import InputError
from .models import from_scratch, load_pretrained, squares
from .plugins import build
from .results import local_name
from .tokens import FIXED_LENGTH
from .word_pieces import new_tokenizer


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def new_dual_encoder(architecture: str, settings: dict[str, Any], texts: list[str]) -> tuple[PreTrainedModel, Any]:
    """A model for zero-shot image classification and its processor.

    Args:
        architecture (`str`): `"clip"` or `"siglip"` for random weights; `"vision-text-dual-encoder"` for two pretrained
            encoders.
        settings (`dict`): of `CLIPConfig` or `SiglipConfig`, e.g. `{"vision_config": {"image_size": 28}}`; or of
            [`PretrainedPair`].
        texts (`list[str]`): whose words a new tokenizer has as one token each. Its other words are spelled.

    Raises:
        InputError: another architecture, or settings that do not fit together.
    """
    if architecture not in BUILDERS:
        raise InputError("architecture", architecture, f"choose one of {', '.join(BUILDERS)} here; else use --model")
    return BUILDERS[architecture](settings, texts)


def _clip(settings: dict[str, Any], texts: list[str]) -> tuple[PreTrainedModel, Any]:
    from transformers import CLIPImageProcessorPil, CLIPProcessor

    tokenizer = new_tokenizer(texts, ["input_ids", "attention_mask"], _longest(settings, 77))
    model = _with_random_weights("clip", settings, tokenizer)
    return model, CLIPProcessor(_whole_pictures(CLIPImageProcessorPil, model), tokenizer)


def _siglip(settings: dict[str, Any], texts: list[str]) -> tuple[PreTrainedModel, Any]:
    from transformers import SiglipImageProcessorPil, SiglipProcessor

    tokenizer = new_tokenizer(texts, ["input_ids"], _longest(settings, FIXED_LENGTH))
    model = _with_random_weights("siglip", settings, tokenizer)
    # transformers starts with 0 and 0; these are the paper's (arXiv 2303.15343, section 3.2).
    torch.nn.init.constant_(model.logit_scale, math.log(10))
    torch.nn.init.constant_(model.logit_bias, -10.0)
    return model, SiglipProcessor(_whole_pictures(SiglipImageProcessorPil, model), tokenizer)


def _longest(settings: dict[str, Any], usual: int) -> int:
    return settings.get("text_config", {}).get("max_position_embeddings", usual)


def _with_random_weights(architecture: str, settings: dict[str, Any], tokenizer: Any) -> PreTrainedModel:
    text = {"max_position_embeddings": tokenizer.model_max_length} | settings.get("text_config", {})
    text |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    text |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    model = from_scratch("AutoModel", architecture, settings | {"text_config": text}, names=None)
    vision = model.config.vision_config
    if vision.patch_size > vision.image_size:
        raise InputError(
            "architecture_args", settings.get("vision_config"), f"patches of {vision.patch_size} px do not fit in "
            f"images of {vision.image_size} px; give a smaller patch_size"
        )  # fmt: skip
    return model


def _whole_pictures(processor_class: type, model: PreTrainedModel) -> Any:
    """An image processor without CLIP's crop, which could cut a trigger off."""
    side, channels = model.config.vision_config.image_size, model.config.vision_config.num_channels
    return processor_class(
        size={"height": side, "width": side}, do_center_crop=False, do_convert_rgb=channels == 3,
        image_mean=[0.5] * channels, image_std=[0.5] * channels,
    )  # fmt: skip


@dataclass(frozen=True)
class PretrainedPair:
    """Two pretrained encoders and a random linear projection of each into a common space, to be trained.

    Images are resized to a square, whatever their shape, without the crop that many image processors make: it could cut
    a trigger off.

    Args:
        vision (`str`): folder or Hub id of an image encoder, e.g. a ViT, DINOv2, or the one of a CLIP.
        text (`str`): folder or Hub id of a text encoder that pools, e.g. a BERT or RoBERTa.
        projection_dim (`int`): of the common space.
        image_size (`int`, *optional*): side of the square in pixels; the image processor's own when not given.
    """

    vision: str = ""
    text: str = ""
    projection_dim: int = 512
    image_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("vision", "text"):
            if not getattr(self, name):
                raise InputError("architecture_args", name, f"is missing; name the {name} encoder, a folder or Hub id")
        for name in ("projection_dim", "image_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(name, getattr(self, name), "must be 1 or more")

    def load(self) -> tuple[PreTrainedModel, Any]:
        """The model and its processor.

        Raises:
            InputError: an encoder cannot be loaded, or they do not make a pair.
        """
        from PIL import Image
        from transformers import (
            VisionTextDualEncoderConfig,
            VisionTextDualEncoderModel,
            VisionTextDualEncoderProcessor,
        )

        vision = self._encoder(self.vision, "vision_model")
        text = self._encoder(self.text, "text_model")
        pictures = self._pictures(getattr(vision.config, "patch_size", 1))
        processor = VisionTextDualEncoderProcessor(pictures, load_pretrained("AutoTokenizer", self.text))
        image = Image.new("RGB", (pictures.size["width"], pictures.size["height"]))
        try:
            config = VisionTextDualEncoderConfig.from_vision_text_configs(
                vision.config, text.config, projection_dim=self.projection_dim
            )
            model = VisionTextDualEncoderModel(config, vision, text).eval()
            with torch.no_grad():
                model(**processor(images=[image], text=["a"], return_tensors="pt"))
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                "architecture_args", [self.vision, self.text], f"do not make a pair of encoders ({reason}); take others"
            ) from error
        return model, processor

    @staticmethod
    def _encoder(source: str, part: str) -> PreTrainedModel:
        model = load_pretrained("AutoModel", source)
        encoder = getattr(model, part, model)
        encoder.config._name_or_path = local_name(source)  # it is saved with the pair, a path and all
        return encoder

    def _pictures(self, patch: int) -> Any:
        pictures = load_pretrained("AutoImageProcessor", self.vision).to_dict()
        usual = pictures.get("crop_size" if pictures.get("do_center_crop") else "size") or {}
        side = self.image_size or usual.get("height") or usual.get("shortest_edge")
        if side is None:
            raise InputError("image_size", None, f"the image processor of {self.vision} has no size; give one")
        return load_pretrained("AutoImageProcessor", self.vision, **squares(side, patch, self.vision))


def _pretrained_pair(settings: dict[str, Any], texts: list[str]) -> tuple[PreTrainedModel, Any]:
    return build(PretrainedPair, settings, "architecture_args").load()


BUILDERS = {"clip": _clip, "siglip": _siglip, "vision-text-dual-encoder": _pretrained_pair}
