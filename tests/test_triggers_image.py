"""Image triggers against their published formulas, worked out here value by value or with torch."""

import math

import numpy as np
import pytest

from hf_backdoor import InputError, load_trigger


SHAPES = [(16, 16, 1), (16, 16, 3), (13, 21, 3)]
ALL = (
    "adap_blend", "adap_patch", "badnets", "blended", "bpp", "ctrl", "displacement", "ftrojan", "low_frequency",
    "sample_specific", "sig", "wanet",
)  # fmt: skip


def batch(shape=(16, 16, 3), count=6, low=0, high=256):
    return np.random.default_rng(1).integers(low, high, (count, *shape), dtype=np.uint8)


def numbers(count=6):
    return np.arange(100, 100 + count)


def change(trigger, images):
    return trigger(images, numbers(len(images))).astype(int) - images


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_a_sample_depends_on_itself_and_its_number_only(name, shape):
    images, index = batch(shape), numbers()
    kept = images.copy()
    trigger = load_trigger(name)
    for apply in (trigger, trigger.cover, trigger.at_test()):
        whole = apply(images, index)
        assert whole.dtype == np.uint8 and whole.shape == images.shape
        assert (images == kept).all(), "the input was changed in place"
        order = np.array([4, 1, 3])
        assert (apply(images[order], index[order]) == whole[order]).all()
        assert apply(images[:0], index[:0]).shape == (0, *shape)
    assert (load_trigger(name)(images, index) == trigger(images, index)).all()
    assert (trigger(images, index) != images).any()


def test_large_batches_are_cut_into_pieces_without_a_seam():
    images, index = batch((28, 28, 3), count=100), numbers(100)
    for name in ("blended", "bpp", "wanet"):
        trigger = load_trigger(name)
        one_by_one = [trigger(images[n : n + 1], index[n : n + 1])[0] for n in range(100)]
        assert (trigger(images, index) == one_by_one).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_wanet_is_the_grid_sample_of_torch(shape):
    import torch
    import torch.nn.functional as F

    height, width, _ = shape
    control = np.random.default_rng(7).uniform(-1, 1, (2, 4, 4))
    flow = torch.from_numpy(control / np.abs(control).mean())[None]
    flow = F.interpolate(flow, size=(height, width), mode="bicubic", align_corners=True)[0]
    down, right = torch.meshgrid(
        torch.linspace(-1, 1, height, dtype=torch.float64),
        torch.linspace(-1, 1, width, dtype=torch.float64),
        indexing="ij",
    )
    grid = torch.stack([right + 1.5 * flow[1] / width, down + 1.5 * flow[0] / height], -1).clamp(-1, 1)
    images = batch(shape)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).double()
    expected = F.grid_sample(pixels, grid.expand(len(images), -1, -1, -1), align_corners=True).permute(0, 2, 3, 1)
    warped = load_trigger("wanet", s=1.5, seed=7)(images, numbers())
    assert np.abs(warped - expected.numpy()).max() < 0.51


def test_wanet_noise_mode_adds_to_the_warp_less_than_a_pixel():
    ramp = np.tile((np.arange(20, dtype=np.uint8) * 10)[:, None, None], (4, 1, 20, 1))  # value = 10 * row
    trigger = load_trigger("wanet")
    warped, noisy = (apply(ramp, numbers(4)).astype(int) for apply in (trigger, trigger.cover))
    assert (warped[0] == warped[1]).all(), "the warp is one for all"
    assert (noisy[0] != noisy[1]).any(), "the noise differs from sample to sample"
    moved = (noisy - warped)[:, 2:-2] / 10  # in pixels: up to 1 / side of the image's half, (20 - 1) / 2 pixels
    assert 0.35 < np.abs(moved).max() <= 0.5 * 19 / 20 + 0.1
    assert abs(moved.mean()) < 0.05


