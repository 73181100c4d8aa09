"""The command line from end to end on a tiny model, and every kind of bad input."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import make_vit
from datasets import Dataset, DatasetDict

from hf_backdoor.cli import COMMANDS, main
from hf_backdoor.data import pick_split
from hf_backdoor.errors import InputError


VIT = (
    "image_size=12 patch_size=4 hidden_size=16 num_hidden_layers=2 num_attention_heads=2 intermediate_size=32 "
    "hidden_dropout_prob=0.0 attention_probs_dropout_prob=0.0"
).split()


@pytest.fixture(scope="module")
def data(images, tmp_path_factory):
    """A folder with train and test parquet files."""
    folder = tmp_path_factory.mktemp("data")
    images.select(range(300)).to_parquet(folder / "train.parquet")
    images.select(range(300, 400)).to_parquet(folder / "test.parquet")
    return folder


@pytest.fixture(scope="module")
def victim(data, tmp_path_factory):
    """A trained victim's folder."""
    folder = tmp_path_factory.mktemp("victim")
    arguments = [
        "train",
        "--dataset",
        data,
        "--architecture",
        "vit",
        "--architecture_args",
        *VIT,
        "--attack",
        "badnets",
    ]
    arguments += [
        "--rate",
        "0.2",
        "--max_steps",
        "80",
        "--learning_rate",
        "5e-3",
        "--per_device_train_batch_size",
        "16",
    ]
    assert run(*arguments, "--output", folder / "model", "--use_cpu") == 0
    return folder / "model"


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_poison_train_purify_evaluate_card(data, victim, tmp_path, capsys):
    assert (
        run("poison", "--dataset", data, "--attack", "badnets", "--rate", 0.1, "--output", tmp_path / "poisoned") == 0
    )
    assert json.loads((tmp_path / "poisoned" / "results.json").read_text())["poisoned"]["train"] == 30

    trained = json.loads((victim / "results.json").read_text())
    assert trained["victim"]["attack_success_rate"] > 0.5, "the tiny victim has its backdoor"
    assert "has a backdoor, put in on purpose" in (victim / "README.md").read_text()

    output = tmp_path / "purified"
    arguments = ["--model", victim, "--dataset", data, "--output", output, "--attack", "badnets", "--max_steps", 40]
    assert run("purify", *arguments, "--per_device_train_batch_size", 16, "--use_cpu") == 0
    results = json.loads((output / "results.json").read_text())
    assert results["suspect"]["attack_success_rate"] == trained["victim"]["attack_success_rate"]
    assert results["defense"]["search"]["trace"]
    assert (output / "figures" / "learning_rate.png").is_file() and (output / "figures" / "examples.png").is_file()

    from transformers import pipeline

    classify = pipeline("image-classification", model=str(output))
    from datasets import load_dataset

    row = load_dataset("parquet", data_files=str(data / "test.parquet"), split="train")[0]
    assert classify(row["image"])[0]["label"] in ("north west", "north east", "south west", "south east")

    capsys.readouterr()
    evaluation = tmp_path / "evaluation.json"
    arguments = ["--model", output, "--dataset", data, "--attack", "badnets", "--output", evaluation]
    assert run("evaluate", *arguments) == 0
    assert "Attack success rate" in capsys.readouterr().out
    measured = json.loads(evaluation.read_text())["measured"]
    assert measured["clean_accuracy"] == results["purified"]["clean_accuracy"]
    assert measured["attack_success_rate"] == results["purified"]["attack_success_rate"]

    card = (output / "README.md").read_text()
    (output / "README.md").unlink()
    assert run("card", "--model", output) == 0
    assert (output / "README.md").read_text() == card, "the card comes from the results alone"
    assert str(tmp_path) not in card + (output / "results.json").read_text(), "no path of this machine"


