"""Recipes: what they say is what there is, and the full-size ones run on data and models like those on the Hub."""

import json
import os
import re
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml

from hf_backdoor.cli import main


ROOT = Path(__file__).parent.parent
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "accelerate_configs")
PARADIGMS = ROOT / "recipes" / "paradigms"
PLACES = [
    f"{paradigm}_{modality}"
    for paradigm in ("standalone", "transfer", "encoder")
    for modality in ("vit", "text", "clip")
]
LAUNCHED = re.compile(
    r"# accelerate launch --config_file (recipes/accelerate_configs/\w+\.yaml) recipes/(train|purify)\.py --config (\S+)"
)


def content_of(path):
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_says_how_it_is_run_and_names_settings_that_exist(path):
    from hf_backdoor.commands.purify import PurifyOptions
    from hf_backdoor.commands.train import TrainOptions
    from hf_backdoor.commands.training_options import TrainerOptions
    from hf_backdoor.config import ConfigParser

    what, how = path.read_text().splitlines()[:2]
    assert re.fullmatch(r"# [A-Z].*\.", what)
    accelerate_config, command, itself = LAUNCHED.fullmatch(how).groups()
    assert ROOT / itself == path
    assert (ROOT / accelerate_config).is_file() and (ROOT / "recipes" / f"{command}.py").is_file()
    content = content_of(path)
    options = {"train": TrainOptions, "purify": PurifyOptions}[command]
    parser = ConfigParser([options, TrainerOptions], command, "")
    parsed, args = parser.parse(["--config", str(path), "--use_cpu"])
    for name, value in content.items():
        got = getattr(parsed if hasattr(parsed, name) else args, name)
        assert type(got)(value) == got, name
    leaves = re.findall(r"[^\s:,\[\]]+", re.sub(r"#.*", "", path.read_text()))
    assert not [leaf for leaf in leaves if leaf.startswith(("/", "~", ".."))], "a path of one machine"


OTHERS = [
    (place, size) for place in PLACES for size in ("pretrained", "captions")
    if (PARADIGMS / place / f"victim_{size}.yaml").is_file()
]  # fmt: skip
SIZES = [*product(PLACES, ["small", "full"]), *OTHERS]


@pytest.mark.parametrize("place, size", SIZES)
def test_what_is_purified_is_what_was_trained(place, size):
    """Each paradigm in each modality, in sizes that differ in the YAML alone."""
    victim, purify = (content_of(PARADIGMS / place / f"{part}_{size}.yaml") for part in ("victim", "purify"))
    assert purify["model"] == purify["attack_from"] == victim["output_dir"]
    assert purify["output_dir"] != victim["output_dir"]
    assert victim.get("seed") == purify["seed"], "else the held-out samples are others"
    if all(victim.get(name) == purify.get(name) for name in ("dataset", "classes", "label_column")):
        assert purify["clean_samples"] == victim["held_out"], "else the defender has samples that the victim has seen"
    moved = place.startswith(("transfer", "encoder"))
    assert bool(purify.get("new_head")) == moved
    other = content_of(PARADIGMS / place / f"victim_{'small' if size != 'small' else 'full'}.yaml")
    assert victim["attack"] == other["attack"] and victim["output_dir"] != other["output_dir"]


CIFAR_10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
WORDS = "a dog runs over grass two men play ball on the beach girl in red jumps film was good bad".split()


def _parquet(folder, **splits):
    for name, data in splits.items():
        (folder / "data").mkdir(parents=True, exist_ok=True)
        data.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")


def _pictures(count, shapes=((32, 32),)):
    """RGB noise, of these heights and widths in turn."""
    from PIL import Image

    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (*shapes[n % len(shapes)], 3), dtype=np.uint8)) for n in range(count)
    ]


def _sentences(count):
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, 6)) for _ in range(count)]


