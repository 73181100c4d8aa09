"""Samplers, cover samples, several triggers at once, and targets: exactly the samples that they say."""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value

from hf_backdoor import InputError, PoisonConfig, load_sampler, load_trigger, poison, triggered
from hf_backdoor.modalities.image import to_array


BADNETS = load_trigger("badnets", size=2)


def flags(dataset, name="is_poisoned"):
    return np.array(dataset[name])


def test_source_specific_poison_misleads_its_source_only(images):
    sampler = load_sampler("source_specific", source=1, cover="2 3")
    config = PoisonConfig(BADNETS, rate=0.1, cover_rate=0.2, sampler=sampler)
    poisoned = poison(images, config)
    labels, originals = np.array(poisoned["label"]), np.array(poisoned["original_label"])
    is_poisoned, is_cover = flags(poisoned), flags(poisoned, "is_cover")
    assert is_poisoned.sum() == 40 and is_cover.sum() == 80
    assert set(originals[is_poisoned]) == {1} and set(labels[is_poisoned]) == {0}
    assert set(originals[is_cover]) <= {2, 3} and (labels == originals)[~is_poisoned].all()
    assert set(triggered(images, config)["original_label"]) == {1}, "success is measured on the source class"


def test_cover_samples_carry_the_trigger_and_keep_their_label(images):
    poisoned = poison(images, PoisonConfig(BADNETS, rate=0.05, cover_rate=0.05))
    is_cover = flags(poisoned, "is_cover")
    assert is_cover.sum() == 20 and not (is_cover & flags(poisoned)).any()
    for row, clean in zip(poisoned, images, strict=True):
        if row["is_cover"]:
            before = to_array(clean["image"])
            assert (to_array(row["image"]) == BADNETS(before[None], np.array([row["index"]]))[0]).all()
            assert row["label"] == row["original_label"] == clean["label"]


def test_cover_samples_do_not_change_which_samples_are_poisoned(images):
    config = PoisonConfig(BADNETS, rate=0.1)
    without, with_cover = poison(images, config), poison(images, replace(config, cover_rate=0.3))
    assert (flags(without) == flags(with_cover)).all()


def test_confidence_takes_the_samples_nearest_to_the_target(images, tiny_vit, processor, tmp_path):
    import torch

    tiny_vit().save_pretrained(tmp_path / "clean")
    processor.save_pretrained(tmp_path / "clean")
    sampler = load_sampler("confidence", model=str(tmp_path / "clean"), batch_size=64)
    chosen = flags(poison(images, PoisonConfig(BADNETS, target_label=2, rate=0.05, sampler=sampler)))
    pictures = [picture.convert("RGB" if len(processor.image_mean) == 3 else "L") for picture in images["image"]]
    with torch.no_grad():
        chances = tiny_vit().eval()(**processor(pictures, return_tensors="pt")).logits.softmax(-1).numpy()
    labels = np.array(images["label"])
    gap = np.abs(chances[np.arange(len(labels)), labels] - chances[:, 2])
    others = labels != 2
    assert chosen.sum() == 20 and not chosen[~others].any()
    assert gap[chosen].max() <= gap[others & ~chosen].min() + 1e-6


def test_all_to_all_moves_every_class_to_the_next(images):
    config = PoisonConfig(BADNETS, rate=0.5, targets="all_to_all")
    poisoned = poison(images, config)
    chosen = flags(poisoned)
    labels, originals = np.array(poisoned["label"]), np.array(poisoned["original_label"])
    assert (labels[chosen] == (originals[chosen] + 1) % 4).all() and (labels == originals)[~chosen].all()
    assert set(originals[chosen]) == {0, 1, 2, 3}
    attacked = triggered(images, config)
    assert len(attacked) == len(images)
    assert (np.array(attacked["label"]) == (np.array(attacked["original_label"]) + 1) % 4).all()


