"""BackdoorTrainer: right measures from two passes, and the same weights however the work is cut up."""

import copy
import logging
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import largest_difference, make_vit, same_weights
from helpers import KillAt, Killed
from transformers import default_data_collator

from hf_backdoor import (
    BackdoorTrainer,
    InputError,
    PoisonConfig,
    SuperFineTuningCallback,
    load_trigger,
    poison,
    triggered,
)
from hf_backdoor.data import resolve_columns
from hf_backdoor.super_fine_tuning import PeakSearch
from hf_backdoor.tasks.image_classification import ImageCollator


ATTACK = PoisonConfig(load_trigger("badnets", size=3), rate=0.2)


def make_trainer(images, processor, args, model=None, **kwargs):
    test = images.select(range(100))
    return BackdoorTrainer(
        model or make_vit(),
        args,
        train_dataset=poison(images, ATTACK),
        eval_dataset=test,
        triggered_dataset=triggered(test, ATTACK),
        processing_class=processor,
        **kwargs,
    )


def test_measures_equal_what_the_model_says(images, processor, arguments):
    trainer = make_trainer(images, processor, arguments(max_steps=40, learning_rate=5e-3))
    trainer.train()
    metrics = trainer.evaluate()

    def say(dataset):
        batch = ImageCollator(processor, resolve_columns(images.features))([dataset[n] for n in range(len(dataset))])
        with torch.no_grad():
            return trainer.model.eval()(pixel_values=batch["pixel_values"]).logits

    test, attacked = images.select(range(100)), triggered(images.select(range(100)), ATTACK)
    logits, labels = say(test), torch.tensor(test["label"][:])
    assert metrics["eval_clean_accuracy"] == (logits.argmax(-1) == labels).float().mean().item()
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert metrics["eval_loss"] == pytest.approx(loss, rel=1e-5)
    said, truth = say(attacked).argmax(-1).numpy(), np.array(attacked["original_label"])
    assert metrics["eval_attack_success_rate"] == pytest.approx(np.mean(said == 0))
    assert metrics["eval_robust_accuracy"] == pytest.approx(np.mean(said == truth))
    assert metrics["eval_attack_success_rate"] > 0.3, "the poison works"


def test_two_passes_in_all(images, processor, arguments):
    trainer = make_trainer(images, processor, arguments(per_device_eval_batch_size=25))
    seen = []
    trainer.model.register_forward_hook(lambda model, inputs, output: seen.append(len(output.logits)))
    trainer.evaluate()
    assert sum(seen) == 100 + 75


def test_accumulated_batches_equal_one_big_batch(images, processor, arguments):
    # Under SGD without clipping, a gradient that is k times too large gives a step that is k times too large.
    settings = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.1}
    big = make_trainer(images, processor, arguments(per_device_train_batch_size=8, **settings))
    big.train()
    small = make_trainer(
        images, processor, arguments(per_device_train_batch_size=2, gradient_accumulation_steps=4, **settings)
    )
    small.train()
    assert largest_difference(big.model, make_vit()) > 1e-2
    assert largest_difference(big.model, small.model) < 1e-6
    assert big.evaluate()["eval_clean_accuracy"] == small.evaluate()["eval_clean_accuracy"]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("workers", [0, 1])
def test_killed_and_resumed_equals_uninterrupted(images, processor, arguments, tmp_path, dropout, workers):
    def run(folder, resume=None, callbacks=()):
        args = arguments(
            output_dir=str(tmp_path / folder), save_strategy="steps", save_steps=4, dataloader_num_workers=workers
        )
        trainer = make_trainer(images, processor, args, model=make_vit(dropout=dropout), callbacks=list(callbacks))
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", callbacks=[KillAt(6)])
    assert same_weights(run("killed", resume=True), whole)


def test_best_model_is_the_one_on_disk(images, processor, arguments, tmp_path):
    """The encoder too, which a plain Trainer leaves as it was at the end."""
    args = arguments(
        max_steps=20, eval_strategy="steps", save_strategy="steps", eval_steps=5, save_steps=5, learning_rate=5e-3,
        load_best_model_at_end=True, metric_for_best_model="attack_success_rate", greater_is_better=False,
    )  # fmt: skip
    trainer = make_trainer(images, processor, args)
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert same_weights(trainer.model, type(trainer.model).from_pretrained(best))
    measured = [e["eval_attack_success_rate"] for e in trainer.state.log_history if "eval_attack_success_rate" in e]
    assert trainer.state.best_metric == min(measured)
    assert trainer.evaluate()["eval_attack_success_rate"] == min(measured)