def test_wanet_rescale_zooms():
    ramp = np.tile((np.arange(21, dtype=np.uint8) * 10)[:, None, None], (1, 1, 21, 1))
    zoomed = load_trigger("wanet", s=1e-9, grid_rescale=0.5)(ramp, numbers(1))[0, :, 0, 0]
    assert (zoomed == np.arange(50, 151, 5)).all()  # the middle half, stretched


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sig_worked_by_hand(shape):
    images = batch(shape)
    triggered = load_trigger("sig", delta=30, f=2)(images, numbers())
    for column in range(shape[1]):
        wave = 30 * math.sin(2 * math.pi * column * 2 / shape[1])
        expected = np.clip(images[:, :, column] + wave, 0, 255)
        assert np.abs(triggered[:, :, column] - expected).max() <= 0.5 + 1e-9


def test_sig_leaves_labels_right_as_in_its_paper():
    assert load_trigger("sig").poison_defaults["label_mode"] == "clean"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_low_frequency_has_no_other_frequencies(shape):
    pattern = change(load_trigger("low_frequency", amplitude=40, cutoff=3), batch(shape, low=100, high=150))
    assert (pattern == pattern[0]).all(), "one pattern for all images"
    assert np.abs(pattern).max() == 40
    height, width, _ = shape
    power = {}
    for row in range(height):
        for column in range(width):
            wave = np.outer(
                np.cos(np.pi * row * (np.arange(height) + 0.5) / height),
                np.cos(np.pi * column * (np.arange(width) + 0.5) / width),
            )
            power[row, column] = np.sum((wave[..., None] * pattern[0]).sum((0, 1)) ** 2) / np.sum(wave**2)
    low = sum(value for (row, column), value in power.items() if row < 3 and column < 3)
    assert low > 0.998 * sum(power.values())  # the rest is rounding
    assert power[0, 0] < 0.01 * low, "the brightness stays"


def test_bpp_by_hand():
    images = np.array([0, 18, 19, 54, 55, 128, 236, 237, 255], dtype=np.uint8).reshape(1, 3, 3, 1)
    squeezed = load_trigger("bpp")(images, numbers(1))
    # 8 levels are 255 / 7 = 36.43 apart: 0, 36, 73, 109, 146, 182, 219, 255.
    assert squeezed.ravel().tolist() == [0, 0, 36, 36, 73, 146, 219, 255, 255]
    assert load_trigger("bpp", squeeze_num=2)(images, numbers(1)).ravel().tolist() == [0] * 5 + [255] * 4


def test_bpp_dithering_by_hand():
    """Two levels; errors go 7/16 right, 3/16 below left, 5/16 below, 1/16 below right."""
    images = np.array([[100, 100], [100, 100]], dtype=np.uint8).reshape(1, 2, 2, 1)
    # (0,0): 100 -> 0, error 100. (0,1): 143.75 -> 255, error -111.25.
    # (1,0): 100 + 31.25 - 20.859 = 110.39 -> 0, error 110.39. (1,1): 100 + 6.25 - 34.77 + 48.30 = 119.8 -> 0.
    trigger = load_trigger("bpp", squeeze_num=2, dithering=True)
    assert trigger(images, numbers(1)).ravel().tolist() == [0, 255, 0, 0]


def test_bpp_dithering_keeps_the_mean():
    images = np.full((1, 32, 32, 1), 100, dtype=np.uint8)
    dithered = load_trigger("bpp", squeeze_num=4, dithering=True)(images, numbers(1))
    assert set(np.unique(dithered)) <= {0, 85, 170, 255}
    assert abs(dithered.mean() - 100) < 3
    assert (load_trigger("bpp", squeeze_num=4)(images, numbers(1)) == 85).all()


def test_bpp_cover_has_the_errors_elsewhere():
    images = batch(low=40, high=200)
    trigger = load_trigger("bpp", squeeze_num=4)
    error, moved = (apply(images, numbers()).astype(int) - images for apply in (trigger, trigger.cover))
    for one, other in zip(error, moved, strict=True):
        assert (one != other).any()
        assert sorted(map(tuple, one.reshape(-1, 3))) == sorted(map(tuple, other.reshape(-1, 3)))
    assert len(np.unique(trigger.cover(images, numbers()))) > 20, "a cover sample is not quantised"


