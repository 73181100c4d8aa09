"""Pairs of encoders beyond CLIP: SigLIP's loss and padding, and a pair made of two pretrained encoders."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import largest_difference, same_weights
from datasets import Dataset, Features, Image, Value

from hf_backdoor import BackdoorTrainer, InputError
from hf_backdoor.cli import main
from hf_backdoor.contrastive_losses import sigmoid_loss
from hf_backdoor.data import resolve_columns
from hf_backdoor.data.targets import CAPTIONS
from hf_backdoor.tasks import task_named


TASK = "zero-shot-image-classification"
QUADRANTS = ["north west", "north east", "south west", "south east"]
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {"image_size": 12, "patch_size": 4, **TOWER}
KINDS = ("clip", "siglip", "pair")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Folders of a DINOv2 in half precision, whose processor crops, and of a BERT."""
    from transformers import BertConfig, BertModel, BertTokenizer, BitImageProcessorPil, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(1)
    spread = {"initializer_range": 0.1}
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, **spread}
    Dinov2Model(Dinov2Config(image_size=12, patch_size=4, **vision)).half().save_pretrained(folder / "vision")
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    crop = {"size": {"shortest_edge": 16}, "crop_size": {"height": 12, "width": 12}}
    BitImageProcessorPil(**crop, **half).save_pretrained(folder / "vision")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *" ".join([*QUADRANTS, *CAPTIONS, "one three"]).split(), "."]
    tokenizer = BertTokenizer(vocab={word: n for n, word in enumerate(dict.fromkeys(words))})
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **TOWER, **dropout, **spread)
    BertModel(text).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    return {"vision": str(folder / "vision"), "text": str(folder / "text")}


@pytest.fixture(scope="module")
def make(encoders):
    """Makes a model of each kind and its processor, the same one each time."""

    def new(kind, names=QUADRANTS, positions=64):
        torch.manual_seed(0)
        if kind == "pair":
            settings = {**encoders, "projection_dim": 8}
            return task_named(TASK).from_scratch("vision-text-dual-encoder", settings, list(names))
        # pipeline() pads to 64 tokens for any SigLIP, so fewer positions are for tests without it.
        settings = {"vision_config": VISION, "text_config": {"max_position_embeddings": positions, **TOWER}}
        return task_named(TASK).from_scratch(kind, settings, list(names))

    return new


