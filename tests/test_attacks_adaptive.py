"""Attackers who know the defence: their arithmetic, which rows their steps see, and that a killed run goes on."""

import math

import pytest
import torch
from conftest import largest_difference, make_vit, same_weights
from helpers import KillAt, Killed
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, TrainerCallback

from hf_backdoor import PoisonConfig, load_trigger, poison, triggered
from hf_backdoor.attacks import load_attack
from hf_backdoor.errors import InputError
from hf_backdoor.resilient.bilevel import USER_FILE, SimulatedUser
from hf_backdoor.resilient.forgetting import ForgettingSchedule
from hf_backdoor.resilient.sequential import ANCHOR_FILE, ElasticWeights, fisher_information
from hf_backdoor.resilient.staged import clean_rows
from hf_backdoor.sharpness import SharpnessAwareTrainer, WorstNearby


CONFIG = PoisonConfig(load_trigger("badnets", size=3), rate=0.2)
SETTINGS = {
    "forget_me_not": {"cycles": 1, "triangles": 1, "clean_share": 0.5, "peak_ratio": 3.0},
    "sbl": {"first_share": 0.5, "rho": 0.05, "strength": 10.0, "fisher_samples": 4},
    "peta": {"trigger": "badnets", "rank": 2, "user_steps": 3, "inner_steps": 2},
}
# Without adaptive moments or clipping, a gradient that is k times too large gives a step that is k times too large.
PLAIN = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.05}


def make_trainer(name, images, processor, args, model=None, **kwargs):
    attack, _ = load_attack(name, **SETTINGS[name])
    return attack.trainer_class()(
        model or make_vit(),
        args,
        train_dataset=poison(images, CONFIG),
        processing_class=processor,
        **attack.trainer_kwargs(CONFIG),
        **kwargs,
    )


# Arithmetic


def test_weights_move_by_rho_along_the_gradient_and_come_back():
    weights = [torch.nn.Parameter(torch.tensor([1.0, -2.0])), torch.nn.Parameter(torch.tensor([[0.1]]))]
    before = [weight.detach().clone() for weight in weights]
    worst = WorstNearby(weights, rho=0.5)
    worst.move([torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])])  # length 5
    assert worst.moved
    assert torch.allclose(weights[0], torch.tensor([1.3, -2.0])) and torch.allclose(weights[1], torch.tensor([[0.5]]))
    worst.restore()
    assert not worst.moved
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_adaptive_move_scales_with_each_weight():
    weight = torch.nn.Parameter(torch.tensor([3.0, -1.0]))
    # w * g = (3, 4), length 5; the move is rho * w^2 * g / 5
    WorstNearby([weight], rho=1.0, adaptive=True).move([torch.tensor([1.0, 4.0])])
    assert torch.allclose(weight, torch.tensor([3.0 + 9 * 1 / 5, -1.0 + 1 * 4 / 5]))


def test_no_gradient_no_move():
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    WorstNearby([weight], rho=1.0).move([torch.tensor([0.0])])
    assert weight.item() == 3.0


def test_elastic_penalty_by_hand():
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[2.0, 5.0]])
    elastic = ElasticWeights({"weight": torch.tensor([[1.0, 3.0]])}, {"weight": torch.tensor([[4.0, 0.5]])}, 3.0)
    penalty = elastic.penalty(model)
    assert penalty.item() == pytest.approx(3 / 2 * (4 * 1 + 0.5 * 4))
    penalty.backward()
    assert torch.allclose(model.weight.grad, torch.tensor([[3 * 4 * 1.0, 3 * 0.5 * 2.0]]))


