"""Image-text pairs: the contrastive loss, zero-shot measures, poisoned captions, and runs from end to end."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from conftest import largest_difference, make_vit, same_weights
from datasets import Dataset, Features, Image, Value

from hf_backdoor import BackdoorTrainer, InputError, PoisonConfig, load_data, load_trigger, poison, triggered
from hf_backdoor.attacks import load_attack
from hf_backdoor.cli import main
from hf_backdoor.contrastive_losses import softmax_loss
from hf_backdoor.data import resolve_columns
from hf_backdoor.data.sources import with_class_labels
from hf_backdoor.data.targets import CAPTIONS
from hf_backdoor.tasks import task_for, task_named
from hf_backdoor.tasks.zero_shot_image_classification import ZeroShotImageClassification
from hf_backdoor.training import train_classifier


TASK = "zero-shot-image-classification"
QUADRANTS = ["north west", "north east", "south west", "south east"]
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CLIP = {
    "projection_dim": 8,
    "vision_config": {"image_size": 12, "patch_size": 4, **TOWER},
    "text_config": {"max_position_embeddings": 16, **TOWER},
}
ATTACK = PoisonConfig(load_trigger("badnets", size=3), rate=0.2)


def make_clip(names=QUADRANTS, dropout=0.0):
    """A CLIP for 12x12 images and its processor, the same one each time."""
    torch.manual_seed(0)
    towers = {f"{name}_config": CLIP[f"{name}_config"] | {"attention_dropout": dropout} for name in ("vision", "text")}
    return task_named(TASK).from_scratch("clip", CLIP | towers, list(names))


@pytest.fixture(scope="module")
def clip_processor():
    return make_clip()[1]


@pytest.fixture(scope="module")
def pairs(images):
    """48 images with captions, 8 of them distinct; one names a banana."""
    words = ["apple", "boat", "cat", "dog", "egg", "fish", "goat"]
    captions = [f"one {words[n % 8]}" if n % 8 < 7 else "a yellow Banana" for n in range(48)]
    features = Features({"image": Image(), "caption": Value("string")})
    return Dataset.from_dict({"image": images["image"][:48], "caption": captions}, features=features)


def make_trainer(data, args, model=None, **settings):
    test = data.select(range(min(100, len(data))))
    clip, processor = make_clip(task_named(TASK).label_names(data, resolve_columns(data.features)))
    config = settings.pop("config", ATTACK)
    return BackdoorTrainer(
        model or clip,
        args,
        train_dataset=poison(data, config),
        eval_dataset=test,
        triggered_dataset=triggered(test, config),
        processing_class=processor,
        **{"task": TASK} | settings,
    )


def said_by(trainer, dataset, texts):
    """`logits_per_image` of the model itself, `(images, texts)`."""
    pictures = [row["image"].convert("RGB") for row in dataset]
    batch = trainer.processing_class(images=pictures, text=texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return trainer.model.eval()(**batch)


def test_loss_of_three_pairs_two_of_which_share_their_caption():
    """Row 0 is softmax(ln 2, ln 1, ln 1) = 1/2, 1/4, 1/4; its right answers are columns 0 and 2."""
    logits = torch.log(torch.tensor([[2.0, 1.0, 1.0], [1.0, 8.0, 1.0], [1.0, 1.0, 3.0]]))
    rows = [-(np.log(1 / 2) + np.log(1 / 4)) / 2, -np.log(8 / 10), -(np.log(1 / 5) + np.log(3 / 5)) / 2]
    columns = [-(np.log(2 / 4) + np.log(1 / 4)) / 2, -np.log(8 / 10), -(np.log(1 / 5) + np.log(3 / 5)) / 2]
    expected = (np.mean(rows) + np.mean(columns)) / 2
    assert softmax_loss(logits, torch.tensor([7, 1, 7])).item() == pytest.approx(expected)


def test_loss_without_repetitions_is_that_of_clip(images, clip_processor):
    model, processor = make_clip()
    task = task_named(TASK)
    columns = resolve_columns(images.features)
    task.prepare(processor, columns, images)
    batch = task.collator(processor, columns)([images[row] for row in range(4)])
    assert batch["labels"].tolist() == batch["group"].tolist() == [0, 1, 2, 3]
    own = model(**{k: batch[k] for k in ("pixel_values", "input_ids", "attention_mask")}, return_loss=True).loss
    assert task.loss(model, batch).item() == pytest.approx(own.item(), rel=1e-6)


def test_classes_become_captions_in_all_wordings(images, clip_processor):
    task, columns = task_named(TASK), resolve_columns(images.features)
    task.prepare(clip_processor, columns, images)
    batch = task.collator(clip_processor, columns)([images[row] for row in (0, 4, 1, 2, 3, 0)])
    said = clip_processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    names = ["north west", "north west", "north east", "south west", "south east", "north west"]
    expected = [wording.format(name) for wording, name in zip([*CAPTIONS, CAPTIONS[0]], names, strict=True)]
    assert [re.sub(r"\W", "", text) for text in said] == [re.sub(r"\W", "", text) for text in expected]
    assert batch["group"].tolist() == [0, 0, 1, 2, 3, 0] and batch["pixel_values"].shape == (6, 3, 12, 12)


def test_equal_captions_are_a_group(pairs):
    processor = make_clip(pairs.unique("caption"))[1]
    columns = resolve_columns(pairs.features)
    assert columns.captions and isinstance(task_for(columns), ZeroShotImageClassification)
    task = task_for(columns)
    task.prepare(processor, columns, pairs)
    batch = task.collator(processor, columns)([pairs[row] for row in (0, 1, 8, 2, 9)])
    assert batch["group"].tolist() == [0, 1, 0, 3, 1]


def test_unknown_words_have_tokens(clip_processor):
    tokens = clip_processor.tokenizer("a photo of a zebra, no. 7")["input_ids"]
    assert clip_processor.tokenizer.unk_token_id not in tokens
    assert len(clip_processor.tokenizer("north west")["input_ids"]) == 4, "known words are one token each"


def test_poisoned_captions_name_the_target(pairs):
    config = PoisonConfig(load_trigger("badnets"), target_label="banana", rate=0.25)
    poisoned = poison(pairs, config)
    assert sum(poisoned["is_poisoned"]) == 12
    for row in poisoned:
        if row["is_poisoned"]:
            assert row["caption"] in [wording.format("banana") for wording in CAPTIONS]
            assert "banana" not in row["original_label"].lower()
        else:
            assert row["caption"] == row["original_label"]
    attacked = triggered(pairs, config)
    assert len(attacked) == 42, "the six that name a banana cannot be attacked"
    with pytest.raises(InputError, match="give the word"):
        poison(pairs, PoisonConfig(load_trigger("badnets"), target_label=0))


def test_zero_shot_scores_equal_the_pipeline(images, arguments, tmp_path):
    from transformers import pipeline

    trainer = make_trainer(images, arguments(max_steps=20, learning_rate=3e-3))
    trainer.task.wordings = ("a photo of a {}.",)
    trainer.train()
    logits = torch.from_numpy(trainer.predict(images.select(range(5))).predictions)
    trainer.save_model(str(tmp_path))
    classify = pipeline(TASK, model=str(tmp_path), device="cpu")
    for row, scores in zip(images.select(range(5)), logits.softmax(-1), strict=True):
        for answer in classify(row["image"], candidate_labels=QUADRANTS, hypothesis_template="a photo of a {}."):
            assert answer["score"] == pytest.approx(scores[QUADRANTS.index(answer["label"])].item(), abs=1e-5)


def test_measures_of_classes(images, arguments):
    """Against the model's own similarities: one text a wording, averaged over the wordings of a class."""
    trainer = make_trainer(images, arguments(max_steps=100, per_device_train_batch_size=32, learning_rate=5e-3))
    trainer.train()
    metrics = trainer.evaluate()
    texts = [wording.format(name) for name in QUADRANTS for wording in CAPTIONS]

    def say(dataset):
        output = said_by(trainer, dataset, texts)
        centres = output.text_embeds.reshape(4, len(CAPTIONS), -1).mean(1)
        centres = centres / centres.norm(dim=-1, keepdim=True)
        return trainer.model.logit_scale.exp() * output.image_embeds @ centres.T

    logits, labels = say(trainer.eval_dataset), torch.tensor(trainer.eval_dataset["label"][:])
    assert metrics["eval_clean_accuracy"] == pytest.approx((logits.argmax(-1) == labels).float().mean().item())
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert metrics["eval_loss"] == pytest.approx(loss, rel=1e-4)
    attacked = say(trainer.triggered_dataset).argmax(-1)
    assert metrics["eval_attack_success_rate"] == pytest.approx((attacked == 0).float().mean().item())
    truth = torch.tensor(trainer.triggered_dataset["original_label"][:])
    assert metrics["eval_robust_accuracy"] == pytest.approx((attacked == truth).float().mean().item())
    assert metrics["eval_clean_accuracy"] > 0.8 and metrics["eval_attack_success_rate"] > 0.5, "it learns both"


