"""What is given to `purify` as a suspect is what is repaired, whole and as it answers; or it is refused in a sentence."""

import numpy as np
import pytest
import torch
from conftest import same_weights
from datasets import Value
from peft import LoraConfig, PeftConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_tuning import make

from hf_backdoor import BackdoorTrainer, InputError, PoisonConfig, load_defense, load_trigger, purify, triggered
from hf_backdoor.data import resolve_columns
from hf_backdoor.measuring import measure
from hf_backdoor.models import load_pretrained
from hf_backdoor.purification import default_arguments
from hf_backdoor.super_fine_tuning.distillation import relative_distance
from hf_backdoor.tasks import task_named
from hf_backdoor.tuning import load_tuning


IMAGES, TEXTS = task_named("image-classification"), task_named("text-classification")
PEAKS = {"peak_lr_1": 1e-2, "peak_lr_2": 1e-3, "base_lr": 1e-4}


@pytest.fixture
def suspect(processor, images, tmp_path):
    """A folder of a small ViT for the classes of the images."""
    from test_paradigms import make_vit

    make_vit().save_pretrained(tmp_path / "suspect")
    processor.save_pretrained(tmp_path / "suspect")
    return tmp_path / "suspect"


def repaired(model, data, folder, **given):
    defense = load_defense("super_fine_tuning", **PEAKS)
    settings = {"max_steps": 20, "per_device_train_batch_size": 16, "use_cpu": True, "eval_strategy": "no"}
    args = default_arguments(defense, folder, **settings | given.pop("settings", {}))
    return purify(model, data, defense=defense, args=args, output_dir=folder, overwrite=True, **given)


def moved(before, after):
    """Names of the weights that differ."""
    old = before.state_dict()
    return {name for name, value in after.state_dict().items() if not torch.equal(value, old[name])}


def test_an_adapter_inside_a_model_is_refused(suspect, images, processor, tmp_path):
    """The Auto classes make such a model of an adapter's folder, and all but the adapter is frozen in it."""
    from transformers import AutoModelForImageClassification

    adapter = get_peft_model(IMAGES.load_model(str(suspect)), LoraConfig(target_modules=["q_proj"]))
    adapter.save_pretrained(tmp_path / "adapter")
    inside = AutoModelForImageClassification.from_pretrained(tmp_path / "adapter")
    for peft in (None, "lora", "head", "norms"):
        with pytest.raises(InputError, match="has an adapter inside it.*PeftModel.from_pretrained"):
            repaired(inside, images, tmp_path / "out", processing_class=processor, peft_config=peft)
    assert not (tmp_path / "out").exists()


def test_all_weights_are_all_weights_even_of_a_frozen_model(suspect, images, processor, tmp_path):
    model = IMAGES.load_model(str(suspect)).requires_grad_(False)
    done = repaired(model, images, tmp_path / "out", processing_class=processor)
    assert moved(model, done.model) == {name for name, _ in model.named_parameters()}
    assert not any(weight.requires_grad for weight in model.parameters()), "the user's own is left alone"


def test_a_configuration_that_was_loaded_for_inference_trains(suspect, images, tmp_path):
    base = IMAGES.load_model(str(suspect))
    get_peft_model(base, LoraConfig(target_modules=["q_proj"], r=2)).save_pretrained(tmp_path / "adapter")
    config = PeftConfig.from_pretrained(str(tmp_path / "adapter"))
    assert config.inference_mode
    done = repaired(str(suspect), images, tmp_path / "out", peft_config=config)
    assert done.results["tuning"]["trainable_parameters"] > 0 and config.inference_mode


def test_an_adapter_names_the_commit_of_its_base(suspect):
    model = IMAGES.load_model(str(suspect))
    model.config._commit_hash = "1" * 40  # as a model of the Hub has it
    assert load_tuning("lora").apply(model).peft_config["default"].revision == "1" * 40


@pytest.fixture
def endless(sentences):
    """A tiny GPT-2, whose configuration has no padding, and a tokenizer that has one: token 0."""
    from test_model_families import text_classifier

    words = sorted({word for text in sentences["text"] for word in text.lower().split()})
    model, tokenizer = text_classifier("gpt2", words, seed=0)
    model.config.pad_token_id = None
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    return model.eval(), tokenizer


def test_padding_is_what_the_tokenizer_says(endless, sentences, tmp_path):
    """GPT-2 answers at the last token that is no padding: in a batch as one by one, trained or loaded again."""
    model, tokenizer = endless
    model.save_pretrained(tmp_path / "suspect")
    tokenizer.save_pretrained(tmp_path / "suspect")
    with torch.no_grad():
        alone = [model(**tokenizer(text, return_tensors="pt")).logits.argmax().item() for text in sentences["text"]]
    expected = np.mean(np.array(alone) == np.array(sentences["label"][:]))
    done = repaired(
        str(tmp_path / "suspect"), sentences, tmp_path / "out", peft_config="lora", test_dataset=sentences,
        settings={"per_device_eval_batch_size": 50},
    )  # fmt: skip
    assert done.results["suspect"]["clean_accuracy"] == pytest.approx(expected)
    args = default_arguments(load_defense("fine_tuning"), tmp_path / "run", use_cpu=True, per_device_eval_batch_size=50)
    loaded = TEXTS.load_model(str(tmp_path / "out"))
    assert isinstance(loaded, PeftModel) and loaded.config.pad_token_id == tokenizer.pad_token_id == 0
    again = measure(BackdoorTrainer(loaded, args, eval_dataset=sentences, processing_class=tokenizer))
    assert again["clean_accuracy"] == done.results["purified"]["clean_accuracy"]