def spread(model):
    """Makes all weights larger: fresh ones, in a model this small, say nearly the same of all inputs."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in filter(lambda weight: weight.ndim > 1, model.parameters()):
            weight += 0.3 * torch.randn(weight.shape, generator=generator)


def batch_of(task, processor, dataset, rows):
    columns = resolve_columns(dataset.features)
    task.prepare(processor, columns, dataset)
    return task.collator(processor, columns)([dataset[row] for row in rows])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("peft", [None, "lora", "bitfit"])
def test_a_pair_of_any_kind_is_purified_and_loaded_again(make, images, tmp_path, kind, peft):
    from hf_backdoor import load_defense, purify
    from hf_backdoor.purification import default_arguments

    model, processor = make(kind)
    model.save_pretrained(tmp_path / "suspect")
    processor.save_pretrained(tmp_path / "suspect")
    defense = load_defense("super_fine_tuning", peak_lr_1=1e-2, peak_lr_2=1e-3, base_lr=1e-4)
    args = default_arguments(
        defense, tmp_path / "run", max_steps=20, per_device_train_batch_size=10, use_cpu=True, eval_strategy="no"
    )
    done = purify(
        str(tmp_path / "suspect"), images.select(range(60)), task=TASK, args=args, defense=defense, peft_config=peft,
        output_dir=tmp_path / "purified", test_dataset=images.select(range(60, 100)),
    )  # fmt: skip
    assert done.results["tuning"]["saved"] == ("adapter" if peft == "lora" else "model")
    batch = inputs_of(batch_of(task_named(TASK), processor, images, range(4)))
    loaded = task_named(TASK).load_model(str(tmp_path / "purified"))
    before, after, again = (one.eval()(**batch).logits_per_image for one in (model, done.model, loaded))
    assert torch.equal(after, again) and not torch.allclose(before, after, atol=1e-3)


def inputs_of(batch):
    return {name: value for name, value in batch.items() if name not in ("group", "labels")}


def worked_out(logits, group, pairwise):
    """The loss, term by term."""
    count, total = len(group), 0.0
    for i in range(count):
        if pairwise:
            total += sum(
                torch.log1p(torch.exp(-logits[i, j] if group[i] == group[j] else logits[i, j])) for j in range(count)
            )
            continue
        alike = [k for k in range(count) if group[k] == group[i]]
        for line in (logits[i], logits[:, i]):
            total += sum(torch.log(torch.exp(line - line[k]).sum()) for k in alike) / len(alike) / 2
    return total / count


def test_pairwise_loss_of_three_samples_two_of_which_share_their_caption():
    """sigmoid(ln 3) = 3/4, and all other logits are 0: 5 of 9 pairs belong together."""
    logits = torch.full((3, 3), 0.0)
    logits[0, 2] = logits[1, 0] = math.log(3)
    rows = [2 * math.log(2) - math.log(3 / 4), 2 * math.log(2) - math.log(1 / 4), 3 * math.log(2)]
    assert sigmoid_loss(logits, torch.tensor([7, 1, 7])).item() == pytest.approx(np.mean(rows))


@pytest.mark.parametrize("kind", ["siglip", "pair"])
def test_loss_without_repetitions_is_the_models_own(kind, make, images):
    model, processor = make(kind)
    spread(model)
    task = task_named(TASK)
    batch = batch_of(task, processor, images, range(4))
    own = model.eval()(**inputs_of(batch), return_loss=True).loss
    assert task.loss(model, batch).item() == pytest.approx(own.item(), rel=1e-5)
    repeated = batch_of(task, processor, images, (0, 1, 4, 8))
    own = model(**inputs_of(repeated), return_loss=True).loss
    assert abs(task.loss(model, repeated).item() - own.item()) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_follows_the_gradient_of_the_loss(kind, make, images, arguments):
    (model, processor), (by_hand, _), (start, _) = make(kind), make(kind), make(kind)
    for one in (model, by_hand, start):
        spread(one)
    args = arguments(
        max_steps=1, optim="sgd", learning_rate=0.1, max_grad_norm=0.0, lr_scheduler_type="constant", weight_decay=0.0
    )
    trainer = BackdoorTrainer(model, args, train_dataset=images, processing_class=processor, task=TASK)
    own, batches = trainer.task.loss, []
    trainer.task.loss = lambda model, inputs: batches.append(inputs) or own(model, inputs)
    trainer.train()
    by_hand.train()
    (batch,) = batches
    assert len(set(batch["group"].tolist())) < len(batch["group"]) == 8, "some captions are repeated"
    worked_out(by_hand(**inputs_of(batch)).logits_per_image, batch["group"], kind == "siglip").backward()
    with torch.no_grad():
        for weight in by_hand.parameters():
            weight -= 0.1 * (0 if weight.grad is None else weight.grad)
    assert largest_difference(model, by_hand) < 1e-6 < largest_difference(model, start)


def test_texts_of_siglip_have_one_length_and_no_mask(make, images, tmp_path):
    from transformers import AutoProcessor

    for kind, names in {"siglip": {"input_ids"}, "clip": {"input_ids", "attention_mask"}}.items():
        processor = make(kind)[1]
        processor.save_pretrained(tmp_path / kind)
        for one in (processor, AutoProcessor.from_pretrained(tmp_path / kind)):
            batch = batch_of(task_named(TASK), one, images, (0, 1))
            assert inputs_of(batch).keys() == {"pixel_values"} | names
            assert (batch["input_ids"].shape[1] == 64) is (kind == "siglip")


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_says_the_same(kind, make, images, arguments, tmp_path):
    from transformers import AutoModel, AutoProcessor

    model, processor = make(kind)
    data = {"train_dataset": images, "eval_dataset": images.select(range(40)), "task": TASK}
    trainer = BackdoorTrainer(model, arguments(), processing_class=processor, **data)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    loaded = AutoModel.from_pretrained(tmp_path / "model")
    assert type(loaded) is type(model) and same_weights(loaded, model)
    again = BackdoorTrainer(
        loaded, arguments(), processing_class=AutoProcessor.from_pretrained(tmp_path / "model"), **data
    )
    first, second = (one.predict(data["eval_dataset"]).predictions for one in (trainer, again))
    assert np.array_equal(first, second)
    tokens = processor.tokenizer.backend_tokenizer
    assert tokens.truncation is None and tokens.padding is None, "the user's is untouched"


def test_a_checkpoint_restores_both_encoders(make, images, arguments, tmp_path):
    """DINOv2 is saved under names that its weights do not have in memory."""

    def run(folder, resume=None, **settings):
        settings |= {"save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "constant"}
        model, processor = make("pair")
        args = arguments(output_dir=str(tmp_path / folder), **settings)
        trainer = BackdoorTrainer(model, args, train_dataset=images, processing_class=processor, task=TASK)
        trainer.train(resume_from_checkpoint=resume)
        return model

    whole = run("whole", max_steps=6)
    run("half", max_steps=3)
    assert same_weights(run("half", resume=True, max_steps=6), whole)


@pytest.mark.parametrize("kind", ["siglip", "pair"])
def test_scores_of_classes(kind, make, images, arguments, tmp_path):
    """As `pipeline` gives them: by a sigmoid with SigLIP, whose bias counts there."""
    from transformers import pipeline

    model, processor = make(kind)
    trainer = BackdoorTrainer(
        model, arguments(max_steps=5), train_dataset=images, eval_dataset=images, processing_class=processor, task=TASK
    )
    trainer.task.wordings = ("a photo of a {}.",)
    trainer.train()
    logits = torch.from_numpy(trainer.predict(images.select(range(5))).predictions)
    scores = logits.sigmoid() if kind == "siglip" else logits.softmax(-1)
    trainer.save_model(str(tmp_path))
    classify = pipeline(TASK, model=str(tmp_path), device="cpu")
    for row, expected in zip(images.select(range(5)), scores, strict=True):
        for answer in classify(row["image"], candidate_labels=QUADRANTS, hypothesis_template="a photo of a {}."):
            assert answer["score"] == pytest.approx(expected[QUADRANTS.index(answer["label"])].item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["siglip", "pair"])
def test_clean_accuracy_of_captions_is_the_recall_at_1(kind, make, images, arguments):
    model, processor = make(kind)
    spread(model)
    texts = [f"a picture of {word}" for word in "north south east west one three this good".split()]
    padding = {"padding": "max_length", "max_length": 64} if kind == "siglip" else {"padding": True}
    with torch.no_grad():
        tokens = processor.tokenizer(texts, return_tensors="pt", **padding)
        pictures = [picture.convert("RGB") for picture in images["image"][:24]]
        pixels = processor.image_processor(pictures, return_tensors="pt")
        text = model.eval().get_text_features(**tokens).pooler_output.numpy()
        image = model.get_image_features(**pixels).pooler_output.numpy()
    cosines = (image @ text.T) / np.linalg.norm(image, axis=1)[:, None] / np.linalg.norm(text, axis=1)
    nearest = cosines.argmax(1)
    captions = [texts[nearest[n] if n % 2 else n % 8] for n in range(24)]
    known = [n for n, text in enumerate(texts) if text in captions]  # only these can be retrieved
    found = [texts[known[best]] for best in cosines[:, known].argmax(1)]
    recall = np.mean([one == other for one, other in zip(found, captions, strict=True)])
    assert 0.5 <= recall < 1 and len(set(nearest)) > 1
    rows = {"image": images["image"][:24], "caption": captions}
    data = Dataset.from_dict(rows, features=Features({"image": Image(), "caption": Value("string")}))
    trainer = BackdoorTrainer(
        model, arguments(), train_dataset=data, eval_dataset=data, processing_class=processor, task=TASK
    )
    assert trainer.evaluate()["eval_clean_accuracy"] == pytest.approx(recall)


def test_siglip_learns_classes(make, images, arguments):
    model, processor = make("siglip", positions=16)
    args = arguments(max_steps=100, per_device_train_batch_size=32, learning_rate=5e-3)
    trainer = BackdoorTrainer(
        model, args, train_dataset=images, eval_dataset=images.select(range(100)), processing_class=processor, task=TASK
    )
    trainer.train()
    assert trainer.evaluate()["eval_clean_accuracy"] > 0.9


def test_the_pair_has_the_pretrained_weights_and_new_projections(make, encoders):
    from transformers import AutoModel

    model, processor = make("pair")
    assert same_weights(model.vision_model, AutoModel.from_pretrained(encoders["vision"], dtype=torch.float32))
    assert same_weights(model.text_model, AutoModel.from_pretrained(encoders["text"]))
    assert model.dtype == torch.float32, "the image encoder was stored in half precision"
    assert model.visual_projection.weight.shape == model.text_projection.weight.shape == (8, 16)
    other, _ = task_named(TASK).from_scratch("vision-text-dual-encoder", encoders, QUADRANTS)
    assert other.config.projection_dim == 512
    torch.manual_seed(0)
    again, _ = task_named(TASK).from_scratch("vision-text-dual-encoder", {**encoders, "projection_dim": 8}, QUADRANTS)
    assert same_weights(model, again), "the seed gives the projections"


def test_the_pair_sees_the_whole_image_at_the_size_asked_for(encoders):
    from PIL import Image as Pictures

    picture = Pictures.new("RGB", (24, 24))
    picture.paste((255, 255, 255), (22, 22, 24, 24))  # a trigger that the processor's own crop cuts off
    for settings, side in (({}, 12), ({"image_size": 24}, 24)):
        model, processor = task_named(TASK).from_scratch("vision-text-dual-encoder", {**encoders, **settings}, [])
        values = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
        assert values.shape == (1, 3, side, side)
        assert values[0, 0, -1, -1] > 0.5 and values[0, 0, 0, 0] == -1
        assert model.get_image_features(values).pooler_output.shape == (1, 512)


def test_the_pair_can_have_the_image_encoder_of_a_clip(make, encoders, tmp_path):
    model, processor = make("clip")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    settings = {"vision": str(tmp_path), "text": encoders["text"]}
    pair, _ = task_named(TASK).from_scratch("vision-text-dual-encoder", settings, [])
    assert same_weights(pair.vision_model, model.vision_model)


def test_command_line(images, encoders, tmp_path):
    images.select(range(300)).to_parquet(tmp_path / "data" / "train.parquet")
    images.select(range(300, 400)).to_parquet(tmp_path / "data" / "test.parquet")
    victim, data = tmp_path / "victim", ["--dataset", tmp_path / "data", "--task", TASK]
    start = ["--architecture", "vision-text-dual-encoder", "--architecture_args", "projection_dim=8"]
    start += [f"{name}={folder}" for name, folder in encoders.items()]
    attack = ["--attack", "badnets", "--attack_args", "size=4", "--rate", 0.3]
    settings = ["--max_steps", 100, "--learning_rate", "2e-3", "--per_device_train_batch_size", 32, "--use_cpu"]

    def run(*arguments):
        return main([str(argument) for argument in arguments])

    assert run("train", *data, *start, *attack, *settings, "--output", victim) == 0
    results = json.loads((victim / "results.json").read_text())
    assert results["victim"]["clean_accuracy"] > 0.6 and results["victim"]["attack_success_rate"] > 0.6
    for path in victim.glob("*.*"):
        if path.suffix in (".json", ".md"):
            assert str(tmp_path.parent) not in path.read_text(), f"{path.name} tells of a folder of this machine"
    evaluation = tmp_path / "evaluation.json"
    assert run("evaluate", "--model", victim, *data, "--attack_from", victim, "--output", evaluation) == 0
    measured = json.loads(evaluation.read_text())["measured"]
    for name in ("clean_accuracy", "attack_success_rate", "robust_accuracy"):
        assert measured[name] == results["victim"][name]


def test_what_makes_no_pair_is_refused(make, encoders, tmp_path):
    from transformers import DistilBertConfig, DistilBertModel, Siglip2Config, Siglip2Model

    def refused(match, **settings):
        with pytest.raises(InputError, match=match):
            task_named(TASK).from_scratch("vision-text-dual-encoder", settings, QUADRANTS)

    refused("name the vision encoder", text=encoders["text"])
    refused("name the text encoder", vision=encoders["vision"])
    refused("no such argument", **encoders, layers=3)
    refused("must be a whole number", **encoders, image_size="large")
    refused("image_size=0: must be 1 or more", **encoders, image_size=0)
    refused("projection_dim=0: must be 1 or more", **encoders, projection_dim=0)
    refused("image_size=14: must be a multiple of 4", **encoders, image_size=14)
    refused("cannot be loaded", vision=str(tmp_path / "nothing"), text=encoders["text"])
    refused("cannot be loaded", vision=encoders["text"], text=encoders["text"])
    bare = DistilBertModel(DistilBertConfig(vocab_size=40, dim=16, hidden_dim=32, n_layers=1, n_heads=2))
    bare.save_pretrained(tmp_path / "bare")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / file).write_bytes((tmp_path.parent / encoders["text"] / file).read_bytes())
    refused("do not make a pair of encoders", vision=encoders["vision"], text=str(tmp_path / "bare"))
    pickled = tmp_path / "pickled"
    make("pair")[0].vision_model.save_pretrained(pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused("as pickles only", vision=str(pickled), text=encoders["text"])
    with pytest.raises(InputError, match="choose one of clip, siglip, vision-text-dual-encoder"):
        task_named(TASK).from_scratch("vit", {}, QUADRANTS)
    small = {"vision_config": {"num_patches": 9, **TOWER}, "text_config": {"vocab_size": 40, **TOWER}}
    with pytest.raises(InputError, match="takes patches of images of any shape"):
        task_named(TASK).check_model(Siglip2Model(Siglip2Config(**small)), QUADRANTS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_is_cut_where_the_text_encoder_has_no_more_places(kind, make, images):
    model, processor = make(kind, positions=32)
    processor.tokenizer.model_max_length = 10**6  # as of a tokenizer that does not know
    captions = Features({"image": Image(), "caption": Value("string")})
    long = [" ".join(["north west"] * length) for length in (40, 50, 60, 2)]
    data = Dataset.from_dict({"image": images["image"][:4], "caption": long}, features=captions)
    task = task_named(TASK)
    task.prepare(processor, resolve_columns(data.features), data)
    batch = task.collator(processor, task.columns, model)(list(data))
    assert batch["input_ids"].shape == (4, 32)
    task.prepare_evaluation(model, data)
    assert task.logits(model, batch).shape == (4, 4)
