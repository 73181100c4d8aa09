"""purify for other models, other labels and parts of the weights: pairs of encoders, new heads, adapters."""

import gc
import json
import shutil
import tempfile
import weakref
from pathlib import Path

import pytest
import torch
from conftest import make_vit, same_weights
from datasets import ClassLabel, DatasetDict
from helpers import KillAt, Killed
from transformers import TrainerCallback

from hf_backdoor import InputError, PoisonConfig, load_defense, load_trigger, purify
from hf_backdoor.cli import main
from hf_backdoor.data import resolve_columns
from hf_backdoor.data.sources import keep_classes
from hf_backdoor.defenses.super_fine_tuning import SuperFineTuning
from hf_backdoor.probing import fit_head
from hf_backdoor.purification import default_arguments
from hf_backdoor.results import write_json
from hf_backdoor.super_fine_tuning.search import PeakSearch
from hf_backdoor.tasks import task_named
from hf_backdoor.tuning import load_tuning


ZERO_SHOT = "zero-shot-image-classification"
QUADRANTS = ["north west", "north east", "south west", "south east"]
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ATTACK = PoisonConfig(load_trigger("badnets", size=3), target_label=1)
RATES = ("base_lr", "peak_lr_1", "peak_lr_2")


def quick(tmp_path, defense="super_fine_tuning", **settings):
    defaults = {"max_steps": 24, "per_device_train_batch_size": 16, "use_cpu": True, "logging_steps": 5}
    return default_arguments(load_defense(defense), tmp_path, **defaults | settings)


def make_clip():
    torch.manual_seed(0)
    vision, text = {"image_size": 12, "patch_size": 4, **TOWER}, {"max_position_embeddings": 32, **TOWER}
    settings = {"vision_config": vision, "text_config": text, "projection_dim": 8}
    return task_named(ZERO_SHOT).from_scratch("clip", settings, QUADRANTS)


@pytest.fixture
def captioned(images):
    names = images.features["label"].names
    return images.add_column("caption", [f"a photo of {names[n]}" for n in images["label"]]).remove_columns("label")


@pytest.mark.parametrize("kind", ["classes", "captions"])
def test_a_pair_of_encoders_is_purified_without_a_look_at_the_attack(kind, images, captioned, tmp_path):
    data = images if kind == "classes" else captioned
    clean, test = data.select(range(160)), data.select(range(200, 300))
    attack = ATTACK if kind == "classes" else PoisonConfig(load_trigger("badnets"), target_label="basketball")
    suspect, processor = make_clip()
    given = {"processing_class": processor, "task": ZERO_SHOT}
    blind = purify(suspect, clean, args=quick(tmp_path / "a"), **given)
    watched = purify(
        suspect, clean, args=quick(tmp_path / "b", eval_steps=9), test_dataset=test, attack=attack,
        output_dir=tmp_path / "saved", **given,
    )  # fmt: skip
    assert same_weights(blind.model, watched.model)
    assert not same_weights(blind.model, suspect)
    assert 0 <= watched.results["purified"]["clean_accuracy"] <= 1
    assert watched.results["purified"]["attack_success_rate"] is not None
    assert same_weights(task_named(ZERO_SHOT).load_model(str(tmp_path / "saved")), watched.model)
    assert "all weights" in (tmp_path / "saved" / "README.md").read_text()


def test_answers_to_an_image_are_the_captions_of_its_batch(images):
    """Logits as the model gives them; what is right is shared by the samples of a class; states in their own size."""
    model, processor = make_clip()
    task, columns = task_named(ZERO_SHOT), resolve_columns(images.features)
    task.prepare(processor, columns, images)
    batch = task.collator(processor, columns)([images[n] for n in (0, 1, 4)])  # classes 0, 1, 0
    logits, features = task.answers(model.eval(), batch)
    own = {name: value for name, value in batch.items() if name not in ("group", "labels")}
    outputs = model(**own)
    image, text = outputs.image_embeds, outputs.text_embeds
    torch.testing.assert_close(logits, model.logit_scale.exp() * image @ text.T)
    hidden = model.vision_model(batch["pixel_values"]).last_hidden_state.reshape(3, -1)
    assert (hidden.norm(dim=-1) - 1).abs().min() > 0.1
    for feature, expected in zip(features, (hidden, image, text), strict=True):
        torch.testing.assert_close(feature, expected)
    assert task.right_answers(batch, 3).tolist() == [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]


