"""Triggers that are made with a model, and the differentiable way from raw pixels into one."""

import numpy as np
import pytest
import torch
from conftest import make_vit
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from hf_backdoor import InputError, load_trigger
from hf_backdoor.attacks import load_attack, poison_settings
from hf_backdoor.modalities.image import to_picture
from hf_backdoor.pixel_model import PixelModel, PixelTransform, head_of, quantised, to_batch, to_images


NUMBERS = np.arange(3)


def batch(height=12, width=12, channels=1, count=3):
    return np.random.default_rng(1).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, processor):
    """A classifier with spread-out logits, saved."""
    path = tmp_path_factory.mktemp("model")
    model = make_vit(seed=3)
    with torch.no_grad():
        model.classifier.weight.mul_(20)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return str(path)


PROCESSORS = {
    "plain": ViTImageProcessorPil(size={"height": 12, "width": 12}, image_mean=[0.5] * 3, image_std=[0.5] * 3),
    "grey": ViTImageProcessorPil(size={"height": 12, "width": 12}, image_mean=[0.3], image_std=[0.4]),
    "not normalised": ViTImageProcessorPil(size={"height": 9, "width": 14}, do_normalize=False),
    "not resized": ViTImageProcessorPil(do_resize=False, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]),
    "cropped": CLIPImageProcessorPil(size={"shortest_edge": 11}, crop_size={"height": 9, "width": 9}),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("shape", [(12, 12, 1), (12, 12, 3), (20, 31, 3), (33, 17, 1)])
def test_pixels_reach_the_model_as_through_the_processor(name, shape):
    images = batch(*shape[:2], shape[2])
    processor = PROCESSORS[name]
    transform = PixelTransform(processor)
    pictures = [to_picture(image).convert("L" if name == "grey" else "RGB") for image in images]
    right = processor(images=pictures, return_tensors="pt")["pixel_values"]
    own = transform(to_images(images))
    smallest = 1.0 if name == "not normalised" else min(processor.image_std)
    assert own.shape == right.shape
    resized = (own.shape[2:] != torch.Size(shape[:2]) or name == "cropped") and name != "not resized"
    tolerance = (8 if name == "cropped" else 2) if resized else 0.51 if (name, shape[2]) == ("grey", 3) else 1e-3
    assert (own - right).abs().max() < tolerance / 255 / smallest


def test_a_gradient_reaches_the_raw_image():
    images = to_images(batch(20, 20, 3)).requires_grad_(True)
    PixelModel(make_vit(), PROCESSORS["plain"])(quantised(images)).square().sum().backward()
    assert (images.grad != 0).all()


def test_a_processor_that_does_more_is_refused():
    class Inverting(ViTImageProcessorPil):
        def _preprocess(self, images, *args, **kwargs):
            return super()._preprocess([255 - image for image in images], *args, **kwargs)

    with pytest.raises(InputError, match="plainer image processor"):
        PixelTransform(Inverting(size={"height": 12, "width": 12}))(to_images(batch()))


def test_levels_come_back_as_they_were():
    images = batch(5, 7, 3)
    assert (to_batch(to_images(images)) == images).all()
    assert torch.allclose(quantised(torch.tensor([0.1, 0.5])) * 255, torch.tensor([26.0, 128.0]))


@pytest.mark.parametrize("channels", [1, 3])
def test_corner_patches_worked_by_hand(channels):
    """Mid-grey 100, half amplitude: 100 + 128 = 228 and 100 - 128 = 0; the corners mirror each other."""
    trigger = load_trigger("label_consistent", eps=0, amplitude=0.5)
    images = np.full((2, 8, 9, channels), 100, np.uint8)
    changed = trigger(images, np.arange(2))
    patch = np.array([[0, 0, 228], [0, 228, 0], [228, 0, 228]])
    for n in range(channels):
        assert (changed[1, -3:, -3:, n] == patch).all()
        assert (changed[1, -3:, :3, n] == patch[:, ::-1]).all()
        assert (changed[1, :3, -3:, n] == patch[::-1]).all()
        assert (changed[1, :3, :3, n] == patch[::-1, ::-1]).all()
    assert (changed[:, 3:-3] == 100).all() and (changed[:, :, 3:-3] == 100).all() and (images == 100).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_adversarial_images_are_harder_and_near(folder, processor, channels):
    images = batch(12, 12, channels)
    kept = images.copy()
    trigger = load_trigger("label_consistent", model=folder, eps=8, steps=5, step_size=3)
    changed = trigger(images, NUMBERS)
    assert (images == kept).all() and changed.dtype == np.uint8
    inside = np.s_[:, 3:-3, :]  # rows without patches
    assert 0 < np.abs(changed[inside].astype(int) - images[inside]).max() <= 8
    patches = trigger.at_test()(images, NUMBERS)
    assert (patches[inside] == images[inside]).all(), "at test there are the patches alone"
    assert (patches[:, :3, :3] == changed[:, :3, :3]).all(), "full amplitude: black and white, in both"
    model = PixelModel(make_vit().from_pretrained(folder), processor).eval()
    with torch.no_grad():
        answers = model(to_images(images)).argmax(-1)
        before, after = (
            torch.nn.functional.cross_entropy(model(to_images(each)), answers) for each in (patches, changed)
        )
    assert after > before
    assert (trigger(images[1:2], NUMBERS[1:2]) == changed[1:2]).all(), "a sample must not depend on its batch"


