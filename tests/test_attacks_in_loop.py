"""Attacks that poison inside the training loop: what is in a batch, what is stored, and that a run can be resumed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_vit, same_weights
from helpers import KillAt, Killed
from transformers import TrainerCallback

from hf_backdoor import InputError, PoisonConfig, load_trigger
from hf_backdoor.attacks import load_attack, poison_settings
from hf_backdoor.in_loop.batches import draw
from hf_backdoor.in_loop.networks import TRIGGER_FILE, InputAwareNet, LiraNet, load_net, save_net
from hf_backdoor.modalities.image import to_array
from hf_backdoor.training import train_classifier


QUICK = {
    "wanet": {"s": 3.0},
    "input_aware": {"mask_epochs": 1, "width": 4},
    "lira": {"eps": 0.1, "width": 4},
}


def make(name, images, processor, args, callbacks=(), model=None, config=None, **settings):
    how, trigger = load_attack(name, **QUICK[name] | settings)
    config = config or PoisonConfig(trigger, **poison_settings(how, trigger))
    trainer = how.trainer_class()(
        model or make_vit(),
        args,
        train_dataset=how.training_set(images, config, input_column="image", label_column="label"),
        eval_dataset=images.select(range(min(50, len(images)))),
        processing_class=processor,
        callbacks=list(callbacks),
        **how.trainer_kwargs(config),
    )
    return how, trainer


def raw(images, count=6):
    return np.stack([to_array(images[n]["image"]) for n in range(count)])


def test_shares_of_a_batch():
    """10 % poisoned and 20 % cover on average in batches of 4, never of the target class, never both."""
    config = PoisonConfig(load_trigger("badnets"), rate=0.1, cover_rate=0.2, target_label=2)
    torch.manual_seed(0)
    counts = np.zeros(2)
    for _ in range(2000):
        labels = torch.randint(4, (4,))
        before = labels.clone()
        poisoned, cover, changed = draw(labels, config, 4)
        assert not set(poisoned.tolist()) & set(cover.tolist())
        assert (labels == before).all() and (labels[poisoned] != 2).all() and (changed[poisoned] == 2).all()
        untouched = [n for n in range(4) if n not in poisoned.tolist()]
        assert (changed[untouched] == labels[untouched]).all()
        counts += len(poisoned), len(cover)
    assert counts / 8000 == pytest.approx([0.1, 0.2], abs=0.015)
    everything = PoisonConfig(load_trigger("badnets"), rate=1.0, targets="all_to_all")
    poisoned, cover, changed = draw(torch.tensor([0, 3, 1]), everything, 4)
    assert sorted(poisoned.tolist()) == [0, 1, 2] and changed.tolist() == [1, 0, 2] and len(cover) == 0


def test_wanet_batches_hold_triggered_cover_and_clean_images(images, processor, arguments):
    """Any trigger: here BadNets, whose cover is the patch too."""
    config = PoisonConfig(load_trigger("badnets", size=2), rate=0.25, cover_rate=0.25, target_label=1)
    _, trainer = make("wanet", images, processor, arguments(per_device_train_batch_size=16), config=config)
    torch.manual_seed(0)
    batch = next(iter(trainer.get_train_dataloader()))
    rows = trainer._poisoned(batch["rows"])
    patched = {n for n, row in enumerate(rows) if (np.asarray(row["image"])[-2:, -2:] == 255).all()}
    relabelled = {n for n, row in enumerate(rows) if row["label"] != batch["rows"][n]["label"]}
    assert len(patched) == 8 and len(relabelled) == 4 and relabelled < patched
    for n, row in enumerate(rows):
        if n not in patched:
            assert (np.asarray(row["image"]) == np.asarray(batch["rows"][n]["image"])).all()
    clean = trainer.data_collator(batch["rows"])["pixel_values"]
    assert clean.max() < 1, "the rows of the data set were changed in place"


@pytest.mark.parametrize("name", QUICK)
def test_killed_and_resumed_equals_uninterrupted(name, images, processor, arguments, tmp_path):
    def run(folder, resume=None, callbacks=()):
        args = arguments(
            output_dir=str(tmp_path / folder), save_strategy="steps", save_steps=2, max_steps=5,
            gradient_accumulation_steps=2,
        )  # fmt: skip
        _, trainer = make(name, images, processor, args, callbacks, make_vit(dropout=0.1))
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", callbacks=[KillAt(3)])
    resumed = run("killed", resume=True)
    assert same_weights(whole.model, resumed.model)
    if name != "wanet":
        assert same_weights(whole.net, resumed.net)
    if name == "input_aware":
        assert resumed.mask_density == whole.mask_density is not None


@pytest.mark.parametrize("name", ["input_aware", "lira"])
def test_micro_batches_give_the_gradients_of_the_whole(name, images, processor, arguments):
    """Every image is triggered, in one batch of 16 or in four of 4."""
    config = PoisonConfig(load_trigger(name), rate=1.0, target_label=0)
    others = images.filter(lambda row: row["label"] != 0).select(range(16))
    settings = {"diversity_weight": 0.0, "mask_epochs": 0} if name == "input_aware" else {}
    gradients = []

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, *_, **__):
            parameters = [*trainer.model.parameters(), *trainer.net.parameters()]
            gradients[-1].extend(value.grad.clone() for value in parameters if value.grad is not None)

    for size, accumulation in ((16, 1), (4, 4)):
        gradients.append([])
        args = arguments(
            max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, max_grad_norm=0.0
        )
        _, trainer = make(name, others, processor, args, [Look()], config=config, **settings)
        trainer.train()
    assert len(gradients[0]) > len(list(trainer.model.parameters())), "the network has a gradient too"
    for whole, parts in zip(*gradients, strict=True):
        assert torch.allclose(whole, parts, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["input_aware", "lira"])
def test_stored_trigger_is_the_one_of_the_loop(name, images, processor, arguments, tmp_path):
    how, trainer = make(name, images, processor, arguments(max_steps=4))
    trainer.train()
    trigger = how.learned_trigger(trainer, tmp_path / "victim")
    assert trigger.name == name and (tmp_path / "victim" / TRIGGER_FILE).is_file()
    batch = raw(images)
    in_loop = trainer.net(torch.from_numpy(batch).permute(0, 3, 1, 2) / 255).detach().permute(0, 2, 3, 1).numpy() * 255
    stored = trigger(batch, np.arange(6))
    assert np.abs(stored - in_loop).max() <= 0.51, "rounded to the nearest level, and nothing else"
    assert stored.dtype == np.uint8 and (stored != batch).any()
    assert (batch == raw(images)).all(), "the input was changed in place"
    assert (trigger(batch[2:3], np.arange(1)) == stored[2:3]).all(), "a sample must not depend on its batch"
    assert len(trigger(batch[:0], np.arange(0))) == 0
    again = load_trigger(name, weights=trigger.weights)
    assert (again(batch, np.arange(6)) == stored).all() and again.fingerprint() == trigger.fingerprint()


def test_networks_work_out_their_formulas(tmp_path):
    """From the networks' parts, on odd sizes, grey and RGB."""
    torch.manual_seed(0)
    for channels in (1, 3):
        batch = np.random.default_rng(0).integers(0, 256, (3, 9, 13, channels), dtype=np.uint8)
        x = torch.from_numpy(batch).permute(0, 3, 1, 2).double() / 255
        net = LiraNet(channels, 4, 0.05)
        save_net(net, tmp_path / f"{channels}" / TRIGGER_FILE)
        trigger = load_trigger("lira", weights=str(tmp_path / f"{channels}" / TRIGGER_FILE))
        changed = trigger(batch, np.arange(3)).astype(int)
        noise = np.tanh(net.double().noise(x).detach().permute(0, 2, 3, 1).numpy())
        expected = np.clip(batch + 0.05 * 255 * noise, 0, 255)
        assert np.abs(changed - expected).max() < 0.501 and np.abs(changed - batch).max() <= 13

        net = InputAwareNet(channels, 4)
        save_net(net, tmp_path / f"{channels}" / "other.safetensors")
        trigger = load_trigger("input_aware", weights=str(tmp_path / f"{channels}" / "other.safetensors"))
        net = net.double()

        def parts(source, net=net):
            pattern = (np.tanh(net.pattern(source).detach().numpy()) + 1) / 2
            value = (np.tanh(net.mask(source).detach().numpy()) + 1) / 2
            mask = (np.tanh(20 * value - 10) + 1) / 2
            return pattern.transpose(0, 2, 3, 1), mask.transpose(0, 2, 3, 1)

        for source, made in ((x, trigger(batch, np.arange(3))), (x.flip(-1), trigger.cover(batch, np.arange(3)))):
            pattern, mask = parts(source)
            expected = batch + mask * (255 * pattern - batch)
            assert np.abs(made - expected).max() < 0.501
    grey = load_trigger("lira", weights=str(tmp_path / "1" / TRIGGER_FILE))
    with pytest.raises(InputError, match="1 channels, and these have 3"):
        grey(batch, np.arange(3))
    with pytest.raises(InputError, match="not the trigger.safetensors of a victim of input_aware"):
        load_trigger("input_aware", weights=grey.weights)(batch, np.arange(3))
    (tmp_path / "no.safetensors").write_text("nothing")
    with pytest.raises(InputError, match="cannot be read"):
        load_net(str(tmp_path / "no.safetensors"), "lira")