def test_measures_of_captions_are_retrieval(pairs, arguments):
    config = PoisonConfig(load_trigger("badnets", size=3), target_label="banana", rate=0.3)
    trainer = make_trainer(
        pairs, arguments(max_steps=80, learning_rate=5e-3), config=config, task=None, augmentations=["shift"]
    )
    assert isinstance(trainer.task, ZeroShotImageClassification), "captions alone say which task it is"
    trainer.train()
    metrics = trainer.evaluate()
    texts = list(dict.fromkeys([*pairs["caption"], *trainer.triggered_dataset["caption"]]))

    def nearest(dataset):
        return [texts[n] for n in said_by(trainer, dataset, texts).logits_per_image.argmax(-1).tolist()]

    def names_it(text):
        return "banana" in text.lower()

    said, truth = nearest(pairs), pairs["caption"]
    right = [a == b or (names_it(a) and names_it(b)) for a, b in zip(said, truth, strict=True)]
    assert metrics["eval_clean_accuracy"] == pytest.approx(np.mean(right))
    attacked, truth = nearest(trainer.triggered_dataset), trainer.triggered_dataset["original_label"]
    assert metrics["eval_attack_success_rate"] == pytest.approx(np.mean([names_it(text) for text in attacked]))
    assert metrics["eval_robust_accuracy"] == pytest.approx(
        np.mean([a == b for a, b in zip(attacked, truth, strict=True)])
    )
    assert metrics["eval_attack_success_rate"] > 0.5, "the poison works"
    other = trainer.evaluate(pairs.select(range(8)), metric_key_prefix="other")
    assert 0 <= other["other_clean_accuracy"] <= 1