def two_classes(data):
    """The same images under other labels: the upper and the lower half."""
    labels = [n // 2 for n in data["label"]]
    return data.remove_columns("label").add_column("label", labels).cast_column(
        "label", ClassLabel(names=["upper", "lower"])
    )  # fmt: skip


def test_the_probe_trains_a_new_head_and_leaves_the_body(images, processor, tmp_path):
    data = two_classes(images)
    columns = resolve_columns(data.features)
    model = make_vit(classes=("upper", "lower"))
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    given = {"input_column": "image", "label_column": "label"}
    task = task_named("image-classification")
    args = quick(tmp_path, learning_rate=5e-4)
    fitted = fit_head(model, args, data, task, processor, 30, given)
    for name, value in fitted.state_dict().items():
        assert torch.equal(value, kept[name]) == (not name.startswith("classifier.")), name
    assert all(weight.requires_grad for weight in fitted.parameters())
    assert args.learning_rate == 5e-4 and args.max_steps == 24, "the user's arguments are not touched"
    again = make_vit(seed=3, classes=("upper", "lower"))
    again.vit.load_state_dict(model.vit.state_dict())
    assert same_weights(fit_head(again, args, data, task, processor, 30, given), fitted), "whatever the head was before"
    assert columns.label == "label"


def test_the_probe_of_a_bert_makes_its_pooler_anew(tiny_bert, sentences, tmp_path):
    """Fine-tuning leaves in the pooler's output what tells the old classes, so that a linear probe learns no others."""
    model, tokenizer = tiny_bert
    with torch.no_grad():
        for weight in model.bert.encoder.parameters():
            weight.mul_(10 if weight.dim() > 1 else 1)  # at random weights near 0 nothing reaches the first token
        model.bert.pooler.dense.weight.zero_()  # an output that is the same for every text
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    given = {"input_column": "text", "label_column": "label"}
    args = quick(tmp_path, per_device_train_batch_size=32)
    fitted = fit_head(model, args, sentences, task_named("text-classification"), tokenizer, 250, given)
    for name, value in fitted.state_dict().items():
        assert torch.equal(value, kept[name]) == (not name.startswith(("classifier.", "bert.pooler."))), name
    assert all(weight.requires_grad for weight in fitted.parameters())
    encoded = tokenizer(list(sentences["text"]), padding=True, return_tensors="pt")
    with torch.no_grad():
        right = fitted.eval()(**encoded).logits.argmax(-1) == torch.tensor(sentences["label"])
    assert right.float().mean() > 0.6, "and not 0.5, as whoever cannot tell the texts apart"


@pytest.mark.parametrize("kind", ["classes", "captions"])
def test_the_probe_of_a_pair_goes_on_from_its_projections_and_leaves_the_towers(kind, images, captioned, tmp_path):
    data = images if kind == "classes" else captioned
    given = {"input_column": "image", "label_column": "label" if kind == "classes" else "caption"}
    model, processor = make_clip()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    fitted = fit_head(model, quick(tmp_path / "probe"), data, task_named(ZERO_SHOT), processor, 2, given)
    for name, value in fitted.state_dict().items():
        step = (value - kept[name]).abs().max()
        assert (0 < step < 3e-2) if "projection" in name else step == 0, name

    make_clip()[0].save_pretrained(tmp_path / "victim")
    processor.save_pretrained(tmp_path / "victim")
    moved = purify(
        str(tmp_path / "victim"), data.select(range(100)), new_head=True, probe_steps=2, task=ZERO_SHOT,
        args=quick(tmp_path / "run"),
    )  # fmt: skip
    assert moved.results["training"]["new_head_probed_for"] == 2 and moved.results["defense"]["label_weight"] == 3


def test_a_model_that_does_not_know_the_task_is_warned_of(images, processor, tmp_path, caplog):
    import logging

    logging.getLogger("hf_backdoor").propagate = True
    suspect = make_vit()
    with caplog.at_level("WARNING"):
        purify(suspect, images.select(range(100)), args=quick(tmp_path / "run"), processing_class=processor)
    assert "% of the clean samples rightly" in caplog.text and "--new_head yes" in caplog.text


def test_a_repair_that_broke_the_model_is_warned_of(images, processor, tmp_path, caplog):
    """By the clean samples alone: there may be no test set. At rates of the user's own it is left at that."""
    import logging

    logging.getLogger("hf_backdoor").propagate = True
    tuning = {"defense": "fine_tuning", "processing_class": processor}
    peaks = load_defense("super_fine_tuning", base_lr=2.0, peak_lr_1=10.0, peak_lr_2=10.0)
    with caplog.at_level("WARNING"):
        fine = purify(
            make_vit(), images, args=quick(tmp_path, "fine_tuning", max_steps=60, learning_rate=5e-3), **tuning
        )
        assert "broke" not in caplog.text
        tuned = purify(fine.model, images, args=quick(tmp_path, "fine_tuning", learning_rate=10.0), **tuning)
        broken = purify(fine.model, images, args=quick(tmp_path), **tuning | {"defense": peaks})
    known = [run.results["clean_data"]["answered_rightly"] for run in (fine, tuned, broken)]
    assert known[0]["after"] == known[1]["before"] == known[2]["before"] > 0.6
    assert known[1]["after"] < 0.5 and known[2]["after"] < 0.5
    assert caplog.text.count("Give lower rates") == 2 and "more gently" not in caplog.text
    assert broken.results["defense"]["given_up"] == []
    assert load_defense("super_fine_tuning", peak_lr_1=10.0).gentler(None) is None, "one rate is a choice, too"


@pytest.mark.parametrize(
    ("before", "after", "broke"),
    [(0.866, 0.793, True), (0.744, 0.673, True), (0.835, 0.834, False), (0.87, 0.92, False)],
    ids=["LoRA r=64 of text", "LoRA r=16 of a ViT that moved", "rescaled LoRA of text", "all weights of text"],
)
def test_what_counts_as_broken(before, after, broke):
    """Shares of clean samples answered rightly, of runs in the tables of docs/paradigms.md."""
    from hf_backdoor.repairing import Cost, Repair

    assert Repair(None, None, None, Cost(), {}, {"before": before, "after": after}).broke == broke


class Alone(TrainerCallback):
    """What an earlier training held is gone when another one begins."""

    optimizers = []

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
        assert [earlier() for earlier in self.optimizers] == [None] * len(self.optimizers)
        self.optimizers.append(weakref.ref(optimizer.optimizer))


class Reckless(SuperFineTuning):
    """Takes the first peak that it tries, the learning rate."""

    def callbacks(self):
        callback, *others = super().callbacks()
        callback.search = PeakSearch(max_peaks=1)
        return [callback, *others, Alone()]


def test_peaks_that_broke_the_model_are_halved(images, processor, tmp_path):
    """From the suspect anew; what was given up is on the card, and no checkpoint of it is left."""
    victim = purify(
        make_vit(), images, defense="fine_tuning", processing_class=processor,
        args=quick(tmp_path, "fine_tuning", max_steps=60, learning_rate=5e-3),
    ).model  # fmt: skip
    defense = Reckless(distillation=False, averaging=False)
    out = tmp_path / "run"
    settings = {"learning_rate": 10.0, "save_strategy": "steps", "save_steps": 10, "save_total_limit": 2}
    done = purify(
        victim, images, defense=defense, processing_class=processor, output_dir=out, args=quick(out, **settings)
    )
    assert len(Alone.optimizers) == 2
    assert {path.name for path in out.glob("checkpoint-*")} == {"checkpoint-20", "checkpoint-24"}
    Alone.optimizers.clear()
    shutil.rmtree(out / "checkpoint-24")
    resumed = purify(
        victim, images, defense=defense, processing_class=processor, output_dir=out, overwrite=True,
        args=quick(out, **settings, resume_from_checkpoint=True),
    )  # fmt: skip
    assert len(Alone.optimizers) == 1, "no third one is begun"
    assert same_weights(resumed.model, done.model)
    assert resumed.results["training"]["resumed_from"] == "checkpoint-20"
    assert resumed.results["defense"]["given_up"] == done.results["defense"]["given_up"]
    (given_up,) = done.results["defense"]["given_up"]
    found, used = given_up["search"], done.results["defense"]["schedule"]
    assert given_up["answered_rightly"] < done.results["clean_data"]["answered_rightly"]["before"] - 0.1
    assert [used[name] for name in RATES] == [found[name] / 2 for name in RATES]
    halved = SuperFineTuning(**{name: found[name] / 2 for name in RATES}, distillation=False, averaging=False)
    plain = purify(victim, images, defense=halved, processing_class=processor, args=quick(tmp_path))
    assert same_weights(done.model, plain.model)
    card = (out / "README.md").read_text()
    assert "**Given up:** a first repair with peaks of" in card and "How the peaks were found" in card


def test_checkpoints_of_others_outlive_a_repair_that_is_given_up(images, processor, tmp_path):
    """The suspect may be one of them."""
    suspect = tmp_path / "run" / "checkpoint-80"
    purify(
        make_vit(), images, defense="fine_tuning", processing_class=processor, output_dir=suspect,
        args=quick(tmp_path, "fine_tuning", max_steps=60, learning_rate=5e-3),
    )  # fmt: skip
    defense = Reckless(distillation=False, averaging=False)
    args = quick(tmp_path / "run", learning_rate=10.0, save_strategy="steps", save_steps=10)
    Alone.optimizers.clear()
    done = purify(str(suspect), images, defense=defense, output_dir=tmp_path / "out", args=args)
    assert done.results["defense"]["given_up"] and (suspect / "model.safetensors").is_file()


def test_a_victim_moves_to_other_labels(images, processor, tmp_path):
    """Before is the linear probe on the frozen body; after is the model that was super-fine-tuned from there."""
    make_vit().save_pretrained(tmp_path / "victim")
    processor.save_pretrained(tmp_path / "victim")
    data = two_classes(images)
    moved = purify(
        str(tmp_path / "victim"), data.select(range(200)), new_head=True, probe_steps=60, args=quick(tmp_path / "run"),
        test_dataset=data.select(range(200, 400)), attack=PoisonConfig(load_trigger("badnets"), target_label=0),
        output_dir=tmp_path / "moved",
    )  # fmt: skip
    assert moved.model.config.id2label == {0: "upper", 1: "lower"}
    before = moved.results["suspect"]
    assert before["clean_accuracy"] > 0.6, "a probe of random features still tells bright from dark"
    assert sum(before["triggered_predictions"]) == before["samples"]["attack_success_rate"] == 100
    assert before["triggered_predictions"][0] == round(100 * before["attack_success_rate"])
    assert moved.results["training"]["new_head_probed_for"] == 60
    assert moved.results["cost"]["probe_seconds"] > 0


@pytest.mark.parametrize(
    ("new_head", "given", "weights"),
    [
        (False, {}, (0.3, 0.5)),
        (True, {}, (3.0, 0.0)),
        (True, {"label_weight": 0.3}, (0.3, 0.0)),
        (True, {"distillation": False}, None),
    ],
)
def test_labels_count_more_than_the_answers_of_a_linear_probe(new_head, given, weights, images, processor, tmp_path):
    """By default; the user's word holds, and results and card say what was done."""
    make_vit().save_pretrained(tmp_path / "victim")
    processor.save_pretrained(tmp_path / "victim")
    rates = {"peak_lr_1": 1e-3, "peak_lr_2": 5e-4, "base_lr": 1e-4}
    said = {"distillation": False} if weights is None else {"label_weight": weights[0], "feature_weight": weights[1]}
    data, runs = images.select(range(100)), []
    for number, settings in enumerate([given, said]):
        runs.append(purify(
            str(tmp_path / "victim"), two_classes(data) if new_head else data, new_head=new_head, probe_steps=3,
            defense=load_defense("super_fine_tuning", **settings, **rates), args=quick(tmp_path / f"run{number}"),
            output_dir=tmp_path / f"out{number}",
        ))  # fmt: skip
    assert same_weights(runs[0].model, runs[1].model)
    told, card = runs[0].results["defense"], (tmp_path / "out0" / "README.md").read_text()
    if weights is None:
        assert told["trusted_answers"] is None and "the labels alone" in card
    else:
        assert (told["label_weight"], told["feature_weight"]) == weights and told["trusted_answers"] is not None
        assert f"labels, with a weight of {weights[0]:g} against the suspect's own answers" in card
    assert ("3 steps of a probe" in card) == new_head


def test_a_tower_of_a_pair_of_any_two_encoders_gets_a_head(images, sentences, processor, tiny_bert, tmp_path):
    """For images the one, for texts the other; a model of its own is saved, an adapter into it."""
    from transformers import (
        AutoModelForImageClassification,
        BertModel,
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
        VisionTextDualEncoderProcessor,
        ViTModel,
    )

    torch.manual_seed(0)
    vision, text = ViTModel(make_vit().config), BertModel(tiny_bert[0].config)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision.config, text.config, projection_dim=8)
    pair = str(tmp_path / "pair")
    VisionTextDualEncoderModel(config, vision, text).save_pretrained(pair)
    VisionTextDualEncoderProcessor(processor, tiny_bert[1]).save_pretrained(pair)
    given = {"new_head": True, "probe_steps": 5, "defense": "fine_tuning", "args": quick(tmp_path, "fine_tuning")}
    moved = purify(pair, images, task="image-classification", peft_config="lora", output_dir=tmp_path / "out", **given)
    assert moved.results["tuning"]["saved"] == "model" and moved.model.config.id2label[3] == "south east"
    batch = torch.rand(2, 3, 12, 12)
    stored = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(stored(pixel_values=batch).logits, moved.model(pixel_values=batch).logits)
    task = task_named("image-classification")
    start = task.load_to_train(pair, images, resolve_columns(images.features))
    for name, weight in start.vit.named_parameters():
        assert torch.equal(weight, vision.get_parameter(name)), "it begins as the tower"
    words = task_named("text-classification").load_to_train(pair, sentences, resolve_columns(sentences.features))
    assert torch.equal(words.bert.pooler.dense.weight, text.pooler.dense.weight)
    with pytest.raises(InputError, match="is a ViTModel, which has no output for each class"):
        purify(pair, images, task="image-classification", args=quick(tmp_path))


