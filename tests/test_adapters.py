"""Adapters as suspects: loaded on their base model as safely as whole models, with the classes of their head."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import make_vit
from hub_server import HubServer, Repo
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from hf_backdoor import InputError
from hf_backdoor.data.columns import resolve_columns
from hf_backdoor.models import load_pretrained
from hf_backdoor.tasks import task_named
from hf_backdoor.tuning import is_adapter, load_tuning


PIXELS = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
IMAGES = "AutoModelForImageClassification"


def disturb(model):
    """Moves all trained weights, as training would."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def answers(model, **inputs):
    with torch.no_grad():
        return model.eval()(**inputs or {"pixel_values": PIXELS}).logits


@pytest.fixture
def base(tmp_path):
    """Folder of a small ViT for four classes."""
    make_vit().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(base, tmp_path):
    """Folder of an adapter on it, and what it says."""
    model = disturb(load_tuning("lora", r=2).apply(load_pretrained(IMAGES, str(base))))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", answers(model)


def edit(folder, **values):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "rora"])
def test_saved_and_loaded_is_in_memory(base, tmp_path, name):
    model = disturb(load_tuning(name).apply(load_pretrained(IMAGES, str(base))))
    model.save_pretrained(tmp_path / name)
    loaded = load_pretrained(IMAGES, str(tmp_path / name))
    assert is_adapter(loaded) and torch.equal(answers(model), answers(loaded))
    states = get_peft_model_state_dict(model), get_peft_model_state_dict(loaded)
    assert states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )
    trained = [{key for key, weight in some.named_parameters() if weight.requires_grad} for some in (model, loaded)]
    assert trained[0] == trained[1] != set(), "it goes on training"
    assert [loaded.config.id2label[n] for n in range(4)] == ["north west", "north east", "south west", "south east"]


def test_running_statistics_are_saved_with_the_adapter(tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4)
    torch.manual_seed(0)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "base")
    model = load_tuning("lora").apply(load_pretrained(IMAGES, str(tmp_path / "base")))
    first = answers(model)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(3):
        model.train()(pixel_values=PIXELS, labels=torch.arange(3)).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path / "adapter")
    told = answers(model)
    assert not torch.allclose(first, told)
    assert torch.equal(told, answers(load_pretrained(IMAGES, str(tmp_path / "adapter"))))