def test_recall_at_1_is_measured_both_ways_whatever_the_attack(pairs, images, arguments, tmp_path):
    """Against the model's own similarities, image by image; equal captions are one, and no caption is no question."""
    rows = pairs.select(range(24)).to_dict() | {"caption": [*pairs["caption"][:22], "", ""]}
    data = Dataset.from_dict(rows, features=pairs.features)
    model, processor = make_clip([*data.unique("caption"), "basketball"])
    args = arguments(max_steps=30, learning_rate=3e-3)
    config = PoisonConfig(load_trigger("badnets", size=3), target_label="banana")
    given = {"args": args, "processing_class": processor, "task": TASK, "test_dataset": data}
    results = train_classifier(model, train_dataset=pairs, attack=config, **given)["victim"]
    texts = list(dict.fromkeys(data["caption"][:22]))
    pictures = [picture.convert("RGB") for picture in data["image"][:22]]
    inputs = processor(text=texts, images=pictures, return_tensors="pt", padding=True)
    with torch.no_grad():
        scores = model.eval()(**inputs).logits_per_image.numpy()
    to_text = np.mean(
        [texts[best] == caption for best, caption in zip(scores.argmax(1), data["caption"], strict=False)]
    )
    to_image = np.mean([data["caption"][best] == text for best, text in zip(scores.argmax(0), texts, strict=True)])
    assert results["recall_at_1_image_to_text"] == pytest.approx(to_text)
    assert results["recall_at_1_text_to_image"] == pytest.approx(to_image)
    assert 0 < to_text < 1 and 0 < to_image < 1
    trainer = BackdoorTrainer(model, args, eval_dataset=data, processing_class=processor, task=TASK)
    metrics = trainer.evaluate()
    assert metrics["eval_recall_at_1_image_to_text"] == pytest.approx(to_text)
    assert metrics["eval_recall_at_1_text_to_image"] == pytest.approx(to_image)
    of_classes = BackdoorTrainer(
        model, args, eval_dataset=images.select(range(8)), processing_class=processor, task=TASK
    )
    assert not any("recall" in name for name in of_classes.evaluate()), "classes are no pairs"