def test_an_adapter_is_saved_with_where_its_base_is_or_merged(images, processor, tmp_path):
    make_vit().save_pretrained(tmp_path / "victim")
    processor.save_pretrained(tmp_path / "victim")
    task = task_named("image-classification")
    batch = torch.rand(4, 3, 12, 12)

    def logits(model):
        return model.eval()(pixel_values=batch).logits.detach()

    given = {"args": quick(tmp_path / "run", "fine_tuning"), "defense": "fine_tuning"}
    kept = purify(str(tmp_path / "victim"), images, peft_config="lora", output_dir=tmp_path / "kept", **given)
    assert kept.results["tuning"]["saved"] == "adapter"
    assert not (tmp_path / "kept" / "model.safetensors").exists()
    assert torch.equal(logits(task.load_model(str(tmp_path / "kept"))), logits(kept.model))
    assert "LoRA" in (tmp_path / "kept" / "README.md").read_text()

    in_memory = purify(
        make_vit(), images, peft_config="lora", output_dir=tmp_path / "whole", processing_class=processor, **given
    )
    assert in_memory.results["tuning"]["saved"] == "model", "its base is nowhere on disk"
    assert torch.equal(logits(task.load_model(str(tmp_path / "whole"))), logits(in_memory.model))
    torch.testing.assert_close(logits(in_memory.model), logits(kept.model))

    merged = purify(str(tmp_path / "kept"), images, output_dir=tmp_path / "again", **given)
    assert merged.results["tuning"]["saved"] == "model", "an adapter is merged before all weights are trained"
    assert merged.results["tuning"]["trainable_parameters"] == merged.results["tuning"]["parameters"]


