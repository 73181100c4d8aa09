"""Every attack by its name: listed, drawn, and able to poison a data set from the command line."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset

from hf_backdoor import InputError, PoisonConfig, from_arrays, load_attack, load_trigger, plugins
from hf_backdoor.attacks import attack_names
from hf_backdoor.catalog import catalog
from hf_backdoor.cli import main
from hf_backdoor.triggers import trigger_names


ENTRIES = {entry.name: entry for entry in catalog()}
FOR_12_PIXELS = {"sig": "f=3", "caption_poisoning": "size=2"}
NEED_MODEL, NEED_TRAINING = {"label_consistent", "trojan_nn"}, {"input_aware", "lira"}


@pytest.fixture(scope="module")
def folders(images, sentences, processor, tmp_path_factory):
    from conftest import make_vit

    folder = tmp_path_factory.mktemp("data")
    images.to_parquet(folder / "image.parquet")
    sentences.to_parquet(folder / "text.parquet")
    make_vit().save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder


@pytest.mark.parametrize("name", attack_names())
def test_every_attack_poisons_a_data_set(name, folders, tmp_path, capsys):
    entry = ENTRIES[name]
    data = folders / f"{'text' if entry.modality == 'text' else 'image'}.parquet"
    arguments = ["poison", "--dataset", str(data), "--attack", name, "--output", str(tmp_path / "out")]
    if name in NEED_MODEL:
        arguments += ["--attack_args", f"model={folders / 'model'}", "steps=2"]
    elif name in FOR_12_PIXELS:
        arguments += ["--attack_args", FOR_12_PIXELS[name]]
    code = main(arguments)
    if name in NEED_TRAINING:
        assert code == 2 and "hf-backdoor train --attack" in capsys.readouterr().err
        assert not (tmp_path / "out").exists(), "nothing is left half-written"
        return
    assert code == 0
    poisoned = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    stored = json.loads((tmp_path / "out" / "poison.json").read_text())
    assert sum(poisoned["is_poisoned"]) == round(stored["rate"] * len(poisoned)) > 0
    assert sum(poisoned["is_cover"]) == round(stored["cover_rate"] * len(poisoned))
    column = "text" if "text" in poisoned.features else "image"
    clean = load_dataset("parquet", data_files=str(data), cache_dir=str(tmp_path / "cache"))["train"]
    pairs = zip(poisoned, clean, strict=True)
    changed = [row[column] != before[column] for row, before in pairs]
    touched = [a or b for a, b in zip(poisoned["is_poisoned"], poisoned["is_cover"], strict=True)]
    # A trigger may leave some inputs as they are (a bright patch on a bright spot), and never changes another.
    assert all(touched[row] for row, change in enumerate(changed) if change)
    assert sum(changed) >= 0.8 * sum(poisoned["is_poisoned"])


def test_the_list_names_every_attack_with_its_paper(capsys):
    assert main(["attacks"]) == 0
    text = capsys.readouterr().out
    for name, entry in ENTRIES.items():
        assert re.search(rf"^{name}: {re.escape(entry.title)}, {entry.modality}, changes data", text, re.M)
        assert entry.title and entry.paper.startswith("https://") and entry.paper in text
    assert set(ENTRIES) == set(attack_names()) >= set(trigger_names())


def test_the_gallery_shows_every_attack(tmp_path):
    page = tmp_path / "gallery"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    from_arrays(pixels, [0, 1]).to_parquet(tmp_path / "pictures.parquet")
    arguments = ["attacks", "--gallery", str(page), "--dataset", str(tmp_path / "pictures.parquet")]
    assert main(arguments) == 0
    text = (page / "README.md").read_text()
    for name, entry in ENTRIES.items():
        section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        if name in NEED_MODEL | NEED_TRAINING:
            assert "Not shown:" in section
        elif entry.trigger.modality == "image":
            assert f"({name}.png)" in section and (page / f"{name}.png").stat().st_size > 1000
        else:
            assert "| clean | triggered |" in section
    assert not re.search(r"\{\{|\}\}|/tmp/", text.split("Of an image:")[1])


def test_settings_go_to_the_attack_or_to_its_trigger():
    how, trigger = load_attack("sbl", strength=3.0, trigger="blended", ratio=0.3)
    assert how.strength == 3.0 and trigger == load_trigger("blended", ratio=0.3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--names", "badnet"], "names='badnet': unknown; choose from"),
        (["--modality", "sound"], "choose image or text"),
        (["--gallery", "x", "--dataset", "fashion_mnist_mini", "--row", "99999"], "has the rows 0 to 9999"),
    ],
)
def test_bad_choices_are_explained(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["attacks", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_no_folder_of_this_machine_leaves_it(folders, tmp_path):
    model = folders / "model"
    arguments = ["poison", "--dataset", str(folders / "image.parquet"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--attack", "trojan_nn", "--attack_args", f"model={model}", "steps=2"]) == 0
    for name in ("README.md", "poison.json", "results.json"):
        text = (tmp_path / "out" / name).read_text()
        assert str(folders) not in text and "model" in text


@pytest.fixture(scope="module")
def poisoned_folder(folders):
    arguments = ["poison", "--dataset", str(folders / "image.parquet"), "--output", str(folders / "poisoned")]
    assert main([*arguments, "--attack", "badnets", "--attack_args", "size=2", "--target_label", "south east"]) == 0
    return folders / "poisoned"


def test_an_attack_is_taken_from_a_folder_with_all_its_settings(folders, poisoned_folder, tmp_path):
    arguments = ["poison", "--dataset", str(folders / "image.parquet"), "--output", str(tmp_path / "again")]
    assert main([*arguments, "--attack_from", str(poisoned_folder)]) == 0
    first, second = (
        json.loads((folder / "poison.json").read_text()) for folder in (poisoned_folder, tmp_path / "again")
    )
    assert first == second and second["target_label"] == 3


def test_what_an_attack_is_taken_from_is_checked(folders, poisoned_folder, tmp_path, capsys):
    poison = ["poison", "--dataset", str(folders / "image.parquet"), "--output", str(tmp_path / "out")]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "poison.json").write_text('{"trigger": ')
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "poison.json").write_text('{"trigger": 3}')
    nothing = {"list": [], "listed": {"attack": []}, "untrained": {"attack": {"training": None}}}
    for name, results in nothing.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    victim = json.loads((poisoned_folder / "poison.json").read_text()) | {"training": {"name": "sbl"}}
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "results.json").write_text(json.dumps({"attack": victim}))
    train = ["train", "--dataset", str(folders / "image.parquet"), "--model", str(folders / "model")]
    for arguments, message in (
        ([*poison, "--attack_from", str(poisoned_folder), "--rate", "0.2"], "rate=0.2: is part of the attack"),
        ([*poison, "--attack_from", str(tmp_path)], "has no results.json or poison.json that tells of an attack"),
        ([*poison, "--attack_from", str(tmp_path / "broken")], "cannot be read"),
        ([*poison, "--attack_from", str(tmp_path / "strange")], "holds no attack that can be read"),
        *(([*poison, "--attack_from", str(tmp_path / name)], "tells of no attack") for name in nothing),
        ([*train, "--output", str(tmp_path / "out"), "--attack_from", str(tmp_path / "victim")], "give --attack sbl"),
        ([*poison, "--attack", "badnets", "--also", "blended rate='0.1"], "write a name and settings"),
        ([*poison, "--attack", "badnets", "--also", "blended rate=high"], "rate='high': must be a number"),
        (["attacks", "--gallery", str(poisoned_folder)], "is in use; choose another folder"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_file_does_not_choose_what_code_is_imported(folders, poisoned_folder, tmp_path, capsys, monkeypatch):
    """An attack of one's own works where one names it oneself, on the command line or by an import."""
    code = "import hf_backdoor.triggers.badnets as badnets\n\n\nclass Mine(badnets.BadNets):\n    pass\n"
    (tmp_path / "stranger.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    stored = json.loads((poisoned_folder / "poison.json").read_text())
    stored["trigger"]["name"] = "stranger:Mine"
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "poison.json").write_text(json.dumps(stored))
    poison = ["poison", "--dataset", str(folders / "image.parquet"), "--output", str(tmp_path / "out")]
    assert main([*poison, "--attack_from", str(tmp_path / "strange")]) == 2
    assert "--attack stranger:Mine" in capsys.readouterr().err
    assert "stranger" not in sys.modules and not (tmp_path / "out").exists()
    stored["trigger"]["name"], stored["sampler"]["name"] = "badnets", "stranger:Mine"
    with pytest.raises(InputError, match="--sampler stranger:Mine"):
        PoisonConfig.from_dict(stored)

    assert main([*poison, "--attack", "stranger:Mine"]) == 0
    assert main([*poison, "--attack_from", str(tmp_path / "out"), "--overwrite"]) == 0, "it has been imported"
    monkeypatch.delitem(sys.modules, "stranger")


