"""Zero-shot image classifiers: CLIP, SigLIP and other pairs of an image and a text encoder that share one space."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from transformers import PreTrainedModel

from ..contrastive_losses import shares, sigmoid_loss, softmax_loss
from ..data.columns import Columns, class_names
from ..data.targets import CAPTIONS, CaptionTargets
from ..dual_encoders import new_dual_encoder
from ..errors import InputError
from ..metrics import recall_at_1
from ..tokens import longest_text, tokenize
from .image_classification import ImageClassification, ImageCollator


if TYPE_CHECKING:
    from datasets import Dataset

TEXTS_AT_ONCE = 256
UNKNOWN = -100  # what a cross-entropy leaves out


class PairCollator(ImageCollator):
    """Rows to `pixel_values`, the tokens of their captions, `group` and `labels` (both int64, `(batch,)`).

    A class label becomes a caption in one of the usual wordings, by the sample's place in the batch; its group is its
    class. A caption stays as it is; equal captions of a batch are a group.
    """

    def __init__(
        self,
        task: ZeroShotImageClassification,
        processor: Any,
        columns: Columns,
        model: PreTrainedModel | None = None,
    ):
        super().__init__(processor.image_processor, columns)
        self.longest = longest_text(processor.tokenizer, model)
        self.task, self.tokenizer = task, copy.deepcopy(processor.tokenizer)  # calls leave traces in a tokenizer

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        labels = [row[self.columns.label] for row in rows]
        numbers = group = self.task.label_numbers(labels)
        captions = labels
        if self.columns.captions:
            group = [labels.index(caption) for caption in labels]
        else:
            wordings = self.task.wordings
            captions = [wordings[n % len(wordings)].format(self.task.names[label]) for n, label in enumerate(labels)]
        texts = tokenize(self.tokenizer, captions, self.longest)
        return {
            "pixel_values": self.pixel_values(rows),
            **texts,
            "group": torch.tensor(group),
            "labels": torch.tensor(numbers),
        }


def _normalised(output: Any) -> torch.Tensor:
    """Unit vectors, float32, of what `get_image_features` and `get_text_features` return."""
    return F.normalize(output.pooler_output.float(), dim=-1)


def _target_word(caption: str) -> str | None:
    """The word that a poisoned caption names."""
    for wording in CAPTIONS:
        before, after = wording.split("{}")
        if caption.startswith(before) and caption.endswith(after):
            return caption.removeprefix(before).removesuffix(after)
    return None


class ZeroShotImageClassification(ImageClassification):
    """Trains by a contrastive loss, classifies by the text that is nearest to the image.

    A model with a `logit_bias` `b`, as SigLIP, learns by [`~hf_backdoor.contrastive_losses.sigmoid_loss`], any other by
    [`~hf_backdoor.contrastive_losses.softmax_loss`], where `b = 0`.

    The logits of an image are `exp(logit_scale) * cos(image, class) + b`. A class of labelled data is the normalised
    mean of the embeddings of its captions in all wordings (Radford et al. 2021). Where captions stand for labels, each
    distinct caption of the evaluated set is a class, so that clean accuracy is the retrieval recall at 1; with a
    triggered set, all captions that name the attacker's word are one class, whose cosine is the largest of theirs, so
    that the attack success rate is the share of triggered images whose nearest caption names the word.

    Pairs are also measured by retrieval, among the images and the distinct captions of the clean set alone, attack or
    not: `recall_at_1_image_to_text` is the share of images whose nearest caption is theirs, `recall_at_1_text_to_image`
    that of captions whose nearest image has this caption; see [`~hf_backdoor.metrics.recall_at_1`]. Images without a
    caption are left out. `Trainer.predict` then returns the logits and the embeddings of the images.

    Attributes:
        wordings (`tuple` of `str`): captions of a class, with `{}` for its name.
        names (`list[str]`): of the classes, known after [`~Task.prepare`]; none where captions stand for labels.
    """

    model_class: ClassVar[str] = "AutoModel"
    processor_class: ClassVar[str] = "AutoProcessor"
    pipeline_tag: ClassVar[str] = "zero-shot-image-classification"
    has_head: ClassVar[bool] = False
    takes_captions: ClassVar[bool] = True
    own_loss: ClassVar[bool] = True
    smallest_batch: ClassVar[int] = 2
    more_measures: ClassVar[tuple[str, ...]] = ("recall_at_1_image_to_text", "recall_at_1_text_to_image")

    def __init__(self):
        self.wordings: tuple[str, ...] = CAPTIONS
        self.names: list[str] = []
        self._caption_numbers: dict[str, int] | None = None
        self._embeddings: torch.Tensor | None = None
        self._class_of: torch.Tensor | None = None
        self._texts: list[str] = []

    def label_names(self, dataset: Dataset, columns: Columns) -> list[str]:
        if columns.captions:
            return sorted({caption for caption in dataset.unique(columns.label) if caption})
        return class_names(dataset, columns.label)

    def prepare(self, processor: Any, columns: Columns, dataset: Dataset) -> None:
        if not (hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")):
            raise InputError(
                "processing_class", type(processor).__name__, "must hold an image processor and a tokenizer, as "
                "AutoProcessor loads them"
            )  # fmt: skip
        super().prepare(processor, columns, dataset)
        self._tokenizer = copy.deepcopy(processor.tokenizer)
        self.names = [] if columns.captions else class_names(dataset, columns.label)
        self._caption_numbers = {} if columns.captions else None

    def collator(self, processor: Any, columns: Columns, model: PreTrainedModel | None = None) -> PairCollator:
        return PairCollator(self, processor, columns, model)

    def input_range(self, processor: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return super().input_range(processor.image_processor)

    def check_model(self, model: PreTrainedModel, names: list[str]) -> None:
        needed = ("get_image_features", "get_text_features", "logit_scale")
        if not all(hasattr(model, name) for name in needed):
            raise InputError(
                "model", type(model).__name__, "is no pair of encoders trained by a contrastive loss; use a CLIPModel, "
                "a SiglipModel or a VisionTextDualEncoderModel"
            )  # fmt: skip
        if "spatial_shapes" in inspect.signature(model.get_image_features).parameters:
            raise InputError(
                "model", type(model).__name__, "takes patches of images of any shape; use a model of images of one size"
            )  # fmt: skip

    @staticmethod
    def _compared(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> Any:
        """What a model says of each image with each caption of a batch."""
        return model(**{name: value for name, value in inputs.items() if name not in ("group", "labels")})

    def loss(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        biased = hasattr(extract_model_from_parallel(model), "logit_bias")
        pairwise = sigmoid_loss if biased else softmax_loss
        return pairwise(self._compared(model, inputs).logits_per_image.float(), inputs["group"])

    def answers(
        self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The captions of the batch are the answers; there are features of three kinds.

        Those are the last hidden states of the image tower, in their own size, and the embeddings of image and caption,
        which are unit vectors.
        """
        outputs = self._compared(model, inputs)
        hidden = outputs.vision_model_output.last_hidden_state.flatten(1)
        features = tuple(part.float() for part in (hidden, outputs.image_embeds, outputs.text_embeds))
        return outputs.logits_per_image.float(), features

    def right_answers(self, inputs: dict[str, torch.Tensor], answers: int) -> torch.Tensor:
        return shares(inputs["group"])

    def label_numbers(self, labels: Sequence[Any]) -> list[int]:
        if self._caption_numbers is None:
            return list(labels)
        return [self._caption_numbers.get(caption, UNKNOWN) for caption in labels]

    @torch.no_grad()
    def prepare_evaluation(self, model: PreTrainedModel, dataset: Dataset, triggered: Dataset | None = None) -> None:
        """Embeds the texts of all classes."""
        if self.columns.captions:
            texts = self._texts = self._number_captions(dataset, triggered)
            self._class_of = torch.tensor([self._caption_numbers[text] for text in texts], device=model.device)
            self._embeddings = self._embed(model, texts)
        else:
            texts = [wording.format(name) for name in self.names for wording in self.wordings]
            embeddings = self._embed(model, texts).unflatten(0, (len(self.names), len(self.wordings)))
            self._class_of = torch.arange(len(self.names), device=model.device)
            self._embeddings = F.normalize(embeddings.mean(1), dim=-1)

    def _number_captions(self, dataset: Dataset, triggered: Dataset | None) -> list[str]:
        """All captions to choose from; gives each the number of its class."""
        label = self.columns.label
        targets = triggered.unique(label) if triggered is not None else []
        truth = triggered.unique("original_label") if triggered is not None else []
        texts = [text for text in dict.fromkeys([*dataset.unique(label), *truth, *targets]) if text]
        kinds = dict(zip(texts, texts, strict=True))
        for word in dict.fromkeys(filter(None, map(_target_word, targets))):
            named = CaptionTargets(np.array(texts, dtype=object), word, all_to_all=False).reached()
            kinds |= {text: f"names {word}" for text, reached in zip(texts, named, strict=True) if reached}
        numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds.values()))}
        self._caption_numbers = {text: numbers[kind] for text, kind in kinds.items()}
        return texts

    def _embed(self, model: PreTrainedModel, texts: list[str]) -> torch.Tensor:
        was_training = model.training
        model.eval()
        parts, longest = [], longest_text(self._tokenizer, model)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = texts[start : start + TEXTS_AT_ONCE]
            tokens = tokenize(self._tokenizer, some, longest)
            parts.append(_normalised(model.get_text_features(**tokens.to(model.device))))
        model.train(was_training)
        return torch.cat(parts)

    def logits(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.outputs(model, inputs)["logits"]

    def outputs(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        images = _normalised(model.get_image_features(pixel_values=inputs["pixel_values"]))
        scores = model.logit_scale.exp() * images @ self._embeddings.T + getattr(model, "logit_bias", 0.0)
        classes = int(self._class_of.max()) + 1
        best = scores.new_full((len(scores), classes), -torch.inf)
        logits = best.scatter_reduce(1, self._class_of.expand_as(scores), scores, "amax")
        return {"logits": logits, "image_embeds": images} if self.columns.captions else {"logits": logits}

    def measures(self, predictions: Any, dataset: Dataset) -> dict[str, float]:
        if not self.columns.captions:
            return {}
        numbers = {text: number for number, text in enumerate(self._texts)}
        of_images = np.array([numbers.get(caption, UNKNOWN) for caption in dataset[self.columns.label]])
        captioned = of_images != UNKNOWN
        images, of_images = predictions[1][captioned], of_images[captioned]
        of_texts = np.unique(of_images)
        texts = self._embeddings.cpu().numpy()[of_texts]
        both = (recall_at_1(images, texts, of_images, of_texts), recall_at_1(texts, images, of_texts, of_images))
        return dict(zip(self.more_measures, both, strict=True))

    def from_scratch(
        self, architecture: str, settings: dict[str, Any], names: list[str], inputs: Sequence[Any] = ()
    ) -> tuple[PreTrainedModel, Any]:
        """See [`~hf_backdoor.dual_encoders.new_dual_encoder`]; `names` are those of the classes, or captions."""
        return new_dual_encoder(architecture, settings, [*names, *self.wordings])