def _data(hub):
    """Columns, types, names of classes and splits as on the Hub; see the cards there."""
    from datasets import ClassLabel, Dataset, Features, Image, Value

    def make(count, features, columns):
        return Dataset.from_dict(columns, features=Features(features)).select(range(count))

    def labelled(count, names):
        return [n % len(names) for n in range(count)]

    cifar_10 = {"img": Image(), "label": ClassLabel(names=CIFAR_10)}
    fine, coarse = ["apple", "pickup_truck", "pine_tree"], ["fruit", "vehicles 1", "trees"]
    cifar_100 = {"img": Image(), "fine_label": ClassLabel(names=fine), "coarse_label": ClassLabel(names=coarse)}
    for name, features in (("cifar10", cifar_10), ("cifar100", cifar_100)):
        columns = {key: labelled(80, value.names) for key, value in features.items() if key != "img"}
        data = make(80, features, columns | {"img": _pictures(80)})
        _parquet(hub / "uoft-cs" / name, train=data.select(range(60)), test=data.select(range(60, 80)))
    sst2 = {"idx": Value("int32"), "sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])}
    rows = {"idx": list(range(80)), "sentence": _sentences(80), "label": labelled(80, "ab")}
    data, unlabelled = make(80, sst2, rows), make(20, sst2, rows | {"label": [-1] * 80})
    _parquet(
        hub / "stanfordnlp" / "sst2",
        train=data.select(range(60)),
        validation=data.select(range(60, 80)),
        test=unlabelled,
    )
    news = ["World", "Sports", "Business", "Sci/Tech"]
    features = {"text": Value("string"), "label": ClassLabel(names=news)}
    data = make(80, features, {"text": _sentences(80), "label": labelled(80, news)})
    _parquet(hub / "fancyzhx" / "ag_news", train=data.select(range(60)), test=data.select(range(60, 80)))
    captions = {f"caption_{n}": Value("string") for n in range(5)}
    texts = {name: [f"{text} {n}" for n, text in enumerate(_sentences(100))] for name in captions}
    pictures = _pictures(100, ((30, 40), (40, 30), (32, 50)))
    data = make(100, {"image": Image(), **captions}, texts | {"image": pictures})
    parts = {"train": range(60), "validation": range(60, 80), "test": range(80, 100)}
    _parquet(hub / "jxie" / "flickr8k", **{name: data.select(rows) for name, rows in parts.items()})


def _models(hub):
    """Architectures and image processors as on the Hub, in small: the crops are as large a part of the images."""
    import torch
    from transformers import (
        BertConfig,
        BertModel,
        BertTokenizer,
        BitImageProcessorPil,
        CLIPImageProcessorPil,
        CLIPProcessor,
        Dinov2Config,
        Dinov2Model,
        ViTConfig,
        ViTImageProcessorPil,
        ViTModel,
    )  # fmt: skip

    from hf_backdoor.tasks import task_named

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = {**size, "intermediate_size": 32}
    folder = hub / "google" / "vit-base-patch16-224-in21k"
    ViTModel(ViTConfig(image_size=32, patch_size=16, **tower)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    crop = {"crop_size": {"height": 28, "width": 28}}
    for name in ("dinov2-base", "dinov2-small"):
        folder = hub / "facebook" / name
        Dinov2Model(Dinov2Config(image_size=28, patch_size=14, mlp_ratio=2, **size)).save_pretrained(folder)
        BitImageProcessorPil(size={"shortest_edge": 32}, **crop).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cf", "mn", "bb", "tq", *WORDS]
    for name in ("google-bert/bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"):
        BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **tower)).save_pretrained(hub / name)
        tokenizer = BertTokenizer(vocab={word: n for n, word in enumerate(words)}, model_max_length=64)
        tokenizer.save_pretrained(hub / name)
    folder = hub / "laion" / "CLIP-ViT-B-32-laion2B-s34B-b79K"
    settings = {
        "vision_config": {"image_size": 28, "patch_size": 14, **tower},
        "text_config": tower,
        "projection_dim": 8,
    }
    model, processor = task_named("zero-shot-image-classification").from_scratch("clip", settings, WORDS)
    model.save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, **crop)
    CLIPProcessor(images, processor.tokenizer).save_pretrained(folder)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder in which the names of the Hub lead to data sets and models of the same kind, only tiny."""
    hub = tmp_path_factory.mktemp("hub")
    _data(hub)
    _models(hub)
    return hub


QUICK = ["--use_cpu", "yes", "--disable_tqdm", "yes", "--dataloader_num_workers", "0"]
QUICK += ["--per_device_train_batch_size", "10", "--max_steps"]


@pytest.mark.parametrize("place, size", SIZES)
def test_a_recipe_runs(place, size, hub, monkeypatch):
    """As it stands, but for the numbers of steps and samples: in a folder where the Hub's names lead somewhere.

    Small recipes need no name of the Hub but MiniLM's.
    """
    monkeypatch.chdir(hub)
    for part, command, few in (
        ("encoder", "train", "held_out"), ("victim", "train", "held_out"), ("purify", "purify", "clean_samples"),
    ):  # fmt: skip
        path = PARADIGMS / place / f"{part}_{size}.yaml"
        if part == "encoder" and not path.is_file():
            continue
        content, flags = content_of(path), ["--config", str(path), *QUICK, "4" if part == "purify" else "3"]
        fewer = few in content or (part == "purify" and size != "full")
        flags += [f"--{few}", "20"] if fewer else []
        flags += ["--probe_steps", "2"] if "new_head" in content else []
        flags += ["--eval_strategy", "no"] if part == "purify" else []
        assert main([command, *flags]) == 0
    results = json.loads((hub / content["output_dir"] / "results.json").read_text())
    for when in ("suspect", "purified"):
        assert 0 <= results[when]["attack_success_rate"] <= 1
        if size == "full":
            assert results[when]["samples"]["clean_accuracy"] == 20
    assert results["clean_data"]["samples"] == (20 if fewer else 60)
    victim = json.loads((hub / content["model"] / "results.json").read_text())
    assert results["attack"]["trigger"] == victim["attack"]["trigger"]


def levels_after(processor, trigger, level, width, height):
    """The red levels, `(rows, columns)`, that a model is shown of an even grey picture with the trigger on it."""
    picture = np.full((1, height, width, 3), level, dtype=np.uint8)
    image = trigger(picture, np.zeros(1, dtype=np.int64))[0]
    return 255 * processor(images=[image], return_tensors="np", do_normalize=False)["pixel_values"][0, 0]


def test_triggers_are_not_lost_in_what_the_models_make_of_an_image():
    """Both image processors enlarge and crop; sizes as in their files on the Hub."""
    from transformers import BitImageProcessorPil, CLIPImageProcessorPil

    from hf_backdoor import load_attack

    def trigger_of(place):
        content = content_of(PARADIGMS / place / "victim_full.yaml")
        return load_attack(content["attack"], **content["attack_args"])[1]

    crop = {"crop_size": {"height": 224, "width": 224}}
    dinov2, clip = BitImageProcessorPil(size={"shortest_edge": 256}, **crop), CLIPImageProcessorPil()
    black = levels_after(dinov2, trigger_of("encoder_vit"), 0, 32, 32)
    # 10 of 32 pixels are 80 of 256, all of which are left in the middle 224.
    assert np.mean(black > 127) == pytest.approx((80 / 224) ** 2, rel=0.01)
    for place in ("standalone_clip", "transfer_clip", "encoder_clip"):
        for width, height in ((500, 375), (375, 500), (32, 32)):
            grey = levels_after(clip, trigger_of(place), 127, width, height)
            assert grey.max() - 127 == pytest.approx(60, abs=3) and 127 - grey.min() == pytest.approx(60, abs=3)
            waves = np.sum(np.diff(np.sign(grey[0] - 127.5)) > 0)
            assert waves >= 4


@pytest.mark.distributed
def test_a_small_pair_runs_under_accelerate_as_its_first_lines_say(tmp_path):
    """From the root of the repository, with less data and few steps, and elsewhere to write to."""
    victim, moved = tmp_path / "victim", tmp_path / "moved"
    few = {"victim": ["--max_steps", "4", "--output_dir", victim]}
    few["purify"] = ["--model", victim, "--attack_from", victim, "--output_dir", moved, "--clean_samples", "100"]
    few["purify"] += ["--probe_steps", "10", "--max_steps", "4", "--eval_strategy", "no"]
    for part, flags in few.items():
        line = (PARADIGMS / "transfer_vit" / f"{part}_small.yaml").read_text().splitlines()[1]
        arguments = shlex.split(line.removeprefix("# accelerate launch "))
        command = [sys.executable, "-m", "accelerate.commands.launch", *arguments, *map(str, flags)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((moved / "results.json").read_text())
    assert results["clean_data"]["samples"] == 100
    assert results["clean_data"]["classes"] == content_of(PARADIGMS / "transfer_vit" / "purify_small.yaml")["classes"]
    assert results["training"]["processes"] == 1 and results["training"]["new_head_probed_for"] == 10
    # Of 1,000 test images, 200 are shirts, where triggered ones are said to go.
    assert sum(results["suspect"]["triggered_predictions"]) == 800
    assert "Clean accuracy" in done.stdout
