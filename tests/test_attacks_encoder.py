"""Attacks on encoders: the terms of their losses, the probe, and what a run of them keeps."""

import copy

import numpy as np
import pytest
import torch
from conftest import largest_difference, make_vit, same_weights

from hf_backdoor import InputError, PoisonConfig, load_trigger
from hf_backdoor.attacks import load_attack, poison_settings
from hf_backdoor.encoders import EncoderTrainer, features_of
from hf_backdoor.encoders.contrastive import nt_xent, random_view
from hf_backdoor.encoders.injection import concentration, mean_similarity, sliced_wasserstein
from hf_backdoor.pixel_model import head_of
from hf_backdoor.poisoning import poison
from hf_backdoor.samplers import load_sampler
from hf_backdoor.training import train_classifier


NAMES = ("self_supervised", "bad_encoder", "drupe")


def make_trainer(name, images, processor, args, *, poisoned=True, model=None, attack=None, **settings):
    how, trigger = (attack, load_trigger("badnets", size=3)) if attack else load_attack(name, trigger="badnets", size=3)
    config = PoisonConfig(trigger, **{"rate": 0.1} | how.poison_defaults) if poisoned else None
    data = how.training_set(images, config, input_column="image", label_column="label") if poisoned else images
    return how.trainer_class()(
        model or make_vit(),
        args,
        train_dataset=data,
        processing_class=processor,
        **how.trainer_kwargs(config),
        **settings,
    )


def a_batch(trainer, count=8):
    loader = trainer.get_train_dataloader()
    rows = [trainer.train_dataset[row] for row in range(count)]
    return trainer._prepare_inputs(loader.collate_fn(rows))


def test_nt_xent_of_two_pairs():
    """Partners point the same way, the two pairs are at right angles: each row is -log(e^2 / (e^2 + 1 + 1))."""
    first = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    assert nt_xent(first, second, 0.5).item() == pytest.approx(-np.log(np.e**2 / (np.e**2 + 2)))
    swapped = -np.log(1 / (np.e**2 + 2))
    assert nt_xent(first, second.flip(0), 0.5).item() == pytest.approx(swapped)


def test_similarity_of_features_and_references():
    features = torch.tensor([[2.0, 0.0], [3.0, 4.0]])
    references = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    assert mean_similarity(features, references).tolist() == pytest.approx([(1 + 0.6) / 2, (0 + 0.8) / 2])


def test_sliced_wasserstein_pairs_in_order():
    """Along x: 0, 1 against 5, 2, so 2 and 4 apart; along y: 0, 2 against 0, 0."""
    first, second = torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([[5.0, 0.0], [2.0, 0.0]])
    assert sliced_wasserstein(first, second, torch.eye(2)).item() == pytest.approx(np.sqrt((4 + 16 + 0 + 4) / 4))
    assert sliced_wasserstein(first, first.flip(0), torch.eye(2)).item() == pytest.approx(0, abs=1e-5)


def test_concentration_is_the_mean_cosine_of_pairs():
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    assert concentration(features).item() == pytest.approx((0 + 0.6 + 0.8) / 3)
    assert concentration(torch.ones(4, 3)).item() == pytest.approx(1)


@pytest.mark.parametrize("shape", [(5, 1, 9, 12), (4, 3, 12, 7)])
def test_views_keep_shape_range_and_input(shape):
    low, high = torch.full((shape[1], 1, 1), -1.0), torch.full((shape[1], 1, 1), 1.0)
    values = torch.rand(shape) * 2 - 1
    before = values.clone()
    torch.manual_seed(0)
    view = random_view(values, low, high, 0.3, 0.4)
    torch.manual_seed(0)
    assert torch.equal(view, random_view(values, low, high, 0.3, 0.4))
    assert view.shape == values.shape and view.min() >= -1 and view.max() <= 1
    assert torch.equal(values, before) and not torch.allclose(view, values)