def test_masks_are_sparse_after_their_training(images, processor, arguments):
    """And do not move with the victim."""
    _, trainer = make("input_aware", images, processor, arguments(max_steps=2), mask_epochs=4, diversity_weight=0.1)
    pixels = torch.from_numpy(raw(images, 100)).permute(0, 3, 1, 2) / 255
    before = trainer.net.masks(pixels).mean()
    trainer._train_masks()
    after = trainer.net.masks(pixels)
    assert before > 0.3 > 0.15 > after.mean()
    kept = [value.clone() for value in trainer.net.mask.parameters()]
    super(type(trainer), trainer).train()
    assert all(torch.equal(old, new) for old, new in zip(kept, trainer.net.mask.parameters(), strict=True))


def test_masks_use_the_pixels_that_they_may(images, processor, arguments):
    """Those below the density are free, and wider masks differ more."""
    _, trainer = make("input_aware", images, processor, arguments(max_steps=1), mask_epochs=6, density=0.3)
    trainer._train_masks()
    shares = trainer.net.masks(torch.from_numpy(raw(images, 100)).permute(0, 3, 1, 2) / 255).flatten(1).mean(1)
    assert 0.15 < shares.mean() < 0.33 and shares.min() > 0.08


def test_lira_network_stops_after_its_share(images, processor, arguments):
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(torch.cat([value.detach().flatten().clone() for value in trainer.net.parameters()]))

    _, trainer = make("lira", images, processor, arguments(max_steps=8), [Watch()], joint_share=0.5)
    trainer.train()
    changed = [not torch.equal(one, other) for one, other in zip(seen, seen[1:], strict=False)]
    assert changed == [True, True, True, False, False, False, False]


