"""What `purify` leaves in a folder: nothing of a stranger's code or of an earlier model, and the terms of the suspect."""

import json
import math

import numpy as np
import pytest
import yaml
from conftest import make_vit
from huggingface_hub import ModelCard

from hf_backdoor.cards.metadata import terms
from hf_backdoor.defenses.fine_tuning import FineTuning
from hf_backdoor.purification import purify
from hf_backdoor.results import as_json


class Numbers(FineTuning):
    """Reports numbers as a plugin's arithmetic makes them."""

    def report(self, trainer):
        return {"norm": np.float32(1.5), "all": np.arange(2)}


class Odd(FineTuning):
    def report(self, trainer):
        return {"norm": {1.5}}


CODE = {"auto_map": {"AutoModelForImageClassification": "stranger/evil--modeling_evil.Evil"}}
CODE |= {"custom_pipelines": {"image-classification": {"impl": "evil.Pipe"}}}


@pytest.fixture
def suspect(tmp_path, processor):
    """A folder whose configurations name a stranger's code."""
    folder = tmp_path / "suspect"
    make_vit().save_pretrained(folder)
    processor.save_pretrained(folder)
    for name in ("config.json", "preprocessor_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, **CODE, "nested": {"kept": 1, **CODE}}))
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nlanguage: [no, fr]\ntags: [vision]\n---\n# Theirs\n")
    return folder


def test_the_repaired_model_names_no_code_of_a_stranger_and_has_the_licence_of_the_suspect(
    suspect, images, arguments, tmp_path
):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    output = tmp_path / "purified"
    (output / "figures").mkdir(parents=True)
    (output / "figures" / "examples.md").write_text("![Of another model](figures/examples.png)")
    (output / "figures" / "examples.png").write_bytes(b"of another model")
    result = purify(
        str(suspect), images, output_dir=output, args=arguments(max_steps=2), defense=Numbers(), overwrite=True
    )
    for name in ("config.json", "preprocessor_config.json"):
        saved = json.loads((output / name).read_text())
        assert not CODE.keys() & saved.keys() and saved["nested"] == {"kept": 1}
    assert AutoModelForImageClassification.from_pretrained(output).config.id2label == result.model.config.id2label
    assert AutoImageProcessor.from_pretrained(output).size["height"] == 12

    stored = json.loads((output / "results.json").read_text())
    assert stored["defense"]["norm"] == 1.5 and stored["defense"]["all"] == [0, 1]
    card = ModelCard.load(output / "README.md")
    assert card.data.license == "cc-by-nc-4.0" and card.data.language == ["no", "fr"]
    assert card.data.tags == ["backdoor-defense", "purified", "hf_backdoor"]
    assert "What the model says" not in card.content and not list(output.glob("figures/examples.*"))


def test_an_object_keeps_what_it_names(suspect, images, processor, arguments, tmp_path):
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(suspect)
    purify(
        model,
        images,
        processing_class=processor,
        output_dir=tmp_path / "purified",
        args=arguments(max_steps=1),
        defense="fine_tuning",
    )
    assert model.config.auto_map == CODE["auto_map"]
    assert "auto_map" not in json.loads((tmp_path / "purified" / "config.json").read_text())


def test_results_that_are_no_json_are_refused_before_anything_is_written(suspect, images, arguments, tmp_path):
    output = tmp_path / "purified"
    with pytest.raises(TypeError, match="set has no place in JSON"):
        purify(str(suspect), images, output_dir=output, args=arguments(max_steps=1), defense=Odd())
    assert not output.exists() or not list(output.iterdir())
    assert json.loads(as_json({"a": np.float64(0.5), "b": math.pi})) == {"a": 0.5, "b": math.pi}


@pytest.mark.parametrize(
    "value", ["two words", "<script>", {"a": "b"}, ["mit", ["x"]], "a\nb", "http://a b", "x" * 65, None, ""]
)
def test_only_plain_terms_are_taken_over(value):
    card = f"---\n{yaml.safe_dump({'license': value, 'license_link': 'https://a.b/LICENSE', 'title': 'x'})}---\n"
    assert terms(card) == {"license_link": "https://a.b/LICENSE"}
