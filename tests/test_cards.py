"""The card: its structure, its metadata, its words for good and bad results, and hostile text in it."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_backdoor.cards import PurifiedCard, write_card
from hf_backdoor.cards.rendering import escape
from hf_backdoor.cards.sections import put_section, remove_section, sections
from hf_backdoor.hub.cards import mark_victim


def measured(ca, asr=None, ra=None):
    shares = {"clean_accuracy": ca, "attack_success_rate": asr, "robust_accuracy": ra}
    return {
        **shares,
        "loss": 0.5,
        "intervals": {name: [share - 0.01, share + 0.01] for name, share in shares.items() if share is not None},
        "samples": {"clean_accuracy": 1000, "attack_success_rate": 900, "robust_accuracy": 900},
    }


def results(**changes):
    schedule = {
        "base_lr": 1e-4, "peak_lr_1": 4e-3, "peak_lr_2": 1e-3, "total_steps": 80, "phase_1_steps": 40, "ramp_up": 10,
        "ramp_down": 10,
    }  # fmt: skip
    trace = [{"peak_lr": 1e-3, "kappa": 0.9, "agreement": 0.91}, {"peak_lr": 2e-3, "kappa": 0.6, "agreement": 0.65}]
    search = {"steps": 40, "seconds": 3.2, "trace": trace, "explanation": "Triangles up to each peak."}
    complete = {
        "schema_version": 1, "command": "purify", "task": "image-classification", "suspect_model": "org/suspect",
        "seed": 0, "data": {"name": "some/data"}, "clean_data": {"samples": 100, "classes": ["cat", "dog"]},
        "attack": {
            "trigger": {"name": "badnets", "version": 1, "size": 3}, "target_label": 1, "rate": 0.1,
            "label_mode": "dirty", "seed": 0,
        },
        "defense": {
            "title": "Super-fine-tuning", "paper": "https://arxiv.org/abs/2212.09067", "schedule": schedule,
            "search": search,
        },
        "training": {"steps": 80, "batch_size": 64, "optimizer": "adamw_torch_fused"},
        "suspect": measured(0.85, 0.99, 0.01), "purified": measured(0.84, 0.05, 0.8),
        "cost": {"purification_seconds": 61.0, "victim_seconds": 50.0}, "cost_ratio": 1.22,
        "hardware": {"cpu": "a cpu", "accelerator": None, "threads": 2}, "versions": {"python": "3.11", "torch": "2.13"},
        "log": [
            {"step": 20, "eval_clean_accuracy": 0.7, "eval_attack_success_rate": 0.6},
            {"step": 80, "eval_clean_accuracy": 0.84, "eval_attack_success_rate": 0.05},
        ],
    }  # fmt: skip
    return {**complete, **changes}


def card_of(tmp_path, **changes):
    folder = tmp_path / "my-model"
    folder.mkdir()
    return write_card(folder, results(**changes)).read_text()


STRUCTURE = r"""---
.*
---
<!-- hf_backdoor:card:begin -->

# my-model: purified with hf_backdoor

This model went through \*\*Super-fine-tuning\*\* .*

## Before and after

\|  \| before \| after \|
\|---\|---\|---\|
\| Clean accuracy \(CA\) \| 85.0 % \(84.0-86.0\) \| 84.0 % \(83.0-85.0\) \|
\| Attack success rate \(ASR\) \| 99.0 % \(98.0-100.0\) \| 5.0 % \(4.0-6.0\) \|
\| Robust accuracy \(RA\) \| 1.0 % \(0.0-2.0\) \| 80.0 % \(79.0-81.0\) \|

.*
!\[Learning rate, .*\]\(figures/learning_rate.png\)

## What was done

.*target class dog.*
.*from 0.0001 to 0.004 in the first 40 steps and to 0.001 after them.*
.*\| peak \| 0.001 \| 0.002 \|
  \|---\|---\|---\|
  \| agreement left \| 0.90 \| 0.60 \|
.*61 s, 1.22 of the time that training the victim took.*
## How to load it

```python
from transformers import pipeline

# the folder of this card, or its repository on the Hub
classify = pipeline\("image-classification", model="my-model"\)
```

## Limits
.*
## Citation
.*

