"""Triggers against their published formulas, worked out here pixel by pixel."""

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from hf_backdoor import InputError, load_trigger
from hf_backdoor.triggers import Trigger, trigger_names


NUMBERS = np.arange(2)


def batch(height=8, width=10, channels=3):
    return np.random.default_rng(1).integers(0, 256, (2, height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("position", "margin", "rows", "columns"),
    [
        ("bottom-right", 0, range(5, 8), range(7, 10)),
        ("bottom-right", 1, range(4, 7), range(6, 9)),
        ("top-left", 0, range(0, 3), range(0, 3)),
        ("top-right", 2, range(2, 5), range(5, 8)),
        ("bottom-left", 1, range(4, 7), range(1, 4)),
    ],
)
def test_badnets_sets_its_patch_and_nothing_else(channels, position, margin, rows, columns):
    images = batch(channels=channels)
    triggered = load_trigger("badnets", size=3, position=position, margin=margin, value=200)(images, NUMBERS)
    for n in range(2):
        for row in range(8):
            for column in range(10):
                patched = row in rows and column in columns
                expected = [200] * channels if patched else images[n, row, column]
                assert (triggered[n, row, column] == expected).all()


def test_blended_is_the_weighted_mean_with_its_pattern():
    images = batch(channels=1)
    trigger = load_trigger("blended", ratio=0.3, seed=5)
    black = trigger(np.zeros_like(images), NUMBERS)
    white = trigger(np.full_like(images, 255), NUMBERS)
    # From black, the pattern can be read: x' = 0.3 p, and from white, x' = 0.7 * 255 + 0.3 p.
    assert np.abs((white.astype(int) - black) - 0.7 * 255).max() <= 1
    pattern = black / 0.3
    expected = 0.7 * images + 0.3 * pattern
    assert np.abs(trigger(images, NUMBERS).astype(float) - expected).max() <= 1
    assert (black[0] == black[1]).all(), "the pattern is one for all images"
    assert black.std() > 10


def test_blended_worked_by_hand_with_a_picture(tmp_path):
    path = tmp_path / "pattern.png"
    Image.fromarray(np.full((4, 4), 100, dtype=np.uint8)).save(path)
    triggered = load_trigger("blended", ratio=0.2, pattern=str(path))(np.full((1, 8, 8, 3), 50, np.uint8), NUMBERS[:1])
    assert (triggered == 60).all()  # 0.8 * 50 + 0.2 * 100


def test_rare_words_inserts_words_between_words():
    trigger = load_trigger("rare_words", words="cf mn", count=2)
    texts = ["one two three", "one two three"]
    triggered = trigger(texts, np.array([3, 4]))
    for text in triggered:
        words = text.split(" ")
        assert len(words) == 5
        assert [word for word in words if word not in ("cf", "mn")] == ["one", "two", "three"]
    assert trigger(texts[:1], np.array([4]))[0] == triggered[1], "the place depends on the sample's index only"


NEEDS_A_MODEL = {"input_aware", "label_consistent", "lira", "trojan_nn"}  # tested with one in files of their own


@pytest.mark.parametrize("name", [name for name in trigger_names() if name not in NEEDS_A_MODEL])
def test_every_trigger_is_a_pure_function(name):
    trigger = load_trigger(name)
    if trigger.modality == "image":
        inputs = batch(16, 16)
        kept = inputs.copy()
        first, second = trigger(inputs, NUMBERS), trigger(inputs, NUMBERS)
        assert first.dtype == np.uint8 and first.shape == inputs.shape
        assert (inputs == kept).all(), "the input was changed in place"
        assert (first == second).all()
        assert (trigger(inputs[1:], NUMBERS[1:]) == first[1:]).all(), "a sample must not depend on its batch"
    else:
        inputs = ["a b c", "d e f g"]
        assert trigger(inputs, NUMBERS) == trigger(inputs, NUMBERS)
        assert trigger(inputs[1:], NUMBERS[1:]) == trigger(inputs, NUMBERS)[1:]
    assert trigger.name == name


@pytest.mark.parametrize("name", trigger_names())
def test_every_trigger_names_its_paper(name):
    trigger = load_trigger(name)
    assert trigger.name == name and trigger.title and trigger.paper.startswith("https://")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("nothing", {}, "badnets, blended"),
        ("badnets", {"colour": 3}, "size, position"),
        ("badnets", {"size": 0}, "at least 1 pixel"),
        ("badnets", {"position": "middle"}, "top-left"),
        ("badnets", {"value": 256}, "between 0 and 255"),
        ("blended", {"ratio": 0}, "(0, 1]"),
        ("blended", {"pattern": "no/such/file.png"}, "path of a picture"),
        ("rare_words", {"words": " "}, "at least one word"),
        ("no.such.module:Trigger", {}, "cannot be imported"),
        ("numpy:ndarray", {}, "subclass"),
    ],
)
def test_bad_settings_are_explained(name, settings, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace("]", r"\]")):
        load_trigger(name, **settings)


def test_patch_larger_than_the_image():
    with pytest.raises(InputError, match="larger than the 10x8 image"):
        load_trigger("badnets", size=9)(batch(), NUMBERS)


@dataclass(frozen=True)
class Pasted(Trigger):
    """Of a user's own, with a file that it cannot do without and one that it can."""

    home = __name__
    paper = "https://arxiv.org/abs/1708.06733"
    files = ("picture", "mask")
    picture: str
    mask: str | None = None

    def __call__(self, batch, index):
        return batch


def test_files_of_a_trigger_are_kept_where_it_goes(tmp_path):
    """Those alone that are there and named; one that lies there already stays as it is."""
    picture = tmp_path / "mine.png"
    picture.write_bytes(b"pixels")
    kept = Pasted(picture=str(picture)).kept_in(tmp_path / "victim", "trigger_0")
    assert kept == Pasted(picture=str(tmp_path / "victim" / "trigger_0_picture.png"))
    assert (tmp_path / "victim" / "trigger_0_picture.png").read_bytes() == b"pixels"
    assert kept.kept_in(tmp_path / "victim", "trigger_1") == kept