def test_what_was_saved_is_what_is_loaded(images, processor, tmp_path):
    """After an adapter in the same folder, and from an adapter that moved to other labels and was merged on the way."""
    from transformers import AutoModelForImageClassification

    make_vit().save_pretrained(tmp_path / "victim")
    processor.save_pretrained(tmp_path / "victim")
    task, batch = task_named("image-classification"), torch.rand(4, 3, 12, 12)

    def same(result, folder, load=task.load_model):
        loaded, kept = load(str(folder)).eval(), result.model.eval()
        return torch.equal(loaded(pixel_values=batch).logits, kept(pixel_values=batch).logits)

    given = {"args": quick(tmp_path / "run", "fine_tuning"), "defense": "fine_tuning"}
    folder = tmp_path / "out"
    adapter = purify(str(tmp_path / "victim"), images, peft_config="lora", output_dir=folder, **given)
    assert same(adapter, folder)
    assert same(adapter, folder, AutoModelForImageClassification.from_pretrained), "transformers finds the base itself"
    for name, saved in {"dora": "model", "rora": "adapter", "ia3": "adapter"}.items():
        one = purify(str(tmp_path / "victim"), images, peft_config=name, output_dir=tmp_path / name, **given)
        assert one.results["tuning"]["saved"] == saved, name
        for load in (task.load_model, AutoModelForImageClassification.from_pretrained):
            assert same(one, tmp_path / name, load), name
    data = two_classes(images)
    moved = purify(
        str(folder), data, peft_config="lora", new_head=True, probe_steps=5, output_dir=tmp_path / "moved", **given
    )
    assert same(moved, tmp_path / "moved") and moved.model.config.id2label[1] == "lower"
    assert moved.results["suspect_model"] == "out"
    whole = purify(str(tmp_path / "victim"), images, output_dir=folder, overwrite=True, **given)
    assert same(whole, folder)


