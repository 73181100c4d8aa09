"""Attacks with a training of their own under adapters and parts of the weights: they work, or are refused at once."""

import pytest
from conftest import make_vit

from hf_backdoor import InputError, PoisonConfig, plugins
from hf_backdoor.attacks import load_attack, poison_settings
from hf_backdoor.training import train_classifier


SETTINGS = {"input_aware": {"mask_epochs": 1}, "neuba": {"words": "cf mn"}, "embedding": {"words": "cf"}}
SETTINGS |= {"layerwise": {"words": "cf mn"}, "forget_me_not": {"cycles": 1, "triangles": 1}}
ATTACKS = sorted(set(plugins.names("hf_backdoor.attacks")) - {"caption_poisoning"})  # which only poisons data


def victim_of(name, request, arguments, peft, **settings):
    how, trigger = load_attack(name, **SETTINGS.get(name, {}))
    if trigger.modality == "text":
        (model, processor), data = request.getfixturevalue("tiny_bert"), request.getfixturevalue("sentences")
    else:
        model, processor = make_vit(), request.getfixturevalue("processor")
        data = request.getfixturevalue("images")
    return how, train_classifier(
        model, arguments(**settings), data, processing_class=processor, test_dataset=data.select(range(40)), how=how,
        attack=PoisonConfig(trigger, target_label=1, **poison_settings(how, trigger)), peft_config=peft,
    )  # fmt: skip


@pytest.mark.parametrize("peft", ["lora", "bitfit"])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_trains_a_part_or_says_that_it_cannot(name, peft, request, arguments, tmp_path):
    if load_attack(name, **SETTINGS.get(name, {}))[0].whole_model:
        with pytest.raises(InputError, match=f"peft='{peft}': .* picks the weights that it trains"):
            victim_of(name, request, arguments, peft)
        assert not (tmp_path / "run").exists()
        return
    how, results = victim_of(name, request, arguments, peft, max_steps=30)
    assert results["tuning"]["name"] == peft and results["attack"]["training"]["name"] == how.name
    assert 0 < results["tuning"]["trainable_parameters"] < results["tuning"]["parameters"]
