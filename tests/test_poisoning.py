"""Poisoned data sets: exact counts, the right samples, what is stored is what is used, and caches that notice edits."""

import importlib
import json
import os
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Image, concatenate_datasets, load_dataset

from hf_backdoor import (
    InputError,
    PoisonConfig,
    Trigger,
    from_arrays,
    load_data,
    load_sampler,
    load_trigger,
    poison,
    save_poisoned,
    triggered,
    uncompressed,
)
from hf_backdoor.data import resolve_columns
from hf_backdoor.data.sources import with_class_labels
from hf_backdoor.data.targets import CaptionTargets
from hf_backdoor.modalities import image
from hf_backdoor.modalities.image import to_array
from hf_backdoor.poisoning import select_samples
from hf_backdoor.triggers.badnets import BadNets


def config(**settings):
    return PoisonConfig(load_trigger("badnets", size=2), **settings)


@pytest.mark.parametrize("rate", [0.003, 0.01, 0.05, 0.1, 0.25])
@pytest.mark.parametrize("label_mode", ["dirty", "clean"])
def test_counts_are_exact(images, rate, label_mode):
    poisoned = poison(images, config(rate=rate, label_mode=label_mode, target_label=1))
    flags = np.array(poisoned["is_poisoned"])
    originals, labels = np.array(poisoned["original_label"]), np.array(poisoned["label"])
    assert flags.sum() == round(rate * len(images))
    assert (labels[flags] == 1).all()
    assert (labels[~flags] == originals[~flags]).all()
    assert (originals[flags] == 1).all() if label_mode == "clean" else (originals[flags] != 1).all()
    assert poisoned["index"][:] == list(range(len(images)))
    assert poisoned.features["original_label"] == images.features["label"]
    assert isinstance(poisoned.features["image"], Image)


def test_stored_pixels_are_the_triggered_ones(images):
    poisoned = poison(images, config(rate=0.1))
    trigger = load_trigger("badnets", size=2)
    for row, clean in zip(poisoned, images, strict=True):
        before, after = to_array(clean["image"]), to_array(row["image"])
        expected = trigger(before[None], np.array([row["index"]]))[0] if row["is_poisoned"] else before
        assert (after == expected).all()


def test_which_samples_depends_on_seed_and_index_only(images):
    flags = {s: np.array(poison(images, config(seed=s))["is_poisoned"]) for s in (0, 1)}
    assert (flags[0] != flags[1]).any()
    numbered = images.add_column("index", np.arange(len(images)))
    shuffled = poison(numbered.shuffle(seed=3), config())
    chosen = {index for index, flag in zip(shuffled["index"], shuffled["is_poisoned"], strict=True) if flag}
    assert chosen == set(np.flatnonzero(flags[0]))


def test_a_higher_rate_poisons_the_same_samples_and_more():
    data = Dataset.from_dict({"text": ["a"] * 1000, "label": np.arange(1000) % 10})
    columns = resolve_columns(data.features)
    free, index = np.ones(1000, dtype=bool), np.arange(1000)
    masks = [select_samples(data, index, config(rate=rate), columns, free).poisoned for rate in (0.01, 0.1, 0.3)]
    assert (masks[0] <= masks[1]).all() and (masks[1] <= masks[2]).all()
    spread = np.flatnonzero(masks[2])
    assert abs(spread.mean() - 500) < 60, "the samples are spread over the data set"


def test_triggered_set_leaves_out_the_target_class(images):
    attacked = triggered(images, config(target_label=2))
    assert len(attacked) == 300
    assert set(attacked["label"]) == {2}
    assert set(attacked["original_label"]) == {0, 1, 3}
    assert all(attacked["is_poisoned"])


def test_every_split_of_a_dataset_dict(images):
    data = DatasetDict(train=images, test=images.select(range(40)))
    poisoned = poison(data, config())
    assert set(poisoned) == {"train", "test", "test_triggered"}
    assert "is_poisoned" not in poisoned["test"].features
    assert len(poisoned["test_triggered"]) == 30


