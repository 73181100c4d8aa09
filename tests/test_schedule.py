"""The schedule against the formula, worked by hand, and against what every user of it relies on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_backdoor import InputError, ScheduleConfig
from hf_backdoor.super_fine_tuning import PRESETS, TriangularSchedule


def test_worked_by_hand():
    schedule = TriangularSchedule(
        base_lr=1.0, peak_lr_1=5.0, peak_lr_2=3.0, total_steps=14, phase_1_steps=8, ramp_up=2, ramp_down=4
    )
    phase_1 = [1, 3, 5, 4, 3, 2, 1, 1]  # one triangle of 6 steps; a second one does not fit
    phase_2 = [1, 2, 3, 2.5, 2, 1.5]
    assert [schedule(step) for step in range(14)] == phase_1 + phase_2
    assert schedule(14) == 1, "it ends at base"


@given(
    total=st.integers(8, 400),
    share=st.floats(0.3, 0.7),
    ramp=st.integers(1, 2),
    base=st.floats(1e-6, 1e-3),
    factors=st.tuples(st.floats(1, 100), st.floats(1, 100)),
)
def test_stays_between_base_and_peak_and_reaches_both(total, share, ramp, base, factors):
    config = ScheduleConfig(base * factors[0], base * factors[1], base, phase_1_share=share, ramp_steps=ramp)
    try:
        schedule = config.schedule(total)
    except InputError:
        return  # a phase too short for one triangle, tested below
    rates = [schedule(step) for step in range(total)]
    phases = rates[: schedule.phase_1_steps], rates[schedule.phase_1_steps :]
    for phase, peak in zip(phases, (schedule.peak_lr_1, schedule.peak_lr_2), strict=True):
        assert phase[0] == base, "each phase starts at base"
        assert max(phase) == pytest.approx(peak)
        assert min(phase) == pytest.approx(base)
    assert schedule(total) == base


def test_ramps_as_a_share_of_the_phase():
    config = ScheduleConfig(3.0, 2.0, 1.0, phase_1_share=0.5, ramp_steps=0.25)
    assert config.schedule(80).ramp_up == 10
    assert config.schedule(800).ramp_up == 100


def test_published_constants():
    paper = PRESETS["paper"]
    assert (paper.base_lr, paper.peak_lr_1, paper.peak_lr_2) == (3e-4, 0.1, 0.001)
    assert paper.schedule(4000).ramp_up == 500


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peak_lr_1": 1e-5}, "peak_lr_1=1e-05: must be at least base_lr=0.0001"),
        ({"ramp_steps": 60}, "does not fit into a phase of 50 steps"),
        ({"phase_1_share": 0}, r"must lie in \(0, 1\]"),
        ({"ramp_steps": -1}, "must be above 0"),
        ({"base_lr": None}, "give peak_lr_1, peak_lr_2 and base_lr"),
    ],
)
def test_bad_settings_are_explained(settings, message):
    good = {"peak_lr_1": 1e-2, "peak_lr_2": 1e-3, "base_lr": 1e-4}
    with pytest.raises(InputError, match=message):
        ScheduleConfig(**good | settings).schedule(100)