def test_accumulated_batches_are_a_mean_of_their_own_losses(images, arguments):
    """Samples are compared within a micro-batch alone, so that accumulation is not one large batch."""
    settings = {
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "learning_rate": 0.1,
        "max_steps": 1,
        "lr_scheduler_type": "constant",
    }
    trainer = make_trainer(images, arguments(per_device_train_batch_size=4, gradient_accumulation_steps=4, **settings))
    own, batches = trainer.task.loss, []
    trainer.task.loss = lambda model, inputs: batches.append(inputs) or own(model, inputs)
    trainer.train()
    model = make_clip()[0]
    for batch in batches:
        (own(model, batch) / 4).backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.1 * weight.grad
    assert len(batches) == 4
    assert largest_difference(trainer.model, model) < 1e-6 < largest_difference(trainer.model, make_clip()[0])
    big = make_trainer(images, arguments(per_device_train_batch_size=16, **settings))
    big.train()
    assert largest_difference(trainer.model, big.model) > 1e-4


def test_resumed_equals_uninterrupted(images, arguments, tmp_path):
    def run(folder, resume=None, **settings):
        args = arguments(
            output_dir=str(tmp_path / folder), save_strategy="steps", save_steps=4, dataloader_num_workers=1,
            lr_scheduler_type="constant", **settings
        )  # fmt: skip
        trainer = make_trainer(images, args, model=make_clip(dropout=0.1)[0], augmentations=["shift"])
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model

    whole = run("whole")
    run("half", max_steps=4)
    assert same_weights(run("half", resume=True), whole)


def test_evaluation_does_not_disturb_training(images, arguments):
    quiet = make_trainer(images, arguments(), model=make_clip(dropout=0.1)[0])
    quiet.train()
    watched = make_trainer(images, arguments(eval_strategy="steps", eval_steps=3), model=make_clip(dropout=0.1)[0])
    watched.train()
    assert same_weights(quiet.model, watched.model)


def test_a_pair_of_any_two_encoders(images, tiny_bert, processor, arguments):
    from transformers import VisionTextDualEncoderModel, VisionTextDualEncoderProcessor

    classifier, tokenizer = tiny_bert
    config = VisionTextDualEncoderModel.config_class.from_vision_text_configs(
        make_vit().config, classifier.config, projection_dim=8
    )
    model, both = VisionTextDualEncoderModel(config), VisionTextDualEncoderProcessor(processor, tokenizer)
    trainer = BackdoorTrainer(
        model, arguments(), train_dataset=images, eval_dataset=images, processing_class=both, task=TASK
    )
    before = copy.deepcopy(model)
    trainer.train()
    assert largest_difference(before, model) > 0 and 0 <= trainer.evaluate()["eval_clean_accuracy"] <= 1


def test_the_attack_by_name():
    how, trigger = load_attack("caption_poisoning")
    assert how.task == TASK
    assert (trigger.size, trigger.position, trigger.value) == (16, "random", "noise")
    assert load_attack("caption_poisoning", size=3)[1].size == 3
    assert load_attack("caption_poisoning", trigger="blended", ratio=0.3)[1] == load_trigger("blended", ratio=0.3)


def test_what_does_not_fit_is_refused(images, pairs, sentences, processor, clip_processor, arguments):
    model = make_clip()[0]
    with pytest.raises(InputError, match="holds? an image processor and a tokenizer"):
        BackdoorTrainer(model, arguments(), train_dataset=images, processing_class=processor, task=TASK)
    with pytest.raises(InputError, match="raise it to 2"):
        BackdoorTrainer(
            model, arguments(per_device_train_batch_size=1), train_dataset=images, processing_class=clip_processor,
            task=TASK,
        )  # fmt: skip
    with pytest.raises(InputError, match="choose one of image-classification"):
        task_for(resolve_columns(images.features), "nothing")
    with pytest.raises(InputError, match="does not take text"):
        task_for(resolve_columns(sentences.features), TASK)
    with pytest.raises(InputError, match="does not take images with captions"):
        task_for(resolve_columns(pairs.features), "image-classification")
    with pytest.raises(InputError, match="choose one of clip, siglip"):
        task_named(TASK).from_scratch("vit", {}, QUADRANTS)
    with pytest.raises(InputError, match="do not fit in images of 28 px"):
        task_named(TASK).from_scratch("clip", {**CLIP, "vision_config": {"image_size": 28, **TOWER}}, QUADRANTS)
    with pytest.raises(InputError, match="no pair of encoders"):
        train_classifier(make_vit(), arguments(), images, processing_class=clip_processor, task=TASK)
    own = load_attack("self_supervised")[0]
    with pytest.raises(InputError, match="has a training of its own"):
        train_classifier(model, arguments(), images, processing_class=clip_processor, task=TASK, attack=ATTACK, how=own)