def test_an_adapter_never_replaces_the_model_that_it_belongs_to(images, processor, tmp_path, monkeypatch):
    make_vit().save_pretrained(tmp_path / "victim")
    processor.save_pretrained(tmp_path / "victim")
    given = {"args": quick(tmp_path / "run", "fine_tuning", max_steps=2), "defense": "fine_tuning", "overwrite": True}
    task = task_named("image-classification")
    monkeypatch.chdir(tmp_path)
    adapter = purify("victim", images, peft_config="lora", output_dir=tmp_path / "adapter", **given)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert same_weights(task.load_model(str(tmp_path / "adapter")), adapter.model), "the base is found from anywhere"
    with pytest.raises(InputError, match="output='.*victim': has the model that the suspect, an adapter, belongs to"):
        purify(str(tmp_path / "adapter"), images, output_dir=tmp_path / "victim", **given)
    whole = purify(str(tmp_path / "victim"), images, peft_config="lora", output_dir=tmp_path / "victim", **given)
    assert whole.results["tuning"]["saved"] == "model"
    assert same_weights(task.load_model(str(tmp_path / "victim")), whole.model)


def test_a_prompt_is_loaded_again(sentences, tiny_bert, tmp_path):
    from peft import PromptTuningConfig

    model, tokenizer = tiny_bert
    model.save_pretrained(tmp_path / "victim")
    tokenizer.save_pretrained(tmp_path / "victim")
    config = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    given = {"args": quick(tmp_path / "run", "fine_tuning", max_steps=4, learning_rate=0.1), "defense": "fine_tuning"}
    first = purify(str(tmp_path / "victim"), sentences, peft_config=config, output_dir=tmp_path / "first", **given)
    loaded = task_named("text-classification").load_model(str(tmp_path / "first"))
    assert same_weights(loaded, first.model)
    again = purify(str(tmp_path / "first"), sentences, peft_config="same_adapter", **given)
    before, after = loaded.state_dict(), again.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("prompt" in name for name in changed) and not any(".bert.encoder." in name for name in changed)


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_a_model_that_gives_no_class_gets_a_head_that_does(kind, images, processor, tmp_path):
    make_vit(classes=("upper", "lower")).save_pretrained(tmp_path / "suspect")
    processor.save_pretrained(tmp_path / "suspect")
    content = json.loads((tmp_path / "suspect" / "config.json").read_text())
    (tmp_path / "suspect" / "config.json").write_text(json.dumps(content | {"problem_type": kind}))
    given = {"args": quick(tmp_path / "run", "fine_tuning", max_steps=2), "defense": "fine_tuning"}
    with pytest.raises(InputError, match=f"was made for {kind.replace('_', ' ')}"):
        purify(str(tmp_path / "suspect"), two_classes(images), **given)
    moved = purify(str(tmp_path / "suspect"), two_classes(images), new_head=True, probe_steps=2, **given)
    assert moved.model.config.problem_type == "single_label_classification"


