"""Data of a user: how their classes are numbered, and what is refused of them before anything is done."""

import numpy as np
import pytest
from conftest import make_vit
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from hf_backdoor import InputError, PoisonConfig, load_data, load_trigger, poison, purify, split_off, triggered
from hf_backdoor.cli import main
from hf_backdoor.commands.options import test_set as chosen_test_set
from hf_backdoor.data import class_names, resolve_columns
from hf_backdoor.data.columns import check_rows
from hf_backdoor.data.sources import with_class_labels
from hf_backdoor.models import check_head
from hf_backdoor.training import train_classifier


BADNETS = PoisonConfig(load_trigger("badnets", size=2))
WORDS = PoisonConfig(load_trigger("rare_words"))


def picture_folders(folder, names):
    """One picture in a folder for each class, all of whose pixels are the place of the class in `names`."""
    from PIL import Image as Pictures

    for value, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        Pictures.new("L", (4, 4), value).save(folder / name / "0.png")
    return folder


def labels_of_pictures(data):
    return {int(np.asarray(row["image"])[0, 0]): row["label"] for row in data}


def test_classes_with_numbers_for_names_are_in_their_order(tmp_path):
    numbers = [str(number) for number in range(11)]
    strings = Dataset.from_dict({"text": ["a"] * 11, "label": numbers})
    encoded = with_class_labels(strings, "label")
    assert encoded.features["label"].names == numbers and encoded["label"][:] == list(range(11))
    pictures = load_data(picture_folders(tmp_path / "numbers", numbers))["train"]
    assert pictures.features["label"].names == numbers
    assert labels_of_pictures(pictures) == {number: number for number in range(11)}


def test_classes_of_a_folder_get_the_numbers_that_are_known(tmp_path):
    known = ["ant", "bee", "cat"]
    folder = picture_folders(tmp_path / "two", ["cat", "bee"])
    renumbered = with_class_labels(load_data(folder), "label", known)["train"]
    assert renumbered.features["label"].names == known
    assert labels_of_pictures(renumbered) == {0: 2, 1: 1}
    other = with_class_labels(load_data(folder), "label", ["ant", "bee"])["train"]
    assert other.features["label"].names == ["bee", "cat"], "not all are known"


def test_a_head_with_the_same_names_in_another_order_is_refused_whatever_their_case():
    with pytest.raises(InputError, match="numbers the same classes differently.*--classes"):
        check_head(make_vit(classes=("POSITIVE", "NEGATIVE")), ["negative", "positive"])
    with pytest.raises(InputError, match="numbers the same classes differently"):
        check_head(make_vit(classes=("a", "A")), ["A", "a"])


def test_a_class_that_has_another_number_is_refused_even_if_one_name_is_new(caplog):
    """A folder cannot be called T-shirt/top: that is the same name, but in the order of the alphabet."""
    classes = ("T-shirt/top", "Sandal", "Bag")
    check_head(make_vit(classes=classes), ["T-shirt_top", "sandal", "bag"])
    assert not caplog.text
    for names in (["Bag", "Sandal", "T-shirt_top"], ["Bag", "Sandall", "T-shirt/top"]):
        with pytest.raises(InputError, match="numbers the same classes differently.*--classes"):
            check_head(make_vit(classes=classes), names)
    check_head(make_vit(classes=classes), ["0", "1", "2"])
    check_head(make_vit(classes=("1", "2", "3")), ["0", "1", "2"])


def test_a_folder_with_the_name_of_a_reader_is_a_folder(tmp_path, monkeypatch):
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "train.csv").write_text("text,label\na good film,1\na bad one,0\n")
    (tmp_path / "other.csv").write_text("something,else\n1,2\n")
    monkeypatch.chdir(tmp_path)
    assert load_data("csv")["train"]["text"][:] == ["a good film", "a bad one"]