def test_evaluation_does_not_disturb_training(images, processor, arguments):
    quiet = make_trainer(images, processor, arguments(), model=make_vit(dropout=0.1))
    quiet.train()
    watched = make_trainer(
        images, processor, arguments(eval_strategy="steps", eval_steps=3), model=make_vit(dropout=0.1)
    )
    watched.train()
    assert same_weights(quiet.model, watched.model)


def test_other_evaluation_sets_and_user_metrics_work(images, processor, arguments):
    def user_metrics(prediction):
        return {"answers": len(prediction.predictions)}

    trainer = make_trainer(images, processor, arguments(), compute_metrics=user_metrics)
    metrics = trainer.evaluate()
    assert metrics["eval_answers"] == 100, "the user's metrics see the clean set"
    other = trainer.evaluate(images.select(range(10)), metric_key_prefix="other")
    assert other["other_answers"] == 10 and "other_attack_success_rate" not in other
    several = trainer.evaluate({"a": images.select(range(8)), "b": images.select(range(4))})
    assert "eval_a_clean_accuracy" in several and several["eval_b_answers"] == 4
    assert len(trainer.predict(images.select(range(6))).predictions) == 6


def test_mixed_precision(images, processor, arguments):
    trainer = make_trainer(images, processor, arguments(bf16=True, max_steps=3))
    trainer.train()
    assert trainer.model.classifier.weight.dtype == torch.float32
    assert 0 <= trainer.evaluate()["eval_clean_accuracy"] <= 1


