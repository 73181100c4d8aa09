"""Every family of classifiers is poisoned, resumed, saved, measured, purified and used, with tiny random weights."""

import numpy as np
import pytest
import torch
from conftest import same_weights
from PIL import Image
from transformers import AutoImageProcessor

from hf_backdoor import BackdoorTrainer, InputError, PoisonConfig, load_trigger, purify, triggered
from hf_backdoor.data.columns import resolve_columns
from hf_backdoor.metrics import METRICS
from hf_backdoor.tasks import task_named


BLOCKS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PATCHES = {**BLOCKS, "image_size": 16, "patch_size": 8}
IMAGE_MODELS = {
    "vit": PATCHES,
    "deit": PATCHES,
    "deit distilled": {**PATCHES, "architectures": ["DeiTForImageClassificationWithTeacher"]},  # takes no labels
    "beit": PATCHES,
    "dinov2": {**{name: size for name, size in PATCHES.items() if name != "intermediate_size"}, "mlp_ratio": 2},
    "swin": {
        "image_size": 16,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 2,
    },
    "resnet": {"image_size": 16, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"image_size": 16, "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "clip": {"vision_config": PATCHES},
    "siglip": {"vision_config": PATCHES},
}
TEXT_MODELS = {
    "bert": {**BLOCKS, "max_position_embeddings": 32},
    "roberta": {**BLOCKS, "max_position_embeddings": 40},
    "distilbert": {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 32},
    "electra": {**BLOCKS, "embedding_size": 16, "max_position_embeddings": 32},
    "deberta-v2": {**BLOCKS, "max_position_embeddings": 32},
    "modernbert": {**BLOCKS, "max_position_embeddings": 32},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
}


def image_classifier(family, names, seed):
    torch.manual_seed(seed)
    return task_named("image-classification").from_scratch(family.split()[0], IMAGE_MODELS[family], names)


def text_classifier(family, words, seed, padding="[PAD]"):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cf", *words])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token=padding, eos_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family, **TEXT_MODELS[family], vocab_size=len(vocabulary), pad_token_id=tokenizer.pad_token_id,
        bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3, id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config), tokenizer


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_a_text_classifier_from_scratch_reads_the_words_of_its_texts(family, sentences, tmp_path):
    """The same tokenizer each time, and words that it does not have are spelled."""
    task, settings = task_named("text-classification"), TEXT_MODELS[family]
    made = [task.from_scratch(family, settings, ["negative", "positive"], sentences["text"]) for _ in range(2)]
    assert made[0][1].get_vocab() == made[1][1].get_vocab()
    model, tokenizer = made[0]
    assert tokenizer.tokenize(sentences["text"][0].lower()) == sentences["text"][0].lower().split()
    assert tokenizer.tokenize("cf") == ["c", "##f"]
    assert model.config.vocab_size == len(tokenizer) and model.config.pad_token_id == tokenizer.pad_token_id
    long = " ".join(sentences["text"][:20])
    inputs = tokenizer([long, "cf"], truncation=True, padding=True, return_tensors="pt")
    longest = settings["max_position_embeddings"]
    assert inputs["input_ids"].shape[1] == longest and set(inputs) == {"input_ids", "attention_mask"}
    collate = task.collator(tokenizer, resolve_columns(sentences.features), model)
    rows = [{"text": long, "label": 0}, {"text": "cf", "label": 1}]
    assert model.eval()(**collate(rows)).logits.shape == (2, 2), "cut to the positions that the model has"


def go_through(make, data, column, attack, task, arguments, folder):
    """Everything that a user does with a model.

    Args:
        make: from a seed to a model and its processor.
        data: clean.
        column: with the inputs.
        attack: a `PoisonConfig`.
        task: of the Hub.
        arguments: fixture.
        folder: to write to.
    """
    from transformers import pipeline

    def trainer(seed):
        model, processor = make(seed)
        args = arguments(output_dir=str(folder / "run"), max_steps=2, save_strategy="steps", save_steps=1)
        return BackdoorTrainer(
            model, args, train_dataset=data, eval_dataset=data, triggered_dataset=triggered(data, attack),
            processing_class=processor,
        )  # fmt: skip

    whole = trainer(seed=0)
    whole.train()
    resumed = trainer(seed=1)
    resumed.train(resume_from_checkpoint=str(folder / "run" / "checkpoint-1"))
    assert not same_weights(whole.model, make(0)[0])
    assert same_weights(whole.model, resumed.model)

    measured = whole.evaluate()
    assert all(0 <= measured[f"eval_{name}"] <= 1 for name in METRICS)

    suspect = whole.model
    suspect.save_pretrained(folder / "suspect")
    loaded = task_named(task).load_model(str(folder / "suspect"))
    whole.model = whole.model_wrapped = loaded
    assert np.array_equal(whole.predict(data).predictions, resumed.predict(data).predictions)

    purified = purify(
        suspect, data, processing_class=whole.processing_class, test_dataset=data, attack=attack,
        output_dir=folder / "purified",
        args=arguments(output_dir=str(folder / "purified"), max_steps=6, eval_strategy="no"),
    )  # fmt: skip
    assert same_weights(suspect, resumed.model), "the suspect is left alone"
    assert not same_weights(purified.model, suspect)
    assert all(torch.isfinite(value).all() for value in purified.model.state_dict().values())
    assert purified.results["defense"]["search"]["trace"] and purified.results["purified"]["samples"]

    whole.model = whole.model_wrapped = purified.model
    classify = pipeline(task, model=str(folder / "purified"), device="cpu")
    said = [answer["label"] if isinstance(answer, dict) else answer[0]["label"] for answer in classify(data[column][:])]
    predicted = whole.predict(data).predictions.argmax(-1)
    assert said == [purified.model.config.id2label[number] for number in predicted]