def test_a_strangers_attack_takes_no_picture_from_elsewhere_on_this_machine(folders, tmp_path, capsys):
    """It would be copied to what is poisoned, and pushed."""
    from PIL import Image

    picture, stranger = tmp_path / "holiday.png", tmp_path / "strange"
    Image.fromarray(np.zeros((12, 12), np.uint8)).save(picture)
    poison = ["poison", "--dataset", str(folders / "image.parquet"), "--output"]
    options = ["--attack", "blended", "--attack_args", f"pattern={picture}"]
    assert main([*poison, str(stranger), *options]) == 0
    for name in ("poison.json", "results.json"):
        stored = (stranger / name).read_text()
        (stranger / name).write_text(stored.replace("trigger_0_pattern.png", str(picture)))
    (stranger / "trigger_0_pattern.png").unlink()
    assert main([*poison, str(tmp_path / "leak"), "--attack_from", str(stranger)]) == 2
    assert "holiday.png, which does not lie in it" in capsys.readouterr().err
    assert not (tmp_path / "leak").exists()
    (stranger / "holiday.png").symlink_to(picture)
    assert main([*poison, str(tmp_path / "leak"), "--attack_from", str(stranger)]) == 2
    assert not (tmp_path / "leak").exists()
    (stranger / "holiday.png").unlink()
    (stranger / "holiday.png").write_bytes(picture.read_bytes())
    assert main([*poison, str(tmp_path / "own"), "--attack_from", str(stranger)]) == 0


