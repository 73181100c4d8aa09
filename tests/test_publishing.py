"""The Hub, with its real clients: poisoned data go there, suspect models come from there, and it may refuse.

The clients read where the Hub is when they are imported, so what uses them runs in a child process: the functions named
`child_*`, whose results come back as JSON.
"""

import json
import subprocess
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import pytest
from hub_server import HubServer, Repo, in_child


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def clean(images, tmp_path_factory):
    """A parquet file of clean images."""
    path = tmp_path_factory.mktemp("clean") / "train.parquet"
    images.select(range(200)).to_parquet(path)
    return path


def complaint(status, stderr, command, message):
    """Asserts that a command ended as it must on bad input, and returns its one sentence."""
    *_, sentence = stderr.strip().splitlines()
    assert status == 2 and "Traceback" not in stderr, stderr
    assert sentence.startswith(f"hf-backdoor {command}: ") and message in sentence
    return sentence


def child_push_and_load_back(clean):
    import numpy as np
    from datasets import DatasetDict, load_dataset
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from PIL import Image

    import hf_backdoor
    from hf_backdoor.commands.options import stored_attack

    images = load_dataset("parquet", data_files=clean, split="train")
    config = hf_backdoor.PoisonConfig(hf_backdoor.load_trigger("badnets"), target_label=1, rate=0.2)
    splits = DatasetDict(train=images.select(range(150)), test=images.select(range(150, 200)))
    poisoned = hf_backdoor.poison(splits, config)
    address = hf_backdoor.push_poisoned(poisoned, "user/poisoned", config, source="quadrants")
    hf_backdoor.push_poisoned(poisoned, "user/open", config, private=False)
    hf_backdoor.push_poisoned(poisoned["train"], "no-namespace", config)
    Image.fromarray(np.zeros((12, 12), np.uint8)).save("picture.png")
    blended = hf_backdoor.PoisonConfig(hf_backdoor.load_trigger("blended", pattern="picture.png"), rate=0.2)
    with_picture = hf_backdoor.push_poisoned(hf_backdoor.poison(splits, blended), "user/again", blended)
    written = Path(hf_hub_download("user/again", "README.md", repo_type="dataset")).read_text()
    split = "  data_files:\n  - split: mine\n    path: mine.parquet\n"
    mine = written.replace("tags:", "license: mit\ntags:").replace("  data_files:\n", split) + "\nMy notes.\n"
    for name, content in (("README.md", mine.encode()), ("mine.parquet", clean)):
        HfApi().upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="user/again", repo_type="dataset")
    hf_backdoor.push_poisoned(poisoned["train"], "user/again", config)
    again = load_dataset("user/again")
    fetched = snapshot_download("user/again", repo_type="dataset", revision=with_picture.rpartition("/")[2])
    pattern = Path(stored_attack(fetched).trigger.pattern)
    loaded = load_dataset("user/poisoned")
    try:
        public = "pushed " + hf_backdoor.push_poisoned(poisoned, "user/already-public", config)
    except hf_backdoor.InputError as error:
        public = str(error)
    kept = Path(public.partition("the data are in ")[2].partition(", and")[0])

    flags = {name: list(rows["is_poisoned"]) for name, rows in loaded.items()}

    def same(split, column):
        pairs = zip(poisoned[split][column], loaded[split][column], strict=True)
        return all(np.array_equal(before, after) for before, after in pairs)

    return {
        "address": address,
        "again": {name: len(rows) for name, rows in again.items()},
        "pattern": [pattern.name, pattern.read_bytes() == Path("picture.png").read_bytes()],
        "splits": {name: len(rows) for name, rows in loaded.items()},
        "expected_splits": {name: len(rows) for name, rows in poisoned.items()},
        "features_differ": [name for name in poisoned if loaded[name].features != poisoned["train"].features],
        "columns_differ": [
            [name, column] for name in poisoned for column in poisoned[name].features if not same(name, column)
        ],
        "poisoned": {name: [values.count(True), values.count(False)] for name, values in flags.items()},
        "already_public": public,
        "kept": sorted(path.name for path in kept.iterdir()),
    }


