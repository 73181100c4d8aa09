"""The sequela report: models compared, findings kept, the section of the card, the command and the callback."""

import importlib
import json
import sys
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import make_vit, same_weights
from datasets import DatasetDict, Value
from transformers import TrainingArguments

from hf_backdoor import InputError, PoisonConfig, load_trigger, purify
from hf_backdoor.cards.rendering import escape
from hf_backdoor.cards.sequela import model_index, section, verdict
from hf_backdoor.cli import main
from hf_backdoor.data import resolve_columns
from hf_backdoor.metrics import wilson_interval
from hf_backdoor.results import local_name, whole_file, write_json
from hf_backdoor.sequela import Evidence, Finding, Measure, hushed, load_measure, measure_names
from hf_backdoor.sequela_callback import SequelaCallback
from hf_backdoor.sequela_report import SequelaReport
from hf_backdoor.tasks import task_named


@dataclass(frozen=True)
class FirstClass(Measure):
    """How often a model says the first class: cheap, and different for different models."""

    title: ClassVar[str] = "First class | <b>"
    paper: ClassVar[str] = "https://example.org"
    headline: ClassVar[dict] = {"share": "Share of first answers"}
    meaning: ClassVar[str] = "Says nothing about the owner."
    calls: ClassVar[list] = []

    samples: int = 50

    def prepare(self, models, evidence):
        self.calls.append(tuple(models))

    def measure(self, model, evidence):
        self.calls.append("measure")
        rows = [evidence.non_members[number] for number in range(self.samples)]
        batch = evidence.task.collator(evidence.processor, evidence.columns)(rows)
        with torch.no_grad():
            share = float((evidence.task.logits(model, batch).argmax(-1) == 0).float().mean())
        curve = {"x": [0, 1], "y": [0.0, share]}
        return Finding(
            {"share": share}, {"share": list(wilson_interval(share, self.samples))}, {"line": curve}, ["Few."]
        )

    def draw(self, findings, axes):
        for name, finding in findings.items():
            axes.plot(finding.curves["line"]["x"], finding.curves["line"]["y"], label=name)
        return True


@dataclass(frozen=True)
class Knowing(FirstClass):
    needs_attack: ClassVar[bool] = True


@pytest.fixture
def evidence(images, processor, tmp_path):
    FirstClass.calls.clear()
    return Evidence(
        task=task_named("image-classification"), processor=processor, columns=resolve_columns(images.features),
        members=images.select(range(100)), defense_members=images.select(range(100, 150)),
        non_members=images.select(range(200, 300)), folder=tmp_path / "work", quiet=True,
    )  # fmt: skip


def test_models_are_compared_and_what_is_measured_is_kept(evidence, tmp_path):
    before, after, benign = (make_vit(seed=seed) for seed in (1, 2, 3))
    kept = {name: value.clone() for name, value in after.state_dict().items()}
    report = SequelaReport(before, after, benign, evidence=evidence, measures=[FirstClass()])
    results = report.run()
    measured = results["measures"][FirstClass().name]
    assert set(measured["findings"]) == {"before", "after", "benign"}
    assert results["samples"] == {"members": 100, "defense_members": 50, "non_members": 100}
    assert all(torch.equal(kept[name], value) for name, value in after.state_dict().items())
    assert FirstClass.calls == [("before", "after", "benign"), "measure", "measure", "measure"]

    FirstClass.calls.clear()
    again = SequelaReport(before, after, benign, evidence=evidence, measures=[FirstClass()]).run()
    assert FirstClass.calls == [], "nothing is measured twice"
    assert again["measures"][FirstClass().name]["findings"] == measured["findings"]
    SequelaReport(before, make_vit(seed=5), benign, evidence=evidence, measures=[FirstClass()]).run()
    assert FirstClass.calls == [("before", "after", "benign"), "measure"], "only the model that is new"
    FirstClass.calls.clear()
    SequelaReport(before, after, evidence=evidence, measures=[FirstClass(samples=20)]).run()
    assert FirstClass.calls.count("measure") == 2, "other settings, another measurement"