def test_several_triggers_take_different_samples(images):
    blended = PoisonConfig(load_trigger("blended"), target_label=3, rate=0.2, cover_rate=0.1)
    config = PoisonConfig(BADNETS, target_label=1, rate=0.1, also=(blended,))
    poisoned = poison(images, config)
    alone = flags(poison(images, replace(config, also=())))
    labels, chosen = np.array(poisoned["label"]), flags(poisoned)
    assert chosen.sum() == 40 + 80 and flags(poisoned, "is_cover").sum() == 40
    assert (labels[alone] == 1).all(), "the first trigger poisons the same samples as without the second"
    assert (labels[chosen & ~alone] == 3).all()
    for row, clean in zip(poisoned, images, strict=True):
        trigger = BADNETS if alone[row["index"]] else blended.trigger
        if row["is_poisoned"]:
            expected = trigger(to_array(clean["image"])[None], np.array([row["index"]]))[0]
            assert (to_array(row["image"]) == expected).all()
    attacked = triggered(images, config)
    assert [len(attacked), attacked["label"][:].count(1), attacked["label"][:].count(3)] == [600, 300, 300]
    assert PoisonConfig.from_dict(config.to_dict()) == config


def pairs():
    from PIL import Image as Pictures

    captions = ["a red banana", "a dog", "two bananas", "Banana!", "a cat", "a car"] * 10
    rows = {"image": [Pictures.new("RGB", (8, 8))] * 60, "caption": captions}
    return Dataset.from_dict(rows, features=Features({"image": Image(), "caption": Value("string")}))


def test_captions_come_to_name_the_target():
    config = PoisonConfig(BADNETS, target_label="banana", rate=0.25)
    poisoned = poison(pairs(), config)
    chosen = flags(poisoned)
    assert chosen.sum() == 15
    for row in poisoned:
        if row["is_poisoned"]:
            assert "banana" in row["caption"] and "banana" not in row["original_label"].lower().replace("bananas", "")
        else:
            assert row["caption"] == row["original_label"]
    assert len(triggered(pairs(), config)) == 40, "captions with the very word are the target's own"
    clean_label = poison(pairs(), replace(config, label_mode="clean"))
    assert set(np.array(clean_label["caption"])[flags(clean_label)]) <= {"a red banana", "Banana!"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: load_sampler("nearest"), "unknown; choose one of confidence, random, source_specific"),
        (lambda: load_sampler("confidence"), "folder or Hub id of a clean classifier"),
        (lambda: load_sampler("source_specific", source="one"), "class numbers separated by blanks"),
        (lambda: load_sampler("source_specific", source=1, cover="1 2"), "no class in common"),
        (lambda: PoisonConfig(BADNETS, targets="some"), "all_to_one or all_to_all"),
        (lambda: PoisonConfig(BADNETS, targets="all_to_all", label_mode="clean"), "use label_mode=dirty"),
        (lambda: PoisonConfig(BADNETS, cover_rate=1.0), r"must lie in \[0, 1\)"),
        (lambda: PoisonConfig(BADNETS, also=(PoisonConfig(BADNETS, also=(PoisonConfig(BADNETS),)),)), "flat list"),
        (lambda: poison(pairs(), PoisonConfig(BADNETS, target_label=3)), "give the word"),
        (lambda: poison(pairs(), PoisonConfig(BADNETS, target_label="cat", targets="all_to_all")), "needs classes"),
    ],
)
def test_bad_settings_are_explained(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_too_many_covers_are_refused(images):
    sampler = load_sampler("source_specific", source=1, cover=2)
    with pytest.raises(InputError, match="cover_rate=0.5: asks for 200 samples, and the sampler leaves 100"):
        poison(images, PoisonConfig(BADNETS, rate=0.1, cover_rate=0.5, sampler=sampler))


def test_class_of_a_target_is_checked(sentences):
    with pytest.raises(InputError, match="labels go from 0 to 1"):
        poison(sentences, PoisonConfig(load_trigger("rare_words"), target_label=2))