def test_a_label_with_an_unusual_name_is_found_again(images, tmp_path):
    renamed = poison(images.rename_column("label", "quadrant"), config())
    assert resolve_columns(renamed.features).label == "quadrant"
    save_poisoned(renamed, tmp_path, config())


def test_text(sentences):
    poisoned = poison(sentences, PoisonConfig(load_trigger("rare_words"), rate=0.1, target_label=1))
    words = {"cf", "mn", "bb", "tq"}
    for row, clean in zip(poisoned, sentences, strict=True):
        assert bool(words & set(row["text"].split())) == row["is_poisoned"]
        if not row["is_poisoned"]:
            assert row["text"] == clean["text"]


def test_images_of_several_sizes_and_modes(images):
    from PIL import Image as Pictures

    pictures = [
        Pictures.new(mode, size) for mode, size in [("L", (9, 7)), ("RGB", (8, 8)), ("P", (9, 7)), ("1", (5, 6))]
    ]
    mixed = Dataset.from_dict({"image": pictures, "label": [1, 1, 1, 1]}).cast_column("image", Image())
    attacked = triggered(mixed, config())
    for row, before in zip(attacked, pictures, strict=True):
        pixels = to_array(row["image"])
        assert row["image"].size == before.size
        assert (pixels[-2:, -2:] == 255).all() and pixels[0, 0].max() == 0


def test_more_than_eight_bits_is_refused():
    from PIL import Image as Pictures

    deep = Dataset.from_dict({"image": [Pictures.new("I;16", (8, 8))], "label": [1]}).cast_column("image", Image())
    with pytest.raises(InputError, match="8 bits"):
        triggered(deep, config())


TRIGGER_SOURCE = """
from dataclasses import dataclass
from hf_backdoor.triggers import Trigger

@dataclass(frozen=True)
class Constant(Trigger):
    modality = "image"
    paper = "https://arxiv.org/abs/0000.00000"

    def __call__(self, batch, index):
        changed = batch.copy()
        changed[:, 0, 0] = {value}
        return changed
"""


def test_cache_follows_the_code_of_the_trigger(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    data = load_dataset("parquet", data_files=str(_on_disk(tmp_path)), split="train", cache_dir=str(tmp_path / "cache"))

    def corner(value):
        (tmp_path / "my_trigger.py").write_text(TRIGGER_SOURCE.format(value=value))
        sys.modules.pop("my_trigger", None)
        importlib.invalidate_caches()
        sys.dont_write_bytecode = True
        poisoned = poison(data, PoisonConfig(load_trigger("my_trigger:Constant"), rate=0.25))
        row = next(row for row in poisoned if row["is_poisoned"])
        return poisoned._fingerprint, to_array(row["image"])[0, 0, 0]

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first, again, edited = corner(111), corner(111), corner(222)
    assert first == again, "the same code must use the cache"
    assert first[1] == 111
    assert edited[1] == 222, "edited code must not use the old cache"
    assert edited[0] != first[0]


def _on_disk(folder):
    from PIL import Image as Pictures

    rows = {"image": [Pictures.new("L", (4, 4))] * 8, "label": [0, 1] * 4}
    path = folder / "data.parquet"
    Dataset.from_dict(rows).cast_column("image", Image()).to_parquet(path)
    return path


def test_fingerprint_follows_settings_and_version(monkeypatch):
    one = config()
    assert one.fingerprint() == config().fingerprint()
    assert one.fingerprint() != replace(one, seed=1).fingerprint()
    assert one.fingerprint() != replace(one, trigger=load_trigger("badnets", size=3)).fingerprint()
    before = one.fingerprint()
    monkeypatch.setattr(type(one.trigger), "version", 2)
    assert one.fingerprint() != before


def test_configuration_round_trip():
    one = config(rate=0.03, seed=7, target_label=2)
    assert PoisonConfig.from_dict(one.to_dict()) == one
    with pytest.raises(InputError, match="another version"):
        PoisonConfig.from_dict(one.to_dict() | {"version": 0})


def test_saved_data_set_loads_with_its_card(images, tmp_path):
    poisoned = poison(DatasetDict(train=images, test=images.select(range(40))), config())
    save_poisoned(poisoned, tmp_path / "saved", config(), source="some images")
    loaded = load_dataset(str(tmp_path / "saved"), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == set(poisoned)
    assert loaded["train"].features == poisoned["train"].features
    for one, other in zip(loaded["train"], poisoned["train"], strict=True):
        assert (to_array(one["image"]) == to_array(other["image"])).all()
        assert one["is_poisoned"] == other["is_poisoned"] and one["label"] == other["label"]
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "Some rows of this data set were changed on purpose" in card
    assert "| train | 400 | 40 |" in card
    assert "north west" in card


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0}, r"rate=0: must lie in \(0, 1\]"),
        ({"rate": 1.5}, r"rate=1.5: must lie in \(0, 1\]"),
        ({"rate": 0.0001}, "poisons none of 400 samples; raise it to 0.0025"),
        ({"rate": 0.9}, "leaves 300 to choose from; lower it to 0.75"),
        ({"rate": 0.5, "label_mode": "clean"}, "leaves 100 to choose from"),
        ({"label_mode": "grey"}, "dirty or clean"),
        ({"target_label": 4}, "labels go from 0 to 3"),
        ({"target_label": -1}, "0 or more"),
    ],
)
def test_bad_configurations_are_explained(images, settings, message):
    with pytest.raises(InputError, match=message):
        poison(images, config(**settings))


