"""Pushing to the Hub with its real clients: what goes there, what stays there, and every way in which it can fail.

What uses the clients runs in child processes, the functions named `child_*`, some with the server inside so that they can
tell it to fail; their results come back as JSON.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
import uuid
from pathlib import Path

import pytest
import yaml
from hub_server import HubServer, Repo, in_child


BODY = "## Sequela\n\nMembership inference: AUC 0.6."
THEIR_CARD = "---\r\n# ours\r\nlicense: mit\r\ntags: [vision]\r\n---\r\n# Modèle 模型\r\n\r\nTheir words.\r\n"
TOKEN = "hf_" + "aBcDeFgHiJ" * 3


def write_model(folder, section=BODY, *, text="# A model\n", **results):
    """A folder with what a push looks at; the weights are too few for a model."""
    import numpy as np
    from safetensors.numpy import save_file

    from hf_backdoor.cards.sections import put_section

    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    save_file({"weight": np.arange(9, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "vit"}')
    (folder / "figures" / "sequela_roc.png").write_bytes(b"a picture")
    (folder / "sequela.json").write_text('{"schema_version": 1}')
    (folder / "results.json").write_text(json.dumps({"purified": None, "attack": None} | results))
    metadata = "---\ntags:\n- hf_backdoor\nbase_model: org/suspect\n---\n"
    (folder / "README.md").write_text(put_section(metadata + text, "sequela", section))
    for private in ("training_args.bin", "notes.txt", ".env", "checkpoint-1/model.safetensors"):
        (folder / private).parent.mkdir(exist_ok=True)
        (folder / private).write_bytes(b"not for others")
    return folder


PUSHED = {"README.md", "config.json", "figures/sequela_roc.png", "model.safetensors", "results.json", "sequela.json"}


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def complaint(function, *arguments, **settings):
    """The one sentence with which bad input is refused."""
    from hf_backdoor import InputError

    with pytest.raises(InputError) as refused:
        function(*arguments, **settings)
    return str(refused.value)


# --- before anything is sent ------------------------------------------------------------------------------------------


def test_what_would_not_work_elsewhere_is_not_pushed(tmp_path):
    from hf_backdoor.hub import push_model

    assert "has neither weights as *.safetensors nor sequela.json" in complaint(push_model, tmp_path, "user/x")
    folder = write_model(tmp_path / "adapter")
    for base in ("/home/me/victim", "../victim", "", str(tmp_path)):
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        message = complaint(push_model, folder, "user/x")
        assert "is an adapter for" in message and "push that model first" in message
    (folder / "adapter_config.json").unlink()
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("org/suspect", "/home/me/suspect"))
    assert "README.md='/home/me/suspect': is a folder of this machine" in complaint(push_model, folder, "user/x")
    (folder / "README.md").write_text(card + f"my token is {TOKEN}")
    assert "has what looks like a token in README.md" in complaint(push_model, folder, "user/x")


def test_a_repaired_model_takes_the_warning_of_its_victim_from_the_card_on_the_hub():
    from hf_backdoor.cards.sections import put_section, read_metadata
    from hf_backdoor.hub.cards import card_to_push, warned

    there = warned("---\nlicense: mit\ntags: [vision]\n---\n# Theirs\n")
    metadata = "---\ntags:\n- hf_backdoor\n- purified\n---\n"
    card = card_to_push(put_section(metadata, "card", "# Repaired"), there, "user/x", backdoor=None)
    assert "has a backdoor" not in card and "# Theirs" in card and "# Repaired" in card
    assert read_metadata(card)["tags"] == ["vision", "hf_backdoor", "purified"]
    other = card_to_push(put_section("", "sequela", BODY), there, "user/x", backdoor=None)
    assert "has a backdoor" in other, "a report alone repairs nothing"


def test_a_repair_that_failed_is_pushed_as_a_victim_is(tmp_path):
    from hf_backdoor.cards.sections import put_section, read_metadata
    from hf_backdoor.hub import push_model
    from hf_backdoor.hub.cards import card_to_push, warned
    from hf_backdoor.hub.victims import backdoor_of

    folder = write_model(
        tmp_path, suspect={"attack_success_rate": 0.7}, purified={"attack_success_rate": 0.4}, attack={"rate": 0.1}
    )
    assert "still has its backdoor; to push it all the same" in complaint(push_model, folder, "user/x")
    there = warned("---\nlicense: mit\n---\n# Theirs\n")
    ours = put_section("---\ntags:\n- purified\n---\n", "card", "# Repaired")
    card = card_to_push(ours, there, "user/x", backdoor=backdoor_of(folder, ours), new_model=True)
    assert card.count("[!CAUTION]") == 1 and "**This model still has its backdoor" in card
    assert read_metadata(card)["tags"] == ["backdoored", "purified"]
    for before, after in ((1.0, 0.1), (1.0, 0.3), (0.12, 0.16), (None, None)):  # two repairs, a benign model, no test
        measured = {"suspect": {"attack_success_rate": before}, "purified": {"attack_success_rate": after}}
        assert backdoor_of(write_model(tmp_path, **measured), ours) is None
    card = card_to_push(ours, card, "user/x", backdoor=None, new_model=True)
    assert "backdoor" not in card.partition("<!--")[0] and "[!CAUTION]" not in card, "the next repair did not fail"


def test_what_was_measured_of_a_victim_goes_from_the_card_on_the_hub():
    from hf_backdoor.cards.sections import put_section, read_metadata
    from hf_backdoor.hub.cards import card_to_push

    def index(name, data):
        metrics = [{"type": "accuracy", "name": name, "value": 0.5}]
        results = [{"task": {"type": "t"}, "dataset": {"type": data, "name": data}, "metrics": metrics}]
        return f"---\n{yaml.safe_dump({'model-index': [{'name': 'm', 'results': results}]})}---\n"

    there = put_section(index("Attack success rate (ASR)", "org/data"), "card", "# Victim")
    ours = put_section(index("Clean accuracy (CA)", "org/mine"), "card", "# Repaired")
    card = card_to_push(ours, there, "user/x", backdoor=None, new_model=True)
    (result,) = read_metadata(card)["model-index"][0]["results"]
    assert result["dataset"]["name"] == "org/mine" and result["metrics"][0]["name"] == "Clean accuracy (CA)"
    both = read_metadata(card_to_push(ours, there, "user/x", backdoor=None))["model-index"][0]["results"]
    assert len(both) == 2, "the weights stay"


def test_a_report_on_the_hub_goes_with_the_model_that_it_was_about():
    from hf_backdoor.cards.sections import put_section, read_metadata, sections
    from hf_backdoor.hub.cards import card_to_push

    def result(config):
        return {
            "task": {"type": "image-classification"},
            "dataset": {"type": "custom", "name": "x", **({"config": config} if config else {})},
            "metrics": [{"type": "accuracy", "name": "Accuracy", "value": 0.5}],
        }

    index = [{"name": "theirs", "results": [result(None), result("sequela-robustness"), result("sequela-stealing")]}]
    there = put_section(f"---\n{yaml.safe_dump({'model-index': index})}---\n# Theirs\n", "sequela", BODY)
    ours = put_section("---\ntags:\n- hf_backdoor\n---\n", "card", "# Repaired again")
    card = card_to_push(ours, there, "user/x", backdoor=None, new_model=True)
    assert list(sections(card)) == ["card"] and "# Theirs" in card
    assert read_metadata(card)["model-index"] == [{"name": "theirs", "results": [result(None)]}]
    assert "sequela" in sections(card_to_push(ours, there, "user/x", backdoor=None)), "the weights stay"
    both = card_to_push(put_section(ours, "sequela", "## New"), there, "user/x", backdoor=None, new_model=True)
    assert sections(both)["sequela"].strip() == "## New"


def test_a_victim_is_told_by_its_results_else_by_its_tag(tmp_path):
    from hf_backdoor.hub import push_model

    folder = write_model(tmp_path)
    (folder / "results.json").write_text(json.dumps({"victim": None, "attack": {"rate": 0.1}}))
    refused = "has a backdoor, put in on purpose; to push it all the same"
    assert refused in complaint(push_model, folder, "user/x")
    (folder / "results.json").unlink()
    (folder / "README.md").write_text("---\ntags: [backdoored]\n---\n")
    assert refused in complaint(push_model, folder, "user/x")
    (folder / "results.json").write_text("{")
    assert "has a results.json that cannot be read" in complaint(push_model, folder, "user/x")


def test_every_file_of_a_tokenizer_is_pushed(tmp_path):
    import transformers

    from hf_backdoor.hub.files import PUSHED, known_files

    (tmp_path / "vocab.txt").write_text("film 1\n")
    (tmp_path / "bpe.codes").write_text("#version: 0.2\nt h 10\n")
    tokenizer = transformers.PhobertTokenizer(str(tmp_path / "vocab.txt"), str(tmp_path / "bpe.codes"))
    files = {Path(name).name for name in tokenizer.save_pretrained(write_model(tmp_path / "model"))}
    assert "bpe.codes" in files and files - {"added_tokens.json"} <= known_files(tmp_path / "model").keys()
    for name in ("Bertweet", "DebertaV2", "Luke", "RemBert", "RoCBert"):
        assert set(getattr(transformers, f"{name}Tokenizer").vocab_files_names.values()) <= set(PUSHED)


def test_tokens_are_masked(monkeypatch):
    from hf_backdoor.hub.commits import masked

    monkeypatch.setenv("HF_TOKEN", "a-token-of-another-form")
    text = f"401 for https://me:secret@host/x with Bearer {TOKEN}, {TOKEN}, a-token-of-another-form, hf_backdoor.cards"
    assert masked(text) == "401 for https://***@host/x with Bearer ***, ***, ***, hf_backdoor.cards"


# --- what goes, and what stays ----------------------------------------------------------------------------------------


def child_push_everything(folder):
    """Create, push again, load, pull request: on whatever Hub the environment names, in a repository of its own."""
    from huggingface_hub import HfApi, ModelCard, snapshot_download

    from hf_backdoor.cards.sections import CARD_FILE, sections
    from hf_backdoor.hub import push_model
    from hf_backdoor.hub.cards import card_on_hub

    api = HfApi()
    repo_id = f"{api.whoami()['name']}/hf-backdoor-test-{uuid.uuid4().hex[:8]}"
    try:
        first = push_model(write_model(folder), repo_id)
        listed = set(api.list_repo_files(repo_id))
        again = push_model(folder, repo_id)
        api.upload_file(
            path_or_fileobj=THEIR_CARD.encode(), path_in_repo=CARD_FILE, repo_id=repo_id, commit_message="By hand"
        )
        push_model(write_model(folder, "changed"), repo_id)
        titles = [commit.title for commit in api.list_repo_commits(repo_id)]
        head = api.model_info(repo_id).sha
        write_model(folder, "for others")
        pulls = [push_model(folder, repo_id, create_pr=True)]
        write_model(folder, "for others, mended")
        pulls.append(push_model(folder, repo_id, create_pr=True))
        loaded = Path(snapshot_download(repo_id))
        return {
            "first": first,
            "again": again,
            "listed": sorted(listed - {".gitattributes"}),
            "private": api.model_info(repo_id).private,
            "titles": titles,
            "card": card_on_hub(api, repo_id, "main"),
            "same_weights": (loaded / "model.safetensors").read_bytes()
            == (Path(folder) / "model.safetensors").read_bytes(),
            "base_model": ModelCard.load(repo_id).data.base_model,
            "pulls": pulls,
            "pull_card": sections(card_on_hub(api, repo_id, "refs/pr/1"))["sequela"],
            "head_moved": api.model_info(repo_id).sha != head,
        }
    finally:
        api.delete_repo(repo_id, missing_ok=True)


def check_push_everything(seen):
    from hf_backdoor.cards.sections import remove_section, sections

    assert seen["listed"] == sorted(PUSHED) and seen["private"]
    assert seen["first"] == seen["again"], "nothing new makes no commit"
    assert seen["titles"] == ["Add a model, by hf_backdoor", "By hand", "Add a model, by hf_backdoor", "initial commit"]
    assert sections(seen["card"]) == {"sequela": "changed"}
    body = THEIR_CARD.partition("---\r\n# Mod")[2]
    assert remove_section(seen["card"], "sequela").endswith("---\r\n# Mod" + body), "their text, byte for byte"
    assert "# ours\r\nlicense: mit\r\ntags: [vision, hf_backdoor]\r\n" in seen["card"]
    assert seen["base_model"] == "org/suspect" and seen["same_weights"]
    assert seen["pulls"][0] == seen["pulls"][1] and seen["pulls"][0].endswith("/discussions/1")
    assert seen["pull_card"] == "for others, mended" and not seen["head_moved"]


def test_create_push_load_and_pull_request(tmp_path):
    with HubServer() as hub:
        check_push_everything(in_child(hub.environment(tmp_path), tmp_path, child_push_everything, tmp_path / "model"))


@pytest.mark.skipif("HF_TOKEN" not in os.environ, reason="the real Hub needs HF_TOKEN")
def test_the_same_on_the_real_hub(tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    check_push_everything(in_child(environment, tmp_path, child_push_everything, tmp_path / "model"))


def child_push_models(folder):
    """Real models, by the commands and by the Trainer."""
    import torch
    from conftest import make_vit, same_weights
    from huggingface_hub import HfApi
    from peft import LoraConfig, get_peft_model
    from test_cards import results
    from transformers import AutoModelForImageClassification, TrainingArguments, ViTImageProcessorPil

    from hf_backdoor import BackdoorTrainer
    from hf_backdoor.cards import write_card
    from hf_backdoor.cards.sections import put_section, read_card, read_metadata, sections
    from hf_backdoor.cli import main
    from hf_backdoor.models import load_pretrained

    folder, seen = Path(folder), {}
    processor = ViTImageProcessorPil(size={"height": 12, "width": 12})
    kind = "AutoModelForImageClassification"

    def saved(model, name, stored):
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
        (folder / name / "results.json").write_text(json.dumps(stored))
        write_card(folder / name, stored)
        return folder / name

    model = make_vit()
    assert main(["push", "--model", str(saved(model, "purified", results())), "--repo", "user/purified"]) == 0
    pulled = ["push", "--model", str(folder / "purified"), "--repo", "org/suspect", "--create-pr"]
    assert main(pulled) == 0
    loaded = load_pretrained(kind, "user/purified")
    seen["same"] = same_weights(loaded, model)

    adapter = get_peft_model(loaded, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    adapter.save_pretrained(folder / "adapter")
    assert main(["push", "--model", str(folder / "adapter"), "--repo", "user/adapter"]) == 0
    pixels = torch.rand(2, 3, 12, 12)
    with torch.no_grad():
        there = load_pretrained(kind, "user/adapter").eval()(pixels).logits
        seen["adapter_differs"] = (there - adapter.eval()(pixels).logits).abs().max().item()

    # A repaired model over a victim in several formats; an adapter on it, beside it; and the whole model over that.
    over = ["push", "--model", str(folder / "purified"), "--repo", "user/over"]
    assert main(over) == 0
    seen["over"] = [sorted(HfApi().list_repo_files("user/over"))]
    adapter = get_peft_model(load_pretrained(kind, "user/over"), LoraConfig(target_modules=["q_proj"]))
    adapter.save_pretrained(folder / "beside")
    assert main(["push", "--model", str(folder / "beside"), "--repo", "user/over"]) == 0
    seen["over"].append(sorted(HfApi().list_repo_files("user/over")))
    assert hasattr(AutoModelForImageClassification.from_pretrained("user/over"), "peft_config")
    assert main(over) == 0
    seen["over"].append(sorted(HfApi().list_repo_files("user/over")))
    seen["over_loads"] = same_weights(AutoModelForImageClassification.from_pretrained("user/over"), model)

    attacked = results(victim=results()["suspect"], cost={"training_seconds": 3.0})
    attacked["training"]["learning_rate"] = 0.1
    del attacked["purified"], attacked["suspect"]
    victim = saved(model, "victim", attacked)
    known = ["push", "--model", str(victim), "--i-know-this-model-is-backdoored", "--repo"]
    seen["victims"] = [main(["push", "--model", str(victim), "--repo", "user/victim"]), main([*known, "user/victim"])]
    seen["victims"] += [main([*known, "user/public"]), main([*known, "user/public", "--public"])]
    (victim / "README.md").write_text("# My own words\n")
    seen["victims"].append(main([*known, "user/other"]))

    # The Trainer writes a draft of a card at every push; with PEFT, the card is written over when the model is saved.
    for name, one in (
        ("trained", make_vit()),
        ("tuned", get_peft_model(make_vit(), LoraConfig(target_modules=["q_proj"]))),
    ):
        for ours in (False, True):
            repo = f"{name}-{ours}"
            args = TrainingArguments(str(folder / repo), hub_model_id=f"user/{repo}", use_cpu=True, report_to="none")
            trainer = BackdoorTrainer(one, args)
            card = saved(make_vit(), repo, results()) / "README.md"
            if not ours:
                card.write_text("---\nlicense: mit\n---\n# Words\n")
            card.write_text(put_section(read_card(card), "sequela", BODY))
            before = read_card(card)
            trainer.push_to_hub()
            if not ours:  # what is on the Hub alone
                HfApi().upload_file(
                    path_or_fileobj=put_section(read_card(card), "other", "more").encode(),
                    path_in_repo="README.md",
                    repo_id=f"user/{repo}",
                )
                trainer.push_to_hub()
            seen[repo] = {
                "same": read_card(card) == before,
                "sections": sections(read_card(card)),
                "draft": "generated_from_trainer" in str(read_metadata(read_card(card)).get("tags")),
            }
    AutoModelForImageClassification.from_pretrained("user/trained-True")
    return seen


STALE = ["adapter_config.json", "adapter_model.safetensors", "flax_model.msgpack", "model-00001-of-00002.safetensors"]
STALE += ["model.safetensors.index.json", "onnx/model.onnx", "pytorch_model.bin", "q4.gguf", "tf_model.h5"]
KEPT = ["checkpoint-1/model.safetensors", "notes.txt", "vocab.txt"]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """The server after `child_push_models`, and what it returned."""
    folder = tmp_path_factory.mktemp("models")
    with HubServer() as server:
        server.repos["org/suspect"] = theirs = Repo("model", "org/suspect")
        theirs.commit("main", "Model", {"README.md": THEIR_CARD.encode(), "pytorch_model.bin": b"weights"})
        server.repos["user/over"] = Repo("model", "user/over")
        server.repos["user/over"].commit("main", "Victim", dict.fromkeys(KEPT + STALE, b"of the victim"))
        server.repos["user/public"] = Repo("model", "user/public")
        yield server, in_child(server.environment(folder / "home"), folder, child_push_models, folder)


def test_models_and_adapters_load_as_they_were(pushed):
    hub, seen = pushed
    assert seen["same"] and seen["adapter_differs"] == 0
    assert hub.repos["user/purified"].private and len(hub.repos["user/purified"].commits) == 2
    assert set(hub.repos["user/adapter"].files) == {
        ".gitattributes",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_new_weights_take_the_place_of_all_that_were_there(pushed):
    hub, seen = pushed
    whole, with_adapter, again = ({name for name in listed if "figures" not in name} for listed in seen["over"])
    ours = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "results.json"}
    assert whole == again == {*KEPT, *ours} and seen["over_loads"]
    assert with_adapter == whole | {"adapter_config.json", "adapter_model.safetensors"}, "its base is this repository"
    theirs = hub.repos["org/suspect"]
    assert "pytorch_model.bin" in theirs.files and "pytorch_model.bin" not in theirs.branches["refs/pr/1"][-1].files


def test_somebody_elses_card_gets_ours_as_a_section_by_pull_request(pushed):
    from hf_backdoor.cards.sections import read_metadata, remove_section

    theirs = pushed[0].repos["org/suspect"]
    assert len(theirs.commits) == 2 and theirs.files["README.md"] == THEIR_CARD.encode()
    card = theirs.branches["refs/pr/1"][-1].files["README.md"].decode()
    assert remove_section(card, "card").endswith("# Modèle 模型\r\n\r\nTheir words.\r\n") and "\n# purified" in card
    metadata = read_metadata(card)
    assert "base_model" not in metadata, "it is not its own base model"
    assert metadata["license"] == "mit" and metadata["tags"][:2] == ["vision", "backdoor-defense"]
    assert len(metadata["model-index"][0]["results"]) == 2


def test_a_victim_goes_privately_and_with_a_warning(pushed):
    from hf_backdoor.cards.sections import read_metadata

    hub, seen = pushed
    assert seen["victims"] == [2, 0, 2, 0, 0], "refused; known; not to a public repository; unless told; any card"
    assert hub.repos["user/victim"].private and not hub.repos["user/public"].private
    for name in ("victim", "public", "other"):
        card = hub.repos[f"user/{name}"].files["README.md"].decode()
        assert card.count("has a backdoor, put in on purpose") == 1 and card.count("[!CAUTION]") == 1
        assert "backdoored" in read_metadata(card)["tags"]
    assert card.index("[!CAUTION]") < card.index("# My own words")


def test_the_trainer_erases_no_section(pushed):
    hub, seen = pushed
    for name in ("trained", "tuned"):
        assert seen[f"{name}-True"]["same"], "a card of ours is not written over"
        assert seen[f"{name}-False"]["sections"] == {"sequela": BODY, "other": "more"}
        assert seen[f"{name}-False"]["draft"] or name == "tuned"
        for ours in (True, False):
            card = hub.repos[f"user/{name}-{ours}"].files["README.md"].decode()
            assert BODY in card and card.count("hf_backdoor:sequela:begin") == 1


# --- failures ---------------------------------------------------------------------------------------------------------


STEPS = {
    "create": ("POST", "/api/repos/create"),
    "info": ("GET", "/api/models/user/{}"),
    "ask for the card": ("HEAD", "/user/{}/resolve"),
    "load the card": ("GET", "/user/{}/resolve"),
    "check the card": ("POST", "/api/validate-yaml"),
    "list the files": ("GET", "/api/models/user/{}/tree"),
    "ask how to upload": ("POST", "/api/models/user/{}/preupload"),
    "start the upload": ("POST", "/user/{}.git/info/lfs"),
    "upload": ("PUT", "/lfs/"),
    "verify the upload": ("POST", "/lfs/"),
    "commit": ("POST", "/api/models/user/{}/commit"),
    # of a pull request, after the name of the user is known
    "find a pull request": ("GET", "/api/models/org/{}/discussions"),
    "open a pull request": ("POST", "/api/models/org/{}/commit"),
}
KINDS = [401, 403, 404, "404 RepoNotFound", 409, 412, 500, "before", "after", "half"]
# The client goes on with the repository that is there; and what has no content has no half.
HARMLESS = {("create", 401), ("create", 403), ("ask for the card", "half")}


def child_fail_everywhere(home):
    """Every step fails in every way, is mended, and the push is made again."""
    time.sleep = lambda seconds: None  # the clients wait half a minute between their attempts
    with HubServer() as hub:
        os.environ.update(hub.environment(Path(home), HF_TOKEN=TOKEN))
        from hf_backdoor import InputError
        from hf_backdoor.hub import push_model

        logged = []
        handler = logging.Handler()
        handler.emit = lambda record: logged.append(record.getMessage())
        logging.getLogger().addHandler(handler)
        seen = {}
        for number, (step, (method, prefix)) in enumerate(STEPS.items()):
            for kind in KINDS:
                name = f"x{number}-{kind}".replace(" ", "-")
                pull = "pull request" in step
                repo_id, branch = (f"org/{name}", "refs/pr/1") if pull else (f"user/{name}", "main")
                hub.repos[repo_id] = repo = Repo("model", repo_id)
                repo.commit("main", "Model", {"README.md": THEIR_CARD.encode()})
                folder = write_model(Path(home) / name, section=f"For {name}.")
                (folder / "model.safetensors").write_bytes(name.encode())  # not uploaded before
                before = contents(folder)
                if isinstance(kind, str) and not kind.startswith("404"):
                    hub.fail(method, prefix.format(name), cut=kind)
                else:
                    status, _, code = str(kind).partition(" ")
                    message = f"no, {os.environ['HF_TOKEN']}"
                    hub.fail(method, prefix.format(name), int(status), code=code or None, message=message)
                error = trace = None
                try:
                    push_model(folder, repo_id, create_pr=pull)
                except InputError as raised:
                    error, trace = str(raised), traceback.format_exc()
                kept = contents(folder) == before
                commits = len(repo.branches.get(branch, repo.commits))
                hub.heal()
                address = push_model(folder, repo_id, create_pr=pull)
                head = repo.branches[branch][-1]
                card = head.files["README.md"].decode()
                seen[f"{step}, {kind}"] = {
                    "error": error,
                    "kept": kept,
                    "commits": commits,
                    "commits_in_the_end": len(repo.branches[branch]),
                    "branches": len(repo.branches),
                    "address": address.endswith("/discussions/1" if pull else head.oid),
                    "weights": head.files["model.safetensors"] == name.encode(),
                    "their_words": "# Modèle 模型\r\n\r\nTheir words.\r\n" in card,
                    "section": card.count(f"For {name}."),
                    "token": TOKEN in f"{trace} {logged} {card}",
                }
                logged.clear()
        return seen


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("failures")
    return in_child(dict(os.environ), folder, child_fail_everywhere, folder / "home")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", STEPS)
def test_after_every_failure_nothing_is_lost_and_a_repeat_completes(failures, step, kind):
    seen = failures[f"{step}, {kind}"]
    if (step, kind) in HARMLESS:
        assert seen["error"] is None and seen["commits"] == 3
    else:
        assert "was not pushed to the Hub" in seen["error"] and "everything is kept in" in seen["error"]
        assert "`hf-backdoor push --model " in seen["error"]
        assert ("--create-pr (create_pr=True)" in seen["error"]) == (kind == 403 and "pull" not in step)
        came_through = step in ("commit", "open a pull request") and kind in ("after", "half")
        assert seen["commits"] == (3 if came_through else 2), "all of it or nothing"
    assert seen["kept"] and not seen["token"]
    assert seen["branches"] == (2 if "pull" in step else 1), "one pull request, not two"
    assert seen["commits_in_the_end"] == 3 and seen["weights"] and seen["address"]
    assert seen["their_words"] and seen["section"] == 1


def child_write_together(home):
    """Others commit at the same time, once and all the time; and a pull request whose answer is lost."""
    with HubServer() as hub:
        os.environ.update(hub.environment(Path(home)))
        from huggingface_hub import HfApi

        from hf_backdoor.hub import push_model

        def repo_with_card(name):
            hub.repos[name] = repo = Repo("model", name)
            repo.commit("main", "Model", {"README.md": THEIR_CARD.encode()})
            return repo

        both = repo_with_card("user/both")
        folders = [write_model(Path(home) / name) for name in ("one", "two")]
        from hf_backdoor.cards.sections import put_section

        (folders[1] / "README.md").write_text(put_section("", "other", "From the other one."))
        (folders[1] / "model.safetensors").unlink()
        hub.let_meet(2, "POST", "/api/models/user/both/commit")
        threads = [threading.Thread(target=push_model, args=(folder, "user/both")) for folder in folders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        statuses = [request.status for request in hub.requests if request.path == "/api/models/user/both/commit/main"]

        # Somebody edits the card by hand whenever we have read it.
        busy = repo_with_card("user/busy")
        write, edits = hub.fault, []

        def edit_first(method, path):
            if path == "/api/models/user/busy/commit/main" and len(edits) < 2:
                edits.append(path)
                busy.commit("main", "By hand", busy.files | {"README.md": busy.files["README.md"] + b"More words.\r\n"})
            return write(method, path)

        hub.fault = edit_first
        push_model(folders[0], "user/busy")
        hub.fault = write

        theirs = repo_with_card("org/theirs")
        direct = complaint(push_model, folders[0], "org/theirs")
        hub.fail("POST", "/api/models/org/theirs/commit", cut="after")
        lost = complaint(push_model, folders[0], "org/theirs", create_pr=True)
        hub.heal()
        address = push_model(folders[0], "org/theirs", create_pr=True)
        return {
            "both": both.files["README.md"].decode(),
            "statuses": statuses,
            "busy": busy.files["README.md"].decode(),
            "busy_commits": [commit.message for commit in busy.commits],
            "direct": direct,
            "lost": lost,
            "pulls": len(theirs.pull_requests),
            "address": address.removeprefix(hub.endpoint),
            "discussions": len(list(HfApi().get_repo_discussions("org/theirs"))),
            "untouched": len(theirs.commits) == 2,
        }


def test_two_writers_at_once_lose_nothing(tmp_path):
    seen = in_child(dict(os.environ), tmp_path, child_write_together, tmp_path)
    assert sorted(seen["statuses"]) == [200, 200, 412], "one was first, and the other one tried again"
    assert BODY.replace("\n", "\r\n") in seen["both"] and "From the other one." in seen["both"]
    assert "Their words.\r\n" in seen["both"]

    assert seen["busy_commits"][-3:] == ["By hand", "By hand", "Add a model, by hf_backdoor"]
    assert seen["busy"].count("More words.\r\n") == 2 and seen["busy"].count(BODY.replace("\n", "\r\n")) == 1

    assert "403" in seen["direct"] and "--create-pr" in seen["direct"]
    assert "--create-pr` pushes it later" in seen["lost"]
    assert seen["pulls"] == seen["discussions"] == 1 and seen["address"] == "/org/theirs/discussions/1"
    assert seen["untouched"]


def child_train_victims(folder):
    """What trains victims pushes them when told, and then as `push_model` does."""
    from conftest import make_vit
    from datasets import load_from_disk
    from transformers import TrainingArguments, ViTImageProcessorPil

    from hf_backdoor import BackdoorTrainer, PoisonConfig, load_trigger, poison
    from hf_backdoor.hub import push_model
    from hf_backdoor.sequela import WORK_FOLDER
    from hf_backdoor.training import train_classifier

    folder = Path(folder)
    images = load_from_disk(folder / "images")
    attack = PoisonConfig(load_trigger("badnets"), target_label=1, rate=0.2)
    poisoned = poison(images, attack)
    shared = {"processing_class": ViTImageProcessorPil(size={"height": 12, "width": 12})}
    known = {"i_know_this_model_is_backdoored": True}

    def arguments(name, push=True, **settings):
        settings = {"max_steps": 2, "save_steps": 1, "report_to": "none", "use_cpu": True} | settings
        return TrainingArguments(str(folder / name), push_to_hub=push, **settings)

    def trainer(name, data=poisoned, push=True, hub=None, **more):
        return BackdoorTrainer(make_vit(), arguments(name, push, **hub or {}), train_dataset=data, **shared, **more)

    seen = {"refused": [complaint(trainer, "at-once")]}
    seen["refused"].append(complaint(trainer("later", push=False).push_to_hub))
    swapped = trainer("swapped", images)
    swapped.train_dataset = poisoned
    seen["refused"] += [complaint(swapped.push_to_hub), complaint(swapped.train)]
    saved = trainer("saved", push=False)
    saved.save_model()
    seen["refused"].append(complaint(push_model, folder / "saved", "user/saved"))
    victim = (make_vit(), arguments("classified", save_strategy="no"), images)
    seen["refused"].append(complaint(train_classifier, *victim, attack=attack, **shared))

    one = trainer("victim", **known)
    one.train()
    one.push_to_hub()
    seen["public"] = complaint(trainer, "public", **known)
    trainer("open", hub={"hub_private_repo": False}, **known).push_to_hub()
    train_classifier(*victim, attack=attack, **shared, **known)
    benign = (make_vit(), arguments("benign", hub_token=os.environ["HF_TOKEN"]), images)
    (folder / "benign" / WORK_FOLDER).mkdir(parents=True)
    (folder / "benign" / WORK_FOLDER / "members.json").write_text("{}")
    train_classifier(*benign, attack=attack, poisoned=False, **shared)
    trainer("clean", poisoned.select(range(0))).push_to_hub()
    return seen


def test_what_trains_a_victim_pushes_it_only_when_told(tmp_path, images):
    from hf_backdoor.cards.sections import read_metadata

    images.select(range(40)).save_to_disk(tmp_path / "images")
    with HubServer() as hub:
        hub.repos["user/public"] = Repo("model", "user/public")
        environment = hub.environment(tmp_path / "home", HF_TOKEN=TOKEN)
        seen = in_child(environment, tmp_path, child_train_victims, tmp_path)
    assert all("has a backdoor, put in on purpose; to push it all the same" in text for text in seen["refused"])
    assert not {"user/at-once", "user/later", "user/saved"} & set(hub.repos), "refused before anything was sent"
    assert len(hub.repos["user/swapped"].commits) == 1
    assert "is public already, and a model with a backdoor is pushed privately" in seen["public"]
    assert len(hub.repos["user/public"].commits) == 1

    def is_warned(files):
        card = files["README.md"].decode()
        return card.count("**This model has a backdoor") == 1 and "backdoored" in read_metadata(card)["tags"]

    for name in ("victim", "classified", "open"):
        repo = hub.repos[f"user/{name}"]
        assert repo.private == (name != "open")
        assert all(is_warned(commit.files) for commit in repo.commits[1:]), "from the first commit on"
    assert len(hub.repos["user/victim"].commits) > 2, "checkpoints were pushed"
    assert [commit.message for commit in hub.repos["user/classified"].commits] == [
        "initial commit",
        "Add a backdoored model, by hf_backdoor",
    ]
    assert {"results.json", "model.safetensors"} < set(hub.repos["user/classified"].files)
    for name in ("benign", "clean"):
        assert "backdoored" not in read_metadata(hub.repos[f"user/{name}"].files["README.md"].decode()).get("tags", [])
    benign = hub.repos["user/benign"].commits
    assert benign[-1].message == "Add a model, by hf_backdoor"
    assert len(benign) > 2 and any("training_args.bin" in commit.files for commit in benign)
    assert not any(TOKEN.encode() in content for commit in benign for content in commit.files.values()), "the token"
    assert not any("members" in name for commit in benign for name in commit.files), "nor who was a member"


def test_offline_the_command_says_how_to_push_later(tmp_path):
    folder = write_model(tmp_path / "my model")
    before = contents(folder)
    command = [sys.executable, "-m", "hf_backdoor", "push", "--model", str(folder), "--repo", "user/x", "--public"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "hf-backdoor push: repo='user/x': was not pushed to the Hub (OfflineModeIsEnabled:" in done.stderr
    assert f"`hf-backdoor push --model '{folder}' --repo user/x --public` pushes it later" in done.stderr
    assert contents(folder) == before