@pytest.mark.parametrize("name", ["wanet", "input_aware"])
def test_a_victim_is_measured_with_its_trigger(name, images, processor, arguments, tmp_path):
    how, trigger = load_attack(name, **QUICK[name])
    results = train_classifier(
        make_vit(), arguments(), images, processing_class=processor, test_dataset=images.select(range(100)),
        attack=PoisonConfig(trigger, **poison_settings(how, trigger)), how=how,
    )  # fmt: skip
    assert 0 <= results["victim"]["attack_success_rate"] <= 1
    assert results["attack"]["training"]["name"] == name
    if name == "input_aware":
        assert results["attack"]["trigger"]["weights"].endswith(TRIGGER_FILE)
        assert 0 <= results["attack"]["training"]["mask_density"] <= 1
        with pytest.raises(InputError, match="leave weights out"):
            made = load_trigger(name, weights=str(tmp_path / "run" / TRIGGER_FILE))
            how.training_set(images, PoisonConfig(made), input_column="image", label_column="label")


def test_augmentations_come_after_the_trigger(images, processor, arguments):
    how, trigger = load_attack("lira", **QUICK["lira"])
    config = PoisonConfig(trigger, rate=1.0)
    trainer = how.trainer_class()(
        make_vit(), arguments(max_steps=2), train_dataset=images, processing_class=processor, augmentations=["shift"],
        **how.trainer_kwargs(config),
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("input_aware", {"density": 1.0}, r"density=1.0: must lie in \[0, 1\)"),
        ("input_aware", {"norm_weight": -1}, r"norm_weight=-1(\.0)?: must be 0 or more"),
        ("input_aware", {"net_learning_rate": 0}, "must be above 0"),
        ("input_aware", {"weights": "no/such/file"}, "is no file"),
        ("lira", {"eps": 0.001}, "rounded off"),
        ("lira", {"clean_weight": 1.0}, r"\(0, 1\)"),
        ("lira", {"joint_share": 0}, r"\(0, 1\]"),
        ("lira", {"width": 0}, "must be 1 or more"),
        ("wanet", {"trigger": "badnets", "s": 1}, "no such argument"),
    ],
)
def test_bad_settings_are_explained(name, settings, message):
    with pytest.raises(InputError, match=message):
        load_attack(name, **settings)


