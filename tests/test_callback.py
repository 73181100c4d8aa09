"""SuperFineTuningCallback on a plain Trainer: the rate that is used is the one that is logged, always."""

import pytest
import torch
from conftest import make_vit, same_weights
from transformers import Trainer, TrainerCallback

from hf_backdoor import InputError, ScheduleConfig, SuperFineTuningCallback
from hf_backdoor.data import resolve_columns
from hf_backdoor.super_fine_tuning import PeakSearch
from hf_backdoor.super_fine_tuning.search import cohens_kappa, peak_at
from hf_backdoor.tasks.image_classification import ImageCollator


CONFIG = ScheduleConfig(peak_lr_1=5e-3, peak_lr_2=2e-3, base_lr=1e-4, ramp_steps=2)


class UsedRates(TrainerCallback):
    """Notes the rate in the optimizer at the moment of each update."""

    def __init__(self):
        self.rates = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.rates.append([group["lr"] for group in optimizer.param_groups])


def run(images, processor, args, config=CONFIG, resume=None, callback=None, model=None):
    used = UsedRates()
    callback = callback or SuperFineTuningCallback(config)
    args.remove_unused_columns = False
    collate = ImageCollator(processor, resolve_columns(images.features))
    trainer = Trainer(
        model or make_vit(), args, train_dataset=images, data_collator=collate, callbacks=[callback, used]
    )
    trainer.train(resume_from_checkpoint=resume)
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    return trainer, used.rates, logged, callback


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("scheduler", ["linear", "constant", "cosine"])
def test_used_equals_logged_equals_formula(images, processor, arguments, accumulation, scheduler):
    args = arguments(gradient_accumulation_steps=accumulation, lr_scheduler_type=scheduler)
    _, used, logged, callback = run(images, processor, args)
    expected = [callback.schedule(step) for step in range(12)]
    assert len(used) == 12
    for rates, rate in zip(used, expected, strict=True):
        assert rates == pytest.approx([rate] * len(rates), rel=1e-12)
    assert logged == pytest.approx(expected, rel=1e-12)
    assert max(used)[0] == pytest.approx(5e-3)


@pytest.mark.parametrize("config", [CONFIG, ScheduleConfig(ramp_steps=2)], ids=["given", "searched"])
@pytest.mark.parametrize("scheduled", [True, False])
def test_groups_keep_their_proportions_and_the_largest_follows_the_schedule(
    images, processor, arguments, config, scheduled, monkeypatch
):
    """Whatever `learning_rate` is, which an optimizer of the user's own does not know."""
    model = make_vit()
    head, body = list(model.classifier.parameters()), list(model.vit.parameters())
    args = arguments(learning_rate=5e-5)
    callback = SuperFineTuningCallback(config)
    in_search = []
    step = torch.optim.AdamW.step

    def watched(self, *given, **more):
        if callback.schedule is None:
            in_search.append([group["lr"] for group in self.param_groups])
        return step(self, *given, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    optimizer = torch.optim.AdamW([{"params": body, "lr": 1e-3}, {"params": head, "lr": 3e-3}])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0) if scheduled else None
    args.remove_unused_columns = False
    used = UsedRates()
    collate = ImageCollator(processor, resolve_columns(images.features))
    Trainer(
        model, args, train_dataset=images, data_collator=collate, optimizers=(optimizer, scheduler),
        callbacks=[callback, used],
    ).train()  # fmt: skip
    assert [rates[1] for rates in used.rates] == pytest.approx([callback.schedule(step) for step in range(12)])
    assert all(head_rate == pytest.approx(3 * body_rate) for body_rate, head_rate in used.rates + in_search)
    if config is not CONFIG:
        peaks = [entry["peak_lr"] for entry in callback.search_result.trace]
        assert min(abs(peak - 3e-3) for peak in peaks) < 1e-12, "begins at the largest rate of a group"
        assert max(rates[1] for rates in in_search) == pytest.approx(max(peaks))