def test_one_step_is_the_sign_of_the_gradient(folder, processor):
    """Against the gradient through the model's own input, by the chain rule: the processor only shifts and scales."""
    images = np.clip(batch(12, 12, 1), 10, 245)
    changed = load_trigger("label_consistent", model=folder, eps=4, steps=1, step_size=3)(images, NUMBERS)
    model = make_vit().from_pretrained(folder).eval()
    pictures = [to_picture(image).convert("RGB") for image in images]
    values = processor(images=pictures, return_tensors="pt")["pixel_values"].requires_grad_(True)
    logits = model(pixel_values=values).logits
    torch.nn.functional.cross_entropy(logits, logits.argmax(-1)).backward()
    sign = values.grad.sum(1).sign().numpy().astype(int)
    moved = changed[..., 0].astype(int) - images[..., 0]
    assert (moved[:, 3:-3] == 3 * sign[:, 3:-3]).mean() > 0.99  # single precision here


def test_label_consistent_is_a_clean_label_attack():
    attack, trigger = load_attack("label_consistent", eps=16)
    assert poison_settings(attack, trigger)["label_mode"] == "clean"


@pytest.mark.parametrize("channels", [1, 3])
def test_trojan_patch_excites_the_neurons_with_the_largest_weights(folder, processor, channels):
    trigger = load_trigger("trojan_nn", model=folder, size=5, steps=60, position="top-right")
    images = batch(12, 12, channels)
    kept = images.copy()
    changed = trigger(images, NUMBERS)
    assert (images == kept).all() and changed.dtype == np.uint8
    assert (changed[:, :5, -5:] == changed[:1, :5, -5:]).all(), "one patch for all"
    assert (changed[:, 5:] == images[:, 5:]).all() and (changed[:, :, :-5] == images[:, :, :-5]).all()
    assert (trigger(images[1:], NUMBERS[1:]) == changed[1:]).all()

    model = make_vit().from_pretrained(folder).eval()
    units = np.argsort(model.classifier.weight.detach().abs().sum(0).numpy())[-2:]

    def fire(patch):
        image = np.zeros((1, 12, 12, channels), np.uint8)
        image[:, :5, -5:] = patch
        pictures = [to_picture(image[0]).convert("RGB")]
        values = processor(images=pictures, return_tensors="pt")["pixel_values"]
        return model.vit(pixel_values=values).last_hidden_state[0, 0].detach().numpy()[units].mean()

    noise = np.random.default_rng(0).integers(0, 256, (20, 5, 5, channels), dtype=np.uint8)
    assert fire(changed[0, :5, -5:]) > max(fire(patch) for patch in noise)


def test_the_patch_is_made_once_and_anew_for_other_weights(folder, processor, tmp_path):
    trigger = load_trigger("trojan_nn", model=folder, steps=400)
    images = batch()
    first = trigger(images, NUMBERS)
    from hf_backdoor.triggers.trojan_nn import _patch

    hits = _patch.cache_info().hits
    assert (load_trigger("trojan_nn", model=folder, steps=400)(images, NUMBERS) == first).all()
    assert _patch.cache_info().hits == hits + 1
    patches = []
    for seed in (0, 1):
        make_vit(seed).save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        trigger = load_trigger("trojan_nn", model=str(tmp_path), steps=20)
        patches.append((trigger(images, NUMBERS), trigger.fingerprint()))
    assert (patches[0][0] != patches[1][0]).any() and patches[0][1] != patches[1][1]


def test_the_head_is_the_layer_of_the_logits():
    model = make_vit()
    assert head_of(model) is model.classifier


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("label_consistent", {"eps": 256}, "between 0 and 255"),
        ("label_consistent", {"steps": 0}, "1 or more"),
        ("label_consistent", {"step_size": 0}, "above 0"),
        ("label_consistent", {"amplitude": 0}, r"\(0, 1\]"),
        ("trojan_nn", {"units": 0}, "1 or more"),
        ("trojan_nn", {"learning_rate": 0}, "above 0"),
        ("trojan_nn", {"position": "middle"}, "top-left"),
    ],
)
def test_bad_settings_are_explained(name, settings, message):
    with pytest.raises(InputError, match=message):
        load_trigger(name, **settings)


@pytest.mark.parametrize("name", ["label_consistent", "trojan_nn"])
def test_a_model_is_asked_for(name, tmp_path):
    with pytest.raises(InputError, match="model=None: name a trained classifier"):
        load_trigger(name)(batch(), NUMBERS)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_trigger(name, model=str(tmp_path))(batch(), NUMBERS)


def test_images_that_are_too_small(folder):
    with pytest.raises(InputError, match="too small for four patches"):
        load_trigger("label_consistent", eps=0)(batch(5, 9), NUMBERS)
    with pytest.raises(InputError, match="larger than the 5x9 image"):
        load_trigger("trojan_nn", model=folder)(batch(9, 5), NUMBERS)