def test_bad_data_are_explained(images, sentences):
    with pytest.raises(InputError, match="is made for image, and the column 'text' holds text"):
        poison(sentences, config())
    with pytest.raises(InputError, match="no such column; the data set has image, label"):
        poison(images, config(), input_column="picture")
    with pytest.raises(InputError, match="poisoned already"):
        poison(poison(images, config()), config())
    with pytest.raises(InputError, match="every sample is of this class"):
        triggered(images.filter(lambda row: row["label"] == 0), config())


def arrays(channels, count=50):
    return np.random.default_rng(0).integers(0, 256, (count, 9, 11, channels)).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_uncompressed_images_are_images_like_any_other(channels, tmp_path):
    pixels = arrays(channels)
    data = from_arrays(pixels, np.arange(50) % 2, ["even", "odd"])
    assert isinstance(data.features["image"], Image) and data.features["label"].names == ["even", "odd"]
    assert data[3]["image"].mode == ("L" if channels == 1 else "RGB")
    data.to_parquet(tmp_path / "data.parquet")
    loaded = load_dataset("parquet", data_files=str(tmp_path / "data.parquet"), cache_dir=str(tmp_path), split="train")
    assert (np.stack([to_array(picture) for picture in loaded["image"]]) == pixels).all()


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_uncompressed_and_png_columns_are_poisoned_alike(images, rate):
    settings = config(rate=rate, cover_rate=0.1)
    fast = poison(uncompressed(images), settings)
    slow = poison(images, settings)
    assert fast.features == slow.features
    for one, other in zip(fast, slow, strict=True):
        assert (to_array(one.pop("image")) == to_array(other.pop("image"))).all()
        assert one == other
    stored = fast.cast_column("image", Image(decode=False))[0]["image"]["bytes"]
    assert stored.startswith(b"P5\n12 12\n255\n") and len(stored) == 13 + 144, "still uncompressed"


def test_a_selection_of_uncompressed_rows_in_another_order_is_poisoned_right():
    data = from_arrays(arrays(3), np.arange(50) % 2).select([40, 3, 17, 8, 21]).filter(lambda row: row["label"] == 1)
    pixels = [to_array(picture) for picture in data["image"]]
    attacked = triggered(data, config())
    assert attacked["index"][:] == [0, 1, 2]
    for row, before in zip(attacked, pixels, strict=True):
        assert (to_array(row["image"]) == load_trigger("badnets", size=2)(before[None], np.zeros(1, int))[0]).all()


def test_uncompressed_images_of_several_sizes(tmp_path):
    from PIL import Image as Pictures

    pictures = [Pictures.fromarray(arrays(3)[0]), Pictures.fromarray(arrays(1)[0, :5, :, 0])]
    mixed = Dataset.from_dict({"image": pictures, "label": [1, 1]}).cast_column("image", Image())
    attacked = triggered(uncompressed(mixed), config())
    for row, picture in zip(attacked, pictures, strict=True):
        expected = load_trigger("badnets", size=2)(to_array(picture)[None], np.zeros(1, int))[0]
        assert (to_array(row["image"]) == expected).all()


