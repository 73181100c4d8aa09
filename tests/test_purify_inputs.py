"""What `purify` is given: suspects as objects and from the Hub, defences of others, settings, and names for the card."""

import json
import re
import shutil
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from conftest import make_vit, same_weights
from datasets import Dataset, NamedSplit
from hub_server import HubServer, Repo, in_child
from transformers import AutoModelForImageClassification

from hf_backdoor import BackdoorTrainer, InputError, load_defense, purify
from hf_backdoor.cards.metadata import read_metadata
from hf_backdoor.config import ConfigParser
from hf_backdoor.defenses import Defense
from hf_backdoor.purification import default_arguments


def quick(tmp_path, **settings):
    defaults = {"max_steps": 3, "per_device_train_batch_size": 16, "use_cpu": True, "eval_strategy": "no"}
    return default_arguments(load_defense("fine_tuning"), tmp_path / "run", **defaults | settings)


def test_a_suspect_in_half_precision_is_trained_like_its_folder(images, processor, tmp_path):
    half = make_vit().half()
    half.save_pretrained(tmp_path / "half")
    given = {"processing_class": processor, "defense": "fine_tuning", "args": quick(tmp_path)}
    by_object, by_path = (purify(model, images, **given).model for model in (half, tmp_path / "half"))
    assert by_object.dtype == torch.float32 and same_weights(by_object, by_path)
    assert half.dtype == torch.float16, "the user's is untouched"


def test_a_tokenizer_is_saved_as_it_came(sentences, tiny_bert, tmp_path):
    """Else `tokenizers`, and whatever else reads the file alone, would cut and pad texts."""
    model, tokenizer = tiny_bert
    before = tokenizer.backend_tokenizer.to_str()
    given = {"processing_class": tokenizer, "defense": "fine_tuning", "args": quick(tmp_path)}
    purify(model, sentences, output_dir=tmp_path / "out", test_dataset=sentences, **given)
    saved = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert saved["truncation"] is None and saved["padding"] is None
    assert tokenizer.backend_tokenizer.to_str() == before, "the user's is untouched"


@dataclass(frozen=True)
class Untitled(Defense):
    paper: ClassVar[str] = "https://arxiv.org/abs/2212.09067"


@dataclass(frozen=True)
class OfASet(Defense):
    title: ClassVar[str] = "Of a set"
    paper: ClassVar[str] = "https://arxiv.org/abs/2212.09067"

    rates: Any = None


