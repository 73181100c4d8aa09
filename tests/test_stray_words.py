"""Stray words: where they are put, which of them are found, and that a purification with them is repeatable."""

import copy
import json

import numpy as np
import pytest
import torch
from conftest import same_weights

from hf_backdoor import InputError, load_defense
from hf_backdoor.purification import default_arguments
from hf_backdoor.super_fine_tuning import stray_words
from hf_backdoor.super_fine_tuning.stray_words import KEPT, MOST_WORDS, StrayWords
from hf_backdoor.tasks.text_classification import TextClassification


def batch_of(tokenizer, texts):
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))


@pytest.mark.parametrize("side", ["right", "left"])
def test_words_are_put_between_those_of_a_text(tiny_bert, side):
    _, tokenizer = tiny_bert
    tokenizer.padding_side = side
    inputs = batch_of(tokenizer, ["the film was good", "bad"])
    words = [torch.tensor([5, 6]), torch.tensor([7])]
    torch.manual_seed(0)
    strayed = StrayWords(tokenizer, longest=32, vocabulary=len(tokenizer)).insert(inputs, words)
    for text, new in enumerate(words):
        before = inputs["input_ids"][text][inputs["attention_mask"][text].bool()].tolist()
        after = strayed["input_ids"][text][strayed["attention_mask"][text].bool()].tolist()
        assert (after[0], after[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert sorted(after) == sorted([*before, *new.tolist()])
        assert [token for token in after if token not in new.tolist()] == before, "what was there keeps its order"
        kept = strayed[KEPT][text]
        assert torch.equal(kept >= 0, inputs["attention_mask"][text].bool())
        assert strayed["input_ids"][text][kept[kept >= 0]].tolist() == before
    assert inputs["input_ids"].shape[1] < strayed["input_ids"].shape[1], "the batch itself is as it was"
    assert strayed["attention_mask"][1].tolist() == sorted([1] * 4 + [0] * 4, reverse=side == "right"), "padded alike"


def test_a_text_without_a_token_stays_one_or_gets_words(tiny_bert):
    """As GPT-2's tokenizer makes of an empty text, having no special tokens at its ends."""
    _, tokenizer = tiny_bert
    inputs = {
        "input_ids": torch.tensor([[5, 6], [0, 0], [0, 0]]),
        "attention_mask": torch.tensor([[1, 1], [0, 0], [0, 0]]),
    }
    words = [torch.tensor([7]), torch.tensor([8]), torch.tensor([], dtype=torch.int64)]
    strayed = StrayWords(tokenizer, longest=32, vocabulary=len(tokenizer)).insert(inputs, words)
    assert strayed["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert strayed["input_ids"][1].tolist() == [8, 0, 0]
    assert strayed[KEPT][1:].tolist() == [[-1, -1], [-1, -1]]


def test_only_tokens_that_the_model_knows_and_that_are_not_special_are_put_in(tiny_bert):
    from transformers import AddedToken

    _, tokenizer = tiny_bert
    tokenizer.add_tokens([AddedToken("<reserved>", special=True), AddedToken("plain")])
    assert "<reserved>" not in tokenizer.all_special_tokens
    reserved, plain = tokenizer.convert_tokens_to_ids(["<reserved>", "plain"])
    tokens = StrayWords(tokenizer, longest=32, vocabulary=plain + 1).tokens.tolist()
    assert plain in tokens and reserved not in tokens
    assert plain not in StrayWords(tokenizer, longest=32, vocabulary=plain).tokens.tolist()


def test_every_place_and_number_of_words_is_drawn(tiny_bert):
    _, tokenizer = tiny_bert
    words = StrayWords(tokenizer, longest=32, vocabulary=len(tokenizer))
    inputs = batch_of(tokenizer, ["the film"] * 600)
    strayed = words.insert(inputs, [torch.tensor([5])] * 600)["input_ids"]
    places = (strayed == 5).nonzero()[:, 1]
    assert torch.bincount(places, minlength=5).tolist()[1:4] == pytest.approx([200] * 3, abs=50)
    lengths = words.apply(inputs, 300)["attention_mask"].sum(1) - inputs["attention_mask"].sum(1)
    assert set(lengths[lengths > 0].tolist()) == set(range(1, 2 * MOST_WORDS + 1))
    assert (lengths > 0).sum() == 300, "the rest of the batch is left alone"
    assert (lengths[:300] > 0).sum() == pytest.approx(150, abs=50), "wherever a text stands in a sorted batch"
    assert not set(words.tokens.tolist()) & set(tokenizer.all_special_ids)


def test_a_text_at_the_limit_of_the_model_loses_its_end(tiny_bert):
    model, tokenizer = tiny_bert
    inputs = batch_of(tokenizer, ["the film was good " * 7])
    assert inputs["input_ids"].shape[1] == 30
    strayed = StrayWords(tokenizer, longest=30, vocabulary=len(tokenizer)).insert(inputs, [torch.tensor([5, 6, 7])])
    assert strayed["input_ids"].shape[1] == 30
    assert strayed["input_ids"][0, -1] == tokenizer.sep_token_id
    assert {5, 6, 7} <= set(strayed["input_ids"][0].tolist())
    assert (strayed[KEPT] == -1).sum() == 3
    _, (features,) = TextClassification().answers(model, strayed)
    assert features.shape == (1, 30 * 16)


def test_features_are_those_of_the_tokens_of_the_text(tiny_bert):
    """A model without positions and attention gives each token the same state, wherever it is."""
    model, tokenizer = tiny_bert
    with torch.no_grad():
        model.bert.embeddings.position_embeddings.weight.zero_()
        for layer in model.bert.encoder.layer:
            layer.attention.output.dense.weight.zero_()
    task, words = TextClassification(), StrayWords(tokenizer, longest=32, vocabulary=len(tokenizer))
    inputs = batch_of(tokenizer, ["the film was good", "bad"])
    model.eval()
    _, (expected,) = task.answers(model, inputs)
    _, (features,) = task.answers(model, words.apply(inputs, 2))
    torch.testing.assert_close(features, expected)
    assert not expected.view(2, -1, 16)[1, 3:].any(), "padding counts for nothing"


def test_the_words_that_move_the_suspect_are_found(sentences, tiny_bert, monkeypatch, capsys):
    """A suspect that one word turns, and to which all others are the same; its company in a group changes."""
    _, tokenizer = tiny_bert
    words = StrayWords(tokenizer, longest=32, vocabulary=len(tokenizer))
    trigger = tokenizer.convert_tokens_to_ids("tq")

    def suspect(inputs):
        score = 4.0 * (inputs["input_ids"] == trigger).sum(1) - 1
        return torch.stack([-score, score], 1)

    texts = sentences.select(range(40))
    answers = np.tile(np.float32([[1, -1]]), (40, 1))

    def collate(rows):
        return batch_of(tokenizer, [row["text"] for row in rows])

    monkeypatch.setattr(stray_words, "GROUP", 2)
    monkeypatch.setattr(stray_words, "MOVING", 1)
    torch.manual_seed(0)
    lengths = np.array([len(text) for text in texts["text"]])
    words.ask(suspect, texts, lengths, answers, collate)
    assert words.moving.tolist() == [trigger]
    # One answer is asked about, and it turns: log(sigmoid(2) / sigmoid(-6)) where it was, the reverse elsewhere.
    was, now = torch.tensor([2.0, -2.0]).sigmoid(), torch.tensor([-6.0, 6.0]).sigmoid()
    assert words.first(1) == {"tq": pytest.approx(float((was * (was / now).log()).sum()), rel=1e-4)}
    shown = capsys.readouterr().err
    assert "Looking for words that move the suspect: 100%" in shown
    words.ask(suspect, texts, lengths, answers, collate, quiet=True)
    assert not capsys.readouterr().err


def test_a_word_that_moves_the_texts_of_one_class_of_many_is_found(sentences, tiny_bert, monkeypatch):
    """As that of a source-specific attack. All classes are asked in turn, from one list to the next."""
    _, tokenizer = tiny_bert
    words = StrayWords(tokenizer, longest=32, vocabulary=len(tokenizer))
    trigger, texts = tokenizer.convert_tokens_to_ids("tq"), sentences.select(range(40))
    of_class = torch.arange(40) % 5
    answers = 4.0 * torch.nn.functional.one_hot(of_class).numpy().astype(np.float32)
    asked = []

    def collate(rows):
        asked.append([texts["text"].index(row["text"]) for row in rows])
        return batch_of(tokenizer, [row["text"] for row in rows])

    def suspect(inputs):
        logits = torch.from_numpy(answers[asked[-1]])
        turned = (of_class[asked[-1]] == 3) & (inputs["input_ids"] == trigger).any(1)
        return torch.where(turned[:, None], logits.roll(1, 1), logits)

    assert len(set(texts["text"])) == 40
    monkeypatch.setattr(stray_words, "GROUP", 2)
    monkeypatch.setattr(stray_words, "PASSES", 3)
    monkeypatch.setattr(stray_words, "MOVING", 1)
    monkeypatch.setattr(stray_words, "SHORT_LISTS", ((0.1, len(words.tokens), 2), (0.01, 2, 6)))
    torch.manual_seed(0)
    words.ask(suspect, texts, np.array([len(text) for text in texts["text"]]), answers, collate, quiet=True)
    assert words.moving.tolist() == [trigger]
    classes = [set(of_class[rows].tolist()) for rows in asked]
    assert all(len(one) == 1 for one in classes), "a pool is of one class"
    turns = [next(iter(one)) for one in classes]
    assert set(turns) == {0, 1, 2, 3, 4}


def make_trainer(sentences, tiny_bert, folder, callbacks=(), **settings):
    model, tokenizer = tiny_bert
    defense = load_defense("super_fine_tuning", peak_lr_1=1e-2, peak_lr_2=1e-3, base_lr=1e-4)
    defaults = {"max_steps": 40, "per_device_train_batch_size": 8, "use_cpu": True, "eval_strategy": "no"}
    args = default_arguments(defense, folder, **defaults | settings)
    return defense.trainer_class()(
        model, args, train_dataset=sentences, processing_class=tokenizer,
        callbacks=[*defense.callbacks(), *callbacks], **defense.trainer_kwargs(),
    )  # fmt: skip


def test_killed_and_resumed_run_equals_the_uninterrupted_one(sentences, tiny_bert, tmp_path, monkeypatch):
    from transformers import TrainerCallback

    class Die(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 33:
                raise KeyboardInterrupt

    monkeypatch.setattr(stray_words, "MOVING", 4)
    saving = {"save_strategy": "steps", "save_steps": 10}
    whole = make_trainer(sentences, copy.deepcopy(tiny_bert), tmp_path / "whole", **saving)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(sentences, copy.deepcopy(tiny_bert), tmp_path / "killed", [Die()], **saving).train()
    resumed = make_trainer(sentences, copy.deepcopy(tiny_bert), tmp_path / "killed", **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-30"))
    assert len(whole.stray_words.moving) == 4, "the suspect was asked"
    assert torch.equal(whole.stray_words.moving, resumed.stray_words.moving)
    assert same_weights(whole.model, resumed.model)


def test_a_model_whose_positions_have_no_end_takes_what_its_tokenizer_gives(tiny_bert):
    from transformers import XLNetConfig, XLNetForSequenceClassification

    _, tokenizer = tiny_bert
    tokenizer.model_max_length, tokenizer.padding_side = 20, "left"
    config = XLNetConfig(vocab_size=len(tokenizer), d_model=16, n_layer=1, n_head=2, d_inner=32)
    task = TextClassification()
    task.processor = tokenizer
    assert task.stray_words(XLNetForSequenceClassification(config)).longest == 20


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_the_features_of_an_encoder_with_a_decoder_are_those_of_the_decoder(tiny_bert, family):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    _, tokenizer = tiny_bert
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), d_model=16, decoder_start_token_id=2, eos_token_id=3, pad_token_id=0,
        num_labels=2, **{"t5": {"d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}}.get(family, {
            "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        }),
    )  # fmt: skip
    inputs = batch_of(tokenizer, ["the film was good", "bad"])
    inputs.pop("token_type_ids")
    logits, (features,) = TextClassification().answers(AutoModelForSequenceClassification.from_config(config), inputs)
    assert logits.shape == (2, 2)
    assert features.shape == (2, inputs["input_ids"].shape[1] * 16)


@pytest.mark.parametrize("family", ["roberta", "distilbert", "gpt2"])
def test_words_fit_into_models_of_other_families(sentences, tiny_bert, family):
    """A full text and a short one: as long as the model can take, and the features of what was there before."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    _, tokenizer = tiny_bert
    sizes = {
        "roberta": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
        "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    }[family]
    positions = "n_positions" if family == "gpt2" else "max_position_embeddings"
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes, **{positions: 34}
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    task = TextClassification()
    task.processor = tokenizer
    words = task.stray_words(model)
    longest = words.longest
    assert longest == {"roberta": 33}.get(family, 34), "RoBERTa counts from behind the number of its padding, here 0"
    inputs = batch_of(tokenizer, [" ".join(("the film was good " * 8).split()[: longest - 2]), "bad"])
    inputs.pop("token_type_ids")
    assert inputs["input_ids"].shape[1] == longest
    strayed = words.apply(inputs, 2)
    assert strayed["input_ids"].shape[1] == longest
    logits, (features,) = task.answers(model, strayed)
    assert logits.isfinite().all()
    assert features.shape == (2, longest * 16)
    assert torch.equal(features.view(2, longest, 16)[1].any(-1), inputs["attention_mask"][1].bool())


def test_a_batch_of_one_text_has_words_in_it_every_other_time(sentences, tiny_bert, tmp_path, monkeypatch):
    counts, apply = [], StrayWords.apply
    monkeypatch.setattr(StrayWords, "apply", lambda *given: counts.append(given[-1]) or apply(*given))
    make_trainer(sentences, tiny_bert, tmp_path, max_steps=20, per_device_train_batch_size=1).train()
    assert len(counts) == 20 and set(counts) == {0, 1}


def test_adapters_are_trained_with_stray_words(sentences, tiny_bert, tmp_path):
    from hf_backdoor import purify

    model, tokenizer = tiny_bert
    defense = load_defense("super_fine_tuning", peak_lr_1=1e-2, peak_lr_2=1e-3, base_lr=1e-4)
    args = default_arguments(
        defense, tmp_path, max_steps=20, per_device_train_batch_size=8, use_cpu=True, gradient_accumulation_steps=2
    )
    result = purify(model, sentences, args=args, defense=defense, processing_class=tokenizer, peft_config="lora")
    assert not same_weights(result.model, model)
    assert set(result.results["defense"]["moving_words"]) <= set(tokenizer.get_vocab())
    assert not set(result.results["defense"]["moving_words"]) & set(tokenizer.all_special_tokens)


def test_words_that_an_earlier_repair_found_are_taken_over(sentences, tiny_bert, tmp_path, monkeypatch):
    """To the same end, bit for bit, without asking again; of another model they are refused."""
    from hf_backdoor import purify

    model, tokenizer = tiny_bert
    rates = {"peak_lr_1": 1e-2, "peak_lr_2": 1e-3, "base_lr": 1e-4}
    given = {"processing_class": tokenizer, "overwrite": True}

    def repaired(folder, **settings):
        defense = load_defense("super_fine_tuning", **rates, **settings)
        args = default_arguments(defense, tmp_path / folder, max_steps=20, per_device_train_batch_size=8, use_cpu=True)
        return purify(model, sentences, args=args, defense=defense, output_dir=tmp_path / folder, **given)

    first = repaired("first")
    with monkeypatch.context() as patch:
        patch.setattr(StrayWords, "ask", lambda *args, **kwargs: pytest.fail("it asks again"))
        again = repaired("again", words_from=str(tmp_path / "first"))
    assert same_weights(first.model, again.model)
    told, known = again.results["defense"], first.results["defense"]
    assert told["found_words"] == known["found_words"] and told["words_from"] == "first"
    assert told["moving_words"] == known["moving_words"]

    results = json.loads((tmp_path / "first" / "results.json").read_text())
    results["defense"]["found_words"]["tokens"][0] = 10**6
    (tmp_path / "first" / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match="was made with another suspect"):
        repaired("other", words_from=str(tmp_path / "first"))
    with pytest.raises(InputError, match="words_from=.*must be the folder of an earlier repair"):
        load_defense("super_fine_tuning", words_from=str(tmp_path))
