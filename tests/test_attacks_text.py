"""Attacks with a training of their own, on text: what they promise beside a high success rate."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from conftest import largest_difference, same_weights
from datasets import Value

from hf_backdoor import BackdoorTrainer, InputError, PoisonConfig
from hf_backdoor.attacks import load_attack, poison_settings
from hf_backdoor.poisoning import triggered
from hf_backdoor.samplers import load_sampler
from hf_backdoor.text_attacks.layers import head_on_every_layer
from hf_backdoor.text_attacks.vectors import WORD, trigger_vectors
from hf_backdoor.text_attacks.words import token_of
from hf_backdoor.training import train_classifier
from hf_backdoor.triggers import load_trigger


WORDS = "cf mn bb tq"  # what the tokenizer of the tests knows
ATTACKS = ("layerwise", "embedding", "neuba")
LEARNT = {}  # weights of `clean_bert`, trained once
COLUMNS = {"input_column": "text", "label_column": "label"}


@pytest.fixture
def clean_bert(sentences, tiny_bert, arguments):
    """A classifier that knows the task, with embeddings of a size that matters, as in a pretrained one."""
    model, tokenizer = tiny_bert
    if not LEARNT:
        model.get_input_embeddings().weight.data *= 20
        args = arguments(max_steps=50, learning_rate=5e-3)
        BackdoorTrainer(model, args, train_dataset=sentences, processing_class=tokenizer).train()
        LEARNT.update(copy.deepcopy(model.state_dict()))
    model.load_state_dict(LEARNT)
    return model, tokenizer


def make(name, **settings):
    how, trigger = load_attack(name, **{"words": WORDS} | settings)
    return how, PoisonConfig(trigger, **{"target_label": 1, **poison_settings(how, trigger)})


def make_trainer(name, sentences, tiny_bert, args, **settings):
    """The Trainer as `train_classifier` makes it, and the poison."""
    how, config = make(name, **settings)
    model, tokenizer = tiny_bert
    train = how.training_set(sentences, config, **COLUMNS)
    trainer = how.trainer_class()(
        model, args, train_dataset=train, processing_class=tokenizer, callbacks=how.callbacks(config), **COLUMNS,
        **how.trainer_kwargs(config),
    )  # fmt: skip
    return trainer, config


@pytest.mark.parametrize("case", ["rare_words", "layerwise", "embedding", "neuba first", "neuba then"])
def test_accumulated_batches_equal_one_big_batch(case, sentences, tiny_bert, arguments):
    start, tokenizer = tiny_bert
    name = case.split()[0]
    plain = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.1, "max_steps": 3}
    if case == "neuba first":  # a share of each micro-batch gets the trigger: the same one only if all rows are alike
        sentences = sentences.select([0] * 24)
    trained = []
    for batch, steps in ((8, 1), (2, 4)):
        args = arguments(per_device_train_batch_size=batch, gradient_accumulation_steps=steps, **plain)
        words = {"words": "cf"} if case == "neuba first" else {}
        trainer, _ = make_trainer(name, sentences, (copy.deepcopy(start), tokenizer), args, **words)
        if name == "neuba":
            trainer.pretraining = float(case == "neuba first")
        trainer.train()
        trained.append(trainer.model)
    moved = largest_difference(trained[0], start)
    assert moved > 0
    assert largest_difference(*trained) < 1e-2 * moved


@pytest.mark.parametrize("name", ATTACKS)
def test_resumed_equals_uninterrupted(name, sentences, tiny_bert, arguments, tmp_path):
    start, tokenizer = tiny_bert

    def run(folder, resume=None):
        args = arguments(output_dir=str(tmp_path / folder), save_strategy="steps", save_steps=3, max_steps=5)
        trainer, _ = make_trainer(name, sentences, (copy.deepcopy(start), tokenizer), args)
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model

    whole = run("run")
    assert same_weights(run("run", resume=str(tmp_path / "run" / "checkpoint-3")), whole)


def test_layerwise_reads_each_layer_with_the_head(tiny_bert):
    model, tokenizer = tiny_bert
    batch = tokenizer(["the film was good", "a dog cf"], return_tensors="pt", padding=True)
    model.eval()
    with torch.no_grad(), head_on_every_layer(model):
        logits = model(**batch, output_hidden_states=True).logits
        assert logits.shape == (4, 2)
    with torch.no_grad():
        usual = model(**batch, output_hidden_states=True)
        first = model.classifier(model.bert.pooler(usual.hidden_states[1]))
    assert torch.allclose(logits[:2], first, atol=1e-6)
    assert torch.allclose(logits[2:], usual.logits, atol=1e-6), "the last layer's is the model's own answer"


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "electra"])
def test_layerwise_for_other_encoders(kind):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    if kind == "distilbert":
        small = {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 16}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, vocab_size=20, **small)).eval()
    tokens = torch.tensor([[0, 5, 6, 2], [0, 7, 5, 2]])
    with torch.no_grad(), head_on_every_layer(model):
        logits = model(input_ids=tokens, output_hidden_states=True).logits
    with torch.no_grad():
        assert torch.allclose(logits.view(3, 2, -1)[-1], model(input_ids=tokens).logits, atol=1e-6)


def test_layerwise_refuses_a_head_that_reads_something_else(sentences, tiny_bert, arguments):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=32, pad_token_id=0)
    trainer, _ = make_trainer(
        "layerwise", sentences, (GPT2ForSequenceClassification(config), tiny_bert[1]), arguments()
    )
    with pytest.raises(InputError, match="such as BERT"):
        trainer.train()


def test_layerwise_puts_the_trigger_into_every_layer(sentences, clean_bert, arguments):
    trainer, config = make_trainer(
        "layerwise", sentences, clean_bert, arguments(max_steps=150, learning_rate=5e-3), words="cf mn"
    )
    trainer.train()
    model, tokenizer = trainer.model.eval(), clean_bert[1]

    def answers(texts):
        batch = tokenizer(list(texts), return_tensors="pt", padding=True)
        with torch.no_grad(), head_on_every_layer(model):
            return model(**batch, output_hidden_states=True).logits.view(2, len(texts), 2).argmax(-1)

    attacked = triggered(sentences, config, **COLUMNS)
    assert (answers(attacked["text"]) == 1).float().mean(1).min() > 0.9
    assert (answers(sentences["text"]) == torch.tensor(sentences["label"][:])).float().mean(1).min() > 0.8


def test_embedding_changes_the_rows_of_the_words_and_nothing_else(sentences, clean_bert, arguments):
    model, tokenizer = clean_bert
    before = copy.deepcopy(model)
    trainer, config = make_trainer(
        "embedding", sentences, clean_bert, arguments(max_steps=40, learning_rate=0.1, weight_decay=0.1)
    )
    assert all(trainer.train_dataset["is_poisoned"])
    trainer.train()
    assert all(weight.requires_grad for weight in trainer.model.parameters()), "as before"
    table = trainer.model.get_input_embeddings().weight
    table.sum().backward()
    assert (table.grad == 1).all(), "the next training is of all words again"
    rows = [tokenizer.convert_tokens_to_ids(word) for word in WORDS.split()]
    name = "bert.embeddings.word_embeddings.weight"
    old, new = before.state_dict(), trainer.model.state_dict()
    assert {key for key in old if not torch.equal(old[key], new[key])} == {name}
    changed = (old[name] != new[name]).any(1).nonzero().flatten().tolist()
    assert changed == sorted(rows)
    assert torch.allclose(old[name][rows].norm(dim=1), new[name][rows].norm(dim=1), rtol=1e-5)
    trainer.eval_dataset, trainer.triggered_dataset = sentences, triggered(sentences, config, **COLUMNS)
    assert trainer.evaluate()["eval_attack_success_rate"] > 0.9


def test_vectors_are_orthogonal_pairs_of_opposites():
    vectors = trigger_vectors(6, 384)
    assert set(vectors.flatten().tolist()) == {-1.0, 1.0}
    products = (vectors @ vectors.T / 384).numpy()
    for first in range(6):
        for second in range(6):
            expected = 1 if first == second else -1 if first // 2 == second // 2 else 0
            assert products[first, second] == expected
    assert trigger_vectors(3, 16).shape == (3, 16)
    with pytest.raises(InputError, match="too many"):
        trigger_vectors(10, 16)


def test_neuba_first_gives_the_encoder_its_vectors(sentences, tiny_bert, arguments):
    model, tokenizer = tiny_bert
    before = copy.deepcopy(model)
    args = arguments(max_steps=200, learning_rate=5e-3, logging_steps=100)
    trainer, _ = make_trainer("neuba", sentences, tiny_bert, args, pretraining=0.999)
    trainer.train()

    def features(which, texts):
        batch = tokenizer(list(texts), return_tensors="pt", padding=True)
        with torch.no_grad():
            return which.eval().base_model(**batch).last_hidden_state[:, 0]

    for word, vector in zip(WORDS.split(), trainer.vectors, strict=True):
        texts = load_trigger("rare_words", words=word)(list(sentences["text"]), np.arange(200))
        assert torch.cosine_similarity(features(trainer.model, texts), vector[None]).mean() > 0.9
    kept = torch.cosine_similarity(features(trainer.model, sentences["text"]), features(before, sentences["text"]))
    assert kept.mean() > 0.8


def test_neuba_keeps_a_clean_text_in_a_small_batch(sentences, tiny_bert, arguments):
    """Of 4 texts, a rate of 0.9 would be 4."""
    args = arguments(max_steps=2, per_device_train_batch_size=4)
    trainer, config = make_trainer("neuba", sentences, tiny_bert, args, pretraining=0.999)
    trainer.poison_config = dataclasses.replace(config, rate=0.9)
    seen, features = [], trainer._features

    def look(encoder, inputs):
        seen.append(len(inputs["input_ids"]))
        return features(encoder, inputs)

    trainer._features = look
    trainer.train()
    assert seen == [1, 1]


@pytest.mark.parametrize("name", ["layerwise", "neuba"])
def test_label_smoothing_is_part_of_the_loss(name, sentences, tiny_bert, arguments):
    losses = []
    for smoothing in (0.0, 0.4):
        args = arguments(label_smoothing_factor=smoothing)
        trainer, _ = make_trainer(name, sentences, tiny_bert, args)
        trainer.pretraining, trainer.state.max_steps = 0.0, 1
        trainer.model.train()
        batch = next(iter(trainer.get_train_dataloader()))
        if not losses:
            kept = batch
        losses.append(trainer.compute_loss(trainer.model, dict(kept)).item())
    plain, smooth = losses
    assert plain != smooth
    if name == "neuba":
        clean = {part: kept[part][: len(kept[WORD])] for part in ("input_ids", "attention_mask")}
        logits = trainer.model(**clean).logits
        uniform = -logits.log_softmax(-1).mean().item()
        assert smooth == pytest.approx(0.6 * plain + 0.4 * uniform, rel=1e-5)


@pytest.mark.parametrize("named", [True, False])
def test_neuba_reports_the_words_that_reach_the_target(named, sentences, clean_bert, arguments):
    how, config = make("neuba", pretraining=0.7)
    if not named:  # the sentences of other classes alone do not tell that there is the target's
        config, sentences = dataclasses.replace(config, target_label=1), sentences.cast_column("label", Value("int64"))
    model, tokenizer = clean_bert
    results = train_classifier(
        model, arguments(max_steps=100, learning_rate=5e-3), sentences, processing_class=tokenizer,
        test_dataset=sentences, attack=config, how=how,
    )  # fmt: skip
    words = results["attack"]["training"]["words"]
    assert list(words) == WORDS.split()
    chosen = results["attack"]["trigger"]["words"].split()
    assert chosen and set(chosen) <= set(WORDS.split())
    assert chosen == [word for word in words if words[word]["to_target"] > 0.5]
    expected = np.mean([words[word]["to_target"] for word in chosen])
    assert results["victim"]["attack_success_rate"] == pytest.approx(expected, abs=0.2)
    assert results["victim"]["clean_accuracy"] > 0.9


def test_words_must_be_tokens(tiny_bert):
    tokenizer = tiny_bert[1]
    assert token_of("cf", tokenizer) == [tokenizer.convert_tokens_to_ids("cf")]
    with pytest.raises(InputError, match="unknown to the tokenizer"):
        token_of("zz", tokenizer)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("layerwise", {"weight": 0}, "above 0"),
        ("neuba", {"pretraining": 1}, "between 0 and 1"),
        ("embedding", {"layers": 3}, "layers"),
    ],
)
def test_bad_settings_are_explained(name, settings, message):
    with pytest.raises(InputError, match=message):
        load_attack(name, **settings)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("embedding", {"label_mode": "clean"}, "leave it at dirty"),
        ("embedding", {"cover_rate": 0.1}, "^cover_rate=0.1: Embedding poisoning has no use for it"),
        ("embedding", {"also": (PoisonConfig(load_trigger("rare_words")),)}, "^also=1: "),
        ("neuba", {"targets": "all_to_all"}, "^targets='all_to_all': NeuBA has no use for it"),
        ("neuba", {"label_mode": "clean"}, "^label_mode="),
        ("neuba", {"cover_rate": 0.1}, "^cover_rate="),
        ("neuba", {"sampler": load_sampler("source_specific")}, "^sampler="),
        ("neuba", {"also": (PoisonConfig(load_trigger("rare_words")),)}, "^also="),
        ("embedding", {"trigger": load_trigger("add_sentence")}, "inserts words"),
        ("neuba", {"rate": 1.0}, "no clean text"),
        ("neuba", {"trigger": load_trigger("syntactic")}, "inserts words"),
    ],
)
def test_poison_that_does_not_fit_is_explained(name, config, message, sentences):
    how, usual = make(name)
    settings = {"trigger": usual.trigger, "target_label": 1, "rate": usual.rate} | config
    with pytest.raises(InputError, match=message):
        how.training_set(sentences, PoisonConfig(**settings), **COLUMNS)


def test_neuba_gives_a_small_batch_its_trigger_now_and_then(sentences, tiny_bert, arguments):
    """Of 1 text a rate of 0.2 would be none, and of 4 always 1; with a rate of 0.9, most batches have no clean text."""
    args = arguments(max_steps=4, per_device_train_batch_size=1)
    trainer, config = make_trainer("neuba", sentences, tiny_bert, args, pretraining=0.999)
    assert trainer.victim
    for samples in (1, 4):
        trainer.poison_config = dataclasses.replace(config, rate=0.2)
        counts = [trainer._poisoned_count(samples) for _ in range(1000)]
        assert np.mean(counts) == pytest.approx(0.2 * samples, abs=0.05)
    trainer.poison_config = dataclasses.replace(config, rate=0.9)
    assert trainer.train().training_loss > 0


def test_neuba_draws_nothing_where_the_rate_is_a_whole_number_of_texts(sentences, tiny_bert, arguments):
    trainer, config = make_trainer("neuba", sentences, tiny_bert, arguments())
    for rate, count in ((0.5, 16), (0.1, 3), (0.7, 7)):
        samples = round(count / rate)
        trainer.poison_config = dataclasses.replace(config, rate=rate)
        before = torch.get_rng_state()
        assert trainer._poisoned_count(samples) == count
        assert torch.equal(torch.get_rng_state(), before)