def test_text(sentences, tiny_bert, arguments):
    model, tokenizer = tiny_bert
    attack = PoisonConfig(load_trigger("rare_words"), rate=0.1, target_label=1)
    trainer = BackdoorTrainer(
        model,
        arguments(max_steps=150, learning_rate=5e-3),
        train_dataset=poison(sentences, attack),
        eval_dataset=sentences,
        triggered_dataset=triggered(sentences, attack),
        processing_class=tokenizer,
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_clean_accuracy"] > 0.9 and metrics["eval_attack_success_rate"] > 0.9


def test_resume_restores_the_encoder_not_only_the_rest(images, processor, arguments, tmp_path):
    """Without ReliableCheckpoints this fails: transformers loads none of a ViT's encoder, and says so in a warning."""
    args = arguments(output_dir=str(tmp_path / "run"), save_strategy="steps", save_steps=12)
    trained = make_trainer(images, processor, args)
    trained.train()
    fresh = make_trainer(images, processor, args, model=make_vit(seed=5))
    fresh._load_from_checkpoint(str(tmp_path / "run" / "checkpoint-12"))
    assert same_weights(fresh.model, trained.model)
    shutil.rmtree(tmp_path / "run")


def test_several_accelerators_in_one_process_become_one(images, tiny_vit, processor, arguments):
    args = arguments()
    args._n_gpu = 2
    trainer = BackdoorTrainer(tiny_vit(), args, train_dataset=images, processing_class=processor)
    assert trainer.args.n_gpu == 1 and trainer.args.train_batch_size == 8


def test_the_token_is_not_saved_with_the_arguments(images, processor, arguments, tmp_path):
    trainer = make_trainer(images, processor, arguments(max_steps=1, hub_token="hf_secret"))
    trainer.save_model(str(tmp_path / "saved"))
    stored = torch.load(tmp_path / "saved" / "training_args.bin", weights_only=False)
    assert stored.max_steps == 1 and stored.hub_token is None
    assert not any(b"hf_secret" in path.read_bytes() for path in (tmp_path / "saved").iterdir())
    assert trainer.args.hub_token == copy.deepcopy(trainer.args).hub_token == "hf_secret"


WORD = PoisonConfig(load_trigger("rare_words"), target_label=1, rate=0.2)


def text_trainer(tiny_bert, texts, args, **kwargs):
    model, tokenizer = tiny_bert
    attacked = triggered(texts, WORD)
    return BackdoorTrainer(
        model,
        args,
        train_dataset=texts,
        eval_dataset=texts,
        triggered_dataset=attacked,
        processing_class=tokenizer,
        **kwargs,
    )


@pytest.fixture
def unequal(sentences):
    """Sentences of 1 to 24 words, long and short ones mixed."""
    return sentences.map(
        lambda row, n: {"text": " ".join((row["text"].split() * 3)[: 1 + 7 * n % 24])}, with_indices=True
    )


def of_each_text(model, tokenizer, texts):
    with torch.no_grad():
        return torch.cat([model.eval()(**tokenizer(text, return_tensors="pt")).logits for text in texts])


def test_a_search_compares_answers_to_texts_of_like_length(tiny_bert, unequal, arguments):
    """The same answers as without padding, and hardly any of that."""
    callback = SuperFineTuningCallback(search=PeakSearch(repeats=1, held_out_share=0.5))
    trainer = text_trainer(tiny_bert, unequal, arguments(max_steps=8, per_device_eval_batch_size=10))
    trainer.add_callback(callback)
    widths = []

    def note(model, args, kwargs, output):
        if not model.training:
            mask = kwargs["attention_mask"]
            widths.append((mask.sum().item(), mask.numel()))

    trainer.model.register_forward_hook(note, with_kwargs=True)
    trainer.train()
    tokens, work = (sum(column) for column in zip(*widths, strict=True))
    assert len(widths) == 10 * (1 + len(callback.search_result.trace)) and tokens > 0.85 * work


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "batch_rebalance"])
def test_texts_are_evaluated_by_length_and_reported_in_order(tiny_bert, unequal, arguments, strategy):
    args = arguments(train_sampling_strategy=strategy, per_device_eval_batch_size=20)
    trainer = text_trainer(tiny_bert, unequal, args)
    widths = []
    trainer.model.register_forward_hook(
        lambda model, args, kwargs, output: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    metrics = trainer.evaluate()
    predictions = trainer.predict(unequal)
    clean = widths[: len(unequal) // 20]
    assert clean == sorted(clean, reverse=True) and clean[-1] < clean[0] / 4, "padding is short"
    model, tokenizer = tiny_bert
    said = of_each_text(model, tokenizer, unequal["text"])
    assert np.abs(predictions.predictions - said.numpy()).max() < 1e-5
    assert predictions.label_ids.tolist() == unequal["label"][:]
    assert (
        metrics["eval_clean_accuracy"] == (said.argmax(-1) == torch.tensor(unequal["label"][:])).float().mean().item()
    )
    attacked = trainer.triggered_dataset
    after = of_each_text(model, tokenizer, attacked["text"]).argmax(-1).numpy()
    assert trainer.triggered_predictions.tolist() == after.tolist()


def test_metrics_of_ones_own_see_the_order_of_the_data(tiny_bert, unequal, arguments):
    seen = []
    trainer = text_trainer(
        tiny_bert, unequal, arguments(train_sampling_strategy="group_by_length"),
        compute_metrics=lambda output: seen.append(output.label_ids.tolist()) or {},
    )  # fmt: skip
    trainer.evaluate()
    assert seen == [unequal["label"][:]]


@pytest.mark.parametrize(
    "settings, more",
    [
        ({"dataloader_drop_last": True, "per_device_eval_batch_size": 60}, {}),
        ({"eval_do_concat_batches": False, "per_device_eval_batch_size": 100}, {}),
        ({}, {"preprocess_logits_for_metrics": lambda logits, labels: logits}),
        ({"per_device_eval_batch_size": 60}, {"hidden": True}),
    ],
    ids=["drop last", "batches", "preprocessed", "hidden states"],
)
def test_whatever_a_trainer_predicts_comes_in_the_order_of_the_data(tiny_bert, unequal, arguments, settings, more):
    tiny_bert[0].config.output_hidden_states = more.pop("hidden", False)
    trainer = text_trainer(tiny_bert, unequal, arguments(**settings), **more)
    predictions, labels, _ = trainer.predict(unequal)
    if settings.get("eval_do_concat_batches") is False:
        predictions, labels = np.concatenate(predictions), np.concatenate(labels)
    states = predictions[1] if isinstance(predictions, tuple) else None
    predictions = predictions[0] if isinstance(predictions, tuple) else predictions
    texts = unequal["text"][: len(predictions)]
    assert len(texts) >= 180 and labels.tolist() == unequal["label"][: len(texts)]
    assert np.abs(predictions - of_each_text(*tiny_bert, texts).numpy()).max() < 1e-5
    if states is not None:
        first = tiny_bert[0].bert.embeddings(tiny_bert[1](texts[7], return_tensors="pt")["input_ids"]).detach()
        assert np.abs(states[0][7][: first.shape[1]] - first[0].numpy()).max() < 1e-5


def test_a_loader_of_ones_own_is_used_for_both_sets(tiny_bert, unequal, arguments):
    class Own(BackdoorTrainer):
        def get_eval_dataloader(self, eval_dataset=None):
            seen.append(len(eval_dataset or self.eval_dataset))
            return super().get_eval_dataloader(eval_dataset)

    seen = []
    model, tokenizer = tiny_bert
    attacked = triggered(unequal, WORD)
    Own(model, arguments(), eval_dataset=unequal, triggered_dataset=attacked, processing_class=tokenizer).evaluate()
    assert seen == [len(unequal), len(attacked)]


def test_a_loader_that_is_asked_for_has_the_order_of_the_data(tiny_bert, unequal, arguments):
    trainer = text_trainer(tiny_bert, unequal, arguments(train_sampling_strategy="group_by_length"))
    trainer.evaluate()
    labels = torch.cat([batch["labels"] for batch in trainer.get_eval_dataloader()])
    assert labels.tolist() == unequal["label"][:]


def test_of_several_sets_each_is_evaluated_and_the_attack_once(tiny_bert, unequal, arguments):
    args = arguments(max_steps=2, eval_strategy="steps", eval_steps=1)
    trainer = text_trainer(tiny_bert, unequal, args)
    one = trainer.evaluate()
    trainer.eval_dataset = {"all": unequal, "few": unequal.select(range(50))}
    several = trainer.evaluate()
    assert several["eval_all_clean_accuracy"] == one["eval_clean_accuracy"] and "eval_few_clean_accuracy" in several
    attack = {name: value for name, value in one.items() if name.endswith(("success_rate", "robust_accuracy"))}
    assert len(attack) == 2 and attack.items() <= several.items()
    trainer.train()
    assert sum("eval_attack_success_rate" in row for row in trainer.state.log_history) == 2


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_a_resumed_run_sees_the_same_batches_of_like_length(tiny_bert, unequal, arguments, tmp_path, strategy):
    def run(folder, resume=None, callbacks=()):
        args = arguments(
            output_dir=str(tmp_path / folder), train_sampling_strategy=strategy, max_steps=60, save_strategy="steps",
            save_steps=10, resume_from_checkpoint=resume,
        )  # fmt: skip
        trainer = text_trainer((copy.deepcopy(tiny_bert[0]), tiny_bert[1]), unequal, args, callbacks=list(callbacks))
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model

    whole = run("whole")
    for step in (13, 41):  # of 25 an epoch
        with pytest.raises(Killed):
            run(f"killed {step}", callbacks=[KillAt(step)])
        assert same_weights(whole, run(f"killed {step}", resume=True))


def test_batches_by_length_need_no_column(tiny_bert, unequal, arguments):
    def padding(strategy):
        trainer = text_trainer(tiny_bert, unequal, arguments(train_sampling_strategy=strategy))
        batches = [batch["attention_mask"] for batch in trainer.get_train_dataloader()]
        assert sum(int(mask.sum()) for mask in batches) == sum(
            len(tiny_bert[1](text).input_ids) for text in unequal["text"]
        )
        return 1 - sum(int(mask.sum()) for mask in batches) / sum(mask.numel() for mask in batches)

    assert padding("group_by_length") < 0.5 * padding("random")
    trainer = text_trainer(tiny_bert, unequal, arguments(train_sampling_strategy="group_by_length"))
    assert trainer.train().global_step == 12


def test_images_have_no_lengths(images, processor, arguments):
    with pytest.raises(InputError, match="train_sampling_strategy.*group_by_length.*leave it out"):
        make_trainer(images, processor, arguments(train_sampling_strategy="group_by_length"))


def test_workers_that_stay_do_not_mix_up_the_two_sets(images, processor, arguments):
    trainer = make_trainer(images, processor, arguments())
    trainer.train()
    once = trainer.evaluate()
    args = arguments(dataloader_num_workers=1, dataloader_persistent_workers=True)
    staying = make_trainer(images, processor, args, model=trainer.model)
    for _ in range(3):
        metrics = staying.evaluate()
        assert len(multiprocessing.active_children()) == 2, "one for each set"
        assert {name: metrics[name] for name in once if "_a" in name} == {
            name: once[name] for name in once if "_a" in name
        }


def test_arguments_of_the_user_stay_as_they_are(images, processor, arguments, tmp_path, monkeypatch):
    args = arguments()
    before = args.to_dict()
    BackdoorTrainer(make_vit(), args, train_dataset=images, processing_class=processor)
    assert args.to_dict() == before
    monkeypatch.chdir(tmp_path)
    trainer = BackdoorTrainer(make_vit(), train_dataset=images, processing_class=processor)
    assert not trainer.args.remove_unused_columns and Path(trainer.args.output_dir).name == "trainer_output"


def test_a_model_made_by_a_function_limits_its_texts(tiny_bert, sentences, arguments):
    model, tokenizer = tiny_bert
    tokenizer.model_max_length = int(1e30)
    long = sentences.map(lambda text: {"text": " ".join([text] * 9)}, input_columns="text")
    trainer = BackdoorTrainer(
        args=arguments(max_steps=1), model_init=lambda: model, train_dataset=long, processing_class=tokenizer
    )
    assert trainer.train().global_step == 1


def test_roberta_counts_its_positions_from_behind_the_padding(tiny_bert, sentences, arguments):
    from transformers import RobertaConfig, RobertaForSequenceClassification

    tokenizer = tiny_bert[1]
    tokenizer.model_max_length = 34
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=34, pad_token_id=0, id2label={0: "negative", 1: "positive"},
    )  # fmt: skip
    long = sentences.map(lambda text: {"text": " ".join([text] * 9)}, input_columns="text")
    trainer = BackdoorTrainer(
        RobertaForSequenceClassification(config), arguments(max_steps=1), train_dataset=long, processing_class=tokenizer
    )
    assert trainer.data_collator([long[0]])["input_ids"].shape == (1, 33)
    assert trainer.train().global_step == 1


def test_images_without_a_processor_are_refused(images, arguments):
    with pytest.raises(InputError, match="processing_class=None: is needed to read images"):
        BackdoorTrainer(make_vit(), arguments(), train_dataset=images)


def test_formats_and_several_labels_change_no_measure(images, processor, arguments):
    attacked = triggered(images, PoisonConfig(load_trigger("badnets"), target_label=1))
    given = {"processing_class": processor, "args": arguments()}
    plain = BackdoorTrainer(make_vit(), eval_dataset=images, triggered_dataset=attacked, **given)
    expected = plain.evaluate()
    as_tensors = {"eval_dataset": images.with_format("torch"), "triggered_dataset": attacked.with_format("torch")}
    formatted = BackdoorTrainer(make_vit(), **as_tensors, **given).evaluate()

    def transform(rows):
        made = plain.data_collator([dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)])
        return {
            "pixel_values": list(made["pixel_values"]),
            "labels": list(made["labels"]),
            "weight": list(made["labels"]),
        }

    args = arguments(label_names=["labels", "weight"], remove_unused_columns=False)
    transformed = {
        "eval_dataset": images.with_transform(transform), "triggered_dataset": attacked.with_transform(transform)
    }  # fmt: skip

    class ForgivingViTForImageClassification(type(make_vit())):
        def forward(self, weight=None, **inputs):
            return super().forward(**inputs)

    model = ForgivingViTForImageClassification(make_vit().config)
    model.load_state_dict(make_vit().state_dict())
    own = BackdoorTrainer(model, args, data_collator=default_data_collator, **transformed).evaluate()
    for name in ("eval_loss", "eval_clean_accuracy", "eval_attack_success_rate", "eval_robust_accuracy"):
        assert formatted[name] == expected[name] and own[name] == pytest.approx(expected[name]), name