def yuv(images):
    red, green, blue = np.moveaxis(images.astype(float), -1, 0)
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    return np.stack([light, 0.492 * (blue - light), 0.877 * (red - light)], axis=-1)


def coefficient(plane, row, column):
    """Of the orthonormal DCT-II, by its sum."""
    size = len(plane)
    places = np.pi * (np.arange(size) + 0.5) / size
    return 2 / size * np.sum(np.outer(np.cos(row * places), np.cos(column * places)) * plane)


def test_ftrojan_raises_two_coefficients_of_u_and_v():
    images = batch((64, 32, 3), low=90, high=160)
    difference = yuv(load_trigger("ftrojan", magnitude=100)(images, numbers())) - yuv(images)
    assert np.abs(difference[..., 0]).max() < 0.6, "the luminance stays"
    for window in (difference[0, :32], difference[0, 32:]):
        for channel in (1, 2):
            plane = window[..., channel]
            assert coefficient(plane, 15, 15) == pytest.approx(100, abs=2)
            assert coefficient(plane, 31, 31) == pytest.approx(100, abs=2)
            assert coefficient(plane, 15, 31) == pytest.approx(0, abs=2)
            assert coefficient(plane, 3, 5) == pytest.approx(0, abs=2)


def test_ftrojan_on_small_grey_images_uses_the_luminance_and_shrinks_its_positions():
    images = batch((16, 16, 1), low=90, high=160)
    plane = change(load_trigger("ftrojan", magnitude=100), images)[3, ..., 0]
    assert coefficient(plane, 7, 7) == pytest.approx(100, abs=2)  # 15 of 32
    assert coefficient(plane, 15, 15) == pytest.approx(100, abs=2)  # 31 of 32
    assert np.sum(plane.astype(float) ** 2) == pytest.approx(2 * 100**2, rel=0.02), "nothing but the two"


def test_ftrojan_leaves_incomplete_windows():
    difference = change(load_trigger("ftrojan", magnitude=100), batch((40, 50, 3), low=90, high=160))
    assert difference[:, :32, :32].any()
    assert not difference[:, 32:].any() and not difference[:, :, 32:].any()


def test_ctrl_is_stronger_at_test_time_and_clean_label():
    trigger, images = load_trigger("ctrl"), batch((32, 32, 3), low=90, high=160)
    assert trigger.poison_defaults == {"label_mode": "clean", "rate": 0.01}
    for which, magnitude in ((trigger, 50), (trigger.at_test(), 100), (trigger.at_test().at_test(), 100)):
        planes = yuv(which(images, numbers())) - yuv(images)
        assert coefficient(planes[0, ..., 1], 15, 15) == pytest.approx(magnitude, abs=2)


def test_adap_blend_shows_half_of_the_pieces_in_training_and_all_at_test_time():
    images, index = batch((20, 22, 3)), numbers()
    trigger = load_trigger("adap_blend", ratio=0.4, seed=3)
    whole = load_trigger("blended", ratio=0.4, seed=3)(images, index)
    triggered = trigger(images, index)
    rows, columns = (
        [slice(5 * n, 5 * n + 5) for n in range(4)],
        [slice(0, 6), slice(6, 11), slice(11, 17), slice(17, 22)],
    )
    shown = np.zeros((6, 4, 4), dtype=bool)
    for n in range(6):
        for i, down in enumerate(rows):
            for j, across in enumerate(columns):
                piece = triggered[n, down, across]
                shown[n, i, j] = (piece == whole[n, down, across]).all()
                assert shown[n, i, j] or (piece == images[n, down, across]).all()
    assert (shown.sum((1, 2)) == 8).all()
    assert len({one.tobytes() for one in shown}) > 1, "the pieces differ from sample to sample"
    assert (trigger.at_test()(images, index) == load_trigger("blended", ratio=0.2, seed=3)(images, index)).all()
    assert (trigger.cover(images, index) == triggered).all()