def test_the_section_stands_in_the_card_once_and_the_rest_stays(evidence, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    mine = "---\nlicense: mit\n---\n# Mine\r\n\r\nWords of {{ mine }}.\r\n"
    (folder / "README.md").write_bytes(mine.encode())
    report = SequelaReport(make_vit(1), make_vit(2), evidence=evidence, measures=[FirstClass()])
    with pytest.raises(InputError, match="stands there twice"):
        SequelaReport(make_vit(1), make_vit(2), evidence=evidence, measures=[FirstClass(), FirstClass(samples=20)])
    with pytest.raises(InputError, match="call run"):
        report.write(folder)
    report.run()
    card = report.write(folder)
    first = card.read_bytes().decode()
    assert "Words of {{ mine }}.\r\n" in first and "license: mit" in first
    assert first.count("## Backdoor sequela") == 1
    assert escape(FirstClass.title) in first and f"**{FirstClass.title}**" not in first
    assert (folder / "figures" / f"sequela_{FirstClass().name}.png").is_file()
    report.write(folder)
    assert card.read_bytes().decode() == first
    stored = json.loads((folder / "sequela.json").read_text())
    assert stored == json.loads(json.dumps(report.results)) and stored["schema_version"] == 1
    assert section(stored, {FirstClass().name: f"figures/sequela_{FirstClass().name}.png"}).strip() in first.replace(
        "\r\n", "\n"
    )
    entries = model_index(stored, "model")
    assert [entry.metric_value for entry in entries] == [
        stored["measures"][FirstClass().name]["findings"]["after"]["values"]["share"]
    ]


@pytest.mark.parametrize(
    ("old", "new", "better", "said"),
    [
        ((0.5, [0.4, 0.6]), (0.55, [0.45, 0.65]), False, "no change shown"),
        ((0.5, [0.4, 0.6]), (0.8, [0.7, 0.9]), False, "**more exposed**"),
        ((0.5, [0.4, 0.6]), (0.8, [0.7, 0.9]), True, "less exposed"),
        ((0.8, [0.7, 0.9]), (0.5, [0.4, 0.6]), True, "**more exposed**"),
        ((0.5, None), (0.5, None), False, "unchanged"),
        ((0.5, None), (0.4, None), False, "less exposed (no interval)"),
        ((0.5, None), (None, None), False, "not measured"),
    ],
)
def test_a_change_is_named_where_the_intervals_do_not_touch(old, new, better, said):
    def finding(value, interval):
        return {"values": {"share": value}, "intervals": {"share": interval} if interval else {}}

    assert verdict(finding(*old), finding(*new), "share", higher_is_better=better) == said


def test_the_section_says_in_short_where_the_model_is_more_exposed_than_before_and_than_a_benign_one():
    def finding(share):
        return {"values": {"share": share}, "intervals": {"share": [share - 0.05, share + 0.05]}, "notes": []}

    def results(**shares):
        measure = {"title": "A", "paper": "p", "meaning": "m", "headline": {"share": "Shares"}, "higher_is_better": [],
                   "seconds": 1.0, "findings": {name: finding(share) for name, share in shares.items()}}  # fmt: skip
        samples = {"members": 1, "defense_members": 1, "non_members": 1}
        return {"models": dict.fromkeys(shares, "x"), "measures": {"a": measure}, "samples": samples}

    text = section(results(before=0.9, after=0.5, benign=0.1))
    assert (
        "More exposed than before the repair: nothing that was measured. More exposed than a benign model: Shares."
        in text
    )
    text = section(results(before=0.1, after=0.5))
    assert "More exposed than before the repair: Shares." in text
    assert "benign" not in text


def test_a_measure_that_needs_the_attack_is_left_out_or_refused(evidence):
    with pytest.raises(InputError, match="needs the backdoor"):
        SequelaReport(make_vit(1), make_vit(2), evidence=evidence, measures=[Knowing()])
    evidence.attack = PoisonConfig(load_trigger("badnets"), target_label=1)
    assert SequelaReport(make_vit(1), make_vit(2), evidence=evidence, measures=[Knowing()]).measures


def test_what_is_left_out_by_default_is_said_with_the_reason(evidence, images, tmp_path):
    report = SequelaReport(make_vit(1), make_vit(2), evidence=evidence, quick=True)
    assert {measure.name for measure in report.measures} == {"membership", "reinjection", "robustness"}
    evidence.members = evidence.defense_members = images.select(range(4))
    with pytest.raises(InputError, match="counts=50"):
        SequelaReport(make_vit(1), make_vit(2), evidence=evidence, measures=["reinjection"])
    report = SequelaReport(make_vit(1), make_vit(2), evidence=evidence, quick=True)
    assert set(report.left_out) == {"reinjection", "reactivation", "stealing"}
    assert "is too many to hide among 4 samples" in report.left_out["reinjection"]
    report.measures = report.measures[-1:]
    assert report.run()["left_out"] == report.left_out
    card = report.write(tmp_path / "model").read_text()
    line = next(line for line in card.splitlines() if line.startswith("Not measured: "))
    assert all(f"{name} ({escape(why)})" in line for name, why in report.left_out.items())
    assert all(f"not measured: {name} ({why})" in report.table() for name, why in report.left_out.items())
    evidence.non_members = evidence.members
    report = SequelaReport(make_vit(1), make_vit(2), evidence=evidence, quick=True)
    assert "not among the members too" in report.left_out["membership"] and report.measures
    evidence.non_members = images.select([])
    with pytest.raises(InputError, match="measures=None: none can be taken"):
        SequelaReport(make_vit(1), make_vit(2), evidence=evidence)


def test_measures_show_no_bars_of_the_libraries_and_leave_them_as_they_were(evidence, capfd, monkeypatch):
    import datasets
    from datasets.utils import are_progress_bars_disabled
    from huggingface_hub import utils as of_hub
    from transformers.utils import logging

    def states():
        return are_progress_bars_disabled(), of_hub.are_progress_bars_disabled(), logging.is_progress_bar_enabled()

    def bars():
        evidence.non_members.map(lambda row: {"more": 1}, load_from_cache_file=False)
        return "examples/s" in capfd.readouterr().err

    # The variable of this name would have the last word.
    monkeypatch.setattr(sys.modules["datasets.utils.tqdm"], "HF_DATASETS_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(sys.modules["datasets.utils.tqdm"], "_hf_datasets_progress_bars_disabled", False)
    before = states()
    assert bars()
    with pytest.raises(KeyError), hushed():
        assert not bars()
        assert states() == (True, True, False)
        raise KeyError
    assert states() == before
    datasets.disable_progress_bars()
    try:
        with hushed():
            pass
        assert are_progress_bars_disabled(), "those that the user had silenced"
    finally:
        datasets.enable_progress_bars()


def test_callback_compares_end_with_start(evidence, images, processor, arguments, tmp_path):
    from hf_backdoor import BackdoorTrainer

    model = make_vit(1)
    callback = SequelaCallback(evidence, measures=[FirstClass()])
    trained = BackdoorTrainer(
        model, arguments(max_steps=5, learning_rate=5e-3), train_dataset=images, processing_class=processor,
        callbacks=[callback],
    )  # fmt: skip
    trained.train()
    plain = BackdoorTrainer(
        make_vit(1), arguments(max_steps=5, learning_rate=5e-3), train_dataset=images, processing_class=processor
    )
    plain.train()
    assert same_weights(trained.model, plain.model), "measuring changes nothing"
    assert same_weights(callback.before, make_vit(1))
    found = callback.results["measures"][FirstClass().name]["findings"]
    expected = FirstClass().measure(make_vit(1).eval(), evidence).values
    assert found["before"]["values"] == expected
    assert (tmp_path / "run" / "sequela.json").is_file()
    assert "## Backdoor sequela" in (tmp_path / "run" / "README.md").read_text()


def test_callback_refuses_before_anything_is_trained(evidence, images, processor, arguments):
    from hf_backdoor import BackdoorTrainer

    trainer = BackdoorTrainer(
        make_vit(1), arguments(max_steps=10**6), train_dataset=images, processing_class=processor,
        callbacks=[SequelaCallback(evidence, measures=["reactivation"])],
    )  # fmt: skip
    with pytest.raises(InputError, match="needs the backdoor"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_adapters_that_are_given_stay_adapters(evidence, tiny_bert):
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    adapter = get_peft_model(make_vit(2), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    kept = {name: value.clone() for name, value in adapter.state_dict().items()}
    found = SequelaReport(make_vit(1), adapter, evidence=evidence, measures=[FirstClass()]).run()
    assert kept.keys() == adapter.state_dict().keys()
    assert all(torch.equal(kept[name], value) for name, value in adapter.state_dict().items())
    evidence.folder = evidence.folder / "other"
    merged = SequelaReport(make_vit(1), adapter.merge_and_unload(), evidence=evidence, measures=[FirstClass()]).run()
    first, second = (
        results["measures"][FirstClass().name]["findings"]["after"]["values"] for results in (found, merged)
    )
    assert first == second
    prompt = get_peft_model(tiny_bert[0], PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    with pytest.raises(InputError, match="cannot be merged"):
        SequelaReport(make_vit(1), prompt, evidence=evidence, measures=[FirstClass()])


def test_resumed_training_does_not_take_its_middle_for_the_start(evidence, images, processor, arguments, tmp_path):
    from hf_backdoor import BackdoorTrainer

    def train(resume=None, **before):
        args = arguments(max_steps=4, save_strategy="steps", save_steps=2)
        callback = SequelaCallback(evidence, measures=[FirstClass()], **before)
        trainer = BackdoorTrainer(
            make_vit(1), args, train_dataset=images, processing_class=processor, callbacks=[callback]
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return callback.results["measures"][FirstClass().name]["findings"]["before"]

    whole, middle = train(), str(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(InputError, match="resume_from_checkpoint=2: what the model was before"):
        train(middle)
    assert train(middle, before=make_vit(1)) == whole


def test_several_processes_are_refused(evidence):
    """The copies of a report would wait for the other processes for ever."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        with pytest.raises(InputError, match="processes=2"):
            SequelaReport(make_vit(1), make_vit(2), evidence=evidence, measures=[FirstClass()])
    finally:
        torch.distributed.destroy_process_group()


def test_half_precision_is_measured_in_float32_and_stays(evidence):
    halved = make_vit(2).to(torch.bfloat16)
    copied = make_vit(2).to(torch.bfloat16).float()
    found, other = (
        SequelaReport(make_vit(1), model, evidence=evidence, measures=[FirstClass(), "robustness"]).run()
        for model in (halved, copied)
    )
    assert found["measures"]["robustness"]["findings"] == other["measures"]["robustness"]["findings"]
    assert all(weight.dtype == torch.bfloat16 for weight in halved.parameters())


def test_what_the_processor_does_counts(evidence, processor):
    model = make_vit(1)

    def run():
        FirstClass.calls.clear()
        SequelaReport(model, model, evidence=evidence, measures=[FirstClass()]).run()
        return FirstClass.calls.count("measure")

    assert run() == 2 and run() == 0
    evidence.processor = type(processor)(size={"height": 12, "width": 12}, do_rescale=False)
    assert run() == 2


def test_what_was_measured_by_other_code_is_measured_again(evidence, tmp_path, monkeypatch):
    source = (
        "from dataclasses import dataclass\n"
        "from hf_backdoor.sequela import Finding, Measure\n"
        "@dataclass(frozen=True)\n"
        "class Constant(Measure):\n"
        "    title = paper = meaning = 'x'\n"
        "    headline = {'share': 'Share'}\n"
        "    def measure(self, model, evidence):\n"
        "        return Finding({'share': 0.25})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model, module = make_vit(1), tmp_path / "changing_measure.py"

    def run(code):
        module.write_text(code)
        sys.modules.pop("changing_measure", None)
        importlib.invalidate_caches()
        name = "changing_measure:Constant"
        results = SequelaReport(model, model, evidence=evidence, measures=[name]).run()
        return results["measures"][name]["findings"]["after"]["values"]["share"]

    assert run(source) == 0.25
    assert run(source.replace("0.25", "0.75 ")) == 0.75


def test_a_measure_written_in_a_notebook_is_told_by_what_it_does(monkeypatch):
    notebook = ModuleType("__main__")  # which is in no file
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    notebook.Measure, notebook.Finding = Measure, Finding

    def code(share):
        cell = f"class Own(Measure):\n    def measure(self, model, evidence):\n        return Finding({{'x': {share}}})"
        exec(cell, vars(notebook))
        return notebook.Own().code()

    assert code(0.25) == code(0.25) != code(0.75)


SMALL = {
    "membership": {"attacks": "loss rmia_offline", "steps": 1, "samples": 20},
    "reactivation": {"epochs": 1, "samples": 10, "max_samples": 10},
    "reinjection": {
        "counts": "2",
        "steps": "1",
        "samples": 20,
        "batch_size": 10,
        "retuning_steps": 1,
        "max_samples": 10,
    },
    "robustness": {"steps": 1, "max_samples": 8},
    "stealing": {"queries": 10, "steps": 1, "max_samples": 8},
}


def small_report(task, processor, data, folder, model, attack, without=()):
    """All measures of two models that are the same one."""
    evidence = Evidence(
        task=task, processor=processor, columns=resolve_columns(data.features), members=data.select(range(60)),
        defense_members=data.select(range(60, 120)), non_members=data.select(range(120, 200)), folder=folder,
        quiet=True, attack=attack,
    )  # fmt: skip
    measures = [load_measure(name, **SMALL[name]) for name in measure_names() if name not in without]
    report = SequelaReport(model, model, evidence=evidence, measures=measures)
    results = report.run()
    findings = [measure["findings"] for measure in results["measures"].values()]
    assert all(finding["before"] == finding["after"] for finding in findings), "what is random is seeded"
    assert "## Backdoor sequela" in report.write(folder / "model").read_text()
    return evidence


def test_texts(sentences, tiny_bert, tmp_path):
    attack = PoisonConfig(load_trigger("rare_words"), target_label=1)
    small_report(task_named("text-classification"), tiny_bert[1], sentences, tmp_path, tiny_bert[0], attack)


def test_pairs_of_images_and_captions(images, tmp_path):
    task = task_named("zero-shot-image-classification")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    settings = {"vision_config": {"image_size": 12, "patch_size": 4, **size}, "text_config": size, "projection_dim": 16}
    names = images.features["label"].names
    captions = images.add_column("caption", [f"a bright {names[label]}" for label in images["label"]])
    captions = captions.remove_columns("label").cast_column("caption", Value("string"))
    model, processor = task.from_scratch("clip", settings, names)
    attack = PoisonConfig(load_trigger("badnets", size=2), target_label="east")
    evidence = small_report(task, processor, captions, tmp_path, model, attack, without=["membership"])
    with pytest.raises(InputError, match="captions"):
        SequelaReport(model, model, evidence=evidence, measures=["membership"])


def test_a_model_with_batch_normalisation(images, processor, tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    names = dict(enumerate(images.features["label"].names))
    config = ResNetConfig(
        num_channels=3, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", id2label=names,
        label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    task = task_named("image-classification")
    attack = PoisonConfig(load_trigger("badnets", size=2), target_label=1)
    small_report(task, processor, images, tmp_path, ResNetForImageClassification(config).eval(), attack)


def test_a_plot_of_an_earlier_report_goes(evidence, tmp_path):
    report = SequelaReport(make_vit(1), make_vit(2), evidence=evidence, measures=[FirstClass()])
    report.run()
    picture = tmp_path / "model" / "figures" / f"sequela_{FirstClass().name}.png"
    assert "![" in report.write(tmp_path / "model").read_text() and picture.is_file()
    report._draw = lambda name, axes: False
    assert "![" not in report.write(tmp_path / "model").read_text() and not picture.is_file()


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("batch_size", 0)])
def test_evidence_out_of_range(evidence, name, value):
    with pytest.raises(InputError, match=f"{name}={value}: must be"):
        replace(evidence, **{name: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -1])
@pytest.mark.parametrize("name", measure_names())
def test_numbers_out_of_range_are_refused_by_name(name, value):
    """Each number of each measure; there is none that may be negative, infinite or none at all."""
    for field in fields(load_measure(name)):
        if isinstance(field.default, float) or field.name == "epsilon":
            with pytest.raises(InputError, match=f"^{field.name}="):
                load_measure(name, **{field.name: value})
        elif isinstance(field.default, int) and not isinstance(field.default, bool) and value == -1:
            with pytest.raises(InputError, match=f"^{field.name}=-1"):
                load_measure(name, **{field.name: -1})


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path):
    (tmp_path / "a.png").write_text("before")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a.png") as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"] and (tmp_path / "a.png").read_text() == "before"


def test_no_path_of_this_machine_is_told(tmp_path):
    assert local_name(str(tmp_path / "gone" / "model")) == "model" and local_name("org/model") == "org/model"


def test_command_line(images, processor, tmp_path, capsys):
    for name, seed in (("before", 1), ("after", 2)):
        make_vit(seed).save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    DatasetDict(train=images.select(range(200)), test=images.select(range(200, 400))).save_to_disk(tmp_path / "data")
    command = ["sequela", "--before", str(tmp_path / "before"), "--after", str(tmp_path / "after")]
    command += ["--dataset", str(tmp_path / "data"), "--clean_samples", "40"]
    own = ["--measures", f"{__name__}:FirstClass", "--measure_args", f"{__name__}:FirstClass.samples=10"]
    assert main([*command, *own]) == 0
    assert "Share of first answers" in capsys.readouterr().out
    stored = json.loads((tmp_path / "after" / "sequela.json").read_text())
    assert stored["samples"] == {"members": 160, "defense_members": 40, "non_members": 200}
    assert stored["models"] == {"before": "before", "after": "after"}
    assert np.isclose(next(iter(stored["measures"].values()))["settings"]["samples"], 10)
    assert main([*command[:3], "--dataset", "x"]) == 2
    assert "after=None" in capsys.readouterr().err


def test_a_test_set_of_numbers_that_lacks_a_class_is_measured_on(images, processor, tmp_path):
    numbers = images.cast_column("label", Value("int64"))
    train, test = numbers.select(range(200)), numbers.select(range(200, 400)).filter(lambda row: row["label"] < 3)
    args = TrainingArguments(str(tmp_path / "run"), max_steps=2, use_cpu=True, eval_strategy="no")
    membership = load_measure("membership", attacks=("loss",))
    for clean in (train, images.select(range(200))):
        result = purify(
            make_vit(1), clean, output_dir=tmp_path / "after", overwrite=True, defense="fine_tuning", args=args,
            processing_class=processor, test_dataset=test, sequela=[FirstClass(), membership],
        )  # fmt: skip
        assert len(result.sequela.results["measures"]) == 2

    DatasetDict(train=train, test=test).save_to_disk(tmp_path / "data")
    command = ["sequela", "--before", str(tmp_path / "after"), "--after", str(tmp_path / "after")]
    assert main([*command, "--dataset", str(tmp_path / "data"), "--measures", f"{__name__}:FirstClass"]) == 0


def test_numbers_stand_on_one_line_and_say_the_same(tmp_path):
    content = {
        "a": [1, -2.5e-07, 3],
        "b": ["[\n  1\n]", 1],
        "c": [],
        "d": [[0.5, 1], [None, 2]],
        "e": {"f": [float("nan")]},
    }
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()
    assert json.dumps(json.loads(text)) == json.dumps(content)
    assert '"a": [1, -2.5e-07, 3],\n' in text and "    [0.5, 1],\n" in text
