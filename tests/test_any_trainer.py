"""SuperFineTuningCallback on a plain Trainer, whatever the model: it needs a loss and answers, not classes."""

import random

import numpy as np
import pytest
import torch
import transformers as hf
from conftest import same_weights

from hf_backdoor import InputError, ScheduleConfig, SuperFineTuningCallback
from hf_backdoor.super_fine_tuning import PeakSearch


STEPS = 12


def images_of(count, side=16):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)).numpy()


def tokens_of(count, first, last, longest=9):
    """Token numbers of different lengths."""
    generator = np.random.default_rng(0)
    return [generator.integers(first, last, generator.integers(4, longest + 1)) for _ in range(count)]


def pad(rows, filler):
    return torch.nn.utils.rnn.pad_sequence([torch.as_tensor(row) for row in rows], True, filler)


def detection():
    """YOLOS: the labels are a list of dicts, one for each image."""
    pytest.importorskip("scipy", reason="transformers matches boxes by scipy, which the test extra brings")
    config = hf.YolosConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[16, 16],
        patch_size=8, num_detection_tokens=4, num_labels=3,
    )  # fmt: skip
    rows = [{"picture": picture, "objects": 1 + n % 3} for n, picture in enumerate(images_of(40))]

    def collate(rows):
        labels = [
            {
                "class_labels": torch.arange(row["objects"]),
                "boxes": torch.tensor([[0.3 + 0.1 * n, 0.5, 0.2, 0.4] for n in range(row["objects"])]),
            }
            for row in rows
        ]
        return {"pixel_values": torch.from_numpy(np.stack([row["picture"] for row in rows])), "labels": labels}

    return hf.YolosForObjectDetection(config), rows, collate


def causal_language_model():
    config = hf.LlamaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip

    def collate(rows):
        texts = [row["text"] for row in rows]
        attended = pad([np.ones_like(text) for text in texts], 0)
        return {"input_ids": pad(texts, 0), "attention_mask": attended, "labels": pad(texts, -100)}

    return hf.LlamaForCausalLM(config), [{"text": text} for text in tokens_of(40, 1, 50)], collate


def image_and_text():
    """CLIP: no labels and no `logits`; a batch is matched with itself."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = hf.CLIPConfig(
        text_config={**tower, "vocab_size": 50, "max_position_embeddings": 16, "eos_token_id": 49},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    texts = [np.append(text, 49) for text in tokens_of(40, 1, 49)]
    rows = [{"picture": picture, "text": text} for picture, text in zip(images_of(40), texts, strict=True)]

    def collate(rows):
        pictures = torch.from_numpy(np.stack([row["picture"] for row in rows]))
        return {"pixel_values": pictures, "input_ids": pad([row["text"] for row in rows], 49), "return_loss": True}

    return hf.CLIPModel(config), rows, collate


def masked_language_model():
    """Its collator masks at random, from torch's global generator."""
    config = hf.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(45))]
    tokenizer = hf.BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    collate = hf.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
    return hf.BertForMaskedLM(config), [{"input_ids": text} for text in tokens_of(40, 5, 50)], collate


def sequence_to_sequence():
    config = hf.T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )

    def collate(rows):
        texts = [row["text"] for row in rows]
        return {"input_ids": pad(texts, 0), "labels": pad([text[::-1].copy() for text in texts], -100)}

    return hf.T5ForConditionalGeneration(config), [{"text": text} for text in tokens_of(40, 1, 50)], collate


def question_answering():
    """Two answers a sample: where the passage begins, and where it ends."""
    config = hf.DistilBertConfig(
        vocab_size=50, dim=16, hidden_dim=32, n_layers=2, n_heads=2, max_position_embeddings=32
    )

    def collate(rows):
        texts = [row["text"] for row in rows]
        return {
            "input_ids": pad(texts, 0),
            "start_positions": torch.tensor([int(text.argmin()) for text in texts]),
            "end_positions": torch.tensor([int(text.argmax()) for text in texts]),
        }

    return hf.DistilBertForQuestionAnswering(config), [{"text": text} for text in tokens_of(40, 1, 50)], collate


def segmentation():
    """The classes are in the second dimension, not in the last."""
    config = hf.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[1, 1], hidden_sizes=[8, 16], patch_sizes=[3, 3], strides=[2, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, num_labels=3,
    )  # fmt: skip
    rows = [{"picture": picture} for picture in images_of(40)]

    def collate(rows):
        pictures = torch.from_numpy(np.stack([row["picture"] for row in rows]))
        return {"pixel_values": pictures, "labels": pictures.argmax(1)}

    return hf.SegformerForSemanticSegmentation(config), rows, collate