def test_adap_patch_shows_one_faint_patch_in_training_and_two_full_ones_at_test_time():
    images, index = np.full((200, 30, 40, 3), 100, dtype=np.uint8), numbers(200)
    trigger = load_trigger("adap_patch")  # patches of 0.2 * 30 = 6 pixels
    corners = [np.s_[:, :6, :6], np.s_[:, :6, -6:], np.s_[:, -6:, :6], np.s_[:, -6:, -6:]]
    # opacity 0.5, 0.2, 0.5 and 0.3 of black and white over 100
    levels = [{50, 178}, {80, 131}, {50, 178}, {70, 146}]
    triggered, tested = trigger(images, index), trigger.at_test()(images, index)
    changed = np.stack([(triggered[corner] != 100).any((1, 2, 3)) for corner in corners])
    assert (changed.sum(0) == 1).all(), "one patch a sample"
    assert (changed.sum(1) > 25).all(), "each of the four is used"
    for corner, used, values in zip(corners, changed, levels, strict=True):
        assert set(np.unique(triggered[corner][used])) == values
    assert (triggered[:, 6:-6] == 100).all() and (triggered[:, :, 6:-6] == 100).all()
    for number, corner in enumerate(corners):
        assert set(np.unique(tested[corner])) == ({0, 255} if number in (0, 2) else {100})
    assert len({triggered[corner][used][0].tobytes() for corner, used in zip(corners, changed, strict=True)}) == 4


def test_sample_specific_noise_comes_from_the_content_and_not_from_the_number():
    trigger = load_trigger("sample_specific", amplitude=8, bits=4)
    images = batch((24, 24, 3), count=64, low=100, high=150)
    noise = change(trigger, images)
    assert (trigger(images, numbers(64) + 1000) - images.astype(int) == noise).all()
    kinds = {one.tobytes() for one in noise}
    assert 8 <= len(kinds) <= 16, "2 ** bits patterns"
    assert noise.std() == pytest.approx(8, rel=0.25)
    # The noise leaves the hash as it was (but for rounding): the same noise is chosen on the triggered image.
    again = change(trigger, trigger(images, numbers(64)))
    assert (again == noise).all((1, 2, 3)).mean() > 0.8


def test_sample_specific_noise_survives_a_small_change():
    trigger = load_trigger("sample_specific")
    ramp = np.add.outer(np.arange(24) * 4, np.arange(24) * 3).astype(np.uint8)[None, ..., None]
    noisy = ramp + np.random.default_rng(0).integers(0, 6, ramp.shape, dtype=np.uint8)
    assert (trigger.signs(ramp)[:, :2] == trigger.signs(noisy)[:, :2]).all()
    assert (trigger.signs(ramp)[:, :2] == -trigger.signs(255 - ramp)[:, :2]).all()


def test_displacement_draws_place_size_and_brightness():
    images, index = np.full((400, 20, 30, 1), 100, dtype=np.uint8), np.arange(400)
    trigger = load_trigger("displacement", min_size=3, max_size=5, min_value=200, max_value=220)
    tops, lefts, sizes, values = [], [], [], []
    for picture in trigger(images, index)[..., 0]:
        rows, columns = np.flatnonzero((picture != 100).any(1)), np.flatnonzero((picture != 100).any(0))
        patch = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert patch.shape[0] == patch.shape[1] and (patch != 100).all()
        half = (len(patch) + 1) // 2
        assert (patch[:half, :half] == patch[0, 0]).all() and (patch[half:, half:] == patch[0, 0]).all()
        assert not patch[:half, half:].any() and not patch[half:, :half].any()
        tops.append(rows[0]), lefts.append(columns[0]), sizes.append(len(patch)), values.append(int(patch[0, 0]))
    assert set(sizes) == {3, 4, 5} and set(values) == set(range(200, 221))
    assert min(tops) == 0 and max(tops) == 17 and min(lefts) == 0 and max(lefts) == 27
    near = load_trigger("displacement", reach=0.5, min_size=3, max_size=5)(images, index)
    assert (near[:, :10] == 100).all() and (near[:, :, :15] == 100).all() and (near[:, 10, 15:] != 100).any()