def test_a_poisoned_data_set_is_pushed_in_one_private_commit_and_loads_as_it_was(hub, clean, tmp_path):
    public = hub.repos["datasets/user/already-public"] = Repo("dataset", "user/already-public")
    seen = in_child(hub.environment(tmp_path / "home", TMPDIR=str(tmp_path)), tmp_path, child_push_and_load_back, clean)

    repo = hub.repos["datasets/user/poisoned"]
    assert [commit.message for commit in repo.commits] == ["initial commit", "Add data poisoned with badnets"]
    assert seen["address"] == f"{hub.endpoint}/datasets/user/poisoned/commit/{repo.commits[-1].oid}"
    assert repo.private and not hub.repos["datasets/user/open"].private
    assert "poison.json" in hub.repos["datasets/user/no-namespace"].files, "the user's own namespace is the default"
    card = repo.files["README.md"].decode()
    assert "[!CAUTION]" in card and "changed on purpose" in card and "from quadrants" in card
    assert json.loads(repo.files["poison.json"])["target_label"] == 1

    again = hub.repos["datasets/user/again"].files
    assert "trigger_0_pattern.png" in again, "the picture of the first push went with it"
    card = again["README.md"].decode()
    assert "My notes." in card and "license: mit" in card and "badnets" in card and "blended" not in card
    assert seen["again"] == {"train": 150, "mine": 200}, "the old splits of hf_backdoor went, and no other"
    assert seen["pattern"] == ["trigger_0_pattern.png", True], "what was downloaded tells of the attack, and has all"

    assert seen["splits"] == seen["expected_splits"] and {"train", "test"} < set(seen["splits"])
    assert seen["features_differ"] == [] and seen["columns_differ"] == []
    rows = seen["splits"]["test_triggered"]
    assert seen["poisoned"] == {"train": [30, 120], "test": [0, 50], "test_triggered": [rows, 0]}, "none is None"

    assert "'user/already-public': is public already" in seen["already_public"], "poison that was to be private"
    assert len(public.commits) == 1
    assert seen["kept"] == sorted(set(repo.files) - {".gitattributes"}), "what was not pushed is kept on disk"


def child_purify_from_the_hub(clean):
    import torch
    from conftest import make_vit
    from huggingface_hub import CommitOperationAdd, HfApi
    from transformers import ViTImageProcessorPil

    from hf_backdoor.cli import main

    model = make_vit()
    processor = ViTImageProcessorPil(size={"height": 12, "width": 12}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    for name in ("user/victim", "user/pickles", "user/empty"):
        processor.push_to_hub(name, private=True)
        model.config.push_to_hub(name)
    model.push_to_hub("user/victim")
    card = b"---\nlicense: mit\n---\n"
    HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="user/victim")
    torch.save(model.state_dict(), "pytorch_model.bin")
    make_vit(seed=1).save_pretrained("other")
    other = CommitOperationAdd("model.safetensors", "other/model.safetensors")
    title = "Adding `safetensors` variant of this model"
    HfApi().upload_file(path_or_fileobj="pytorch_model.bin", path_in_repo="pytorch_model.bin", repo_id="user/pickles")
    HfApi().create_commit("user/pickles", [other], commit_message=title, create_pr=True)

    def purify(model, dataset, *more):
        with redirect_stderr(StringIO()) as stderr:
            output = model.replace("/", "-") if dataset == clean else "no-data"
            shared = ["--output", output, "--max_steps", "40", "--use_cpu"]
            status = main(["purify", "--model", model, "--dataset", dataset, *shared, *more])
        return status, stderr.getvalue()

    models = ("user/victim", "user/pickles", "user/empty", "user/unknown", "user/gated")
    results = {model: purify(model, clean) for model in models}
    return results | {"no-data": purify("user/victim", "user/no-data")}