@pytest.fixture
def text_adapter(tmp_path):
    """Folder of an adapter with three classes on a model that was made to fill in words."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    BertForMaskedLM(config).save_pretrained(tmp_path / "words")
    start = load_pretrained("AutoModelForSequenceClassification", str(tmp_path / "words"), num_labels=3)
    model = disturb(load_tuning("lora").apply(start))
    model.save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier", model


def test_the_classes_are_counted_at_the_head_or_read_beside_it(text_adapter):
    """And a base without a head is no obstacle, where the head is in the adapter."""
    folder, model = text_adapter
    ids = torch.arange(6).reshape(1, 6)
    loaded = task_named("text-classification").load_model(str(folder))
    assert loaded.config.num_labels == 3
    assert torch.equal(answers(model, input_ids=ids), answers(loaded, input_ids=ids)), "its pooler is new too"
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "no", "1": "maybe", "2": "yes"}}))
    named = task_named("text-classification").load_model(str(folder))
    assert named.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert named.config.label2id == {"no": 0, "maybe": 1, "yes": 2}


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (["pooler.dense"], "has no classifier.bias that fits, nor has its base"),
        (["classifier"], "has no bert.pooler.dense.bias that fits, nor has its base"),
    ],
)
def test_weights_in_neither_adapter_nor_base_are_missed(text_adapter, tmp_path, saved, message):
    _, model = text_adapter
    config = LoraConfig(target_modules=["query"], modules_to_save=saved)
    get_peft_model(model.unload(), config).save_pretrained(tmp_path / "part")
    with pytest.raises(InputError, match=message):
        task_named("text-classification").load_model(str(tmp_path / "part"))


@pytest.mark.parametrize("given", [None, ["dense"], ["classifier", "classifier.dense"], ["roberta.encoder.layer.1"]])
@pytest.mark.parametrize("kind", [None, "SEQ_CLS"])
def test_a_head_that_a_configuration_forgets_is_trained_and_saved(given, kind, tmp_path, recwarn):
    """Whole and once, whatever part of it is named, and with what else is named."""
    config = RobertaConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    torch.manual_seed(0)
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "base")
    start = load_pretrained("AutoModelForSequenceClassification", str(tmp_path / "base"), num_labels=3,
                            ignore_mismatched_sizes=True)  # fmt: skip
    own = LoraConfig(target_modules=["query", "classifier.dense"], modules_to_save=given, task_type=kind)
    before = own.to_dict()
    model = disturb(load_tuning(own).apply(start))
    assert own.to_dict() == before, "the user's configuration is left alone"
    names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    head = {name for name in names if ".classifier." in name}
    assert len(head) == 4 and all(".modules_to_save." in name for name in head)
    others = {"dense": ".intermediate.dense.", "roberta.encoder.layer.1": ".layer.1.modules_to_save."}
    assert all(any(others[one] in name for name in names) for one in given or () if one in others)
    told = answers(model, input_ids=torch.arange(6).reshape(1, 6))
    model.save_pretrained(tmp_path / "adapter")
    recwarn.clear()
    loaded = task_named("text-classification").load_model(str(tmp_path / "adapter"))
    assert torch.equal(told, answers(loaded, input_ids=torch.arange(6).reshape(1, 6)))
    assert not [warning for warning in recwarn if "peft" in str(warning.filename)]


def test_an_adapter_without_the_head_of_its_classes_is_refused(base, images, tmp_path):
    """One of two classes on a model for four, made by other means; a new head for it is no obstacle."""
    model = load_pretrained(IMAGES, str(base), num_labels=2, ignore_mismatched_sizes=True)
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "headless")
    (tmp_path / "headless" / "adapter_classes.json").write_text(json.dumps({"id2label": {"0": "no", "1": "yes"}}))
    with pytest.raises(InputError, match="has no classifier.bias that fits, nor has its base.*modules_to_save"):
        load_pretrained(IMAGES, str(tmp_path / "headless"))
    task = task_named("image-classification")
    two = images.filter(lambda label: label < 2, input_columns="label").remove_columns("label")
    two = two.add_column("label", [n % 2 for n in range(len(two))])
    assert answers(task.load_to_train(str(tmp_path / "headless"), two, resolve_columns(two.features))).shape == (3, 2)


def test_a_data_set_of_other_classes_gets_a_new_head(adapter, images):
    folder, _ = adapter
    two = images.filter(lambda label: label < 2, input_columns="label").remove_columns("label")
    two = two.add_column("label", [n % 2 for n in range(len(two))])
    task = task_named("image-classification")
    model = task.load_to_train(str(folder), two, resolve_columns(two.features))
    assert is_adapter(model) and answers(model).shape == (3, 2)
    kept = get_peft_model_state_dict(load_pretrained(IMAGES, str(folder)))
    for name, value in get_peft_model_state_dict(model).items():
        assert torch.equal(value, kept[name]) or "classifier" in name


def test_the_base_is_found_from_here_or_from_the_adapter(adapter, base, tmp_path, monkeypatch):
    folder, told = adapter
    for name in ("../base", "base"):
        edit(folder, base_model_name_or_path=name)
        if name == "base":
            monkeypatch.chdir(tmp_path)
        loaded = load_pretrained(IMAGES, str(folder))
        assert torch.equal(told, answers(loaded))
    loaded.save_pretrained(tmp_path / "far" / "away")
    assert torch.equal(told, answers(load_pretrained(IMAGES, str(tmp_path / "far" / "away"))))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base_model_name_or_path": "/nowhere/at-all"}, "adapter for '/nowhere/at-all', which cannot be loaded"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"peft_type": "XLORA"}, "adapters or modules of others"),
        ({"megatron_config": {"x": 1}, "megatron_core": "this"}, "adapters or modules of others"),
        ({"peft_type": "MAGIC"}, "cannot be loaded"),
        ({"r": 3}, "cannot be loaded"),
        ({"target_modules": ["query"]}, "cannot be loaded"),
        ({"target_modules": ["q_proj", "embeddings.patch_embeddings.projection"]}, "missing adapter keys"),
    ],
)  # fmt: skip
def test_what_does_not_load_is_said_in_one_sentence(adapter, values, message):
    folder, _ = adapter
    edit(folder, **values)
    with pytest.raises(InputError, match=message) as failure:
        load_pretrained(IMAGES, str(folder))
    assert failure.value.field == "model" and "\n" not in str(failure.value)


def test_an_adapter_on_an_adapter_is_refused(adapter, tmp_path):
    folder, _ = adapter
    shutil.copytree(folder, tmp_path / "second")
    edit(tmp_path / "second", base_model_name_or_path=str(folder))
    with pytest.raises(InputError, match="is an adapter itself"):
        load_pretrained(IMAGES, str(tmp_path / "second"))


def pickle_weights(folder):
    from safetensors.torch import load_file

    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def test_pickled_adapters_are_refused_unless_allowed(adapter):
    folder, told = adapter
    pickle_weights(folder)
    with pytest.raises(InputError, match="pickles only"):
        load_pretrained(IMAGES, str(folder))
    assert torch.equal(told, answers(load_pretrained(IMAGES, str(folder), allow_pickle=True)))
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(InputError, match="there is no adapter_model.safetensors"):
        load_pretrained(IMAGES, str(folder), allow_pickle=True)


def test_a_pickled_base_is_refused_too(adapter, base):
    from safetensors.torch import load_file

    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    with pytest.raises(InputError, match="adapter for .*pickles only"):
        load_pretrained(IMAGES, str(adapter[0]))


def test_the_processor_of_the_base_serves_where_the_adapter_has_none(adapter, base, processor):
    folder, _ = adapter
    processor.save_pretrained(base)
    found = load_pretrained("AutoImageProcessor", str(folder))
    assert found.size == processor.size and found.image_mean == processor.image_mean
    assert load_pretrained("AutoImageProcessor", str(folder), size={"height": 24, "width": 24}).size["height"] == 24


def test_the_same_adapter_is_saved_as_one_and_its_base_is_left_alone(adapter, tmp_path):
    folder, told = adapter
    tuning = load_tuning("same_adapter")
    model = tuning.finish(tuning.apply(load_pretrained(IMAGES, str(folder))), base_is_stored=False)
    model.save_pretrained(tmp_path / "again")
    assert is_adapter(model) and torch.equal(told, answers(load_pretrained(IMAGES, str(tmp_path / "again"))))


def test_the_same_adapter_under_another_name_is_saved_where_it_is_found(adapter, images, processor, base, tmp_path):
    """PEFT keeps those of other names in a folder below; others that the model has are left out."""
    from hf_backdoor import load_defense, purify
    from hf_backdoor.purification import default_arguments

    folder, told = adapter
    start = load_pretrained(IMAGES, str(base))
    suspect = PeftModel.from_pretrained(start, str(folder), adapter_name="victim", torch_device="cpu")
    suspect.add_adapter("other", suspect.peft_config["victim"])
    assert torch.equal(told, answers(suspect))
    processor.save_pretrained(base)
    settings = {"max_steps": 3, "per_device_train_batch_size": 16, "use_cpu": True}
    args = default_arguments(load_defense("fine_tuning"), tmp_path / "run", **settings)
    given = {"defense": "fine_tuning", "peft_config": "same_adapter", "args": args, "processing_class": processor}
    named = purify(suspect, images, output_dir=tmp_path / "named", **given)
    usual = purify(str(folder), images, output_dir=tmp_path / "usual", **given)
    assert named.results["tuning"]["saved"] == "adapter" and torch.equal(told, answers(suspect)), "and left as it was"
    for name in ("named", "usual"):
        assert torch.equal(answers(usual.model), answers(load_pretrained(IMAGES, str(tmp_path / name))))
    several = get_peft_model(make_vit(), LoraConfig(target_modules=["q_proj"]), adapter_name="victim")
    several.add_adapter("other", LoraConfig(target_modules=["q_proj"]))
    several.base_model.set_adapter(["victim", "other"])
    with pytest.raises(InputError, match="peft='same_adapter': victim, other are active"):
        load_tuning("same_adapter").apply(several)


def test_adapters_come_from_the_hub_and_folders_cost_no_request(adapter, base, tmp_path):
    folder, told = adapter
    code = (
        "import sys, torch; from hf_backdoor.models import load_pretrained; pixels, told, *sources = sys.argv[1:]\n"
        "for source in sources:\n"
        "    try:\n"
        "        model = load_pretrained('AutoModelForImageClassification', source).eval()\n"
        "        print(torch.equal(model(torch.load(pixels)).logits, torch.load(told)), model.config.id2label[3])\n"
        "    except ValueError as error: print(error)"
    )
    torch.save(PIXELS, tmp_path / "pixels.pt")
    torch.save(told, tmp_path / "told.pt")
    with HubServer() as hub:

        def upload(name, place):
            repo = hub.repos[f"user/{name}"] = Repo("model", f"user/{name}")
            repo.commit("main", "all", {file.name: file.read_bytes() for file in place.iterdir()})

        shutil.copytree(folder, tmp_path / "online")
        (tmp_path / "online" / "config.json").write_text(json.dumps({"id2label": dict(enumerate("abcd"))}))
        edit(tmp_path / "online", base_model_name_or_path="user/base")
        upload("base", base)
        upload("adapter", tmp_path / "online")
        pickle_weights(tmp_path / "online")
        upload("pickled", tmp_path / "online")
        sources = [folder, "user/adapter", "user/pickled"]
        command = [sys.executable, "-c", code, tmp_path / "pixels.pt", tmp_path / "told.pt", *sources]
        environment = hub.environment(tmp_path / "home")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    from_folder, from_hub, pickled = done.stdout.splitlines()
    assert (from_folder, from_hub) == ("True south east", "True d")
    assert pickled.startswith("model='user/pickled'") and "pickles only" in pickled
    asked = {re.match(r"/(?:api/models/)?(user/\w+)?", request.path)[1] for request in hub.requests}
    assert asked == {"user/adapter", "user/base", "user/pickled"}, "and for nothing on this machine"