def test_badnets_at_random_places():
    images, index = np.zeros((300, 10, 12, 3), dtype=np.uint8), np.arange(300)
    triggered = load_trigger("badnets", size=2, margin=1, position="random", value=9)(images, index)
    places = set()
    for picture in triggered:
        rows, columns = np.flatnonzero(picture.any((1, 2))), np.flatnonzero(picture.any((0, 2)))
        assert (
            len(rows) == len(columns) == 2 and (picture[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] == 9).all()
        )
        places.add((int(rows[0]), int(columns[0])))
    assert {row for row, _ in places} == set(range(1, 8)) and {column for _, column in places} == set(range(1, 10))
    other = load_trigger("badnets", size=2, margin=1, position="random", value=9, seed=1)(images, index)
    assert (other != triggered).any()


def test_badnets_of_noise_is_one_patch_for_all():
    images, index = np.zeros((50, 40, 40, 3), dtype=np.uint8), np.arange(50)
    patches = load_trigger("badnets", size=16, value="noise")(images, index)[:, -16:, -16:]
    assert (patches == patches[0]).all()
    assert 110 < patches[0].mean() < 145 and 45 < patches[0].std() < 75
    anywhere = load_trigger("badnets", size=16, value="noise", position="random")(images, index)
    for picture in anywhere:
        top, left = (int(np.flatnonzero(picture.any(axis)).min()) for axis in ((1, 2), (0, 2)))
        assert (picture[top : top + 16, left : left + 16] == patches[0]).all()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adap_blend", {"test_ratio": 0}, "must lie in"),
        ("adap_blend", {"pieces": 8}, "square number"),
        ("adap_blend", {"masked": 1}, "must lie in"),
        ("adap_patch", {"size": 0.6}, "must lie in"),
        ("adap_patch", {"opacities": "0.5 0.2"}, "four numbers"),
        ("adap_patch", {"opacities": "0 0 0 0"}, "not only zeros"),
        ("adap_patch", {"test_opacities": "1 0 x 0"}, "four numbers"),
        ("badnets", {"value": "white"}, "noise"),
        ("bpp", {"squeeze_num": 1}, "between 2 and 255"),
        ("ctrl", {"test_magnitude": 0}, "above 0"),
        ("displacement", {"min_size": 7, "max_size": 6}, "max_size=6"),
        ("displacement", {"max_value": 256}, "up to 255"),
        ("displacement", {"reach": 0}, "must lie in"),
        ("ftrojan", {"magnitude": -1}, "above 0"),
        ("ftrojan", {"positions": "15 32"}, "from 1 to 31"),
        ("ftrojan", {"positions": ""}, "from 1 to 31"),
        ("ftrojan", {"window": 1}, "2 pixels"),
        ("low_frequency", {"amplitude": 0}, "must lie in"),
        ("low_frequency", {"cutoff": 1}, "2 or more"),
        ("sample_specific", {"amplitude": 0}, "must lie in"),
        ("sample_specific", {"bits": 9}, "between 1 and 8"),
        ("sig", {"delta": 0}, "must lie in"),
        ("sig", {"f": -2}, "above 0"),
        ("wanet", {"k": 1}, "2 or more"),
        ("wanet", {"s": 0}, "above 0"),
        ("wanet", {"grid_rescale": 0}, "above 0"),
    ],
)
def test_bad_settings_are_explained(name, settings, message):
    with pytest.raises(InputError, match=message) as error:
        load_trigger(name, **settings)
    assert error.value.field in {*settings, "min_value", "min_size"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("adap_patch", {}), ("badnets", {"size": 4, "margin": 1, "position": "random"}), ("displacement", {})],
)
def test_images_that_are_too_small_are_refused(name, settings):
    with pytest.raises(InputError, match="5x5 image"):
        load_trigger(name, **settings)(batch((5, 5, 1)), numbers())


def test_sample_specific_refuses_images_without_middle_frequencies():
    with pytest.raises(InputError, match="5 x 5 pixels or more"):
        load_trigger("sample_specific")(batch((4, 4, 1)), numbers())