def test_the_last_checkpoint_is_the_last_one_that_was_written_whole(tmp_path):
    from hf_backdoor.checkpoints import found_checkpoint

    for step, whole in ((20, True), (100, True), (120, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert (
        found_checkpoint("last", str(tmp_path))
        == found_checkpoint(True, str(tmp_path))
        == str(tmp_path / "checkpoint-100")
    )
    with pytest.raises(InputError, match="was not written whole; name one of .*checkpoint-20.*checkpoint-100, or last"):
        found_checkpoint(str(tmp_path / "checkpoint-120"), str(tmp_path))


def test_a_head_whose_classes_are_not_numbered_from_0_is_refused():
    model = make_vit(classes=("bad", "good"))
    model.config.id2label = {1: "bad", 2: "good"}
    with pytest.raises(InputError, match="numbers its classes 1, 2 .* and not from 0"):
        check_head(model, ["bad", "good"])


def test_text_beside_the_column_that_was_found_is_warned_of_once(caplog):
    names = {name: Value("string") for name in ("question", "sentence", "source", "label")}
    labelled = Features(names | {"label": ClassLabel(names=["yes", "no"])})
    pictures = Features({"image": Image(), "title": Value("string"), "label": ClassLabel(names=["yes", "no"])})
    with caplog.at_level("WARNING"):
        resolve_columns(labelled, input_column="question")
        resolve_columns(Features({name: names[name] for name in ("sentence", "source", "label")}))
        resolve_columns(pictures)
        assert not caplog.records, "it was named, or there is no other"
        for features in (labelled, labelled, Features(names)):
            assert resolve_columns(features).input == "sentence"
    assert len(caplog.records) == 1
    assert "from the column sentence alone, and not from question:" in caplog.text and "--text_column" in caplog.text


def test_a_head_with_other_names_is_warned_of(caplog):
    with caplog.at_level("WARNING"):
        for names in (["negative", "positive"], ["0", "1"]):
            check_head(make_vit(classes=("NEGATIVE", "POSITIVE")), names)
        for classes in (("LABEL_0", "LABEL_1"), ("0", "1")):
            check_head(make_vit(classes=classes), ["poor", "fine"])
        assert not caplog.records, "the same names, or none"
        for _ in range(2):
            check_head(make_vit(classes=("bad", "good")), ["fine", "poor"])
    assert len(caplog.records) == 1
    assert "bad, good" in caplog.text and "fine, poor" in caplog.text and "--classes" in caplog.text


def texts(labels, feature=None, text="a good film"):
    features = Features({"text": Value("string"), "label": feature}) if feature is not None else None
    return Dataset.from_dict({"text": [text] * 3 + ["a bad film"], "label": labels}, features=features)


NAMED = ClassLabel(names=["negative", "positive"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (texts([0, 1, 0, 1], NAMED, text=None), "text=None: row 0 has no input; filter such rows out first"),
        (texts([0, 1, -1, 1], NAMED), "label=-1: row 2 has no label; filter such rows out first"),
        (texts([0, 1, None, 1], NAMED), "label=None: row 2 has no label"),
        (texts([0, 1, None, 1]), "label=None: row 2 has no label"),
        (texts([0, 1, 1, -1]), "label=-1: row 3 has no label"),
        (texts(["positive", None, "positive", "negative"]), "label=None: row 1 has no label"),
        (texts([[0], [1], [0], [1, 0]]), "must hold one class or caption a row"),
    ],
)
def test_rows_without_input_or_label_are_refused_before_anything_is_done(
    data, message, sentences, tiny_bert, arguments, tmp_path
):
    model, tokenizer = tiny_bert
    args = arguments()
    for use in (
        lambda: poison(data, WORDS),
        lambda: triggered(data, WORDS),
        lambda: purify(model, data, processing_class=tokenizer, args=args),
        lambda: purify(model, sentences, test_dataset=data, processing_class=tokenizer, args=args),
        lambda: train_classifier(model, args, data, processing_class=tokenizer),
        lambda: train_classifier(model, args, sentences, test_dataset=data, processing_class=tokenizer),
    ):
        with pytest.raises(InputError) as refused:
            use()
        assert message in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_rows_are_checked_as_they_were_selected_and_whatever_their_format(sentences):
    data = texts([0, None, -1, 1], NAMED)
    columns = resolve_columns(data.features)
    check_rows(data.select([3, 0]), columns)
    check_rows(sentences.with_format("torch"), columns)
    for some in (data.select([3, 2]), data.select([3, 2]).with_format("numpy"), data.select([0, 1]).flatten_indices()):
        with pytest.raises(InputError, match="row 1 has no label"):
            check_rows(some, columns)
    picture = Dataset.from_dict({"image": [None, None], "label": [0, 1]}).cast_column("image", Image())
    with pytest.raises(InputError, match="image=None: row 0 has no input"):
        check_rows(picture, resolve_columns(picture.features))
    for use in (lambda: class_names(texts([0, None, 1, 1]), "label"), lambda: split_off(data, 2, 0, "label")):
        with pytest.raises(InputError, match="row 1 has no label"):
            use()


def test_a_test_split_without_labels_is_passed_over(sentences):
    bare = sentences.map(lambda label: {"label": -1}, input_columns="label")
    data = DatasetDict(train=sentences, test=bare, validation=sentences.select(range(20)))
    assert chosen_test_set(data, None, "label") is data["validation"]
    assert chosen_test_set(data, "test", "label") is bare
    del data["validation"]
    assert chosen_test_set(data, None, "label") is None
    assert chosen_test_set(data, None, "label", required=True) is bare, "and not the training split"
    assert set(poison(data, WORDS)) == {"train", "test"}, "there is nothing to attack"


def test_a_test_set_with_names_is_numbered_like_the_clean_set(sentences, tiny_bert, arguments):
    """Strings, and classes in another order, for which the model says the same."""
    model, tokenizer = tiny_bert
    names = sentences.features["label"].names
    rows = {"text": sentences["text"][:], "label": [names[label] for label in sentences["label"]]}
    strings = Dataset.from_dict(rows)
    turned = strings.cast_column("label", ClassLabel(names=names[::-1]))
    given = {"processing_class": tokenizer, "defense": "fine_tuning"}
    measured = [
        purify(model, clean, test_dataset=test, args=arguments(max_steps=6), **given).results["purified"]
        for clean, test in ((sentences, sentences), (strings, strings), (sentences, turned))
    ]
    assert measured[1] == measured[0] and measured[2] == measured[0]
    trained = train_classifier(
        model, arguments(max_steps=1), sentences, test_dataset=strings, processing_class=tokenizer
    )
    assert trained["benign"]["samples"]["clean_accuracy"] == 200


def test_paths_serve_as_names(sentences, tiny_bert, arguments, tmp_path):
    for part in tiny_bert:
        part.save_pretrained(tmp_path / "model")
    sentences.to_parquet(tmp_path / "sentences.parquet")
    result = purify(
        tmp_path / "model", tmp_path / "sentences.parquet", args=arguments(max_steps=1), defense="fine_tuning"
    )
    assert result.results["clean_data"]["samples"] == 200


def test_other_things_than_data_sets_are_refused(images, sentences, tiny_bert, arguments):
    model, tokenizer = tiny_bert
    splits, stream = DatasetDict(train=sentences), images.to_iterable_dataset()
    given = {"processing_class": tokenizer, "args": arguments()}
    for use, message in (
        (lambda: poison(stream, BADNETS), "dataset='IterableDataset': must be a datasets.Dataset"),
        (lambda: triggered(stream, BADNETS), "without streaming=True"),
        (lambda: triggered(splits, WORDS), "dataset='DatasetDict'"),
        (lambda: resolve_columns(stream.map(lambda row: row).features), "the columns of this stream are not known"),
        (lambda: purify(model, splits, **given), "clean_dataset='DatasetDict'.*pass one split"),
        (lambda: purify(model, sentences, test_dataset=splits, **given), "test_dataset='DatasetDict'"),
        (lambda: train_classifier(model, train_dataset=splits, **given), "train_dataset='DatasetDict'"),
        (lambda: load_data(3), "dataset='int': must be a name or a path"),
    ):
        with pytest.raises(InputError, match=message):
            use()


def test_data_that_are_known_to_be_poisoned_are_no_clean_set(images, processor, arguments):
    poisoned = poison(images, BADNETS)
    cover = poison(images, PoisonConfig(BADNETS.trigger, cover_rate=0.1)).filter(lambda row: not row["is_poisoned"])
    for some in (poisoned, cover):
        with pytest.raises(InputError, match="dataset='is_poisoned': says that rows have a trigger"):
            purify(make_vit(), some, processing_class=processor, args=arguments())


@pytest.mark.parametrize(
    ("name", "values"), [("index", ["a"] * 400), ("original_label", ["a"] * 400), ("is_cover", [1] * 400)]
)
def test_columns_of_the_user_are_not_written_over(images, name, values):
    with pytest.raises(InputError, match=f"dataset='{name}': is your column.*rename it first"):
        poison(images.add_column(name, values), BADNETS)


def test_columns_of_an_earlier_poisoning_are(images):
    clean = poison(images, BADNETS).filter(lambda row: not row["is_poisoned"])
    assert sum(poison(clean, PoisonConfig(BADNETS.trigger, rate=0.1))["is_poisoned"]) == 36
    own = images.add_column("original_label", images["label"][:]).cast_column(
        "original_label", images.features["label"]
    )
    with pytest.raises(InputError, match="dataset='original_label': is your column"):
        poison(own, BADNETS)


@pytest.mark.parametrize("use", [poison, triggered])
def test_a_format_or_transform_changes_nothing_and_is_dropped(images, use):
    expected = use(images, BADNETS)
    for given in (images.with_format("torch"), images.with_transform(lambda rows: {"x": rows["image"]})):
        done = use(given, BADNETS)
        assert done.format["type"] is None and done.features == expected.features
        assert done["label"][:] == expected["label"][:]
        assert all(one == other for one, other in zip(done["image"], expected["image"], strict=True))


@pytest.mark.parametrize("seed", [-1, 1.5])
def test_seeds_are_whole_numbers_from_0(seed):
    with pytest.raises(InputError, match=f"seed={seed}: must be a whole number from 0"):
        PoisonConfig(load_trigger("badnets"), seed=seed)


def test_evaluate_refuses_at_once_what_would_fail_at_the_end(tmp_path, capsys):
    (tmp_path / "file.txt").touch()
    for flags, message in (
        (["--batch_size", "0"], "batch_size=0: must be 1 or more"),
        (["--output", tmp_path], "is a folder, or lies in a file"),
        (["--output", tmp_path / "file.txt" / "evaluation.json"], "is a folder, or lies in a file"),
    ):
        arguments = ["evaluate", "--model", "no/model", "--dataset", "no/data", *flags]
        assert main([str(argument) for argument in arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["cut", "nonsense"])
def test_an_image_that_cannot_be_read_is_named(broken, tmp_path, capsys, processor):
    """By a repair that asks the suspect first, and by one that begins to train at once, in a worker."""
    from PIL import Image as Pictures

    folder = picture_folders(tmp_path / "pictures", ["ant", "bee"])
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    for name in ("ant", "bee"):
        for number in range(8):
            Pictures.fromarray(noise).save(folder / name / f"{number}.png")
    good = load_data(folder)["train"]
    make_vit(classes=("ant", "bee")).save_pretrained(tmp_path / "suspect")
    processor.save_pretrained(tmp_path / "suspect")
    whole = (folder / "bee" / "5.png").read_bytes()
    (folder / "bee" / "5.png").write_bytes(whole[:200] if broken == "cut" else b"no picture")
    command = ["purify", "--model", str(tmp_path / "suspect"), "--dataset", str(folder), "--max_steps", "4"]
    command += ["--per_device_train_batch_size", "4", "--use_cpu", "--output", str(tmp_path / "out")]
    if broken == "cut":
        command += ["--defense", "fine_tuning", "--dataloader_num_workers", "1"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "image='row 13, " in said and "bee" in said and "5.png': cannot be read (" in said
    assert not list((tmp_path / "out").glob("*"))
    with pytest.raises(InputError, match=r"image='.*5\.png': cannot be read .*replace it, or leave it out"):
        poison(good, PoisonConfig(load_trigger("badnets", size=2), target_label=0, rate=0.5))
    assert len(poison(good, PoisonConfig(load_trigger("badnets", size=2), target_label=1, rate=0.5))) == 16


def test_an_error_of_another_kind_stays_what_it_is(images):
    from hf_backdoor.data.unreadable import naming_unreadable_images

    class Unread(Dataset):
        def __getitem__(self, row):
            raise AssertionError("no image is read again")

    unread = Unread(images.data)
    with pytest.raises(OSError, match="No space left"), naming_unreadable_images(unread, None):
        raise OSError(28, "No space left on device")


def test_a_part_of_a_split_is_named_as_in_datasets(sentences, tmp_path):
    from datasets import load_dataset

    from hf_backdoor.data import pick_split
    from hf_backdoor.data.sources import names_of_test_set

    for name, part in (("train", sentences), ("test", sentences.select(range(50)))):
        part.to_parquet(tmp_path / f"{name}.parquet")
    data = load_data(tmp_path)
    for split in ("test[:7]", "train[10%:20%]", "test[-3:]+train[:2]", "train[5:]"):
        ours, theirs = pick_split(data, split, (), "split"), load_dataset(str(tmp_path), split=split)
        assert ours.to_list() == theirs.to_list() and ours.split == theirs.split
        assert names_of_test_set(ours, "here")["test_split"] == split
    assert pick_split(data, "test[:2] + train[:1]", (), "split").to_list() == [*sentences.select([0, 1, 0])]
    for wrong in ("dev", "test[", "dev[:3]", "test[:x]", "test[:150%]"):
        with pytest.raises(
            InputError, match=r"test_split='.*': no such split \(.*\); .* train, test, .*train\[:1000\]"
        ):
            pick_split(data, wrong, (), "test_split")
    with pytest.raises(InputError, match="has no row"):
        pick_split(data, "test[50:]", (), "test_split")


def without_names(data):
    """The same with numbers as labels, none of which has a name."""
    return data.cast_column("label", Value("int64"))


def test_classes_without_names_are_counted_where_all_of_them_are(images, processor, tmp_path):
    """A part of a data set may lack the last one."""
    numbers = without_names(images)
    make_vit().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    numbers.filter(lambda row: row["label"] < 3).to_parquet(tmp_path / "part.parquet")
    options = ["--model", str(tmp_path / "model"), "--dataset", str(tmp_path / "part.parquet")]
    assert main(["evaluate", *options, "--output", str(tmp_path / "measures.json")]) == 0

    part = numbers.filter(lambda row: row["label"] < 3)
    config = PoisonConfig(load_trigger("badnets", size=3), targets="all_to_all", rate=0.5)
    for classes in (None, 4, None):  # whatever is in the cache
        labels = np.asarray(triggered(part, config, classes=classes)["label"])
        assert labels.max() == (3 if classes else 2)


def test_what_cannot_be_measured_on_is_refused_before_the_training(images, processor, tmp_path):
    numbers = without_names(images)
    fewer = make_vit(classes=("a", "b", "c"))
    given = {"processing_class": processor, "defense": "fine_tuning", "output_dir": tmp_path / "out"}
    three = numbers.filter(lambda row: row["label"] < 3)
    with pytest.raises(InputError, match="test_dataset=3: is a class that the training set lacks, whose last one is 2"):
        purify(fewer, three, test_dataset=numbers, **given)
    with pytest.raises(InputError, match="test_dataset=0: has no rows"):
        purify(make_vit(), images, test_dataset=images.select([]), **given)
    ids = Dataset.from_dict({"text": ["a", "b"], "label": [0, 30_000_000]})
    with pytest.raises(InputError, match="is more than 100,000 classes"):
        class_names(ids, "label")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_a_test_set_in_a_format_is_measured_and_shown_as_it_is(form, images, processor, arguments, tmp_path):
    config = PoisonConfig(load_trigger("badnets", size=3), target_label=1)
    test, measured = images.select(range(40)), []
    for number, one in enumerate((test, test.with_format(form))):
        result = purify(
            make_vit(), images, test_dataset=one, attack=config, processing_class=processor, defense="fine_tuning",
            args=arguments(max_steps=2), output_dir=tmp_path / str(number),
        )  # fmt: skip
        measured.append(result.results["purified"])
        assert (tmp_path / str(number) / "figures" / "examples.png").is_file()
    assert measured[0] == measured[1]


def test_images_of_more_than_8_bits_are_refused_and_not_trained_on_as_white(processor):
    from PIL import Image as Pictures

    from hf_backdoor.tasks.image_classification import ImageCollator

    deep = Pictures.fromarray(np.full((12, 12), 20_000, np.uint16))
    columns = resolve_columns(Features({"image": Image(), "label": ClassLabel(names=["a", "b"])}))
    with pytest.raises(InputError, match="more than 8 bits a channel"):
        ImageCollator(processor, columns)([{"image": deep, "label": 0}])