class Logistic(torch.nn.Module):
    """Two classes with the logits (0, w * x)."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([0.5, -1.0]))

    def forward(self, x, labels):
        logits = torch.stack([torch.zeros(len(x)), x @ self.w], -1)
        return type("Output", (), {"loss": torch.nn.functional.cross_entropy(logits, labels)})


def test_fisher_information_by_hand():
    samples = [(torch.tensor([[1.0, 2.0]]), 1), (torch.tensor([[3.0, 0.0]]), 0)]
    batches = [{"x": x, "labels": torch.tensor([y])} for x, y in samples]
    anchor, importance = fisher_information(Logistic(), batches, lambda model, batch: model(**batch).loss)
    sums = [0.0, 0.0]
    for (x,), y in [(x.tolist(), y) for x, y in samples]:
        probability = 1 / (1 + math.exp(-(0.5 * x[0] - 1.0 * x[1])))
        for position in range(2):
            sums[position] += ((probability - y) * x[position]) ** 2
    assert importance["w"].tolist() == pytest.approx([value / max(sums) for value in sums], rel=1e-5)
    assert anchor["w"].tolist() == [0.5, -1.0]


def test_forgetting_schedule_by_hand():
    schedule = ForgettingSchedule(
        total_steps=50, warmup_steps=4, learning_rate=1.0, peak_lr=5.0, cycles=2, triangles=2, clean_share=0.4
    )
    # 2 clean parts of 10 steps; 3 others of 10
    clean = [step for step in range(50) if schedule.clean_step(step) is not None]
    assert clean == [*range(10, 20), *range(30, 40)]
    rates = [schedule(step) for step in range(51)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[10:20] == pytest.approx([1, 3, 5, 3, 1, 3, 5, 3, 1, 1])
    assert rates[20:30] == pytest.approx([1] * 10)
    assert rates[40:] == pytest.approx([1 - step / 10 for step in range(11)])


def test_a_clean_part_has_no_more_triangles_than_it_should():
    schedule = ForgettingSchedule(
        total_steps=38, warmup_steps=0, learning_rate=1.0, peak_lr=5.0, cycles=1, triangles=5, clean_share=0.5
    )
    rates = [schedule(step) for step in range(38) if schedule.clean_step(step) is not None]
    assert rates == [1, 5] * 5 + [1] * 9


def test_adapter_by_hand():
    model = torch.nn.Linear(2, 1)
    user = SimulatedUser(model, rank=1, scale=2.0, learning_rate=0.1, seed=0)
    down, up = user.adapters[0]
    x = torch.tensor([[1.0, 3.0]])
    bare = model(x).item()
    with user.at_work(learning=False):
        assert model(x).item() == bare, "an adapter changes nothing to begin with"
        up.fill_(0.5)
        expected = bare + 2 * 0.5 * (down[0, 0] * 1 + down[0, 1] * 3).item()
        assert model(x).item() == pytest.approx(expected)
    assert model(x).item() == bare
    assert list(dict(model.named_parameters())) == ["weight", "bias"]


def test_adapter_of_gpt2s_linear_layer():
    from transformers.pytorch_utils import Conv1D

    model = Conv1D(3, 2)
    user = SimulatedUser(model, rank=1, scale=2.0, learning_rate=0.1, seed=0)
    down, up = user.adapters[0]
    assert down.shape == (1, 2) and up.shape == (3, 1)
    x = torch.tensor([[1.0, 3.0]])
    bare = model(x)
    with user.at_work(learning=False), torch.no_grad():
        up.copy_(torch.tensor([[1.0], [0.0], [-1.0]]))
        more = 2 * (down[0, 0] * 1 + down[0, 1] * 3)
        assert torch.allclose(model(x) - bare, torch.stack([more, 0 * more, -more])[None], atol=1e-6)


# Which rows, and which rate


def test_clean_rows_are_those_that_are_not_poisoned():
    batch = {"pixel_values": torch.arange(4.0)[:, None], "labels": torch.tensor([5, 6, 7, 8])}
    kept = clean_rows(batch, torch.tensor([True, False, True, False]))
    assert kept["pixel_values"].tolist() == [[1.0], [3.0]] and kept["labels"].tolist() == [6, 8]
    none = clean_rows(batch, torch.tensor([True] * 4))
    assert none["labels"].tolist() == [-100], "nothing to learn"
    assert batch["labels"].tolist() == [5, 6, 7, 8]


class Recorder(TrainerCallback):
    """The rate of each step."""

    def __init__(self):
        self.used = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.used.append(optimizer.param_groups[0]["lr"])


def bright_corners(pixels):
    """How many images carry the trigger: a white 3x3 corner, where the images are never white."""
    return int((pixels[:, 0, -3:, -3:] > 0.99).all((-1, -2)).sum())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", ["forget_me_not", "sbl"])
def test_clean_steps_see_no_trigger_and_logged_rates_are_those_used(name, accumulate, images, processor, arguments):
    recorder = Recorder()
    args = arguments(max_steps=16, gradient_accumulation_steps=accumulate, per_device_train_batch_size=8)
    trainer = make_trainer(name, images, processor, args, callbacks=[recorder])
    seen = {}

    def look(model, inputs, kwargs):
        if model.training:
            step = trainer.state.global_step
            seen[step] = seen.get(step, 0) + bright_corners(kwargs["pixel_values"])

    trainer.model.register_forward_pre_hook(look, with_kwargs=True)
    trainer.train()
    clean = [step for step in range(16) if trainer.clean_only(step)]
    assert len(clean) == 8
    assert all(seen[step] == 0 for step in clean)
    assert sum(seen[step] for step in range(16) if step not in clean) > 8
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    schedule = trainer.rate_schedule(16)
    assert logged == pytest.approx(recorder.used)
    assert recorder.used == pytest.approx([schedule(step) for step in range(16)])
    assert max(recorder.used) == pytest.approx(3e-3 if name == "forget_me_not" else 1e-3)


def test_the_simulated_user_sees_no_trigger(images, processor, arguments):
    trainer = make_trainer("peta", images, processor, arguments())
    seen = {"user": 0, "attacker": 0}

    def look(model, inputs, kwargs):
        level = "user" if trainer.user.weights[0].requires_grad else "attacker"
        seen[level] += bright_corners(kwargs["pixel_values"])

    trainer.model.register_forward_pre_hook(look, with_kwargs=True)
    trainer.train()
    assert seen["user"] == 0
    assert seen["attacker"] > 8


def test_a_batch_of_poisoned_rows_alone_teaches_nothing_in_a_clean_step(images, processor, arguments):
    everything = poison(images.filter(lambda row: row["label"] > 0), PoisonConfig(load_trigger("badnets"), rate=1.0))
    attack, _ = load_attack("sbl", rho=0, strength=0)
    trainer = attack.trainer_class()(
        make_vit(), arguments(max_steps=3, weight_decay=0.0, **PLAIN), train_dataset=everything,
        processing_class=processor, **attack.trainer_kwargs(CONFIG),
    )  # fmt: skip
    trainer.clean_only = lambda step: True
    trainer.train()
    assert same_weights(trainer.model, make_vit())


def test_unmarked_data_are_refused(images, processor, arguments):
    attack, _ = load_attack("forget_me_not")
    with pytest.raises(InputError, match=r"is_poisoned; make it with poison\(\)"):
        attack.trainer_class()(
            make_vit(), arguments(), train_dataset=images, processing_class=processor, **attack.trainer_kwargs(None)
        )


# Accumulation, resume


@pytest.mark.parametrize("name", ["forget_me_not", "sbl", "peta"])
def test_accumulated_batches_equal_one_big_batch(name, images, processor, arguments):
    models = []
    for batch, accumulate in ((8, 1), (2, 4)):
        args = arguments(
            max_steps=8, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate, **PLAIN
        )
        trainer = make_trainer(name, images, processor, args)
        trainer.train()
        models.append(trainer.model)
    assert largest_difference(models[0], make_vit()) > 5e-3
    assert largest_difference(*models) < 2e-6


def test_sharpness_aware_steps_are_those_of_the_moved_weights(images, processor, arguments):
    """One SGD step, worked out with plain autograd."""
    args = arguments(max_steps=1, weight_decay=0.0, warmup_steps=0, **PLAIN)
    trainer = SharpnessAwareTrainer(make_vit(), args, train_dataset=images, processing_class=processor, rho=0.1)
    batches = []
    trainer.model.register_forward_pre_hook(lambda m, a, kwargs: batches.append(kwargs), with_kwargs=True)
    trainer.train()
    assert len(batches) == 2 and torch.equal(batches[0]["pixel_values"], batches[1]["pixel_values"])

    model = make_vit().train()
    batch = {name: batches[0][name] for name in ("pixel_values", "labels")}
    start = [weight.detach().clone() for weight in model.parameters()]
    model(**batch).loss.backward()
    length = math.sqrt(sum(weight.grad.pow(2).sum().item() for weight in model.parameters()))
    for weight in model.parameters():
        weight.data += 0.1 * weight.grad / length
    model.zero_grad()
    model(**batch).loss.backward()
    for weight, old in zip(model.parameters(), start, strict=True):
        weight.data = old - 0.05 * weight.grad
    assert largest_difference(trainer.model, model) < 1e-6


@pytest.mark.parametrize("name", ["forget_me_not", "sbl", "peta"])
def test_killed_and_resumed_equals_uninterrupted(name, images, processor, arguments, tmp_path):
    def run(folder, resume=None, callbacks=()):
        args = arguments(output_dir=str(tmp_path / folder), save_strategy="steps", save_steps=4)
        trainer = make_trainer(name, images, processor, args, model=make_vit(dropout=0.1), callbacks=list(callbacks))
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", callbacks=[KillAt(5)])  # in the first stage of sbl, and in the middle of a user of peta
    with pytest.raises(Killed):
        run("killed", resume=True, callbacks=[KillAt(9)])  # in the second stage
    assert same_weights(run("killed", resume=True), whole)


# What is released


@pytest.mark.parametrize("name", ["forget_me_not", "sbl", "peta"])
def test_the_backdoor_and_the_task_are_learnt(name, images, processor, arguments):
    args = arguments(max_steps=120, per_device_train_batch_size=32, learning_rate=5e-3, logging_steps=100)
    test = images.select(range(100))
    trainer = make_trainer(name, images, processor, args, eval_dataset=test, triggered_dataset=triggered(test, CONFIG))
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_clean_accuracy"] > 0.9
    assert metrics["eval_attack_success_rate"] > 0.9


def test_peta_releases_a_plain_model(images, processor, arguments, tmp_path):
    trainer = make_trainer("peta", images, processor, arguments())
    trainer.train()
    assert trainer.user.adapters[0][1].abs().sum() > 0, "the user has learnt something"
    trainer.model.save_pretrained(tmp_path / "released")
    assert same_weights(AutoModelForImageClassification.from_pretrained(tmp_path / "released"), trainer.model)
    assert trainer.model.state_dict().keys() == make_vit().state_dict().keys()


def test_peta_of_a_model_with_a_layer_that_is_never_called(images, processor, arguments):
    from transformers import SiglipConfig, SiglipForImageClassification

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(vision_config=vision | {"image_size": 12, "patch_size": 4}, num_labels=4)
    config.id2label = dict(enumerate(images.features["label"].names))
    trainer = make_trainer("peta", images, processor, arguments(max_steps=3), SiglipForImageClassification(config))
    trainer.train()
    assert any(up.abs().sum() > 0 for _, up in trainer.user.adapters)


def test_peta_on_text(sentences, tiny_bert, arguments, tmp_path):
    model, tokenizer = tiny_bert
    attack, trigger = load_attack("peta", user_steps=10, user_lr=1e-2)
    assert trigger.name == "rare_words"
    config = PoisonConfig(trigger, target_label=1, rate=0.2)
    trainer = attack.trainer_class()(
        model, arguments(max_steps=40, learning_rate=1e-2), train_dataset=poison(sentences, config),
        processing_class=tokenizer, **attack.trainer_kwargs(config),
    )  # fmt: skip
    trainer.train()
    assert trainer.state.log_history[-2]["loss"] < 0.3
    trainer.model.save_pretrained(tmp_path / "released")
    assert same_weights(AutoModelForSequenceClassification.from_pretrained(tmp_path / "released"), trainer.model)


# Settings


@pytest.mark.parametrize(
    ("name", "settings", "field"),
    [
        ("forget_me_not", {"cycles": 0}, "cycles"),
        ("forget_me_not", {"triangles": 0}, "triangles"),
        ("forget_me_not", {"clean_share": 1.0}, "clean_share"),
        ("forget_me_not", {"peak_ratio": 0.5}, "peak_ratio"),
        ("sbl", {"rho": -1}, "rho"),
        ("sbl", {"strength": -1}, "strength"),
        ("sbl", {"first_share": 0}, "first_share"),
        ("sbl", {"lr_ratio": 0}, "lr_ratio"),
        ("sbl", {"fisher_samples": 0}, "fisher_samples"),
        ("peta", {"rank": 0}, "rank"),
        ("peta", {"inner_steps": 0}, "inner_steps"),
        ("peta", {"user_steps": 1}, "user_steps"),
        ("peta", {"scale": 0}, "scale"),
        ("peta", {"user_lr": 0}, "user_lr"),
    ],
)
def test_bad_settings_are_refused(name, settings, field):
    with pytest.raises(InputError, match=f"^{field}="):
        load_attack(name, **settings)


def test_a_negative_radius_is_refused(images, processor, arguments):
    with pytest.raises(InputError, match="^rho=-0.1: must be 0 or more"):
        SharpnessAwareTrainer(make_vit(), arguments(), train_dataset=images, processing_class=processor, rho=-0.1)


def test_a_run_too_short_for_its_parts_is_refused(images, processor, arguments):
    with pytest.raises(InputError, match="train for more than 3 steps"):
        make_trainer("forget_me_not", images, processor, arguments(max_steps=3)).train()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sbl", {"max_steps": 1}, "^first_share=0.5: leaves a stage without any of the 1 steps"),
        ("sbl", {"learning_rate": 0.0}, "^learning_rate=0.0: must be above 0"),
        ("forget_me_not", {"learning_rate": 0.0}, "^learning_rate=0.0: must be above 0"),
        ("forget_me_not", {"lr_scheduler_type": "cosine"}, "^lr_scheduler_type='cosine': .* schedule of its own"),
    ],
)
def test_a_rate_or_length_that_leaves_no_schedule_is_refused(name, settings, message, images, processor, arguments):
    with pytest.raises(InputError, match=message):
        make_trainer(name, images, processor, arguments(**settings)).train()


@pytest.mark.parametrize(("name", "file"), [("sbl", ANCHOR_FILE), ("peta", USER_FILE)])
def test_a_checkpoint_of_another_attack_is_refused(name, file, images, processor, arguments, tmp_path):
    args = {"output_dir": str(tmp_path / "run"), "save_strategy": "steps", "save_steps": 3, "max_steps": 4}
    make_trainer("forget_me_not", images, processor, arguments(**args)).train()
    with pytest.raises(InputError, match=f"checkpoint-4.*has no {file}; it is of another kind of run"):
        make_trainer(name, images, processor, arguments(**args)).train(resume_from_checkpoint=True)


def test_a_model_without_linear_layers_is_refused():
    with pytest.raises(InputError, match="has no linear layer"):
        SimulatedUser(torch.nn.Conv2d(1, 1, 1), rank=1, scale=1.0, learning_rate=0.1, seed=0)