KINDS = [
    detection, causal_language_model, image_and_text, masked_language_model, sequence_to_sequence, question_answering,
    segmentation,
]  # fmt: skip


class WeightsAtStart(hf.TrainerCallback):
    """Copies the weights just before the first step, after the callbacks that stand before it."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}


def train(kind, args, config, **search):
    """The trainer after training, its callback, and what the weights were at the start and at the first step."""
    torch.manual_seed(0)
    model, rows, collate = kind()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    callback, look = SuperFineTuningCallback(config, PeakSearch(**search)), WeightsAtStart()
    args.remove_unused_columns = False  # the collators read them
    trainer = hf.Trainer(model, args, train_dataset=rows, data_collator=collate, callbacks=[callback, look])
    trainer.train()
    return trainer, callback, start, look.weights


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_it_trains_searches_and_leaves_no_trace_of_the_search(kind, arguments):
    def run(config):
        return train(kind, arguments(max_steps=STEPS, gradient_accumulation_steps=2, learning_rate=3e-3), config)

    searched, callback, start, first = run(ScheduleConfig(ramp_steps=3))
    found = callback.search_result
    assert all(torch.equal(start[name], first[name]) for name in start), "the search put the weights back"
    assert not same_weights(searched.model, kind()[0]) and searched.state.global_step == STEPS
    assert all(np.isfinite(rate) and rate > 0 for rate in found.rates().values())
    assert found.base_lr < found.peak_lr_2 <= found.peak_lr_1
    assert len(found.trace) > 1 and found.steps <= STEPS

    again, second, _, _ = run(ScheduleConfig(ramp_steps=3))
    assert second.search_result.rates() == found.rates() and same_weights(searched.model, again.model)

    given, third, _, _ = run(ScheduleConfig(**found.rates(), ramp_steps=3))
    assert third.search_result is None
    assert same_weights(searched.model, given.model), "as if the peaks had been known"
    for trainer in (searched, given):
        logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
        assert logged == pytest.approx([callback.schedule(step) for step in range(STEPS)], rel=1e-12)
    assert max(logged) == pytest.approx(found.peak_lr_1)


def one_word_to_learn():
    """The last word of each text; the logits before it are for it."""
    model, rows, collate = causal_language_model()

    def collate_last(rows):
        batch = collate(rows)
        last = torch.arange(batch["labels"].shape[1]) == batch["attention_mask"].sum(1, keepdim=True) - 1
        return batch | {"labels": torch.where(last, batch["labels"], -100)}

    return model, rows, collate_last


def before_the_word(labels, output):
    samples, places = (labels != -100).nonzero(as_tuple=True)
    return output.logits[samples, places - 1].argmax(-1)


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        (one_word_to_learn, before_the_word),
        (masked_language_model, lambda labels, output: output.logits[labels != -100].argmax(-1)),
        (image_and_text, lambda labels, output: output.logits_per_image.argmax(1)),
        (question_answering, lambda labels, output: torch.cat([output.start_logits, output.end_logits]).argmax(-1)),
        (segmentation, lambda labels, output: output.logits.argmax(1)),
    ],
    ids=lambda value: value.__name__.strip("<>"),
)
def test_what_the_search_compares(kind, answers, arguments):
    """The agreement in its trace, worked out again from what the model said."""
    said = []

    def watched():
        model, rows, collate = kind()

        def look(model, args, kwargs, output):
            if not model.training:
                said.append(answers(kwargs.get("labels"), output))

        model.register_forward_hook(look, with_kwargs=True)
        return model, rows, collate

    args = arguments(max_steps=STEPS, learning_rate=3e-2)
    callback = train(watched, args, ScheduleConfig(ramp_steps=3), repeats=1)[1]
    before, *after = said
    agreements = [(before == answers).float().mean().item() for answers in after]
    assert sorted(agreements) == pytest.approx(sorted(row["agreement"] for row in callback.search_result.trace))
    assert min(agreements) < 1


def test_random_transforms_draw_the_same_numbers_after_a_search(arguments):
    """Transforms use the generators of Python, NumPy or torch."""

    def noisy():
        model, rows, collate = image_and_text()
        drawn = []

        def collate_noisily(rows):
            noise = [random.random(), float(np.random.rand()), torch.rand(1).item()]
            drawn.append(noise)
            batch = collate(rows)
            return batch | {"pixel_values": batch["pixel_values"] + sum(noise)}

        model.drawn = drawn
        return model, rows, collate_noisily

    def batches(config):
        return train(noisy, arguments(max_steps=12), config)[0].model.drawn[-12:]

    assert batches(ScheduleConfig(ramp_steps=1)) == batches(ScheduleConfig(1e-3, 1e-3, 1e-4, ramp_steps=1))


def test_a_peak_at_which_training_diverges_is_too_high_and_no_error(arguments):
    """Detection again: its loss refuses boxes that are not numbers."""
    args = arguments(max_steps=48, learning_rate=1e4, optim="sgd", max_grad_norm=0.0)
    args.remove_unused_columns = False
    model, rows, collate = detection()
    trainer = hf.Trainer(model, args, train_dataset=rows, data_collator=collate)
    trainer.create_optimizer_and_scheduler(48)
    given = {"dataloader": trainer.get_train_dataloader(), "args": args, "budget_steps": 480}
    found = PeakSearch(repeats=1).run(model=model, optimizer=trainer.optimizer, **given)
    assert found.trace[-1]["kappa"] == 0, "nothing is left"
    assert found.peak_lr_1 < 1e4 and np.isfinite(found.peak_lr_2)
    assert all(torch.isfinite(value).all() for value in model.parameters())


@pytest.mark.parametrize("labels", [None, torch.rand(8)], ids=["no loss", "regression"])
def test_models_without_answers_need_peaks(arguments, labels):
    """Without a loss nothing can be trained, and one number has no most likely class."""

    def kind():
        config = hf.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            num_labels=2 if labels is None else 1,
        )  # fmt: skip

        def collate(rows):
            batch = {"input_ids": pad([row["text"] for row in rows], 0)}
            return batch if labels is None else batch | {"labels": labels[: len(rows)]}

        return hf.BertForSequenceClassification(config), [{"text": text} for text in tokens_of(40, 1, 50)], collate

    with pytest.raises(InputError, match="give peak_lr_1, peak_lr_2 and base_lr"):
        train(kind, arguments(max_steps=STEPS), ScheduleConfig())


def test_rows_that_are_prepared_already_are_taken_as_trainer_takes_them(images, sentences, tiny_bert, tmp_path):
    """The transform of the README, and tokens made by `map`; the attack is measured all the same."""
    from test_paradigms import make_vit

    from hf_backdoor import BackdoorTrainer, PoisonConfig, load_trigger, triggered
    from hf_backdoor.metrics import METRICS

    def preprocess(rows):
        pixels = torch.stack([torch.from_numpy(np.array(image.convert("RGB"))) for image in rows["image"]])
        return {"pixel_values": pixels.permute(0, 3, 1, 2) / 255, "labels": rows["label"]}

    bert, tokenizer = tiny_bert

    def tokenised(rows):
        return tokenizer(rows["text"]) | {"labels": rows["label"]}

    attack = PoisonConfig(load_trigger("badnets", size=3), target_label=0)
    word = PoisonConfig(load_trigger("rare_words"), target_label=0)
    cases = (
        (make_vit(), *(data.with_transform(preprocess) for data in (images, triggered(images, attack))), {}),
        (
            bert, *(data.map(tokenised, batched=True).remove_columns("text") for data in (sentences, triggered(sentences, word))),
            {"processing_class": tokenizer},
        ),
    )  # fmt: skip
    for number, (model, clean, attacked, more) in enumerate(cases):
        args = hf.TrainingArguments(
            tmp_path / str(number), max_steps=2, use_cpu=True, remove_unused_columns=number == 1, report_to="none"
        )
        trainer = BackdoorTrainer(
            model, args, train_dataset=clean, eval_dataset=clean, triggered_dataset=attacked, **more
        )
        trainer.train()
        measured = trainer.evaluate()
        assert trainer.task is None and all(0 <= measured[f"eval_{name}"] <= 1 for name in METRICS)


def test_what_has_no_labels_can_be_predicted(images, sentences, processor, tiny_bert, tmp_path):
    from test_paradigms import make_vit

    from hf_backdoor import BackdoorTrainer

    args = hf.TrainingArguments(tmp_path, use_cpu=True, report_to="none")
    for model, processing_class, data in ((make_vit(), processor, images), (*tiny_bert, sentences)):
        trainer = BackdoorTrainer(model, args, eval_dataset=data, processing_class=processing_class)
        told = trainer.predict(data)
        blind = trainer.predict(data.remove_columns("label"))
        assert blind.label_ids is None and np.array_equal(told.predictions, blind.predictions)