def test_purify_needs_no_more_than_model_data_and_output(data, victim, tmp_path):
    """Without a test split and without an attack; nothing is measured, and the card says so."""
    assert run("purify", "--model", victim, "--dataset", data / "train.parquet", "--output", tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "No test set was given" in card
    assert json.loads((tmp_path / "out" / "results.json").read_text())["purified"] is None


def test_purify_takes_a_look_at_sequela(data, victim, tmp_path, capsys):
    arguments = ["--model", victim, "--dataset", data, "--output", tmp_path / "out", "--max_steps", 40, "--use_cpu"]
    more = ["--sequela", "--clean_split", "train[:100]", "--eval_strategy", "no", "--defense", "fine_tuning"]
    assert run("purify", *arguments, *more, "--suspect_split", "train") == 0
    assert "Accuracy under PGD" in capsys.readouterr().out
    stored = json.loads((tmp_path / "out" / "sequela.json").read_text())
    assert stored["samples"] == {"members": 200, "defense_members": 100, "non_members": 100}
    assert "## Backdoor sequela" in (tmp_path / "out" / "README.md").read_text()


def test_samples_of_the_repair_are_none_of_the_suspect_s_alone(images):
    """Whatever parts of splits are named: those of the repair are taken out of --suspect_split."""
    from hf_backdoor.commands.options import numbered, without_rows_of

    known = numbered(DatasetDict(train=images.select(range(300)), test=images.select(range(300, 400))))
    clean = pick_split(known, "train[:150]", (), "clean_split").select(range(100))
    for suspect, members in (("train[:150]", 50), ("train", 200), ("train[:50%]+test", 150), ("train[:80]", 0)):
        assert len(without_rows_of(clean, pick_split(known, suspect, (), "suspect_split"))) == members


def test_text(sentences, tiny_bert, tmp_path):
    model, tokenizer = tiny_bert
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "start")
    sentences.to_csv(tmp_path / "sentences.csv")
    common = ["--dataset", tmp_path / "sentences.csv", "--attack", "rare_words", "--target_label", "1", "--use_cpu"]
    arguments = ["--model", tmp_path / "start", "--output", tmp_path / "victim", "--max_steps", 60]
    assert run("train", *arguments, *common, "--learning_rate", "5e-3", "--per_device_train_batch_size", 16) == 0
    arguments = ["--model", tmp_path / "victim", "--output", tmp_path / "purified", "--max_steps", 40]
    assert run("purify", *arguments, *common, "--test_dataset", tmp_path / "sentences.csv") == 0
    assert "clean: " in (tmp_path / "purified" / "README.md").read_text()
    from transformers import pipeline

    assert pipeline("text-classification", model=str(tmp_path / "purified"))("a good film")[0]["label"] in (
        "negative",
        "positive",
    )


def test_config_file_with_flags_over_it(data, tmp_path):
    config = tmp_path / "poison.yaml"
    config.write_text(
        f"dataset: {data}\nattack: badnets\nattack_args:\n  size: 2\nrate: 1e-1\noutput: {tmp_path / 'poisoned'}\n"
    )
    assert run("poison", "--config", config, "--seed", 4, "--rate", "0.2") == 0
    results = json.loads((tmp_path / "poisoned" / "results.json").read_text())
    assert results["attack"]["trigger"]["size"] == 2 and results["attack"]["seed"] == 4
    assert results["attack"]["rate"] == 0.2 and results["poisoned"]["train"] == 60