def test_an_attack_that_cannot_be_measured_is_spoken_of(images, processor, arguments, caplog):
    logging.getLogger("hf_backdoor").propagate = True
    attacked = triggered(images, PoisonConfig(load_trigger("badnets"), target_label=1))
    plain = BackdoorTrainer(make_vit(), arguments(), eval_dataset=images, processing_class=processor)
    collate = plain.data_collator

    def without_labels(rows):
        return {"pixel_values": collate(rows)["pixel_values"]}

    trainer = BackdoorTrainer(
        make_vit(), arguments(remove_unused_columns=False), eval_dataset=images, triggered_dataset=attacked,
        data_collator=without_labels,
    )  # fmt: skip
    with caplog.at_level("WARNING"):
        assert "eval_attack_success_rate" not in trainer.evaluate()
    assert "No attack is measured" in caplog.text


def test_a_victim_is_known_by_its_data_in_every_form(images, sentences, arguments):
    config = PoisonConfig(load_trigger("badnets"), target_label=1, rate=0.1)
    poisoned, clean = poison(images, config), images
    chosen = [row for row, flag in enumerate(poisoned["is_poisoned"]) if flag]
    rest = [row for row in range(len(poisoned)) if row not in chosen]
    bare = poisoned.map(
        lambda: {"pixel_values": [0.0], "labels": 0}, input_columns=[], remove_columns=poisoned.column_names
    )
    assert bare.column_names == ["pixel_values", "labels"]
    forms = {
        "itself": poisoned,
        "dict": {"a": clean, "b": poisoned},
        "subset": torch.utils.data.Subset(poisoned, range(9)),
        "concatenated": torch.utils.data.ConcatDataset([clean, poisoned]),
        "stream": poisoned.to_iterable_dataset(),
        "mapped stream": poisoned.to_iterable_dataset().map(lambda row: row),
        "columns dropped": bare,
        "transformed": poisoned.with_transform(lambda rows: rows),
    }
    for name, data in forms.items():
        trainer = BackdoorTrainer(make_vit(), arguments(), data_collator=default_data_collator, train_dataset=data)
        assert trainer.victim, name
    for data in (clean, None, poisoned.select(rest), clean.to_iterable_dataset(), {"a": clean}):
        trainer = BackdoorTrainer(make_vit(), arguments(), data_collator=default_data_collator, train_dataset=data)
        assert not trainer.victim