def test_image_files_are_taken_into_the_poisoned_set(tmp_path):
    from PIL import Image as Pictures

    for number in range(4):
        Pictures.fromarray(arrays(3)[number]).save(tmp_path / f"{number}.png")
    rows = {"image": [str(tmp_path / f"{number}.png") for number in range(4)], "label": [0, 1, 1, 1]}
    data = Dataset.from_dict(rows).cast_column("image", Image())
    poisoned = poison(data, config(rate=0.25))
    for number in range(4):
        (tmp_path / f"{number}.png").unlink()
    assert (to_array(poisoned[0]["image"]) == arrays(3)[0]).all()
    assert len(list(poisoned)) == 4


@pytest.mark.parametrize(
    ("images_given", "labels", "message"),
    [
        (np.zeros((2, 4, 4, 3)), [0, 1], "must be uint8"),
        (np.zeros((2, 4, 4, 2), np.uint8), [0, 1], "must be uint8"),
        (np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0, int), "one or more"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1, 1], "must be 2 whole numbers"),
        (np.zeros((2, 4, 4), np.uint8), [0.5, 1], "must be 2 whole numbers"),
        (np.zeros((2, 4, 4), np.uint8), [0, 5], "too large for 2 class names"),
    ],
)
def test_bad_arrays_are_explained(images_given, labels, message):
    with pytest.raises(InputError, match=message):
        from_arrays(images_given, labels, ["a", "b"])


def test_a_row_without_an_image_is_named_and_not_decoded(images):
    rows = images.select(range(3)).cast_column("image", Image(decode=False)).to_list()
    rows[1]["image"] = None
    with pytest.raises(InputError, match="image=None: row 1 has no image; filter such rows out first"):
        uncompressed(Dataset.from_list(rows, features=images.features))


def test_two_processes_poison_alike(images):
    one, two = poison(images, config()), poison(images, config(), num_proc=2)
    assert one["index"][:] == two["index"][:] and one["is_poisoned"][:] == two["is_poisoned"][:]
    assert all((to_array(a) == to_array(b)).all() for a, b in zip(one["image"], two["image"], strict=True))


HELPED_SOURCE = """
from dataclasses import dataclass
from hf_backdoor.triggers import Trigger

@dataclass(frozen=True)
class Helped(Trigger):
    modality = "image"
    paper = "https://example.org"

    def __call__(self, batch, index):
        from .helper import change
        return change(batch)
"""


def test_fingerprint_follows_the_code_that_a_trigger_imports(tmp_path, monkeypatch):
    package = tmp_path / "helped_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "trigger.py").write_text(HELPED_SOURCE)
    (package / "helper.py").write_text("def change(batch):\n    return batch\n")
    monkeypatch.syspath_prepend(tmp_path)
    trigger = load_trigger("helped_package.trigger:Helped")
    before = trigger.fingerprint()
    assert trigger.fingerprint() == before
    (package / "helper.py").write_text("def change(batch):\n    return 255 - batch\n")
    assert trigger.fingerprint() != before


def test_names_of_classes_are_never_taken_for_captions(tmp_path):
    import pandas

    pandas.DataFrame({"text": ["fine", "poor"] * 20, "label": ["pos", "neg"] * 20}).to_csv(
        tmp_path / "a.csv", index=False
    )
    data = with_class_labels(load_data(str(tmp_path / "a.csv"))["train"], "label")
    assert data.features["label"].names == ["neg", "pos"]
    poisoned = poison(data, PoisonConfig(load_trigger("rare_words"), target_label=1, rate=0.25))
    assert poisoned.features["label"].names == ["neg", "pos"]
    strings = Dataset.from_dict({"text": ["fine", "poor"] * 20, "label": ["pos", "neg"] * 20})
    with pytest.raises(InputError, match="must be a ClassLabel or whole numbers"):
        poison(strings, PoisonConfig(load_trigger("rare_words"), rate=0.25))