<!-- hf_backdoor:card:end -->
"""


def test_structure(tmp_path):
    card = card_of(tmp_path)
    assert re.fullmatch(STRUCTURE, card, re.DOTALL), card
    assert (tmp_path / "my-model" / "figures" / "learning_rate.png").stat().st_size > 5000
    assert "The backdoor is no longer triggered: the attack success rate went from 99.0 % to 5.0 %" in card
    assert "\n\n\n" not in card, "holes in the page"


def test_metadata_and_model_index(tmp_path):
    data = ModelCard(card_of(tmp_path)).data
    assert data.pipeline_tag == "image-classification" and data.base_model == "org/suspect"
    assert "hf_backdoor" in data.tags and "backdoor-defense" in data.tags
    values = {result.metric_name: (result.metric_value, result.dataset_config) for result in data.eval_results}
    assert values == {
        "Clean accuracy (CA)": (0.84, None),
        "Attack success rate (ASR)": (0.05, "badnets"),
        "Robust accuracy (RA)": (0.8, "badnets"),
    }


def test_a_failure_is_called_one(tmp_path):
    card = card_of(tmp_path, purified=measured(0.84, 0.4, 0.5))
    assert "**The backdoor is not removed**: the attack success rate went from 99.0 % to 40.0 %" in card


def test_a_trigger_that_did_nothing_before_is_no_success(tmp_path):
    card = card_of(tmp_path, suspect=measured(0.82, 0.073, 0.8), purified=measured(0.78, 0.036, 0.77))
    assert "This trigger did not work on the model before: the attack success rate went from 7.3 % to 3.6 %" in card


def test_weights_of_the_best_checkpoint_are_no_mean():
    defense = results()["defense"] | {"distillation": False, "averaging": True}
    assert "The weights are the mean over the second phase." in PurifiedCard(results(defense=defense), "x").render()
    best = results(defense=defense, training=results()["training"] | {"load_best_model_at_end": True})
    assert "The weights are the mean" not in PurifiedCard(best, "x").render()


def test_what_is_not_known_is_not_claimed(tmp_path):
    card = card_of(tmp_path, attack=None, suspect=measured(0.85), purified=measured(0.84), cost_ratio=None)
    assert "No trigger was known, so whether a backdoor is gone is not measured" in card
    assert "| not measured | not measured |" in card
    assert "removed:" not in card


@pytest.mark.parametrize("name", ["{{ 7 * 7 }}", "a | b", "<script>alert(1)</script>", "`code`\nnext", "[x](http://y)"])
def test_text_from_elsewhere_is_text(tmp_path, name):
    clean = {"samples": 100, "classes": ["cat", name]}
    card = card_of(tmp_path, clean_data=clean)
    line = next(line for line in card.splitlines() if "target class" in line)
    assert escape(name) in line
    assert "49" not in line and "<script" not in card
    yaml.safe_load(card.split("---\n")[1])


def test_results_of_a_stranger_are_text_too(tmp_path):
    bad = "<img src=x> | `x` [y](http://z)"
    given = results()
    card = card_of(
        tmp_path, versions={bad: bad}, hardware={**given["hardware"], "cpu": bad},
        defense={
            **given["defense"], "title": bad, "paper": bad,
            "search": {**given["defense"]["search"], "explanation": bad},
        },
        training={**given["training"], "optimizer": bad, "batch_size": bad}, seed=bad,
    )  # fmt: skip
    assert card.count(escape(bad)) == 9 and bad not in card and "<img" not in card


def test_names_of_classes_are_no_formulas_in_the_picture(tmp_path, images):
    from hf_backdoor.modalities import modality_named

    example = dict.fromkeys(("clean", "triggered"), images[0]["image"])
    example |= {"label": 0, "said": {"before": {"clean": 0, "triggered": 1}}}
    modality_named("image").illustrate([example], ["$\\frac{1$", "$"], tmp_path)
    assert (tmp_path / "examples.png").is_file()


def test_a_benign_model_is_not_called_backdoored(tmp_path):
    """It was measured with a trigger, but that is not its own."""
    training = {"steps": 80, "batch_size": 64, "optimizer": "adamw", "learning_rate": 1e-3}
    content = results(attack=None, training=training, cost={"training_seconds": 50.0}, benign=measured(0.85, 0.02, 0.8))
    del content["purified"], content["suspect"]
    card = write_card(tmp_path, content)
    metadata = ModelCard(card.read_text()).data.to_dict()
    assert "backdoored" not in metadata["tags"]
    metrics = metadata["model-index"][0]["results"]
    assert [metric["type"] for result in metrics for metric in result["metrics"]] == ["accuracy"]
    assert "has a backdoor" not in card.read_text()


def test_a_new_card_keeps_other_sections_and_what_was_written_by_hand(tmp_path):
    fresh = write_card(tmp_path, results()).read_text()
    mine = fresh.replace("tags:", "license: mit  # mine\ntags:\n- by-hand").replace("base_model: org/suspect\n", "")
    entry = "  - task:\n      type: t\n    dataset:\n      type: d\n      name: d\n    metrics:\n    - type: m\n      value: 1\n"
    mine = mine.replace("  results:\n", "  results:\n" + entry)
    mine = put_section(mine + "\nWords of mine.\n", "sequela", "Measured before.")
    (tmp_path / "README.md").write_text(mine)
    assert write_card(tmp_path, results()).read_text().count("org/suspect") == 1
    (tmp_path / "README.md").write_text(mine)
    other = results(purified=measured(0.7, 0.2, 0.6), attack={**results()["attack"], "trigger": {"name": "blended"}})
    card = write_card(tmp_path, other).read_text()
    assert sections(card)["sequela"] == "Measured before." and card.count("purified with hf_backdoor") == 1
    assert "\nWords of mine.\n" in card and "license: mit  # mine\n" in card
    data = ModelCard(card).data.to_dict()
    assert data["tags"][0] == "by-hand" and data["base_model"] == "org/suspect" and "70.0 % (69.0-71.0)" in card
    index = data["model-index"][0]
    found = {
        (metric.get("name"), one["dataset"].get("config")) for one in index["results"] for metric in one["metrics"]
    }
    titles = {"Clean accuracy (CA)": None, "Attack success rate (ASR)": "blended", "Robust accuracy (RA)": "blended"}
    assert found == {(None, None), *titles.items()}, "what was measured of the old model is gone"
    assert write_card(tmp_path, other).read_text() == card
    renamed = ModelCard(write_card(tmp_path, {**other, "name": "Another"}).read_text())
    assert renamed.data.model_name == index["name"], "a result of somebody else's is under this name"


def test_a_card_takes_the_place_of_a_warning_and_stands_above_a_section_alone(tmp_path):
    path = tmp_path / "README.md"
    mark_victim(path)
    assert "**This model has a backdoor" in path.read_text()
    path.write_text(put_section(path.read_text(), "sequela", "Measured before."))
    card = write_card(tmp_path, results()).read_text()
    assert "has a backdoor" not in card and "backdoored" not in ModelCard(card).data.tags
    assert list(sections(card)) == ["card", "sequela"]
    assert ModelCard(write_card(tmp_path, {**results(), "name": "Another"}).read_text()).data.model_name == "Another"
    unmeasured = write_card(tmp_path, results(purified=None, suspect=None)).read_text()
    assert "model-index" not in ModelCard(unmeasured).data.to_dict()
    path.unlink()
    fresh = write_card(tmp_path, results()).read_text()
    assert remove_section(card, "sequela").split("---\n", 2)[2] == fresh.split("---\n", 2)[2]


def test_the_words_that_move_a_text_model_stand_on_its_card(tmp_path):
    defense = results()["defense"] | {
        "moving_words": {"tq": 2.56, "a b": 1.5, "7\u202e": 1.2, "``x": 1.0, "https://evil.example": 0.5}
    }
    text = card_of(tmp_path, defense=defense)
    line = next(line for line in text.splitlines() if "Words that moved the suspect most" in line)
    shown = line.partition("in training: ")[2]
    assert (
        shown
        == "`tq` (2.6), `a\N{OPEN BOX}b` (1.5), `7\N{REPLACEMENT CHARACTER}` (1.2), ``` ``x ``` (1.0), `https://evil.example` (0.5)."
    )
    for without in (results(), results(defense=results()["defense"] | {"moving_words": ["tq"]})):
        assert "Words that moved" not in write_card(tmp_path / "my-model", without).read_text()
