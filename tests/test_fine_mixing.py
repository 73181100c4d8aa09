"""Fine-mixing: which weights go back to the public model's, when, and what is refused."""

import pytest
import torch
from conftest import make_vit, same_weights
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, TrainerCallback, ViTModel

from hf_backdoor import InputError, load_defense, purify
from hf_backdoor.mixing import MixingCallback, mix, public_weights, shared_weights
from hf_backdoor.purification import default_arguments
from hf_backdoor.tuning import load_tuning


@pytest.fixture
def public(tmp_path):
    """Folder of the public model: another ViT, without a head."""
    torch.manual_seed(1)
    ViTModel(make_vit().config, add_pooling_layer=False).save_pretrained(tmp_path / "public")
    return tmp_path / "public"


def quick(defense, folder, **settings):
    defaults = {"max_steps": 6, "per_device_train_batch_size": 16, "use_cpu": True, "eval_strategy": "no"}
    return default_arguments(defense, folder, **defaults | settings)


def mixed(suspect, public, keep=0.3, seed=0):
    pairs = shared_weights(suspect, public_weights(str(public)), str(public))
    mix(pairs, keep, seed)
    return suspect


def test_each_weight_is_one_of_both_and_the_kept_share_is_as_asked(public):
    before, base, after = make_vit(), ViTModel.from_pretrained(public), mixed(make_vit(), public)
    old, new = dict(before.named_parameters()), dict(base.named_parameters())
    kept = differing = 0
    for name, weight in after.named_parameters():
        if name.startswith("classifier."):
            assert torch.equal(weight, old[name]), "the head stays"
            continue
        other = new[name.removeprefix("vit.")]
        assert ((weight == old[name]) | (weight == other)).all()
        differ = old[name] != other
        kept += ((weight == old[name]) & differ).sum().item()
        differing += differ.sum().item()
    assert differing > 3000 and abs(kept / differing - 0.3) < 4 * (0.3 * 0.7 / differing) ** 0.5


def test_the_same_seed_mixes_the_same_weights(public):
    assert same_weights(mixed(make_vit(), public), mixed(make_vit(), public))
    assert not same_weights(mixed(make_vit(), public), mixed(make_vit(), public, seed=1))
    back = mixed(make_vit(), public, keep=0.0).vit
    base = ViTModel.from_pretrained(public, add_pooling_layer=False)
    assert same_weights(back, base), "nothing is kept of the body"


def test_weights_that_the_public_files_do_not_have_are_kept(tmp_path):
    """The pooler of a BERT that was made to fill in words would be random."""
    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertForMaskedLM(config).save_pretrained(tmp_path / "words")
    suspect = BertForSequenceClassification(config)
    pooler = suspect.bert.pooler.dense.weight.clone()
    words = suspect.bert.embeddings.word_embeddings.weight.clone()
    mixed(suspect, tmp_path / "words", keep=0.0)
    assert torch.equal(suspect.bert.pooler.dense.weight, pooler)
    assert not torch.equal(suspect.bert.embeddings.word_embeddings.weight, words)


def test_a_base_that_is_the_suspect_changes_nothing(images, processor, tmp_path):
    """Then it is fine-tuning, bit for bit."""
    suspect, clean = make_vit(dropout=0.1), images.select(range(100))
    suspect.save_pretrained(tmp_path / "same")
    results = [
        purify(
            suspect, clean, defense=defense, processing_class=processor, args=quick(defense, tmp_path / defense.name)
        )
        for defense in (load_defense("fine_mixing", base=str(tmp_path / "same")), load_defense("fine_tuning"))
    ]
    assert same_weights(*(result.model for result in results))
    told = results[0].results["defense"]
    assert told["base"] == "same" and told["keep"] == 0.5
    assert told["mixed_weights"] == sum(weight.numel() for weight in suspect.vit.parameters())


def test_the_suspect_is_measured_before_and_mixed_once(images, processor, public, tmp_path):
    """A run that dies and is resumed ends as the uninterrupted one, so the weights were not mixed again."""

    class Die(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyboardInterrupt

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.start = {name: weight.clone() for name, weight in kwargs["model"].state_dict().items()}

    def trainer(folder, *callbacks):
        defense = load_defense("fine_mixing", base=str(public), keep=0.3)
        args = quick(defense, tmp_path / folder, save_strategy="steps", save_steps=3)
        return defense.trainer_class()(
            make_vit(dropout=0.1),
            args,
            train_dataset=images.select(range(100)),
            processing_class=processor,
            callbacks=[*defense.callbacks(), *callbacks],
        )

    suspect = make_vit()
    whole = trainer("whole", watch := Watch())
    assert same_weights(whole.model, suspect), "until training begins"
    whole.train()
    expected = mixed(make_vit(), public, seed=whole.args.seed).state_dict()
    assert all(torch.equal(watch.start[name], expected[name]) for name in expected)
    with pytest.raises(KeyboardInterrupt):
        trainer("died", Die()).train()
    resumed = trainer("died")
    resumed.train(resume_from_checkpoint=True)
    assert same_weights(whole.model, resumed.model)


def test_training_once_more_does_not_mix_once_more(images, processor, public, tmp_path):
    defense = load_defense("fine_mixing", base=str(public), keep=0.3)
    trainer = defense.trainer_class()(
        make_vit(), quick(defense, tmp_path, max_steps=1, learning_rate=0.0), train_dataset=images.select(range(100)),
        processing_class=processor, callbacks=defense.callbacks(),
    )  # fmt: skip
    trainer.train()
    expected = mixed(make_vit(), public, seed=trainer.args.seed)
    assert same_weights(trainer.model, expected)
    told = defense.report(trainer)
    trainer.args.seed = 1
    trainer.train()
    assert same_weights(trainer.model, expected) and defense.report(trainer) == told != {"mixed_weights": 0}


def refusal(model, base):
    with pytest.raises(InputError) as failure:
        MixingCallback(str(base), 0.5).on_init_end(None, None, None, model=model)
    return str(failure.value)


def test_bases_that_do_not_fit_are_refused_before_anything_runs(public, tiny_bert, tmp_path):
    bert, _ = tiny_bert
    bert.save_pretrained(tmp_path / "bert")
    assert "shares no weight" in refusal(make_vit(), tmp_path / "bert")
    config = make_vit().config
    config.hidden_size = 32
    ViTModel(config).save_pretrained(tmp_path / "wide")
    assert "of size (1, 1, 32) and the suspect of (1, 1, 16)" in refusal(make_vit(), tmp_path / "wide")
    assert "below an adapter" in refusal(load_tuning("lora").apply(make_vit()), public)
    adapted = load_tuning("lora").apply(make_vit())
    adapted.save_pretrained(tmp_path / "adapter")
    assert "is an adapter" in refusal(make_vit(), tmp_path / "adapter")
    assert "cannot be loaded" in refusal(make_vit(), tmp_path / "nowhere")


def test_purify_says_at_once_that_a_base_does_not_fit(images, processor, tiny_bert, tmp_path):
    tiny_bert[0].save_pretrained(tmp_path / "bert")
    defense = load_defense("fine_mixing", base=str(tmp_path / "bert"))
    with pytest.raises(InputError, match="shares no weight"):
        purify(
            make_vit(),
            images.select(range(100)),
            defense=defense,
            processing_class=processor,
            args=quick(defense, tmp_path / "run"),
            output_dir=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", [{}, {"base": "x", "keep": 1.0}, {"base": "x", "keep": -0.1}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(InputError) as failure:
        load_defense("fine_mixing", **settings)
    assert failure.value.field == ("keep" if settings else "base")