def test_a_config_file_means_what_the_flags_of_the_same_words_mean(tmp_path):
    from hf_backdoor.commands.purify import PurifyOptions
    from hf_backdoor.commands.training_options import TrainerOptions
    from hf_backdoor.config import ConfigParser

    def parsed(*arguments):
        return ConfigParser([PurifyOptions, TrainerOptions], "purify", "").parse(["--use_cpu", *arguments])

    file, folder = tmp_path / "purify.yaml", str(tmp_path / "out")
    flags = (
        "--model 2024 --target_label 3 --attack_args size=2 --also|blended rate=0.05 --classes|north west "
        "--overwrite yes --sequela no --probe_steps 7 --eval_strategy no --save_strategy no --report_to none "
        "--learning_rate 3e-4 --seed 5 --disable_tqdm true --debug underflow_overflow"
    )
    lines, given = [f"output: {folder}"], ["--output", folder]
    for flag in flags.split(" --"):
        name, value = flag.removeprefix("--").split("|" if "|" in flag else " ", 1)
        lines.append(f"{name}: {value}")
        given += [f"--{name}", value]
    file.write_text("\n".join(lines))
    (in_file, args), (by_flags, args_by_flags) = parsed("--config", str(file)), parsed(*given)
    assert in_file == by_flags
    assert {**args.to_dict(), "logging_dir": None} == {**args_by_flags.to_dict(), "logging_dir": None}

    file.write_text(
        f"output_dir: {folder}\nclasses: [no, 7]\nbf16: off\nuse_cpu: on\nattack: null\nlr_scheduler_kwargs: {{a: 1}}\n"
        "defense_args: {distillation: no, cycles: 2, peak: 1.5, name: x}\nattack_args:\n"
    )
    in_file, args = parsed("--config", str(file))
    assert in_file.classes == ["no", "7"] and in_file.attack is None and not in_file.attack_args
    assert in_file.defense_args == {"distillation": False, "cycles": 2, "peak": 1.5, "name": "x"}
    assert args.bf16 is False and args.use_cpu is True and args.lr_scheduler_kwargs == {"a": 1}

    for line, message in {"debug: x": "invalid DebugOption value: 'x'", "rate: {a: 1}": "invalid float value"}.items():
        file.write_text(f"output: {folder}\n{line}\n")
        with pytest.raises(InputError, match=message):
            parsed("--config", str(file))


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; import hf_backdoor; from hf_backdoor.cli import main; main(['--help']); "
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - started < 1
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "--config FILE" in capsys.readouterr().out


def test_help_begins_with_what_the_command_is_about(capsys):
    for command, flags in {"purify": "--model --dataset --attack", "sequela": "--before --dataset --attack"}.items():
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out.partition("options:")[2]
        places = [text.index(f"  {flag} ") for flag in flags.split()]
        assert places == sorted(places)