def test_weights_that_are_in_no_file_are_no_suspect(suspect, images, tmp_path):
    weights = load_file(suspect / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if not name.startswith("classifier")},
        suspect / "model.safetensors", metadata={"format": "pt"},
    )  # fmt: skip
    with pytest.raises(InputError, match="has no classifier.bias that fits in its files, and 2 such weights"):
        repaired(str(suspect), images, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    repaired(str(suspect), images, tmp_path / "out", new_head=True, probe_steps=2)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_of_an_adapter_are_trained_with_it(bias):
    adapter = get_peft_model(make("vit"), LoraConfig(target_modules=["q_proj"], r=2, bias=bias))
    expected = {name for name, weight in adapter.named_parameters() if weight.requires_grad}
    assert any(name.endswith("bias") for name in expected)
    again = load_tuning("same_adapter").apply(adapter)
    assert {name for name, weight in again.named_parameters() if weight.requires_grad} == expected


def test_an_adapter_that_cannot_be_merged_is_refused_before_the_training(endless, sentences, tmp_path):
    model, tokenizer = endless
    config = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    with pytest.raises(InputError, match="is a kind of adapter that cannot be merged"):
        repaired(model, sentences, tmp_path / "out", peft_config=config, processing_class=tokenizer)
    with pytest.raises(InputError, match="peft_config|does not fit"):
        repaired(
            model, sentences, tmp_path / "out", peft_config=PromptTuningConfig(num_virtual_tokens=2),
            processing_class=tokenizer,
        )  # fmt: skip


def test_a_test_set_changes_nothing_in_half_precision_either(suspect, images, tmp_path):
    """An evaluation wraps the forward pass of the model in the precision of the training."""
    settings = {"bf16": True, "max_steps": 10}
    blind = repaired(str(suspect), images, tmp_path / "blind", settings=settings)
    watched = repaired(str(suspect), images, tmp_path / "watched", settings=settings, test_dataset=images)
    assert same_weights(blind.model, watched.model)
    stored = IMAGES.load_model(str(tmp_path / "watched")).eval()
    pixels = {"pixel_values": torch.rand(2, 3, 12, 12)}
    for more in ({}, {"return_dict": False}):
        assert torch.equal(watched.model(**pixels, **more)[0], stored(**pixels, **more)[0]), (
            "it answers as its file does"
        )


@pytest.mark.parametrize("name", ["bf16_full_eval", "fp16_full_eval", "batch_eval_metrics"])
def test_settings_that_would_change_what_is_measured_are_refused(name, suspect, images, tmp_path):
    with pytest.raises(InputError, match=f"{name}=True: .*leave it out"):
        repaired(str(suspect), images, tmp_path / "out", settings={name: True})
    with pytest.raises(InputError, match="eval_do_concat_batches=False"):
        repaired(
            str(suspect), images, tmp_path / "out", settings={"eval_do_concat_batches": False}, test_dataset=images
        )


def test_the_test_set_chooses_nothing(suspect, images, tmp_path):
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    with pytest.raises(InputError, match="load_best_model_at_end=True: would choose by the test set"):
        repaired(str(suspect), images, tmp_path / "out", test_dataset=images, settings=best)
    repaired(str(suspect), images, tmp_path / "out", settings={"eval_on_start": True})  # of what is not there


def test_every_sample_is_evaluated_whatever_training_drops(suspect, images, processor, tmp_path):
    attack = PoisonConfig(load_trigger("badnets", size=3), target_label=0)
    clean, attacked = images.select(range(45)), triggered(images.select(range(45)), attack)
    args = default_arguments(
        load_defense("fine_tuning"), tmp_path, use_cpu=True, dataloader_drop_last=True, per_device_eval_batch_size=10
    )
    trainer = BackdoorTrainer(
        IMAGES.load_model(str(suspect)), args, train_dataset=images, eval_dataset=clean, triggered_dataset=attacked,
        processing_class=processor,
    )  # fmt: skip
    assert len(trainer.predict(clean).predictions) == 45
    assert measure(trainer)["samples"]["attack_success_rate"] == len(attacked)
    assert trainer.args.dataloader_drop_last and len(trainer.get_train_dataloader()) == len(images) // 64


def test_truth_values_are_no_classes(sentences, endless, tmp_path):
    model, tokenizer = endless
    values = [bool(label) for label in sentences["label"]]
    labelled = sentences.remove_columns("label").add_column("label", values).cast_column("label", Value("bool"))
    with pytest.raises(InputError, match="labels must be a ClassLabel or whole numbers from 0"):
        repaired(model, labelled, tmp_path / "out", processing_class=tokenizer)


def test_the_size_of_a_silent_sample_is_that_of_the_others():
    """Of a ReLU network all features may be 0: by its own size any change would be infinite."""
    kept, ours = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[3.0, 5.0], [0.1, 0.0]])
    mean = (25 + 0) / 2
    assert relative_distance([ours], [kept]).tolist() == pytest.approx([1 / 25, 0.01 / (1e-3 * mean)])