@pytest.mark.parametrize(
    ("defense", "message"),
    [(Untitled(), "Untitled'.* has no title"), (OfASet({1e-3, 1e-4}), "OfASet'.* settings that no JSON can")],
)
def test_a_defense_that_cannot_be_written_down_is_refused_before_it_trains(
    defense, message, images, processor, tmp_path
):
    args = quick(tmp_path, max_steps=2)
    with pytest.raises(InputError, match=message):
        purify(make_vit(), images, processing_class=processor, defense=defense, args=args, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"attack": "badnets"}, "attack='badnets': is no PoisonConfig"),
        ({"defense": None}, "defense=None: is no Defense"),
        ({"args": {"max_steps": 3}}, "args={'max_steps': 3}: is no TrainingArguments"),
        ({"peft_config": {"r": 2}}, "peft_config={'r': 2}: is no name, PeftConfig or Tuning"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_before_anything(wrong, message, images, processor, tmp_path):
    given = {"args": quick(tmp_path), "defense": "fine_tuning", "test_dataset": images, "processing_class": processor}
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        purify(make_vit(), images, output_dir=tmp_path / "out", **given | wrong)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_gone_is_not_taken_for_a_hub_id(images, processor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_vit().save_pretrained("runs/victim")
    model = AutoModelForImageClassification.from_pretrained("runs/victim")
    shutil.rmtree("runs")
    given = {"defense": "fine_tuning", "args": quick(tmp_path), "processing_class": processor}
    for commit, suspect, base in ((None, "victim", None), ("0" * 40, "runs/victim", "runs/victim")):
        model.config._commit_hash = commit  # as of a model that came from the Hub
        result = purify(model, images, output_dir=tmp_path / "out", overwrite=True, **given)
        assert result.results["suspect_model"] == suspect
        assert read_metadata((tmp_path / "out" / "README.md").read_text()).get("base_model") == base


def test_smoothed_labels_are_refused_where_they_do_nothing(images, processor, tmp_path):
    args = quick(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(InputError, match="label_smoothing_factor=0.1: has no effect.*distillation=false"):
        purify(make_vit(), images, processing_class=processor, args=args)
    plain = load_defense("super_fine_tuning", distillation=False).trainer_class()
    assert plain is BackdoorTrainer and plain(make_vit(), args, train_dataset=images, processing_class=processor)


def test_epochs_that_the_user_gives_are_not_outdone_by_default_steps(tmp_path):
    from hf_backdoor.commands.training_options import TrainerOptions

    (tmp_path / "epochs.yaml").write_text("num_train_epochs: 2\n")
    epochs = ["--num_train_epochs", "3"]  # which is the Trainer's own default
    for given, steps in (
        ([], 1000),
        (epochs, -1),
        (["--config", str(tmp_path / "epochs.yaml")], -1),
        ([*epochs, "--max_steps", "7"], 7),
    ):
        parser = ConfigParser([TrainerOptions], "hf-backdoor purify", "")
        (args,) = parser.parse(["--output", str(tmp_path), *given], lambda given: {"max_steps": 1000})
        assert args.max_steps == steps


def test_the_card_names_the_data_that_were_measured_on(images, processor, tmp_path):
    test = Dataset.from_dict(images[:40], features=images.features, split=NamedSplit("validation"))
    given = {"processing_class": processor, "defense": "fine_tuning", "args": quick(tmp_path), "data_name": "own"}
    elsewhere = purify(make_vit(), images, test_dataset=test, test_name="org/other", output_dir=tmp_path / "a", **given)
    assert elsewhere.results["data"] == {"name": "own", "test_name": "org/other", "test_split": "validation"}
    (evaluation,) = read_metadata((tmp_path / "a" / "README.md").read_text())["model-index"][0]["results"]
    assert evaluation["dataset"] == {"name": "org/other", "type": "org/other", "split": "validation"}
    assert elsewhere.results["clean_data"]["input_column"] == "image"
    assert elsewhere.results["clean_data"]["label_column"] == "label"

    beside = purify(make_vit(), images, test_dataset=images, output_dir=tmp_path / "b", **given)
    assert beside.results["data"] == {"name": "own", "test_name": "own", "test_split": None}
    assert purify(make_vit(), images, **given).results["data"]["test_name"] is None


def child_take_revisions(folder, of_model, of_adapter):
    """The commits in the results of a model and of an adapter, each at a revision."""
    from pathlib import Path

    from hf_backdoor.cli import main

    folder = Path(folder)
    data, output = str(folder / "images.parquet"), str(folder / "evaluation.json")
    given = {"defense": "fine_tuning", "args": quick(folder, max_steps=1)}
    pinned = {"user/model": of_model, "user/adapter": of_adapter}
    found = [purify(name, data, revision=oid, **given).results["suspect_revision"] for name, oid in pinned.items()]
    evaluate = ["evaluate", "--model", "user/model", "--dataset", data, "--split", "train", "--output", output]
    assert main([*evaluate, "--revision", of_model]) == 0
    return [*found, json.loads(Path(output).read_text())["model_revision"]]


def test_a_suspect_is_taken_from_a_revision_of_the_hub(images, processor, tmp_path):
    """Model, processor and adapter; what is on `main` since then would not do. The base of the adapter has its own."""
    from peft import LoraConfig, get_peft_model

    images.select(range(40)).to_parquet(tmp_path / "images.parquet")

    def commit(repo, folder):
        return repo.commit("main", "Model", {file.name: file.read_bytes() for file in folder.iterdir()}).oid

    model, adapter = Repo("model", "user/model"), Repo("model", "user/adapter")
    make_vit().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    of_model = commit(model, tmp_path / "model")
    make_vit(classes=("a", "b")).save_pretrained(tmp_path / "other")
    commit(model, tmp_path / "other")
    config = LoraConfig(target_modules=["q_proj"], revision=of_model)
    adapted = get_peft_model(make_vit(), config)
    adapted.peft_config["default"].base_model_name_or_path = "user/model"
    adapted.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    of_adapter = commit(adapter, tmp_path / "adapter")
    adapter.commit("main", "Emptied", {"README.md": b"# Gone"})
    with HubServer() as hub:
        hub.repos |= {repo.id: repo for repo in (model, adapter)}
        environment = hub.environment(tmp_path / "home")
        found = in_child(environment, tmp_path, child_take_revisions, tmp_path, of_model, of_adapter)
    assert found == [of_model, of_adapter, of_model]
    with pytest.raises(InputError, match="revision='main': is for a model on the Hub"):
        purify(tmp_path / "model", images, revision="main")