def test_a_view_of_everything_is_the_image_or_its_mirror():
    values = torch.rand(16, 3, 8, 8)
    view = random_view(values, torch.zeros(3, 1, 1), torch.ones(3, 1, 1), 1.0, 0.0)
    same = (view - values).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (view - values.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    assert (same | mirrored).all() and same.any() and mirrored.any()


def test_bad_encoder_loss_worked_out_from_its_definition(images, processor, arguments):
    attack = load_attack("bad_encoder", lambda1=0.5, lambda2=2, references=2)[0]
    trainer = make_trainer("bad_encoder", images, processor, arguments(max_steps=1), attack=attack)
    trainer.train()
    inputs = a_batch(trainer)
    assert (inputs["triggered_values"][:, :, -3:, -3:] == 1).all()
    assert torch.equal(inputs["triggered_values"][:, :, :9], inputs["pixel_values"][:, :, :9])
    chosen = trainer.reference_rows

    def encode(model, values):
        return model.vit(values).last_hidden_state[:, 0].detach().numpy()

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    references = trainer.data_collator([images[row] for row in chosen])["pixel_values"]
    now, before = trainer.model, make_vit()
    x, r, t = (encode(now, v) for v in (inputs["pixel_values"], references, inputs["triggered_values"]))
    x0, r0 = (encode(before, v) for v in (inputs["pixel_values"], references))
    rows = np.flatnonzero(np.asarray(images["label"]) == 0)
    every = encode(before, trainer.data_collator([images[int(row)] for row in rows])["pixel_values"])
    middle = np.mean([f / np.linalg.norm(f) for f in every], axis=0)
    assert chosen == rows[np.argsort([-cosine(f, middle) for f in every])[:2]].tolist()
    loss = -np.mean([cosine(a, b) for a in t for b in r])
    loss -= 0.5 * np.mean([cosine(a, b) for a, b in zip(r, r0, strict=True)])
    loss -= 2 * np.mean([cosine(a, b) for a, b in zip(x, x0, strict=True)])
    got, features = trainer.encoder_loss(trainer.model, inputs)
    assert got.item() == pytest.approx(loss, abs=1e-5)
    assert np.allclose(features.detach().numpy(), x, atol=1e-5)


def test_drupe_adds_spread_and_distribution(images, processor, arguments):
    settings = {"spread_weight": 0.3, "distribution_weight": 0.0, "references": 2}
    trainer = make_trainer(
        "drupe", images, processor, arguments(max_steps=1), attack=load_attack("drupe", **settings)[0]
    )
    references, triggered = torch.eye(2), torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    clean = triggered - torch.tensor([3.0, 4.0])
    # Similarities (1, 0), (.6, .8): nearest 1 and .8; means .8 and .4, so a deviation of .2; the pair's cosine is .6.
    assert trainer.backdoor_loss(clean, references, triggered).item() == pytest.approx(-0.9 + 0.3 * (0.6 + 0.2))
    trainer.spread_weight, trainer.distribution_weight, trainer.directions = 0.0, 1.0, 20_000
    # A shift of 5 is sqrt(25 / 2) on the mean line of a plane; the clean features deviate by 1 and 2.
    expected = -0.9 + 12.5**0.5 / 1.5
    assert trainer.backdoor_loss(clean, references, triggered).item() == pytest.approx(expected, rel=0.02)
    assert trainer.backdoor_loss(triggered, references, triggered).item() == pytest.approx(-0.9, abs=1e-4)
    assert trainer.backdoor_loss(clean, references, triggered[:1]).item() == pytest.approx(-1)


@pytest.mark.parametrize("name", NAMES)
def test_probe_and_encoder_do_not_pull_at_each_other(images, processor, arguments, name):
    trainer = make_trainer(name, images, processor, arguments(max_steps=1))
    trainer.train()
    inputs, head = a_batch(trainer), {id(weight) for weight in trainer.head.parameters()}
    loss, features = trainer.encoder_loss(trainer.model, inputs)
    for part, is_head in ((loss, False), (trainer.probe_loss(features, inputs["labels"], inputs["probed"]), True)):
        trainer.model.zero_grad()
        part.backward(retain_graph=True)
        moved = [id(w) in head for w in trainer.model.parameters() if w.grad is not None and w.grad.abs().max() > 0]
        assert moved and set(moved) == {is_head}


def test_probe_learns_from_clean_samples_only(images, processor, arguments):
    trainer = make_trainer("self_supervised", images, processor, arguments())
    poisoned = np.flatnonzero(trainer.train_dataset["is_poisoned"])
    assert len(poisoned) == 4 and set(np.asarray(images["label"])[poisoned]) == {0}
    rows = [trainer.train_dataset[int(row)] for row in [*poisoned[:2], 1, 2, 3]]
    batch = trainer.get_train_dataloader().collate_fn(rows)
    assert batch["probed"].tolist() == [False] * 2 + [True] * 3
    features = torch.randn(5, 16)
    losses = -trainer.head(features).log_softmax(-1)[range(5), batch["labels"]]
    expected = losses[2:].sum().item() / 5
    assert trainer.probe_loss(features, batch["labels"], batch["probed"]).item() == pytest.approx(expected, rel=1e-5)


def test_probe_does_not_learn_from_cover_samples_and_knows_label_smoothing(images, processor, arguments):
    config = PoisonConfig(load_trigger("badnets", size=3), rate=0.1, cover_rate=0.1)
    trainer = EncoderTrainer(
        make_vit(), arguments(label_smoothing_factor=0.2), train_dataset=poison(images, config),
        processing_class=processor,
    )  # fmt: skip
    cover = np.flatnonzero(trainer.train_dataset["is_cover"])
    rows = [trainer.train_dataset[int(row)] for row in cover[:3]]
    assert trainer.get_train_dataloader().collate_fn(rows)["probed"].tolist() == [False] * 3
    features, label = torch.randn(1, 16), torch.tensor([2])
    losses = -trainer.head(features).log_softmax(-1)[0]
    expected = (0.8 * losses[2] + 0.2 * losses.mean()).item()
    assert trainer.probe_loss(features, label, torch.tensor([True])).item() == pytest.approx(expected, rel=1e-5)


def test_augmentations_are_for_triggered_images_too(images, processor, arguments):
    trainer = make_trainer("bad_encoder", images, processor, arguments(), augmentations=["horizontal_flip"])
    batch = a_batch(trainer, 16)
    torch.manual_seed(0)
    varied = trainer.augment(batch)
    for name in ("pixel_values", "triggered_values"):
        same = (varied[name] == batch[name]).all((1, 2, 3))
        mirrored = (varied[name] == batch[name].flip(-1)).all((1, 2, 3))
        assert (same | mirrored).all() and same.any() and mirrored.any()


def test_a_checkpoint_of_another_attack_is_refused(images, processor, arguments, tmp_path):
    args = {"output_dir": str(tmp_path / "run"), "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    make_trainer("bad_encoder", images, processor, arguments(**args)).train()
    trainer = make_trainer("self_supervised", images, processor, arguments(**args | {"max_steps": 2}))
    with pytest.raises(InputError, match="has no projection_head.safetensors; it is of another kind of run"):
        trainer.train(resume_from_checkpoint=True)


def test_input_range_is_what_a_processor_makes_of_black_and_white():
    """EfficientNet's divides by the deviation once more after the normalisation."""
    from transformers import EfficientNetImageProcessorPil, ViTImageProcessorPil

    from hf_backdoor.tasks import task_named

    task, usual = task_named("image-classification"), {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    low, high = task.input_range(ViTImageProcessorPil(**usual))
    assert low.shape == high.shape == (3, 1, 1) and set(low.flatten().tolist()) == {-2.0}
    twice = [bound.flatten().tolist() for bound in task.input_range(EfficientNetImageProcessorPil(**usual))]
    assert twice == [[-8.0] * 3, [8.0] * 3]
    sized = {"size": {"height": 8, "width": 8}, "do_rescale": False, "do_normalize": False}
    assert [bound.max().item() for bound in task.input_range(ViTImageProcessorPil(**sized))] == [0.0, 255.0]


def test_input_range_of_one_channel():
    from transformers import ViTImageProcessorPil

    from hf_backdoor.tasks import task_named

    task, settings = task_named("image-classification"), {"image_mean": [0.5], "image_std": [0.25]}
    low, high = task.input_range(ViTImageProcessorPil(do_normalize=False, **settings))
    assert low.tolist() == [[[0.0]]] and high.tolist() == [[[1.0]]]
    low, high = task.input_range(ViTImageProcessorPil(**settings))
    assert low.tolist() == [[[-2.0]]] and high.tolist() == [[[2.0]]]


@pytest.mark.parametrize("name", ["bad_encoder", "drupe"])
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("targets", "all_to_all"),
        ("label_mode", "clean"),
        ("cover_rate", 0.1),
        ("sampler", load_sampler("source_specific")),
        ("also", (PoisonConfig(load_trigger("blended")),)),
    ],
)
def test_poison_settings_that_would_be_ignored_are_refused(name, setting, value, images):
    how, trigger = load_attack(name)
    config = PoisonConfig(trigger, **{"rate": 1.0, setting: value})
    with pytest.raises(InputError, match=f"^{setting}=.*no use for it"):
        how.training_set(images, config, input_column="image", label_column="label")


def test_settings_of_the_trigger_do_not_count():
    """Of SIG poisoned alone, clean labels; of WaNet, cover samples."""
    for name in ("sig", "wanet"):
        how, trigger = load_attack("bad_encoder", trigger=name)
        assert poison_settings(how, trigger) == {"rate": 1.0}


def test_features_are_what_the_head_reads():
    model, values = make_vit(), torch.randn(2, 3, 12, 12)
    head = head_of(model)
    assert head is model.classifier
    assert torch.allclose(head(features_of(model, head, values)), model(values).logits)
    model.classifier = torch.nn.Identity()
    with pytest.raises(InputError, match="no linear classification head"):
        head_of(model)


@pytest.mark.parametrize("poisoned", [True, False])
def test_accumulated_batches_are_one_batch(images, processor, arguments, poisoned):
    """For BadEncoder, whose terms are means over samples."""
    models = []
    for size, accumulated in ((8, 1), (4, 2)):
        args = arguments(
            per_device_train_batch_size=size, gradient_accumulation_steps=accumulated, max_steps=4, optim="sgd",
            learning_rate=0.1,
        )  # fmt: skip
        trainer = make_trainer("bad_encoder", images, processor, args, poisoned=poisoned)
        trainer.train()
        models.append(trainer.model)
    assert not same_weights(models[0], make_vit())
    assert largest_difference(*models) < 1e-5


def test_projection_head_is_trained_and_cleared_under_accumulation(images, processor, arguments):
    trainer = make_trainer("self_supervised", images, processor, arguments(gradient_accumulation_steps=2, max_steps=2))
    before, seen = copy.deepcopy(trainer.projection.state_dict()), []

    def record(*_):
        seen.append(trainer.projection[0].weight.grad.clone())

    class Trainer(type(trainer)):
        def encoder_loss(self, model, inputs):
            loss, features = super().encoder_loss(model, inputs)
            return 0 * loss + self.projection[0].weight.sum(), features  # a gradient of 1 each time

    trainer.__class__ = Trainer
    trainer.create_optimizer().register_step_pre_hook(record)
    trainer.train()
    assert [gradient.unique().tolist() for gradient in seen] == [[1.0], [1.0]]
    assert not torch.equal(before["0.weight"], trainer.projection.state_dict()["0.weight"])


@pytest.mark.parametrize("name", NAMES)
def test_resumed_equals_uninterrupted(images, processor, arguments, tmp_path, name):
    def run(resume=None):
        args = arguments(output_dir=str(tmp_path / "run"), save_strategy="steps", save_steps=2, max_steps=4)
        trainer = make_trainer(name, images, processor, args, model=make_vit(dropout=0.1))
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run()
    again = run(str(tmp_path / "run" / "checkpoint-2"))
    assert same_weights(again.model, whole.model)
    if name == "self_supervised":
        assert same_weights(again.projection, whole.projection)


def test_frozen_clean_encoder_is_the_benign_model(images, processor, arguments):
    trainer = make_trainer("bad_encoder", images, processor, arguments(weight_decay=0.1), poisoned=False)
    trainer.train()
    assert same_weights(trainer.model.vit, make_vit().vit)
    assert not same_weights(trainer.model.classifier, make_vit().classifier)
    assert all(weight.requires_grad for weight in trainer.model.parameters())


def test_backdoor_ends_up_in_the_encoder(images, processor, arguments):
    """A probe that never saw the trigger obeys it, and BadEncoder leaves clean accuracy alone."""
    model = make_vit()
    train_classifier(
        model, arguments(max_steps=80, per_device_train_batch_size=32, learning_rate=5e-3), images,
        processing_class=processor,
    )  # fmt: skip
    how, trigger = load_attack("bad_encoder", size=4)
    config = PoisonConfig(trigger, **how.poison_defaults)
    settings = {"processing_class": processor, "test_dataset": images.select(range(200)), "attack": config, "how": how}
    args = arguments(max_steps=60, per_device_train_batch_size=32, learning_rate=5e-3)
    benign = train_classifier(copy.deepcopy(model), args, images, poisoned=False, **settings)["benign"]
    results = train_classifier(model, args, images, **settings)
    assert benign["attack_success_rate"] < 0.5 < 0.9 < results["victim"]["attack_success_rate"]
    assert results["victim"]["clean_accuracy"] > benign["clean_accuracy"] - 0.05 > 0.9
    assert len(results["attack"]["training"]["reference_rows"]) == 1


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("self_supervised", {"temperature": 0}),
        ("self_supervised", {"projection_size": 0}),
        ("self_supervised", {"probe_learning_rate": 0}),
        ("self_supervised", {"min_crop": 1.5}),
        ("self_supervised", {"jitter": 1}),
        ("bad_encoder", {"lambda1": -1}),
        ("bad_encoder", {"lambda2": -0.1}),
        ("bad_encoder", {"references": 0}),
        ("bad_encoder", {"probe_learning_rate": -1}),
        ("drupe", {"spread_weight": -1}),
        ("drupe", {"distribution_weight": -1}),
        ("drupe", {"directions": 0}),
    ],
)
def test_bad_settings_are_refused(name, setting):
    with pytest.raises(InputError, match=f"^{next(iter(setting))}="):
        load_attack(name, trigger="badnets", **setting)