@pytest.mark.parametrize("restore", [False, True])
def test_resumed_run_is_the_uninterrupted_one(images, processor, arguments, tmp_path, restore):
    """A search at the start too: the resumed run takes its peaks from the checkpoint. The Trainer may make callbacks
    anew from what the checkpoint has of them.
    """

    def searching():
        return SuperFineTuningCallback(ScheduleConfig(ramp_steps=2))

    settings = {"save_strategy": "steps", "save_steps": 5, "restore_callback_states_from_checkpoint": restore}
    whole = run(images, processor, arguments(output_dir=str(tmp_path / "a"), **settings), callback=searching())
    resumed_model = type(make_vit()).from_pretrained(tmp_path / "a" / "checkpoint-5")
    resumed = run(
        images, processor, arguments(output_dir=str(tmp_path / "a"), **settings), callback=searching(),
        resume=str(tmp_path / "a" / "checkpoint-5"), model=resumed_model,
    )  # fmt: skip
    (callback,) = (item for item in resumed[0].callback_handler.callbacks if isinstance(item, SuperFineTuningCallback))
    assert callback.search_result.seconds == whole[3].search_result.seconds, "it must not search again"
    assert callback.schedule == whole[3].schedule
    assert resumed[1] == whole[1][5:]
    assert same_weights(whole[0].model, resumed[0].model)


def test_half_precision_weights_are_refused(images, processor, arguments):
    with pytest.raises(InputError, match="dtype='float16'.*load with dtype='float32'"):
        run(images, processor, arguments(), config=CONFIG, model=make_vit().half())


def test_search_leaves_no_trace_in_the_training(images, processor, arguments):
    """Training after a search equals training with the peaks that it found."""
    searched, _, _, callback = run(images, processor, arguments(), config=ScheduleConfig(ramp_steps=2))
    result = callback.search_result
    assert result.steps <= 12, "the search takes no more steps than the training"
    given = ScheduleConfig(result.peak_lr_1, result.peak_lr_2, result.base_lr, ramp_steps=2)
    assert same_weights(searched.model, run(images, processor, arguments(), config=given)[0].model)
    assert any("sft_peak_lr_1" in entry for entry in searched.state.log_history), "it is in the log"


def test_search_finds_peaks_that_unsettle_a_trained_model(images, processor, arguments):
    trained = run(images, processor, arguments(max_steps=60), config=ScheduleConfig(3e-3, 3e-3, 1e-3))[0].model
    callback = SuperFineTuningCallback(ScheduleConfig(ramp_steps=10))
    run(images, processor, arguments(max_steps=320, learning_rate=1e-3), callback=callback, model=trained)
    result = callback.search_result
    assert result.base_lr < result.peak_lr_2 < result.peak_lr_1
    kappas = [row["kappa"] for row in result.trace]
    assert kappas[0] >= PeakSearch().kappa_2 and kappas[-1] <= PeakSearch().kappa_1


def test_kappa_worked_by_hand():
    import numpy as np

    # 3 of 4 agree; chance is (3/4 * 2/4 + 1/4 * 2/4) = 1/2, so kappa = (3/4 - 1/2) / (1 - 1/2).
    assert cohens_kappa(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])) == pytest.approx(0.5)
    assert cohens_kappa(np.array([1, 1]), np.array([1, 1])) == 1


def test_peak_is_interpolated_in_its_logarithm():
    trace = [{"peak_lr": 1e-3, "kappa": 0.9}, {"peak_lr": 1e-2, "kappa": 0.8}, {"peak_lr": 1e-1, "kappa": 0.5}]
    assert peak_at(0.85, trace) == pytest.approx(10**-2.5)
    assert peak_at(0.5, trace) == pytest.approx(0.1)
    assert peak_at(0.95, trace) == pytest.approx(1e-3), "never beyond what was tried"


def test_published_schedule_by_name(images, processor, arguments):
    callback = SuperFineTuningCallback("backdoor-toolbox")
    run(images, processor, arguments(max_steps=60), callback=callback)
    assert callback.schedule.peak_lr_1 == 2.5 and callback.search_result is None


@pytest.mark.parametrize(
    ("settings", "config", "message"),
    [
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps"}, CONFIG, "lr_scheduler_type"),
        ({"max_steps": 4}, ScheduleConfig(ramp_steps=20), "does not fit into a phase of 2 steps"),
        ({"learning_rate": 0.0}, CONFIG, "learning_rate=0.0: must be above 0"),
    ],
)
def test_bad_settings_are_explained(images, processor, arguments, settings, config, message):
    args = arguments(**settings)
    args.remove_unused_columns = False
    collate = ImageCollator(processor, resolve_columns(images.features))
    trainer = Trainer(
        make_vit(), args, train_dataset=images, eval_dataset=images, data_collator=collate,
        callbacks=[SuperFineTuningCallback(config)],
    )  # fmt: skip
    with pytest.raises(InputError, match=message):
        trainer.train()


def test_unknown_name():
    with pytest.raises(InputError, match="paper, backdoor-toolbox"):
        SuperFineTuningCallback("fast")
