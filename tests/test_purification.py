"""purify: what it may see, what it leaves alone, and what comes out."""

import numpy as np
import pytest
import torch
from conftest import make_vit, same_weights

from hf_backdoor import BackdoorTrainer, InputError, PoisonConfig, load_defense, load_trigger, purify, split_off
from hf_backdoor.defenses import defense_names
from hf_backdoor.purification import default_arguments
from hf_backdoor.sequela import quick_measures
from hf_backdoor.super_fine_tuning.averaging import AVERAGE_FILE
from hf_backdoor.super_fine_tuning.distillation import SelfDistillationTrainer, consistent_answers, relative_distance
from hf_backdoor.super_fine_tuning.perturbations import DENSE_SIZES, SPARSE_AREAS, UniversalPerturbations


ATTACK = PoisonConfig(load_trigger("badnets", size=3), target_label=1)


def quick(defense, tmp_path, **settings):
    defaults = {"max_steps": 40, "per_device_train_batch_size": 16, "use_cpu": True, "logging_steps": 5}
    return default_arguments(defense, tmp_path, **defaults | settings)


@pytest.mark.parametrize("name", defense_names())
def test_measuring_an_attack_changes_no_bit_of_the_result(images, processor, tmp_path, name):
    """The proof that no triggered input, test label or attack reaches a defence."""
    make_vit(seed=1).save_pretrained(tmp_path / "public")
    defense = load_defense(name, **{"base": str(tmp_path / "public")} if name == "fine_mixing" else {})
    clean, test = images.select(range(200)), images.select(range(200, 300))
    given = {"processing_class": processor, "defense": defense}
    suspect = make_vit(dropout=0.1)
    kept = {name: value.clone() for name, value in suspect.state_dict().items()}
    blind = purify(suspect, clean, args=quick(defense, tmp_path / "a"), **given)
    watched = purify(
        suspect, clean, args=quick(defense, tmp_path / "b", eval_steps=7), test_dataset=test, attack=ATTACK, **given
    )
    assert same_weights(blind.model, watched.model)
    assert not same_weights(blind.model, suspect), "it did train"
    assert all(torch.equal(kept[name], value) for name, value in suspect.state_dict().items()), (
        "the user's is untouched"
    )
    assert watched.results["purified"]["attack_success_rate"] is not None
    assert blind.results["purified"] is None


class Lost(Exception):
    pass