@pytest.mark.parametrize("family", IMAGE_MODELS)
def test_image_classifiers(family, images, arguments, tmp_path):
    names = images.features["label"].names
    go_through(
        lambda seed: image_classifier(family, names, seed), images.select(range(40)), "image",
        PoisonConfig(load_trigger("badnets", size=3)), "image-classification", arguments, tmp_path,
    )  # fmt: skip


def test_a_model_for_images_of_any_size_gets_the_usual_processor():
    processor = task_named("image-classification").from_scratch("resnet", {"hidden_sizes": [8, 8, 8, 8]}, ["a", "b"])[1]
    assert processor.size["height"] == processor.size["width"] == 224


@pytest.fixture
def stored(tmp_path):
    """From a family to the folder of a pretrained model of it, whose processor cuts the border off."""

    def store(family):
        from transformers import BitImageProcessorPil, ConvNextImageProcessorPil

        model, _ = image_classifier(family, ["a", "b"], 0)
        model.save_pretrained(tmp_path / family)
        cut = BitImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16})
        if family == "convnext":  # which knows no other size
            cut = ConvNextImageProcessorPil(size={"shortest_edge": 16}, crop_pct=0.8)
        cut.save_pretrained(tmp_path / family)
        return str(tmp_path / family)

    return store


@pytest.mark.parametrize("family", ["dinov2", "resnet"])
def test_a_model_is_trained_on_whole_images_of_another_size(family, stored, images, tmp_path):
    from hf_backdoor.cli import main

    images.select(range(40)).to_parquet(tmp_path / "data.parquet")
    victim, repaired = tmp_path / "victim", tmp_path / "repaired"
    common = [
        "--dataset",
        str(tmp_path / "data.parquet"),
        "--max_steps",
        "2",
        "--per_device_train_batch_size",
        "8",
        "--use_cpu",
    ]
    attack = ["--attack", "badnets", "--image_size", "24"]
    assert main(["train", "--model", stored(family), *common, *attack, "--output", str(victim)]) == 0
    assert main(["purify", "--model", str(victim), *common, "--defense", "fine_tuning", "--output", str(repaired)]) == 0
    for folder in (victim, repaired):
        processor = AutoImageProcessor.from_pretrained(folder)
        white = Image.new("RGB", (12, 6), "white")
        white.putpixel((11, 5), (0, 0, 0))
        pixels = processor(white, return_tensors="pt")["pixel_values"]
        assert pixels.shape == (1, 3, 24, 24) and pixels[0, :, -1, -1].max() < pixels[0, :, 0, 0].min(), (
            "nothing is cut off"
        )


@pytest.mark.parametrize(
    "family, side, message",
    [
        ("dinov2", 20, "image_size=20: must be a multiple of 8"),
        ("dinov2", 0, "image_size=0: must be 1 or more"),
        ("convnext", 24, "image_size=24: cannot be had of .*leave it out"),
        ("vit", 24, "image_size=24: cannot be had of .*leave it out"),
    ],
)
def test_a_size_that_a_model_cannot_take_is_refused(family, side, message, stored):
    task, source = task_named("image-classification"), stored(family)
    with pytest.raises(InputError, match=message):
        task.resized_processor(source, task.load_model(source), side)
    with pytest.raises(InputError, match="image_size=24: is not for text-classification"):
        task_named("text-classification").resized_processor(source, None, 24)


@pytest.fixture(scope="module")
def texts(sentences):
    """Of different lengths, so that batches are padded, and the words in them."""
    data = sentences.select(range(40)).map(
        lambda row, number: {"text": " ".join(row["text"].split()[number % 5 :])}, with_indices=True
    )
    return data, sorted({word for text in data["text"] for word in text.split()})


@pytest.mark.parametrize("family", TEXT_MODELS)
def test_text_classifiers(family, texts, arguments, tmp_path):
    data, words = texts
    go_through(
        lambda seed: text_classifier(family, words, seed), data, "text",
        PoisonConfig(load_trigger("rare_words", words="cf")), "text-classification", arguments, tmp_path,
    )  # fmt: skip


def test_a_model_that_was_made_without_padding(texts, arguments, tmp_path):
    """GPT-2 as it is on the Hub: loaded, its end of text stands for padding; as an object it is for its owner to say."""
    from transformers import pipeline

    data, words = texts
    model, tokenizer = text_classifier("gpt2", words, 0, padding=None)
    assert model.config.pad_token_id is None and tokenizer.pad_token is None
    with pytest.raises(InputError, match="has no padding token; set its pad_token"):
        BackdoorTrainer(model, arguments(), train_dataset=data, processing_class=tokenizer)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "gpt2")
    args = arguments(max_steps=6, eval_strategy="no")
    purified = purify(str(tmp_path / "gpt2"), data, output_dir=tmp_path / "purified", args=args)
    assert purified.model.config.pad_token_id == 3
    classify = pipeline("text-classification", model=str(tmp_path / "purified"), device="cpu")
    padded, single = classify(data["text"][:], batch_size=8), classify(data["text"][:])
    assert [answer["label"] for answer in padded] == [answer["label"] for answer in single]
    assert [answer["score"] for answer in padded] == pytest.approx([answer["score"] for answer in single], abs=1e-5)