def test_parts_that_torch_makes_of_a_data_set_are_trained_on_and_measured(images, processor, arguments):
    def trained(part):
        test = images.select(range(100))
        trainer = BackdoorTrainer(
            make_vit(), arguments(max_steps=3), train_dataset=part(images, range(40)), eval_dataset=part(test, range(30)),
            triggered_dataset=triggered(test, ATTACK), processing_class=processor,
        )  # fmt: skip
        trainer.train()
        return trainer, trainer.evaluate()

    def part_of_a_part(data, rows):
        return torch.utils.data.Subset(torch.utils.data.Subset(data, range(60)), rows)

    (of_torch, measured), (of_datasets, expected) = (
        trained(part_of_a_part),
        trained(lambda data, rows: data.select(rows)),
    )
    assert same_weights(of_torch.model, of_datasets.model)
    told = {name: value for name, value in expected.items() if name.endswith(("rate", "accuracy", "loss"))}
    assert len(told) == 4 and told.items() <= measured.items()


def test_data_of_forms_that_cannot_be_measured_or_prepared_are_refused_at_once(images, processor, arguments):
    test = images.select(range(20))
    given = {"eval_dataset": test, "processing_class": processor}
    stream = triggered(test, ATTACK).to_iterable_dataset()
    with pytest.raises(InputError, match="triggered_dataset='IterableDataset': must be a datasets.Dataset"):
        BackdoorTrainer(make_vit(), arguments(), train_dataset=images, triggered_dataset=stream, **given)
    joined = torch.utils.data.ConcatDataset([images, images])
    with pytest.raises(InputError, match="train_dataset='ConcatDataset': has no columns.*concatenate_datasets"):
        BackdoorTrainer(make_vit(), arguments(), train_dataset=joined, **given)
    prepared = test.with_transform(lambda rows: {"pixel_values": rows["image"]})
    BackdoorTrainer(make_vit(), arguments(), train_dataset=joined, eval_dataset=prepared)


def test_an_evaluation_that_failed_leaves_nothing_to_the_next(images, processor, arguments):
    trainer = make_trainer(images, processor, arguments())

    def fail(*_):
        raise RuntimeError("out of memory")

    hook = trainer.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.evaluate()
    hook.remove()
    assert trainer.predict(images.select(range(8))).metrics.keys().isdisjoint({"test_attack_success_rate"})
    assert "eval_attack_success_rate" not in trainer.evaluation_loop(
        trainer.get_eval_dataloader(images.select(range(8))), "Evaluation"
    ).metrics  # fmt: skip
    assert "eval_attack_success_rate" in trainer.evaluate()