def test_killed_and_resumed_purification_equals_the_uninterrupted_one(images, processor, tmp_path):
    """With the search, the perturbations, the suspect's answers and the averaged weights."""
    from transformers import TrainerCallback

    class Die(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 33:
                raise Lost

    def run(folder, resume=None, extra=()):
        defense = load_defense("super_fine_tuning")
        args = quick(defense, tmp_path / folder, save_strategy="steps", save_steps=10, eval_strategy="no")
        trainer = defense.trainer_class()(
            make_vit(dropout=0.1), args, train_dataset=images, processing_class=processor,
            callbacks=[*defense.callbacks(), *extra], **defense.trainer_kwargs(),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    with pytest.raises(Lost):
        run("killed", extra=[Die()])
    checkpoint = tmp_path / "killed" / "checkpoint-30"
    for folder in ("killed", "elsewhere"):
        resumed = run(folder, resume=str(checkpoint))
        assert same_weights(whole.model, resumed.model)
        assert torch.equal(whole.perturbations.values, resumed.perturbations.values)
    (checkpoint / AVERAGE_FILE).unlink()
    with pytest.raises(InputError, match="checkpoint-30.*has no averaged_weights.safetensors"):
        run("elsewhere", resume=str(checkpoint))


def test_averaging_ends_with_the_mean_of_the_weights(images, processor, tmp_path):
    from transformers import TrainerCallback

    from hf_backdoor.super_fine_tuning.averaging import WeightAveragingCallback

    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step > 6:
                seen.append(model.classifier.weight.detach().clone())

    defense = load_defense("fine_tuning")
    trainer = BackdoorTrainer(
        make_vit(), quick(defense, tmp_path, max_steps=12, eval_strategy="no"), train_dataset=images,
        processing_class=processor, callbacks=[WeightAveragingCallback(start=0.5), Look()],
    )  # fmt: skip
    trainer.train()
    assert len(seen) == 6
    torch.testing.assert_close(trainer.model.classifier.weight.detach(), torch.stack(seen).mean(0))


def test_only_what_can_change_is_kept_of_a_model(tiny_bert, images, processor, tmp_path):
    """Of weights that two layers share once; of an adapter not the model below it, in memory and in a checkpoint."""
    from safetensors.torch import load_file
    from transformers import BertForMaskedLM, TrainerCallback

    from hf_backdoor.super_fine_tuning.weights import changeable
    from hf_backdoor.tuning import load_tuning

    words = BertForMaskedLM(tiny_bert[0].config)
    assert len({id(weight) for weight in words.parameters()}) == len(changeable(words)) < len(words.state_dict())
    for name, value in changeable(words).items():
        assert value.data_ptr() == words.state_dict()[name].data_ptr(), "no copy"

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if averaging.average is not None:
                self.held = sum(value.numel() for value in averaging.average.module.state_dict().values())

    defense, count = load_defense("super_fine_tuning"), Count()
    model = load_tuning("lora", r=1).apply(make_vit())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    frozen = {name: value.clone() for name, value in model.state_dict().items() if name not in changeable(model)}
    callbacks = defense.callbacks()
    averaging = callbacks[1]
    trainer = defense.trainer_class()(
        model, quick(defense, tmp_path, save_strategy="steps", save_steps=40, eval_strategy="no"),
        train_dataset=images.select(range(64)), processing_class=processor, callbacks=[*callbacks, count],
    )  # fmt: skip
    trainer.train()
    assert count.held == trained
    stored = load_file(tmp_path / "checkpoint-40" / AVERAGE_FILE)
    assert sum(value.numel() for name, value in stored.items() if name != "n_averaged") == trained
    assert frozen and all(torch.equal(value, model.state_dict()[name]) for name, value in frozen.items())


def test_an_answer_for_a_class_that_is_in_neither_sample_is_not_learnt():
    answers = torch.tensor([[0.1, 0.2, 0.7], [0.1, 0.7, 0.2]])
    expected = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    allowed = torch.tensor([[True, True, False]] * 2)
    learned, trusted = consistent_answers(answers, expected, allowed)
    assert trusted.tolist() == [False, True]
    assert torch.equal(learned[0], expected[0]) and torch.equal(learned[1], answers[1])


def test_features_are_compared_by_the_size_of_the_suspects():
    """(9 + 1) / 25 and 1 / 1; twice as long is as far as nothing at all; where the suspect has none, 0 is right."""
    kept = torch.tensor([[0.0, 5.0], [3.0, 4.0], [3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0], [2.0], [2.0], [-1.0]])
    ours = torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 0.0], [0.0, 0.0]]), torch.tensor([[2.0], [2.0], [2.0], [-1.0]])
    assert relative_distance(ours, kept).tolist() == pytest.approx([1.4, 1.0, 1.0, 0.0])


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_small_batches_take_the_perturbations_in_turn(batch, images, processor, tmp_path):
    """Eight samples a device are the default of `TrainingArguments`, and half of them carry perturbations."""
    defense = load_defense("super_fine_tuning", peak_lr_1=1e-3, peak_lr_2=1e-3, base_lr=1e-4)
    args = quick(defense, tmp_path, per_device_train_batch_size=batch, max_steps=24, eval_strategy="no")
    trainer = defense.trainer_class()(
        make_vit(), args, train_dataset=images.select(range(64)), processing_class=processor,
        callbacks=defense.callbacks(), **defense.trainer_kwargs(),
    )  # fmt: skip
    trainer.train()
    used = trainer.perturbations.values.detach().flatten(1).any(1)
    assert used.all() if batch > 1 else used.sum() > 4, "of a batch of one, by chance"


def test_perturbations_stay_small_and_raise_the_loss():
    torch.manual_seed(0)
    low, high = torch.full((3, 1, 1), -1.0), torch.full((3, 1, 1), 1.0)
    perturbations = UniversalPerturbations((3, 10, 10), low, high)
    inputs, direction = torch.rand(16, 3, 10, 10) * 2 - 1, torch.randn(3, 10, 10)
    assert torch.equal(perturbations.apply(inputs), inputs), "they start at nothing"
    for _ in range(30):
        loss = (perturbations.apply(inputs) * direction).sum()
        perturbations.ascend(torch.autograd.grad(loss, perturbations.values)[0])
    changed = perturbations.apply(inputs)
    assert (changed * direction).sum() > (inputs * direction).sum()
    assert changed.min() >= -1 and changed.max() <= 1
    values = perturbations.values.detach()
    for value, size in zip(values, DENSE_SIZES, strict=False):
        assert value.abs().max() <= size + 1e-6
    for value, area in zip(values[len(DENSE_SIZES) :], SPARSE_AREAS, strict=True):
        assert 1 <= (value.abs().amax(0) > 0).sum() <= round(100 * area)