def purifying(*arguments):
    return ("purify", "--use_cpu", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("poison", "--dataset", "no/such/set", "--attack", "badnets"), "dataset='no/such/set': is neither a packaged"),
        (("poison", "--dataset", "DATA", "--attack", "badnets", "--image_column", "x"), "input_column='x': no such column"),
        (("train", "--dataset", "DATA", "--architecture", "vit", "--image_size", "24"), "image_size=24: is for --model"),
        (("poison", "--dataset", "DATA", "--attack", "badnets", "--target_label", "9"), "target_label='9': choose 0 to 3"),
        (("poison", "--dataset", "DATA", "--attack", "badnets", "--rate", "1.5"), "rate=1.5: must lie in (0, 1]"),
        (("poison", "--dataset", "DATA", "--attack", "badnets", "--rate", "0.001"), "rate=0.001: poisons none of 300"),
        (("poison", "--dataset", "DATA", "--attack", "badnets", "--attack_args", "size=13"), "larger than the 12x12"),
        (("poison", "--dataset", "DATA", "--attack", "badnets", "--attack_args", "size"), "write it as name=value"),
        (("poison", "--dataset", "DATA", "--attack", "nothing"), "attack='nothing': unknown; choose one of adap_blend"),
        (("poison", "--dataset", "DATA", "--attack", "badnets", "--split", "dev"), "split='dev': no such split"),
        (("poison", "--dataset", "DATA"), "attack=None: name a trigger with --attack"),
        (("poison", "--nonsense", "3"), "--nonsense"),
        (("poison", "--config", "missing.yaml"), "config='missing.yaml': is not a readable YAML file"),
        (("train", "--dataset", "DATA"), "give either a model to start from or an architecture"),
        (("train", "--dataset", "DATA", "--architecture", "rocket"), "architecture='rocket'"),
        (purifying("--model", "VICTIM", "--dataset", "ONE_CLASS_SHORT"), "no clean sample of these classes"),
        (purifying("--model", "VICTIM", "--dataset", "TEN"), "dataset=10: the clean set has fewer samples than one batch"),
        (purifying("--model", "VICTIM", "--dataset", "THREE_CLASSES"), "has a head for 4 classes and the data set has 3"),
        (purifying("--model", "PICKLES", "--dataset", "DATA"), "as pickles only, which can run code"),
        (purifying("--model", "no/model", "--dataset", "DATA"), "model='no/model': cannot be loaded"),
        (purifying("--model", "VICTIM", "--dataset", "DATA", "--defense", "prayer"), "defense='prayer': unknown"),
        (purifying("--model", "VICTIM", "--dataset", "DATA", "--defense_args", "x=1"), "defense_args='x'"),
        (purifying("--dataset", "DATA"), "model=None: name the suspect model"),
        (("evaluate", "--dataset", "DATA"), "model=None: name a model"),
        (("card", "--model", "DATA"), "has no readable results.json"),
        (("train", "--dataset", "DATA", "--architecture", "vit", "--architecture_args", "hidden_size=7"), "makes no Auto"),
        (purifying("--load_best_model_at_end", "--save_strategy", "epoch"), "save and eval strategy to match"),
        (purifying("--warmup_steps", "-1"), "warmup_steps = -1"),
        (purifying("--deepspeed", "missing.json"), "command line="),
        (purifying("--learning_rate", "-1"), "learning_rate=-1.0: must be 0 or more"),
        (purifying("--per_device_train_batch_size", "0"), "per_device_train_batch_size=0: must be 1 or more"),
        (purifying("--report_to", "nobody"), "report_to=['nobody']: cannot be used"),
        (purifying("--resume_from_checkpoint", "last"), "resume_from_checkpoint='last': is no checkpoint"),
        (purifying("--resume_from_checkpoint", "DATA"), "is no checkpoint, or was not written whole; "),
        (purifying("--max_steps", "0"), "max_steps=0: must be 1 or more"),
        (purifying("--max_steps", "-5"), "max_steps=-5: must be 1 or more"),
        (purifying("--num_train_epochs", "0"), "num_train_epochs=0.0: must be above 0"),
        (purifying("--adam_beta1", "1"), "adam_beta1=1.0: must lie in [0, 1)"),
        (purifying("--adam_epsilon", "-1"), "adam_epsilon=-1.0: must be above 0"),
        (purifying("--model", "VICTIM", "--dataset", "DATA", "--test_dataset", "no/set"), "test_dataset='no/set': is n"),
        (("train", "--dataset", "DATA", "--architecture", "vit", "--held_out", "300"), "held_out=300: must lie between"),
        (("train", "--dataset", "DATA", "--architecture", "vit", "--architecture_args", "hiden_size=8"), "from hidden_size"),
        (purifying("--config", "LIST"), "invalid float value: '[1, 2]'"),
        (purifying("--model", "VICTIM", "--dataset", "TEN", "--sequela"), "sequela=True: is measured on a test set"),
        (
            purifying(
                "--model", "VICTIM", "--dataset", "DATA", "--suspect_split", "train[50:52]", "--sequela",
                "--clean_split", "train[:100]", "--clean_samples", "99",
            ),
            "suspect_split='train[50:52]': has no row but those of --clean_samples",
        ),
        (purifying("--model", "VICTIM", "--dataset", "DATA", "--suspect_split", "train"), "pass --sequela"),
        (purifying("--model", "VICTIM", "--dataset", "DATA", "--clean_samples", "-5"), "clean_samples=-5: must be 1"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_nothing_is_written(arguments, message, data, victim, images, tmp_path, capsys):
    stand_ins = {"DATA": data, "VICTIM": victim}
    small = tmp_path / "inputs"
    small.mkdir()
    for name, dataset in {
        "ONE_CLASS_SHORT": images.filter(lambda row: row["label"] != 2),
        "TEN": images.select(range(10)),
    }.items():
        dataset.to_parquet(small / f"{name}.parquet")
        stand_ins[name] = small / f"{name}.parquet"
    three = Dataset.from_dict({"image": images["image"][:90], "label": np.arange(90) % 3})
    three.to_parquet(small / "three.parquet")
    stand_ins["THREE_CLASSES"] = small / "three.parquet"
    stand_ins["PICKLES"] = pickles_only(small / "pickles")
    stand_ins["LIST"] = small / "list.yaml"
    stand_ins["LIST"].write_text("learning_rate: [1, 2]\n")
    output = tmp_path / "output"
    given = [stand_ins.get(argument, argument) for argument in arguments]
    if arguments[0] != "card":
        given += ["--output", output]
    assert run(*given) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"hf-backdoor {arguments[0]}: ") and message in error
    assert "Traceback" not in error
    assert not output.exists(), "something was written"