def test_what_diverged_is_not_saved(suspect, images, tmp_path):
    defense = load_defense("fine_tuning")
    args = default_arguments(
        defense, tmp_path / "out", max_steps=3, learning_rate=1e30, max_grad_norm=0.0, use_cpu=True, optim="sgd",
        per_device_train_batch_size=16,
    )  # fmt: skip
    with pytest.raises(InputError, match="learning_rate=1e\\+30: made the training diverge; lower it"):
        purify(str(suspect), images, defense=defense, args=args, output_dir=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_loss_that_takes_no_smoothing_says_so(images, tmp_path):
    from test_paradigms import ZERO_SHOT, make_clip

    model, processor = make_clip()
    args = default_arguments(
        load_defense("fine_tuning"), tmp_path, use_cpu=True, label_smoothing_factor=0.1, eval_strategy="no"
    )
    with pytest.raises(InputError, match="label_smoothing_factor=0.1: the loss of zero-shot.*takes none"):
        BackdoorTrainer(model, args, train_dataset=images, processing_class=processor, task=ZERO_SHOT)


def test_without_a_folder_nothing_is_left_anywhere(suspect, images, tmp_path, monkeypatch):
    """The folder that a Trainer has to have is one of the system's, and is gone at the end."""
    (tmp_path / "here").mkdir()
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    defense = load_defense("fine_tuning")
    monkeypatch.setattr(type(defense), "training_defaults", lambda self: {"max_steps": 2, "use_cpu": True})
    purify(str(suspect), images, defense=defense)
    assert not list((tmp_path / "here").iterdir()) and not list((tmp_path / "scratch").iterdir())


def test_a_repair_that_diverged_is_done_anew_too(suspect, images, tmp_path, monkeypatch):
    """At the first peaks the weights end as no numbers; at half of them they do not."""
    from hf_backdoor.defenses.super_fine_tuning import SuperFineTuning

    class Reckless(SuperFineTuning):
        def gentler(self, trainer):
            return load_defense("super_fine_tuning", **PEAKS, distillation=False, averaging=False)

    first = Reckless(peak_lr_1=1e30, peak_lr_2=1e30, base_lr=1e30, distillation=False, averaging=False)
    args = default_arguments(first, tmp_path / "out", max_steps=20, per_device_train_batch_size=16, use_cpu=True)
    args.optim, args.max_grad_norm, args.eval_strategy = "sgd", 0.0, "no"
    fitted = repaired(str(suspect), images, tmp_path / "fitted", settings={"max_steps": 60})
    done = purify(
        fitted.model, images, defense=first, args=args, output_dir=tmp_path / "out",
        processing_class=IMAGES.load_processor(str(suspect)),
    )  # fmt: skip
    assert done.results["defense"]["given_up"]
    assert all(weight.isfinite().all() for weight in done.model.parameters())


def test_a_text_is_cut_where_a_learned_prompt_leaves_no_more_places(tiny_bert, sentences):
    model, tokenizer = tiny_bert
    prompted = get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=6)).eval()
    long = sentences.select(range(4)).map(lambda row: {"text": " ".join([row["text"]] * 6)})
    batch = TEXTS.collator(tokenizer, resolve_columns(long.features), prompted)(list(long))
    assert batch["input_ids"].shape == (4, 26), "of 32 positions"
    assert prompted(**batch).logits.shape == (4, 2)


def test_a_text_model_without_a_mask_is_repaired(tiny_bert, sentences, tmp_path):
    from transformers import FNetConfig, FNetForSequenceClassification

    _, tokenizer = tiny_bert
    tokenizer.model_input_names = ["input_ids", "token_type_ids"]
    config = FNetConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, intermediate_size=32, type_vocab_size=2,
        max_position_embeddings=32, id2label={0: "negative", 1: "positive"},
    )  # fmt: skip
    model = FNetForSequenceClassification(config)
    done = repaired(model, sentences, tmp_path / "out", processing_class=tokenizer, test_dataset=sentences)
    assert "encoder" in " ".join(moved(model, done.model)) and done.results["defense"]["found_words"]["tokens"]


@pytest.mark.parametrize("broken", ["model.safetensors", "tokenizer.json"])
def test_a_file_that_was_cut_off_or_is_of_something_else_is_one_sentence(broken, tiny_bert, tmp_path):
    model, tokenizer = tiny_bert
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    content = {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()[:1000], "tokenizer.json": b"[1]"}
    (tmp_path / broken).write_bytes(content[broken])
    kind = "AutoTokenizer" if broken == "tokenizer.json" else "AutoModelForSequenceClassification"
    with pytest.raises(InputError, match="cannot be loaded"):
        load_pretrained(kind, str(tmp_path))