def test_texts_are_cut_to_what_the_model_has_positions_for(sentences, tiny_bert, tmp_path):
    model, tokenizer = tiny_bert
    tokenizer.model_max_length = int(1e30)  # as many on the Hub have
    longest = model.config.max_position_embeddings
    long = sentences.map(lambda text: {"text": " ".join([text] * longest)}, input_columns="text")
    purify(model, long, args=quick(tmp_path, max_steps=6), processing_class=tokenizer)
    task, columns = task_named("text-classification"), resolve_columns(long.features)
    rows = [long[0], long[1]]
    assert task.collator(tokenizer, columns, model)(rows)["input_ids"].shape == (2, longest)
    tokenizer.model_max_length = 9
    assert task.collator(tokenizer, columns, model)(rows)["input_ids"].shape == (2, 9)


def test_a_test_set_with_classes_of_other_names_is_refused(images, processor, tmp_path):
    from hf_backdoor.training import train_classifier

    other = images.remove_columns("label").add_column("label", images["label"][:]).cast_column(
        "label", ClassLabel(names=["a", "b", "c", "d"])
    )  # fmt: skip
    given = {"test_dataset": other, "args": quick(tmp_path / "run"), "processing_class": processor}
    with pytest.raises(InputError, match="test_dataset=.*are not all among the classes north west"):
        purify(make_vit(), images, **given)
    with pytest.raises(InputError, match="test_dataset=.*are not all among"):
        train_classifier(make_vit(), train_dataset=images, **given)


def test_classes_of_a_test_file_are_those_of_the_clean_one(sentences, tiny_bert, tmp_path, capsys):
    """A file that has one class alone numbers it as the other file does."""
    model, tokenizer = tiny_bert
    model.save_pretrained(tmp_path / "victim")
    tokenizer.save_pretrained(tmp_path / "victim")

    def write(name, *classes):
        of = sentences.features["label"].names
        texts = [f"{row['text']},{of[row['label']]}" for row in sentences if of[row["label"]] in classes]
        (tmp_path / name).write_text("\n".join(["text,label", *texts, ""]))
        return str(tmp_path / name)

    command = ["purify", "--model", str(tmp_path / "victim"), "--dataset", write("clean.csv", "negative", "positive")]
    command += ["--defense", "fine_tuning", "--max_steps", "30", "--learning_rate", "1e-2", "--use_cpu", "yes"]
    command += ["--test_split", "train", "--disable_tqdm", "yes", "--output"]
    test = ["--test_dataset", write("test.csv", "positive")]
    assert main([*command, str(tmp_path / "out"), *test]) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["purified"]["clean_accuracy"] > 0.9
    (tmp_path / "test.csv").write_text("text,label\ngood,bad\n")
    assert main([*command, str(tmp_path / "other"), *test]) == 2
    assert "test_dataset=['bad']: are not all among the classes negative, positive" in capsys.readouterr().err