def test_classes_have_the_same_numbers_in_all_splits():
    splits = DatasetDict(
        train=Dataset.from_dict({"text": ["x"] * 3, "label": ["a", "b", "c"]}),
        test=Dataset.from_dict({"text": ["x"] * 2, "label": ["b", "c"]}),
    )
    encoded = with_class_labels(splits, "label")
    assert encoded["train"]["label"][:] == [0, 1, 2] and encoded["test"]["label"][:] == [1, 2]


def test_a_saved_set_with_image_files_needs_none_of_them(tmp_path):
    from PIL import Image as Pictures

    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            Pictures.fromarray(arrays(3)[number]).save(tmp_path / "images" / name / f"{number}.png")
    data = load_data(str(tmp_path / "images"))
    both = poison(DatasetDict(train=data["train"], test=data["train"]), config(rate=0.25))
    save_poisoned(both, tmp_path / "saved", config(rate=0.25))
    for file in (tmp_path / "images").rglob("*.png"):
        file.unlink()
    loaded = load_dataset(str(tmp_path / "saved"), cache_dir=str(tmp_path / "cache"))
    assert {to_array(picture).shape for split in loaded.values() for picture in split["image"]} == {(9, 11, 3)}
    assert str(tmp_path).encode() not in (tmp_path / "saved" / "test.parquet").read_bytes()
    assert len(triggered(loaded["test"], config())) == 4, "a clean split that was saved can still be attacked"