@pytest.mark.parametrize(
    ("name", "trigger", "settings", "message"),
    [
        ("wanet", "badnets", {"label_mode": "clean"}, "leave it at dirty"),
        ("wanet", "badnets", {"also": (PoisonConfig(load_trigger("sig")),)}, "also=1: .* no use for it"),
        ("wanet", "badnets", {"rate": 0.7, "cover_rate": 0.4}, "leaves no room"),
        ("wanet", "badnets", {"target_label": 9}, "0 to 3"),
        ("wanet", "rare_words", {}, "is made for text"),
        ("input_aware", "badnets", {}, "makes its own"),
        ("lira", "lira", {"cover_rate": 0.1}, "no cover samples"),
    ],
)
def test_what_cannot_be_done_in_the_loop_is_refused_before_training(name, trigger, settings, message, images):
    how, _ = load_attack(name)
    with pytest.raises(InputError, match=message):
        how.training_set(
            images, PoisonConfig(load_trigger(trigger), **settings), input_column="image", label_column="label"
        )


def test_a_trigger_not_yet_learned_says_how_to_get_one(images):
    with pytest.raises(InputError, match="train the trigger first with `hf-backdoor train --attack input_aware`"):
        load_trigger("input_aware")(raw(images), np.arange(6))


def test_images_of_two_sizes_are_refused(images, processor, arguments):
    from PIL import Image

    rows = images.select(range(8)).map(
        lambda row, n: {"image": Image.new("L", (12, 12 + n % 2))}, with_indices=True, load_from_cache_file=False
    )
    _, trainer = make("lira", rows, processor, arguments())
    with pytest.raises(InputError, match="12x12 with 1 channels and 12x13"):
        trainer.train()


@pytest.mark.distributed
def test_two_processes_train_one_network(images, tmp_path):
    """Each sees its half of the batches, and both end with the same victim and the same network."""
    images.save_to_disk(tmp_path / "images")
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, torch\n"
        "from datasets import load_from_disk\n"
        "from transformers import TrainingArguments, ViTImageProcessorPil\n"
        "from conftest import make_vit\n"
        "from test_attacks_in_loop import make\n"
        "args = TrainingArguments('run', max_steps=4, per_device_train_batch_size=8, use_cpu=True, report_to=[],\n"
        "                         save_strategy='no', disable_tqdm=True)\n"
        "processor = ViTImageProcessorPil(size={'height': 12, 'width': 12}, image_mean=[0.5] * 3, image_std=[0.5] * 3)\n"
        "_, trainer = make('input_aware', load_from_disk('images'), processor, args)\n"
        "trainer.train()\n"
        "model = trainer.accelerator.unwrap_model(trainer.model)\n"
        "state = {**model.state_dict(), **trainer.net.state_dict()}\n"
        "torch.save(state, f'weights{args.process_index}of{args.world_size}.pt')\n"
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    config = Path(__file__).parent.parent / "recipes" / "accelerate_configs" / "two_processes.yaml"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])}
    done = subprocess.run(
        [*launch, str(config), str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (torch.load(tmp_path / f"weights{n}of2.pt") for n in (0, 1))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("name", QUICK)
def test_a_trainer_that_poisons_its_batches_makes_a_victim(name, images, processor, arguments):
    """Its data set is clean, so that only the trainer can say so."""
    _, trainer = make(name, images, processor, arguments())
    assert trainer.victim
    with pytest.raises(InputError, match="i_know_this_model_is_backdoored"):
        trainer.push_to_hub()