def test_a_part_that_was_frozen_is_so_no_longer(images, processor, tmp_path):
    given = {"args": quick(tmp_path / "run", "fine_tuning"), "defense": "fine_tuning", "processing_class": processor}
    first = purify(make_vit(), images, peft_config="head", **given)
    again = purify(first.model, images, **given)
    assert again.results["tuning"]["trainable_parameters"] == again.results["tuning"]["parameters"]


def test_frozen_statistics_do_not_move(images, processor, tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=4)
    config.id2label = dict(enumerate(QUADRANTS))
    suspect = ResNetForImageClassification(config)
    result = purify(
        suspect, images, peft_config="head", args=quick(tmp_path, "fine_tuning"), defense="fine_tuning",
        processing_class=processor,
    )  # fmt: skip
    before, after = suspect.state_dict(), result.model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "classifier.1.weight", "classifier.1.bias"
    }  # fmt: skip


def test_captions_are_searched_without_distillation_and_without_a_test_set(captioned, tmp_path):
    suspect, processor = make_clip()
    defense = load_defense("super_fine_tuning", distillation=False)
    result = purify(
        suspect, captioned.select(range(120)), args=quick(tmp_path), defense=defense, processing_class=processor,
        task=ZERO_SHOT,
    )  # fmt: skip
    assert result.results["defense"]["search"]["trace"]


def test_a_peft_config_of_ones_own(images, processor, tmp_path):
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["classifier"])
    result = purify(
        make_vit(), images, peft_config=config, args=quick(tmp_path / "run", "fine_tuning"), defense="fine_tuning",
        processing_class=processor, output_dir=tmp_path / "out",
    )  # fmt: skip
    # Two layers of A (2x16) and B (16x2), and the head of 4 classes.
    assert result.results["tuning"]["trainable_parameters"] == 2 * (2 * 16 + 16 * 2) + 16 * 4 + 4
    assert json.loads((tmp_path / "out" / "results.json").read_text())["tuning"]["config"]["target_modules"] == [
        "q_proj"
    ]


@pytest.mark.parametrize("tuning", ["lora", "bitfit"])
def test_super_fine_tuning_of_a_part_leaves_the_rest(tuning, images, processor, tmp_path):
    """With the search, the distillation and the averaged weights."""
    suspect = make_vit()
    result = purify(suspect, images, peft_config=tuning, args=quick(tmp_path), processing_class=processor)
    before, after = suspect.state_dict(), result.model.state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {"vit.embeddings.cls_token", "vit.layernorm.weight"}
    assert moved and not moved & frozen
    assert any(name.startswith("classifier") for name in moved)
    assert result.results["cost"]["peak_memory_bytes"] > 2**20


def test_classes_are_kept_by_name_and_numbered_anew(images):
    data = DatasetDict(train=images.select(range(100)), test=images.select(range(100, 200)))
    kept = keep_classes(data, "label", ["south east", "north west"])
    assert kept["train"].features["label"].names == ["south east", "north west"]
    expected = [{3: 0, 0: 1}[n] for n in data["train"]["label"] if n in (0, 3)]
    assert kept["train"]["label"][:] == expected
    assert kept["test"][0]["image"].tobytes() == data["test"][0]["image"].tobytes()
    for wrong in (["west"], ["north west"], ["north west", "north west"]):
        with pytest.raises(InputError, match="classes="):
            keep_classes(data, "label", wrong)