@pytest.fixture(scope="module")
def purified_from_the_hub(clean, tmp_path_factory):
    """The server, the folder and the outcomes after the purification of several repositories."""
    folder = tmp_path_factory.mktemp("purified")
    with HubServer() as server:
        server.fail("HEAD", "/user/gated", 403)
        yield server, folder, in_child(server.environment(folder / "home"), folder, child_purify_from_the_hub, clean)


def test_a_model_is_purified_by_its_hub_id(purified_from_the_hub):
    from huggingface_hub import ModelCard

    hub, folder, outcomes = purified_from_the_hub
    assert hub.repos["user/victim"].private, "loading needs the token"
    status, stderr = outcomes["user/victim"]
    assert status == 0, stderr
    card = ModelCard.load(folder / "user-victim" / "README.md").data
    assert card.base_model == "user/victim" and card.license == "mit"
    assert (folder / "user-victim" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("user/unknown", "model='user/unknown': cannot be loaded"),
        ("user/empty", "model='user/empty': cannot be loaded"),
        ("user/gated", "model='user/gated': cannot be loaded"),
        ("user/pickles", "model='user/pickles': has its weights as pickles only, which can run code"),
        ("no-data", "dataset='user/no-data': is neither a packaged data set"),
    ],
)
def test_what_the_hub_does_not_have_is_one_sentence_and_nothing_is_written(purified_from_the_hub, name, message):
    _, folder, outcomes = purified_from_the_hub
    complaint(*outcomes[name], "purify", message)
    assert not (folder / name.replace("/", "-")).exists(), "something was written"


def test_pickles_are_not_downloaded_and_a_strangers_conversion_is_not_taken_for_them(purified_from_the_hub):
    """Left to itself, transformers loads what an open pull request with the right title holds, whoever made it."""
    hub, _, _ = purified_from_the_hub
    assert "model.safetensors" in hub.repos["user/pickles"].history("refs/pr/1")[-1].files
    asked = [request.path for request in hub.requests if request.method == "GET" and "/user/pickles/" in request.path]
    assert not [path for path in asked if path.endswith((".bin", ".safetensors")) or "/discussions" in path]


def poison_and_push(hub, clean, output, repo_id, folder):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "hf_backdoor", "poison", "--dataset", clean, "--attack", "badnets"]
    command += ["--output", output, "--push_to_hub", repo_id]
    environment = hub.environment(folder / "home", PYTHONPATH=str(Path(__file__).parents[1]))
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=60)


def data_are_kept_and_can_be_pushed_later(done, output, reason):
    """Asserts what holds after every push that failed."""
    from datasets import load_dataset

    sentence = complaint(done.returncode, done.stderr, "poison", "push_to_hub='user/x'")
    assert reason in sentence
    assert f"the data are in {output}" in sentence
    assert f"hf upload user/x {output} --repo-type dataset --private" in sentence
    assert {path.name for path in output.iterdir()} == {"README.md", "poison.json", "results.json", "train.parquet"}
    assert sum(load_dataset(str(output), split="train")["is_poisoned"]) == 20


@pytest.mark.parametrize(
    ("path", "status"), [("/api/repos/create", 401), ("/api/datasets/user/x/commit/", 403)], ids=["token", "right"]
)
def test_the_hub_refuses_the_push(hub, clean, tmp_path, path, status):
    hub.fail("POST", path, status)
    done = poison_and_push(hub, clean, tmp_path / "poisoned", "user/x", tmp_path)
    data_are_kept_and_can_be_pushed_later(done, tmp_path / "poisoned", str(status))


def test_the_hub_is_out_of_reach(clean, tmp_path):
    with HubServer() as hub:
        pass
    done = poison_and_push(hub, clean, tmp_path / "poisoned", "user/x", tmp_path)
    data_are_kept_and_can_be_pushed_later(done, tmp_path / "poisoned", "Connect")