def test_an_attack_is_taken_from_the_cache_of_the_hub_whose_files_are_links(folders, tmp_path):
    from PIL import Image

    from hf_backdoor.commands.options import stored_attack

    Image.fromarray(np.zeros((12, 12), np.uint8)).save(tmp_path / "picture.png")
    options = ["--attack", "blended", "--attack_args", f"pattern={tmp_path / 'picture.png'}"]
    data = ["--dataset", str(folders / "image.parquet"), "--output", str(tmp_path / "data")]
    assert main(["poison", *data, *options]) == 0
    snapshot, blobs = tmp_path / "datasets--user--x" / "snapshots" / "0f1e", tmp_path / "datasets--user--x" / "blobs"
    snapshot.mkdir(parents=True)
    (tmp_path / "data").rename(blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", path.name))
    assert stored_attack(str(snapshot)).trigger.pattern == str(snapshot / "trigger_0_pattern.png")


def test_a_default_is_no_file_whatever_lies_where_one_works(folders, tmp_path, monkeypatch):
    from hf_backdoor.commands.options import stored_attack

    data = ["--dataset", str(folders / "image.parquet"), "--output", str(tmp_path / "data")]
    assert main(["poison", *data, "--attack", "blended"]) == 0
    (tmp_path / "noise").write_text("a file")
    (tmp_path / "data" / "noise").mkdir()
    monkeypatch.chdir(tmp_path)
    assert stored_attack("data").trigger.pattern == "noise"


def test_poisoning_anew_leaves_nothing_of_what_was_poisoned_before(images, tmp_path):
    from datasets import DatasetDict, load_dataset
    from PIL import Image

    from hf_backdoor import PoisonConfig, poison
    from hf_backdoor.publishing import save_poisoned

    Image.fromarray(np.zeros((12, 12), np.uint8)).save(tmp_path / "picture.png")
    both = DatasetDict(train=images.select(range(100)), test=images.select(range(100, 200)))
    blended = PoisonConfig(load_trigger("blended", pattern=str(tmp_path / "picture.png")), rate=0.1)
    save_poisoned(poison(both, blended), tmp_path / "out", blended)
    assert (tmp_path / "out" / "trigger_0_pattern.png").is_file()
    for name in ("mine.parquet", "more/train.parquet"):
        both["test"].to_parquet(tmp_path / "out" / name)
    (tmp_path / "out" / "trigger_notes.txt").write_text("of the user")
    (tmp_path / "out" / "trigger_0_pictures").mkdir()
    card = tmp_path / "out" / "README.md"
    columns = "dataset_info:\n- features:\n  - name: other\n    dtype: int64\n"
    added = f"{columns}configs:\n- config_name: more\n  data_dir: more\n"
    text = card.read_text().replace("tags:", "license: mit\ntags:").replace("configs:\n", added)
    text = text.replace("  data_files:\n", "  data_files:\n  - split: mine\n    path: mine.parquet\n")
    card.write_text(text + "\nMy notes.\n")

    badnets = PoisonConfig(load_trigger("badnets", size=3), rate=0.2)
    save_poisoned(poison(both["train"], badnets), tmp_path / "out", badnets)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    mine = {"mine.parquet", "more", "trigger_notes.txt", "trigger_0_pictures"}
    assert left == {"README.md", "poison.json", "train.parquet", *mine}
    text = card.read_text()
    assert "My notes." in text and "license: mit" in text and "blended" not in text and "test_triggered" not in text
    assert len(load_dataset(str(tmp_path / "out"), "more")["train"]) == 100 and "dataset_info" not in text
    loaded = load_dataset(str(tmp_path / "out"), "default")
    assert set(loaded) == {"train", "mine"} and sum(loaded["train"]["is_poisoned"]) == 20

    card.write_text(text.replace("license: mit", "license: ["))
    with pytest.raises(InputError, match="README.md"):
        save_poisoned(poison(both, badnets), tmp_path / "out", badnets)
    assert left == {path.name for path in (tmp_path / "out").iterdir()}, "nothing was written"


def test_a_picture_in_the_folder_that_is_poisoned_into_goes_where_the_data_go(folders, tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((12, 12), np.uint8)).save(tmp_path / "trigger_mine.png")
    options = ["--attack", "blended", "--attack_args", f"pattern={tmp_path / 'trigger_mine.png'}", "--overwrite"]
    assert main(["poison", "--dataset", str(folders / "image.parquet"), "--output", str(tmp_path), *options]) == 0
    assert json.loads((tmp_path / "poison.json").read_text())["trigger"]["pattern"] == "trigger_0_pattern.png"
    assert (tmp_path / "trigger_0_pattern.png").is_file() and (tmp_path / "trigger_mine.png").is_file()


def test_a_field_for_numbers_and_names_takes_both():
    value = plugins.build(type(load_trigger("badnets")), {"value": plugins.Typed("255")}, "attack_args").value
    assert value == 255
    assert (
        plugins.build(type(load_trigger("badnets")), {"value": plugins.Typed("noise")}, "attack_args").value == "noise"
    )


def test_settings_are_read_by_the_type_of_their_field(folders, tmp_path):
    arguments = ["poison", "--dataset", str(folders / "text.parquet"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--attack", "add_sentence", "--attack_args", "sentence=@home: 10"]) == 0
    stored = json.loads((tmp_path / "out" / "poison.json").read_text())
    assert stored["trigger"]["sentence"] == "@home: 10" and stored["trigger"]["seed"] == 0


def test_a_setting_of_a_training_is_no_setting_of_the_data(folders, tmp_path, capsys):
    arguments = ["poison", "--dataset", str(folders / "image.parquet"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--attack", "bad_encoder", "--attack_args", "lambda1=3"]) == 2
    assert "attack_args='lambda1': is for the training of bad_encoder" in capsys.readouterr().err


def test_the_list_says_which_attacks_need_a_model(capsys):
    assert main(["attacks", "--names", "trojan_nn", "label_consistent", "lira"]) == 0
    text = capsys.readouterr().out
    assert text.count("model='(required)'") == 2 and "weights" not in text


def test_a_picture_goes_along_with_what_was_made_with_it(images, processor, folders, arguments, tmp_path, monkeypatch):
    """A victim, a repaired model, and poisoned data; whatever lies in the folder that one works in, and under the
    attack's name.
    """
    from conftest import make_vit
    from PIL import Image

    from hf_backdoor import load_trigger, purify
    from hf_backdoor.commands.options import stored_attack
    from hf_backdoor.training import train_classifier

    picture = tmp_path / "config.json.png"
    Image.fromarray(np.arange(144, dtype=np.uint8).reshape(12, 12)).save(picture)
    trigger = load_trigger("blended", pattern=str(picture), ratio=0.5)
    config = PoisonConfig(
        trigger, also=(PoisonConfig(load_trigger("adap_blend", pattern=str(picture)), target_label=1),)
    )
    expected = trigger(np.zeros((1, 12, 12, 1), np.uint8), np.zeros(1, int))
    victim, repaired, data = tmp_path / "victim", tmp_path / "repaired", tmp_path / "data"
    args = arguments(output_dir=str(victim), max_steps=1)
    train_classifier(make_vit(), args, images, processing_class=processor, attack=config)
    purify(
        str(victim), images, output_dir=repaired, attack=config, test_dataset=images, defense="fine_tuning",
        args=arguments(output_dir=str(repaired), max_steps=1),
    )  # fmt: skip
    options = ["--attack", "blended", "--attack_args", f"pattern={picture}", "ratio=0.5"]
    assert main(["poison", "--dataset", str(folders / "image.parquet"), "--output", str(data), *options]) == 0
    picture.unlink()
    monkeypatch.chdir(tmp_path)
    (victim / "blended").mkdir()
    for folder in (victim, repaired, data):
        moved = folder.rename(tmp_path / f"moved-{folder.name}")
        stored = stored_attack(str(moved)).trigger
        assert (stored(np.zeros((1, 12, 12, 1), np.uint8), np.zeros(1, int)) == expected).all()
    assert stored_attack("moved-victim").also[0].trigger.pattern == "moved-victim/trigger_1_pattern.png"


def test_the_demo_goes_on_with_a_trigger_that_its_victim_has_learned(tmp_path, monkeypatch, capsys):
    """Its folder may be named in full. Here the demo has few images, and ends before the benign model."""
    from hf_backdoor import training
    from hf_backdoor.commands import demo

    whole = training.train_classifier

    def few(model, args, train, *, test_dataset, attack, poisoned, **given):
        if not poisoned:
            raise InputError("weights", attack.trigger.weights, "has arrived")
        test_dataset = test_dataset.select(range(20))
        return whole(model, args, train.select(range(64)), test_dataset=test_dataset, attack=attack, **given)

    monkeypatch.setattr(training, "train_classifier", few)
    monkeypatch.setattr(demo, "TRAINING", demo.TRAINING | {"num_train_epochs": 1})
    assert main(["demo", "--attack", "lira", "--output", str(tmp_path / "demo")]) == 2
    assert (
        f"weights={str(tmp_path / 'demo' / 'victim' / 'trigger.safetensors')!r}: has arrived" in capsys.readouterr().err
    )