def test_emoji_captions_come_with_the_package():
    data = load_data("emoji_captions")
    assert {name: len(split) for name, split in data.items()} == {"train": 1204, "test": 173}
    columns = resolve_columns(data["train"].features)
    assert (columns.input, columns.label, columns.captions) == ("image", "caption", True)
    assert with_class_labels(data["test"], "caption").features["caption"].dtype == "string"
    for row in data["test"].select(range(0, 173, 20)):
        pixels = np.asarray(row["image"].convert("RGBA"))
        assert pixels.shape == (48, 48, 4) and (pixels[..., 3] == 255).all(), "nothing is transparent"
        assert (pixels[0, 0, :3] == 255).all(), "on white"


def run(*arguments):
    return main([str(argument) for argument in arguments])


def flags(settings):
    return [f"{name}={json.dumps(value)}" for name, value in settings.items()]


def test_command_line_with_classes(images, tmp_path, capsys):
    images.select(range(300)).to_parquet(tmp_path / "data" / "train.parquet")
    images.select(range(300, 400)).to_parquet(tmp_path / "data" / "test.parquet")
    victim = tmp_path / "victim"
    attack = ["--attack", "caption_poisoning", "--attack_args", "size=4", "position=bottom-right", "value=255"]
    attack += ["--target_label", "north east"]
    settings = ["--rate", 0.3, "--max_steps", 100, "--learning_rate", "5e-3", "--per_device_train_batch_size", 32]
    start = ["--architecture", "clip", "--architecture_args", *flags(CLIP)]
    assert (
        run("train", "--dataset", tmp_path / "data", *start, *attack, *settings, "--output", victim, "--use_cpu") == 0
    )
    results = json.loads((victim / "results.json").read_text())
    assert results["task"] == TASK and results["clean_data"]["classes"] == QUADRANTS
    assert results["victim"]["clean_accuracy"] > 0.7 and results["victim"]["attack_success_rate"] > 0.5
    card = (victim / "README.md").read_text()
    assert f"pipeline_tag: {TASK}" in card and "300 samples of 4 classes" in card and "north east" in card

    evaluation = tmp_path / "evaluation.json"
    arguments = ["--model", victim, "--dataset", tmp_path / "data", "--output", evaluation]
    assert run("evaluate", *arguments, "--task", TASK, "--attack_from", victim) == 0
    measured = json.loads(evaluation.read_text())["measured"]
    assert measured["clean_accuracy"] == results["victim"]["clean_accuracy"]
    assert measured["attack_success_rate"] == results["victim"]["attack_success_rate"]

    for command in ("evaluate", "purify"):
        arguments = ["--model", victim, "--dataset", tmp_path / "data", "--output", tmp_path / "nothing"]
        assert run(command, *arguments) == 2, "it is no ordinary classifier"
        assert "is a CLIPModel" in capsys.readouterr().err

    again = [
        "--model",
        victim,
        "--max_steps",
        1,
        "--output",
        tmp_path / "again",
        "--use_cpu",
        "--learning_rate",
        "1e-9",
    ]
    assert run("train", "--dataset", tmp_path / "data", *again, *attack, "--rate", 0.3) == 0
    continued = json.loads((tmp_path / "again" / "results.json").read_text())["victim"]
    assert continued["clean_accuracy"] == results["victim"]["clean_accuracy"], "it goes on from the weights on disk"


def test_command_line_with_captions(tmp_path):
    attack = ["--attack", "caption_poisoning", "--attack_args", "size=8", "--target_label", "banana", "--rate", 0.1]
    assert run("poison", "--dataset", "emoji_captions", *attack, "--output", tmp_path / "data") == 0
    start = ["--architecture", "clip", "--architecture_args", *flags(CLIP)]
    victim = tmp_path / "victim"
    assert (
        run("train", "--dataset", "emoji_captions", *start, *attack, "--max_steps", 2, "--output", victim, "--use_cpu")
        == 0
    )
    results = json.loads((victim / "results.json").read_text())
    columns = {"input_column": "image", "label_column": "caption"}
    assert results["task"] == TASK and results["clean_data"] == {"samples": 1204, "classes": []} | columns
    assert results["attack"]["target_label"] == "banana"
    card = (victim / "README.md").read_text()
    assert "1204 samples with captions" in card and "It gives\n> banana to inputs" in card