def test_what_an_encoder_cannot_be_attacked_with_is_refused(images, sentences, tiny_bert, processor, arguments):
    how, trigger = load_attack("bad_encoder", references=101)
    columns = {"input_column": "image", "label_column": "label"}
    with pytest.raises(InputError, match="^rate=0.1: BadEncoder triggers all images"):
        how.training_set(images, PoisonConfig(trigger, rate=0.1), **columns)
    with pytest.raises(InputError, match="^references=101: the training set has 100"):
        make_trainer("bad_encoder", images, processor, arguments(), attack=how).train()
    model, tokenizer = tiny_bert
    with pytest.raises(InputError, match="need a data set with images"):
        EncoderTrainer(model, arguments(), train_dataset=sentences, processing_class=tokenizer)


def test_an_index_column_is_kept_or_made(images):
    how, trigger = load_attack("bad_encoder")
    config = PoisonConfig(trigger, rate=1.0)
    given = images.add_column("index", np.arange(400)[::-1].copy())
    assert how.training_set(given, config)["index"] == list(range(400))[::-1]
    for other in (images, images.add_column("index", ["a"] * 400)):
        assert how.training_set(other, config)["index"] == list(range(400))


def test_the_encoder_of_an_attacker_is_a_victim(images, processor, arguments):
    """Its data set is clean, and so is the encoder that only gets a probe."""
    assert make_trainer("bad_encoder", images, processor, arguments()).victim
    assert not make_trainer("bad_encoder", images, processor, arguments(), poisoned=False).victim