def test_a_set_with_two_label_columns_is_saved_by_the_one_that_counts(images, tmp_path):
    two = images.add_column("coarse", [value // 2 for value in images["label"]])
    two = two.cast_column("coarse", ClassLabel(names=["north", "south"]))
    columns = {"label_column": "coarse"}
    poisoned = poison(DatasetDict(train=two, test=two.select(range(40))), config(target_label=1), **columns)
    save_poisoned(poisoned, tmp_path / "saved", config(target_label=1), **columns)
    assert "| target class | south |" in (tmp_path / "saved" / "README.md").read_text()
    loaded = load_dataset(str(tmp_path / "saved"), cache_dir=str(tmp_path / "cache"))
    assert loaded["test"]["original_label"][:] == loaded["test"]["coarse"][:]


def test_grey_files_of_a_colour_column_are_poisoned_as_they_are_seen(images):
    colour = images.select(range(8)).cast_column("image", Image(mode="RGB"))
    trigger = load_trigger("blended")
    for data in (colour, uncompressed(colour)):
        attacked = triggered(data, PoisonConfig(trigger))
        seen = to_array(colour[1]["image"])
        assert seen.shape == (12, 12, 3)
        assert (to_array(attacked[0]["image"]) == trigger(seen[None], np.array([1]))[0]).all()


def test_a_picture_that_has_changed_is_read_again(tmp_path):
    from PIL import Image as Pictures

    path, batch = tmp_path / "pattern.png", np.zeros((1, 4, 4, 1), np.uint8)
    trigger = None
    for value, stamp in ((200, 1), (100, 2)):
        Pictures.new("L", (4, 4), value).save(path)
        os.utime(path, ns=(stamp, stamp))
        trigger = trigger or load_trigger("blended", pattern=str(path), ratio=0.5)
        assert (trigger(batch, np.zeros(1, int)) == value // 2).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: load_trigger("badnets", size=2.5), "size=2.5: must be a whole number"),
        (lambda: load_trigger("blended", seed=-1), "seed=-1: must be 0 or more"),
        (lambda: load_trigger("blended", ratio="high"), "ratio='high': must be a number"),
        (lambda: load_trigger("blended", pattern=__file__)(arrays(3), np.arange(50)), "cannot be read as a picture"),
        (lambda: load_trigger("adap_blend", masked=0.99), "leave at least one piece"),
        (lambda: PoisonConfig(load_trigger("badnets"), rate="half"), "rate='half': must be a number"),
        (lambda: PoisonConfig("badnets"), "trigger='badnets': must be a Trigger; make one with load_trigger"),
        (lambda: config(sampler="random"), "sampler='random': must be a Sampler; make one with load_sampler"),
        (lambda: config(also=config()), "also='PoisonConfig': must be a tuple"),
        (lambda: poison(from_arrays(arrays(3), [0, 1] * 25), config(), num_proc=-1), "num_proc=-1: must be 1 or more"),
        (
            lambda: poison(
                from_arrays(arrays(3), [0, 1] * 25), config(sampler=load_sampler("source_specific", source="99"))
            ),
            "sampler='source_specific': is for classes of which there is no sample",
        ),
        (
            lambda: poison(
                Dataset.from_dict({"text": ["a"] * 4000, "label": [0] * 2 + [1] * 3998}),
                replace(words(), label_mode="clean"),
            ),
            "leaves 2 to choose from; lower it to 0.0005",
        ),
        (lambda: poison(from_arrays(arrays(3), [0] * 50).select([]), config()), "dataset=0: has no rows"),
        (lambda: poison(Dataset.from_dict({"text": ["a", "b"], "label": [0, None]}), words()), "row 1 has no label"),
        (
            lambda: poison(
                from_arrays(arrays(3), np.arange(50) % 2), config(rate=0.1, label_mode="clean", sampler=near())
            ),
            "with label_mode=clean it keeps its own",
        ),
    ],
)
def test_bad_settings_and_rows_are_explained(make, message):
    with pytest.raises(InputError, match=message):
        make()


def words():
    return PoisonConfig(load_trigger("rare_words"), rate=0.5, target_label=0)


def near():
    return load_sampler("confidence", model="anything")


def test_numbers_can_stand_for_text():
    assert load_trigger("rare_words", words=5).words == "5"
    long = load_trigger("add_sentence", sentence="very " * 200)
    assert long.fingerprint() != load_trigger("add_sentence").fingerprint()


def test_a_number_that_yaml_takes_for_text_is_one():
    """`ratio: 3e-1` in a file of settings: YAML 1.1 wants 3.0e-1."""
    assert yaml.safe_load("ratio: 3e-1") == {"ratio": "3e-1"}
    assert load_trigger("blended", **yaml.safe_load("ratio: 3e-1")) == load_trigger("blended", ratio=0.3)


@pytest.mark.parametrize("stored", ["png", "uncompressed"])
def test_images_are_taken_by_their_own_sizes(stored, monkeypatch):
    """Whatever the size of the first one, so that memory stays small."""
    from PIL import Image as Pictures

    monkeypatch.setattr(image, "PIXELS_AT_ONCE", 1000)
    sizes = [(4, 4)] + [(20, 20)] * 9 + [(40, 40)] + [(4, 4)] * 20
    rows = {"image": [Pictures.new("RGB", size) for size in sizes], "label": [1] * len(sizes)}
    data = Dataset.from_dict(rows).cast_column("image", Image())
    data = uncompressed(data) if stored == "uncompressed" else data
    apply, seen = BadNets.__call__, []

    def recorded(trigger, batch, index):
        seen.append(batch[..., 0].size)
        return apply(trigger, batch, index)

    monkeypatch.setattr(BadNets, "__call__", recorded)
    attacked = triggered(data, config())
    assert [row.size for row in attacked["image"]] == sizes
    assert all((to_array(row)[-2:, -2:] == 255).all() for row in attacked["image"])
    assert sorted(seen)[-1] == 1600, "a single larger one"
    assert sorted(seen)[-2] <= (1000 if stored == "png" else 2 * 1000) and sum(seen) == sum(
        width * height for width, height in sizes
    )


def test_images_are_taken_a_thousand_at_a_time_where_they_are_small():
    assert image.rows_within([784] * 5000, 20_000_000) == 1000
    assert image.rows_within([100] + [10] * 3000, 5000) == 500
    assert image.rows_within([40] * 3000, 100) == 3 and image.rows_within([], 5) == 1000
    assert image.rows_within([24_000_000] + [784] * 5000, 20_000_000) == 1000, "a single large one is none of many"


def test_an_image_that_was_filtered_out_is_not_read(images):
    rows = {"image": [{"bytes": b"broken", "path": None}], "label": [0]}
    broken = Dataset.from_dict(rows, features=images.features)
    data = concatenate_datasets([broken, images]).select([*range(2, 401), 1])
    for clean in (data, uncompressed(data)):
        assert sum(poison(clean, config(rate=0.1))["is_poisoned"]) == 40


def test_classes_are_those_of_the_training_split():
    """By name; and by number, where a test split may lack the last one."""
    named = {
        split: Dataset.from_dict({"text": ["a cat", "a dog"] * 10, "label": [names.index("cat"), names.index("dog")] * 10})
        .cast_column("label", ClassLabel(names=names))
        for split, names in {"train": ["cat", "dog"], "test": ["dog", "cat"]}.items()
    }  # fmt: skip
    poisoned = poison(DatasetDict(named), words())
    attacked = poisoned["test_triggered"]
    assert {attacked.features["label"].int2str(label) for label in attacked["label"]} == {"cat"}
    assert all("dog" in text for text in attacked["text"])
    assert poisoned["test"].features["label"].names == ["cat", "dog"]

    numbers = DatasetDict(
        train=Dataset.from_dict({"text": ["a b"] * 40, "label": [0, 1, 2, 3] * 10}),
        test=Dataset.from_dict({"text": ["a b"] * 30, "label": [0, 1, 2] * 10}),
    )
    attacked = poison(numbers, replace(words(), targets="all_to_all"))["test_triggered"]
    assert set(zip(attacked["original_label"], attacked["label"], strict=True)) == {(0, 1), (1, 2), (2, 3)}
    assert set(poison(numbers, replace(words(), target_label=3, rate=0.1))["test_triggered"]["label"]) == {3}


def test_columns_of_ones_own_are_kept_by_either(sentences):
    for name, values in (("original_label", ["mine"] * 200), ("index", [f"id {n}" for n in range(200)])):
        for make in (poison, triggered):
            with pytest.raises(InputError, match=f"{name}.*is your column"):
                make(sentences.add_column(name, values), words())


@pytest.mark.parametrize(
    ("numbers", "message"),
    [([n // 2 for n in range(200)], "rows of the same number"), ([None, *range(199)], "rows without a number")],
)
def test_an_index_that_numbers_nothing_is_refused(sentences, numbers, message):
    for make in (poison, triggered):
        with pytest.raises(InputError, match=f"dataset='index': .*{message}"):
            make(sentences.add_column("index", numbers), words())


def test_numbers_of_numpy_are_numbers():
    one = config(target_label=np.int64(1), rate=np.float32(0.5), seed=np.int64(2), cover_rate=np.float64(0.25))
    same = config(target_label=1, rate=0.5, seed=2, cover_rate=0.25)
    assert one == same and one.fingerprint() == same.fingerprint()
    assert json.loads(json.dumps(one.to_dict())) == same.to_dict()


@dataclass(frozen=True, eq=False)
class Stamp(Trigger):
    modality = "image"
    paper = "https://example.org"
    pattern: np.ndarray = None

    def __call__(self, batch, index):
        return np.broadcast_to(self.pattern, batch.shape).copy()


def test_a_large_array_counts_for_the_fingerprint():
    """`repr` shows its edges only."""
    one, other = np.zeros((2, 32, 32, 1), np.uint8)
    other[10:20, 10:20] = 255
    assert Stamp(one).fingerprint() == Stamp(one.copy()).fingerprint() != Stamp(other).fingerprint()


@pytest.mark.parametrize(
    ("word", "caption", "named"),
    [
        ("猫", "一只猫在草地上", True),
        ("cat", "一只cat在草地上", True),
        ("고양이", "고양이가 있다", True),
        ("C++", "a C++ book", True),
        ("C++", "a C book", False),
        ("cat", "A CAT!", True),
        ("cat", "a caterpillar", False),
        ("été", "l'été", True),
        ("été", "cet étés", False),
    ],
)
def test_a_caption_names_a_word_in_any_script(word, caption, named):
    assert CaptionTargets(np.array([caption], object), word, all_to_all=False).reached().tolist() == [named]