def test_only_augmentations_that_the_suspect_understands_are_used(images, processor, tmp_path):
    """The class of these images is where the bright quadrant lies: mirroring changes it, moving a pixel does not."""
    defense = load_defense("super_fine_tuning")
    settings = {"max_steps": 200, "learning_rate": 5e-3, "eval_strategy": "no"}
    trained = BackdoorTrainer(
        make_vit(), quick(defense, tmp_path, **settings), train_dataset=images, processing_class=processor,
        augmentations=["shift"],
    )  # fmt: skip
    trained.train()
    suspect = trained.model
    trainer = SelfDistillationTrainer(
        suspect, quick(defense, tmp_path, eval_strategy="no", max_steps=1), train_dataset=images,
        processing_class=processor,
    )  # fmt: skip
    trainer.train()
    assert trainer.augmentations == ("shift",)


def test_split_off_is_balanced_and_disjoint(images):
    rest, part = split_off(images, 42, seed=0)
    assert len(part) == 42 and len(rest) == 358
    counts = np.bincount(part["label"])
    assert counts.max() - counts.min() <= 1
    again = split_off(images, 42, seed=0)[1]
    assert again["label"][:] == part["label"][:]
    with pytest.raises(InputError, match="between 1 and 399"):
        split_off(images, 400, seed=0)


def test_bad_input_is_explained(images, processor, tmp_path):
    with pytest.raises(InputError, match="processing_class=None: is needed when the model is an object"):
        purify(make_vit(), images)
    with pytest.raises(InputError, match="needs a test_dataset"):
        purify(make_vit(), images, processing_class=processor, attack=ATTACK)
    with pytest.raises(InputError, match="numbers the same classes differently"):
        swapped = make_vit(classes=("north east", "north west", "south west", "south east"))
        purify(swapped, images, processing_class=processor)


def test_sequela_are_measured_after_it_and_stand_on_its_card(images, processor, tmp_path):
    clean, test = images.select(range(200)), images.select(range(200, 300))
    shared = {"processing_class": processor, "test_dataset": test}

    def run(folder, **more):
        args = quick(
            load_defense("fine_tuning"), tmp_path / folder, disable_tqdm=True, eval_strategy="no", max_steps=10
        )
        return purify(
            make_vit(), clean, output_dir=tmp_path / folder, defense="fine_tuning", args=args, **shared, **more
        )

    plain, seen = run("plain"), run("seen", sequela=True, suspect_data=images.select(range(300, 400)))
    assert same_weights(plain.model, seen.model) and plain.sequela is None
    card = (tmp_path / "seen" / "README.md").read_text()
    assert "purified with hf_backdoor" in card and card.count("## Backdoor sequela") == 1
    assert seen.sequela.results["samples"] == {"members": 100, "defense_members": 200, "non_members": 100}
    assert set(seen.sequela.results["measures"]) == {measure.name for measure in quick_measures()}
    assert "Accuracy under PGD" in seen.table() and (tmp_path / "seen" / "sequela.json").is_file()
    figures = sorted(path.name for path in (tmp_path / "seen" / "figures").iterdir())
    assert any(name.startswith("sequela_") for name in figures) and "sequela-robustness" in card

    (tmp_path / "seen" / "sequela.json").write_text("{")
    run("seen", overwrite=True)
    again = (tmp_path / "seen" / "README.md").read_text()
    assert "purified with hf_backdoor" in again and "equela" not in again, "what was measured was another model"
    assert not (tmp_path / "seen" / "sequela.json").exists()
    left = sorted(path.name for path in (tmp_path / "seen" / "figures").iterdir())
    assert left == [name for name in figures if not name.startswith("sequela_")]

    some = run("some", sequela=["robustness"]).sequela.results
    assert set(some["measures"]) == {"robustness"} and some["samples"]["members"] == 0


def test_sequela_without_what_they_need_are_refused_before_anything_is_trained(images, processor, tmp_path):
    clean = images.select(range(200))
    args = quick(load_defense("fine_tuning"), tmp_path / "out", max_steps=10**6)
    shared = {"processing_class": processor, "defense": "fine_tuning", "args": args}
    with pytest.raises(InputError, match="give test_dataset"):
        purify(make_vit(), clean, output_dir=tmp_path / "out", sequela=True, **shared)
    shared["test_dataset"] = images.select(range(200, 300))
    with pytest.raises(InputError, match="give output_dir"):
        purify(make_vit(), clean, sequela=True, **shared)
    with pytest.raises(InputError, match="reactivation needs the backdoor"):
        purify(make_vit(), clean, output_dir=tmp_path / "out", sequela=["reactivation"], **shared)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