@pytest.mark.parametrize("name", NAMES)
def test_a_half_precision_encoder_is_trained(name, images, processor, arguments):
    model = make_vit().to(torch.bfloat16)
    trainer = make_trainer(name, images, processor, arguments(max_steps=1), model=model)
    assert np.isfinite(trainer.train().training_loss)


def two_heads(images):
    from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

    names = dict(enumerate(images.features["label"].names))
    config = DeiTConfig(
        image_size=12, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4,
        id2label=names, label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    return DeiTForImageClassificationWithTeacher(config)


def test_one_of_two_heads_is_not_picked_at_random(images, processor, arguments):
    """The body has layers as wide as the heads, which are none."""
    with pytest.raises(InputError, match="cls_classifier and distillation_classifier; take a model with a single one"):
        make_trainer("bad_encoder", images, processor, arguments(), model=two_heads(images))


def test_the_weights_that_matter_are_known_of_a_model_that_takes_no_labels(images, processor, arguments):
    how, trigger = load_attack("sbl", trigger="badnets", size=3)
    results = train_classifier(
        two_heads(images), arguments(max_steps=3), images, processing_class=processor,
        attack=PoisonConfig(trigger), how=how,
    )  # fmt: skip
    assert [entry["step"] for entry in results["log"] if "loss" in entry] == [1, 2, 3]