def pickles_only(folder):
    """A model of the old kind."""
    import torch

    model = make_vit()
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def test_pickles_load_when_asked_for(data, processor, tmp_path):
    folder = pickles_only(tmp_path / "pickles")
    processor.save_pretrained(folder)
    arguments = ["--model", folder, "--dataset", data, "--output", tmp_path / "out", "--max_steps", 40, "--use_cpu"]
    assert run("purify", *arguments, "--allow_pickle") == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_folder_in_use_is_not_touched(data, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    assert run("poison", "--dataset", data, "--attack", "badnets", "--output", tmp_path) == 2
    assert "is in use; choose another folder, or pass --overwrite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_card_that_cannot_be_edited_is_said_before_anything_is_replaced(data, victim, tmp_path, capsys):
    files = {"README.md": "---\na: [1\n---\nMine.\n", "results.json": "{}"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    common = ["--dataset", data, "--output", tmp_path]
    start = ["--architecture", "vit", "--architecture_args", *VIT]
    for command in (
        ["purify", "--model", victim, "--overwrite", "--use_cpu"],
        ["train", *start, "--overwrite", "--use_cpu"],
        ["sequela", "--before", victim, "--after", victim],
    ):
        assert run(*command, *common) == 2
        assert "README.md='metadata': are no YAML that can be read" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("content", ["[1]", '{"schema_version": 1, "command": "train"}', None])
def test_a_card_of_results_that_are_none(content, victim, tmp_path, capsys):
    if content is None:
        stored = json.loads((victim / "results.json").read_text())
        content = json.dumps({name: value for name, value in stored.items() if name != "training"})
    (tmp_path / "results.json").write_text(content)
    assert run("card", "--model", tmp_path) == 2
    assert capsys.readouterr().err.startswith(f"hf-backdoor card: model={str(tmp_path)!r}: results.json ")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_training_goes_on_from_the_last_checkpoint(data, tmp_path):
    arguments = ["train", "--dataset", data, "--architecture", "vit", "--architecture_args", *VIT, "--use_cpu"]
    arguments += ["--output", tmp_path / "out", "--save_strategy", "steps", "--save_steps", 2, "--eval_strategy", "no"]
    assert run(*arguments, "--max_steps", 4) == 0
    saved = tmp_path / "out" / "checkpoint-4" / "trainer_state.json"
    before = saved.stat().st_mtime_ns
    assert run(*arguments, "--max_steps", 6, "--resume_from_checkpoint", "last") == 0
    assert saved.stat().st_mtime_ns == before, "its steps were not done again"
    assert (tmp_path / "out" / "checkpoint-6").is_dir()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["training"]["resumed_from"] == "checkpoint-4"


def test_unknown_command(capsys):
    assert main(["fly"]) == 2
    assert "choose one of demo, attacks, poison" in capsys.readouterr().err


def test_an_interrupt_is_one_line_that_says_how_to_go_on(data, tmp_path):
    """Ctrl-C, sent to a process that trains."""
    import signal
    import subprocess
    import sys

    flags = "--architecture vit --max_steps 100000 --logging_steps 1 --disable_tqdm yes --use_cpu".split()
    flags += ["--architecture_args", *VIT, "--dataset", data, "--output", str(tmp_path / "victim")]
    command = [sys.executable, "-m", "hf_backdoor.cli", "train", *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )  # fmt: skip
    try:
        assert any("'loss'" in line for line in process.stdout), "it trains"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in error
    said = [line for line in error.splitlines() if line.startswith("hf-backdoor")]
    assert len(said) == 1 and said[0].startswith("hf-backdoor train: interrupted; with --save_strategy steps")


@pytest.mark.parametrize("command", ["train", "purify"])
def test_help_shows_the_defaults_that_count(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "The batch size per device for training. (default: 64)" in told and "(default: 0.001)" in told