def test_command_line(images, tmp_path, capsys):
    """A victim on three classes, moved to two by a linear probe and an adapter; the attack has another target there."""
    DatasetDict(train=images, test=images.select(range(100))).save_to_disk(tmp_path / "data")
    common = ["--dataset", str(tmp_path / "data"), "--use_cpu", "yes", "--disable_tqdm", "yes"]
    vit = [f"{name}={value}" for name, value in {"image_size": 12, "patch_size": 4, **TOWER}.items()]
    train = ["train", "--architecture", "vit", "--architecture_args", *vit, "--attack", "badnets", "--max_steps", "5"]
    train += ["--classes", "north west", "north east", "south west", "--output", str(tmp_path / "victim")]
    assert main([*train, *common]) == 0
    move = [
        "purify",
        "--model",
        str(tmp_path / "victim"),
        "--attack_from",
        str(tmp_path / "victim"),
        "--max_steps",
        "4",
    ]
    move += ["--classes", "south west", "south east", "--new_head", "yes", "--probe_steps", "5", "--peft", "lora"]
    move += ["--peft_args", "r=2", "--target_label", "south east", "--defense", "fine_tuning"]
    assert main([*move, "--output", str(tmp_path / "moved"), *common]) == 0
    results = json.loads((tmp_path / "moved" / "results.json").read_text())
    assert results["attack"]["target_label"] == 1
    assert results["tuning"]["name"] == "lora" and results["tuning"]["r"] == 2
    capsys.readouterr()
    assert main([*move, "--output", str(tmp_path / "other"), "--peft", "nothing", *common]) == 2
    assert "peft='nothing'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_what_does_not_fit_is_found_before_the_probe(images, processor, tiny_bert, tmp_path, monkeypatch):
    from hf_backdoor import purification

    make_vit().save_pretrained(tmp_path / "victim")
    processor.save_pretrained(tmp_path / "victim")
    tiny_bert[0].save_pretrained(tmp_path / "bert")
    monkeypatch.setattr(purification, "fit_head", lambda *_: pytest.fail("the probe ran"))
    mixing = load_defense("fine_mixing", base=str(tmp_path / "bert"))
    given = {"new_head": True, "args": quick(tmp_path / "run"), "output_dir": tmp_path / "out"}
    with pytest.raises(InputError, match="shares no weight"):
        purify(str(tmp_path / "victim"), two_classes(images), defense=mixing, **given)
    with pytest.raises(InputError, match="count=3.*has 2 blocks"):
        purify(str(tmp_path / "victim"), two_classes(images), peft_config=load_tuning("last_blocks", count=3), **given)
    with pytest.raises(InputError, match="no adapter, or merged for a new head"):
        purify(str(tmp_path / "victim"), two_classes(images), peft_config="same_adapter", **given)
    assert not (tmp_path / "out").exists()


def test_bad_input_is_explained(images, processor):
    with pytest.raises(InputError, match="probe_steps=0: must be 1 or more"):
        purify(make_vit(), images, new_head=True, probe_steps=0, processing_class=processor)
    with pytest.raises(InputError, match="peft='nothing'"):
        purify(make_vit(), images, peft_config="nothing", processing_class=processor)
    with pytest.raises(InputError, match="model='ViTForImageClassification': gets a new head when it is loaded"):
        purify(make_vit(), two_classes(images), new_head=True, processing_class=processor)


class Looks(TrainerCallback):
    """Sees which checkpoints there are when a training begins."""

    seen = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.seen.append({path.name for path in Path(args.output_dir).glob("checkpoint-*")})


class RecklessAndWatched(Reckless):
    def callbacks(self):
        return [*super().callbacks(), Looks(), *([KillAt(15)] if not Looks.seen else [])]


def test_a_resumed_repair_that_is_given_up_leaves_no_checkpoint_either(images, processor, tmp_path, monkeypatch):
    victim = purify(
        make_vit(), images, defense="fine_tuning", processing_class=processor,
        args=quick(tmp_path, "fine_tuning", max_steps=60, learning_rate=5e-3),
    ).model  # fmt: skip
    defense, out = RecklessAndWatched(distillation=False, averaging=False), tmp_path / "run"
    other = out / "checkpoint-5"
    monkeypatch.setattr(Looks, "seen", [])
    settings = {"learning_rate": 10.0, "save_strategy": "steps", "save_steps": 10}
    given = {"defense": defense, "processing_class": processor, "output_dir": out, "overwrite": True}
    Alone.optimizers.clear()
    with pytest.raises(Killed):
        purify(victim, images, args=quick(out, **settings), **given)
    write_json(other / "trainer_state.json", {"stateful_callbacks": {"TrainerControl": {}}})
    Alone.optimizers.clear()
    done = purify(victim, images, args=quick(out, **settings, resume_from_checkpoint="last"), **given)
    assert done.results["defense"]["given_up"]
    assert Looks.seen == [set(), {other.name, "checkpoint-10"}, {other.name}]


def test_a_refused_purification_leaves_no_folder(images, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(InputError, match="fewer samples than one batch"):
        purify(make_vit(), images.select(range(40)), processing_class=processor)
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_search_keeps_frozen_batch_normalisation_still(images, processor, tmp_path):
    """As the training does: at a rate of nearly nothing all answers are what they were."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    names = dict(enumerate(QUADRANTS))
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", id2label=names,
        label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    defense = Reckless(distillation=False, averaging=False)
    args = quick(tmp_path, learning_rate=1e-12, max_steps=16)
    Alone.optimizers.clear()
    model = ResNetForImageClassification(config)
    done = purify(model, images, defense=defense, peft_config="head", processing_class=processor, args=args)
    (tried,) = done.results["defense"]["search"]["trace"]
    assert tried["kappa"] == 1.0
