"""Classes that the data only name get the numbers that the model gives them."""

import json

import pytest
from conftest import same_weights
from datasets import ClassLabel, Dataset

from hf_backdoor import InputError, purify
from hf_backdoor.class_order import classes_of, numbered_like
from hf_backdoor.cli import main
from hf_backdoor.models import label_maps
from hf_backdoor.sequela import load_measure


TURNED = ["positive", "negative"]  # not by the alphabet


@pytest.fixture
def turned(sentences, tiny_bert):
    """A model whose classes are not in the order of the alphabet; its data as numbers, and as strings."""
    model, tokenizer = tiny_bert
    model.config.update(label_maps(TURNED))
    names = sentences.features["label"].names
    strings = Dataset.from_dict({"text": sentences["text"][:], "label": [names[n] for n in sentences["label"]]})
    return model, tokenizer, strings.cast_column("label", ClassLabel(names=TURNED)), strings


def test_strings_are_numbered_as_the_model_says(turned, arguments, tmp_path):
    model, tokenizer, numbers, strings = turned
    model.save_pretrained(tmp_path / "model")
    given = {"processing_class": tokenizer, "defense": "fine_tuning", "args": arguments(max_steps=4)}
    by_number, by_name = (purify(model, data, test_dataset=data, **given) for data in (numbers, strings))
    assert by_name.results["clean_data"]["classes"] == TURNED
    assert by_name.results["purified"] == by_number.results["purified"]
    assert same_weights(by_name.model, by_number.model)
    new = purify(tmp_path / "model", strings, new_head=True, probe_steps=1, **given)
    assert new.results["clean_data"]["classes"] == sorted(TURNED), "its old classes do not count"


def test_samples_of_the_suspect_are_numbered_as_the_clean_ones(turned, arguments, tmp_path):
    model, tokenizer, numbers, strings = turned
    found = []
    for name, data in (("numbers", numbers), ("strings", strings.with_format("torch"))):
        result = purify(
            model, data.select(range(60)), test_dataset=data.select(range(60, 160)), processing_class=tokenizer,
            suspect_data=data.select(range(160, 200)), output_dir=tmp_path / name, args=arguments(max_steps=2),
            defense="fine_tuning", sequela=[load_measure("membership", attacks=("loss",))],
        )  # fmt: skip
        found.append(result.sequela.results["measures"]["membership"]["findings"])
    assert found[0] == found[1]


def test_strings_of_a_file_are_measured_as_the_model_says(turned, tmp_path):
    model, tokenizer, numbers, strings = turned
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    measured = []
    for name, data in (("numbers", numbers), ("strings", strings)):
        data.to_parquet(tmp_path / f"{name}.parquet")
        given = ["--model", str(tmp_path / "model"), "--dataset", str(tmp_path / f"{name}.parquet")]
        output = tmp_path / f"{name}.json"
        assert main(["evaluate", *given, "--attack", "rare_words", "--output", str(output)]) == 0
        measured.append(json.loads(output.read_text())["measured"])
    assert measured[0] == measured[1]
    run = ["--output", str(tmp_path / "out"), "--max_steps", "2", "--use_cpu", "yes", "--defense", "fine_tuning"]
    assert main(["purify", *given, *run]) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["clean_data"]["classes"] == TURNED


def test_a_part_without_one_of_the_classes_is_measured(turned, tmp_path):
    model, tokenizer, _, strings = turned
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    strings.filter(lambda row: row["label"] == "negative").to_parquet(tmp_path / "part.parquet")
    given = ["--model", str(tmp_path / "model"), "--dataset", str(tmp_path / "part.parquet")]
    assert main(["evaluate", *given, "--output", str(tmp_path / "measures.json")]) == 0


def test_other_labels_stay_as_they_are(turned, arguments):
    model, tokenizer, numbers, strings = turned
    others = numbered_like(["good", "bad"], strings, "label")
    assert others.features["label"].names == sorted(TURNED), "by the alphabet, where the model has other names"
    alphabet = strings.cast_column("label", ClassLabel(names=sorted(TURNED)))
    assert numbered_like(TURNED, alphabet, "label") is alphabet
    with pytest.raises(InputError, match="numbers the same classes differently"):
        purify(model, alphabet, processing_class=tokenizer, args=arguments(), defense="fine_tuning")


def test_a_model_that_names_no_classes_or_one_twice_says_no_order(turned, tmp_path):
    model, tokenizer, *_ = turned
    model.save_pretrained(tmp_path / "model")
    assert classes_of(model) == classes_of(tmp_path / "model") == classes_of(str(tmp_path / "model")) == TURNED
    for named in ({0: "a", 1: "a"}, {1: "a", 2: "b"}):
        model.config.id2label = named
        assert classes_of(model) == []
    for content in ("{}", "no json", '{"id2label": ["a", "b"]}'):
        (tmp_path / "model" / "config.json").write_text(content)
        assert classes_of(tmp_path / "model") == []
    assert classes_of(tmp_path / "nowhere") == [] and classes_of("no/such-model") == [] and classes_of(None) == []
