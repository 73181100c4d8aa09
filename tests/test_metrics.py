"""The three measures against their definitions, as functions and as evaluate modules."""

import evaluate
import numpy as np
import pytest

from hf_backdoor import InputError, metric_path
from hf_backdoor.metrics import (
    METRICS,
    attack_success_rate,
    clean_accuracy,
    recall_at_1,
    robust_accuracy,
    wilson_interval,
)


def test_worked_by_hand():
    # Five triggered inputs, target 0; the last is of the target class and does not count.
    predictions, truth, targets = [0, 0, 2, 1, 0], [1, 2, 2, 2, 0], [0, 0, 0, 0, 0]
    assert attack_success_rate(predictions, truth, targets) == 2 / 4
    assert robust_accuracy(predictions, truth, targets) == 1 / 4
    assert attack_success_rate(predictions, truth, 0) == 2 / 4
    assert clean_accuracy(predictions, truth) == 2 / 5


def test_targets_may_differ_from_sample_to_sample():
    truth = np.array([0, 1, 2])
    assert attack_success_rate((truth + 1) % 3, truth, (truth + 1) % 3) == 1
    assert robust_accuracy(truth, truth, (truth + 1) % 3) == 1


@pytest.mark.parametrize("name", METRICS)
def test_modules_load_offline_and_agree_with_the_functions(name, tmp_path, monkeypatch):
    module = evaluate.load(metric_path(name), cache_dir=str(tmp_path))
    generator = np.random.default_rng(0)
    predictions, references = generator.integers(0, 5, 100), generator.integers(0, 5, 100)
    inputs = {"predictions": predictions, "references": references}
    if name != "clean_accuracy":
        inputs["targets"] = np.full(100, 3)
    function = {f.__name__: f for f in (clean_accuracy, attack_success_rate, robust_accuracy)}[name]
    assert module.compute(**inputs) == {name: function(*inputs.values())}


def test_nothing_to_measure_is_an_error():
    with pytest.raises(InputError, match="at least one sample"):
        attack_success_rate([0], [0], 0)
    with pytest.raises(InputError, match="clean_accuracy, attack_success_rate"):
        metric_path("f1")


def test_wilson_interval_of_a_published_example():
    # 10 of 20 trials: Newcombe 1998 gives 0.299 to 0.701 for the Wilson score interval.
    low, high = wilson_interval(0.5, 20)
    assert (round(low, 3), round(high, 3)) == (0.299, 0.701)
    assert wilson_interval(0.0, 10)[0] == pytest.approx(0, abs=1e-12)
    assert wilson_interval(1.0, 10)[1] == pytest.approx(1)


def test_recall_at_1_by_hand():
    """Four images with two captions, and a third that none has; a tie counts by its chance."""
    captions = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    images = np.array([[0.8, 0.6], [0.6, 0.8], [0.96, 0.28], [0.5**0.5, 0.5**0.5]])
    of_images = np.array([0, 1, 1, 0])
    # Nearest captions: the first, the second, the first (wrong), and the first or the second (half).
    assert recall_at_1(images, captions, of_images, np.arange(3)) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    # Nearest images: the third (wrong), the second (right), the second (wrong: no image has that caption).
    assert recall_at_1(captions, images, np.arange(3), of_images) == pytest.approx(1 / 3)
    same = np.ones((4, 1))
    assert recall_at_1(same, same[:2], of_images, np.arange(2)) == pytest.approx(1 / 2), "what guessing gets"
    many = np.tile(images, (700, 1))
    assert recall_at_1(many, captions, np.tile(of_images, 700), np.arange(3)) == pytest.approx(2.5 / 4)
    with pytest.raises(InputError, match="recall at 1"):
        recall_at_1(images[:0], captions, of_images[:0], np.arange(3))
