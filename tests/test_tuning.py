"""Tunings: which weights are trained in each architecture, how many, and what comes out of merging."""

import copy
import math

import numpy as np
import pytest
import torch
import transformers
from conftest import make_vit, same_weights
from torch import nn

from hf_backdoor import InputError
from hf_backdoor.architectures import LAYERS, head_modules, pooler
from hf_backdoor.cards.rendering import trained_weights
from hf_backdoor.tuning import describe_tuning, is_adapter, load_tuning, merged, parameter_counts, tuning_names


BLOCKS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PATCHES = {**BLOCKS, "image_size": 16, "patch_size": 8}
TOKENS = {**BLOCKS, "vocab_size": 64, "max_position_embeddings": 32, "pad_token_id": 1}
GROUPED = {**TOKENS, "num_key_value_heads": 1, "head_dim": 8}
ENDS = {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 2]}
TINY = {
    "albert": {**TOKENS, "embedding_size": 8},
    "beit": PATCHES,
    "bert": TOKENS,
    "camembert": TOKENS,
    "clip": {
        "vision_config": PATCHES, "text_config": {**TOKENS, "bos_token_id": 0, "eos_token_id": 2}, "projection_dim": 8
    },
    "convnext": {**STAGES, "num_stages": 2, "patch_size": 2},
    "convnextv2": {**STAGES, "num_stages": 2, "patch_size": 2},
    "data2vec-text": TOKENS,
    "data2vec-vision": PATCHES,
    "deberta-v2": {**TOKENS, "relative_attention": True, "pos_att_type": ["c2p"], "share_att_key": True},
    "deit": PATCHES,
    "detr": {
        "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "num_queries": 4,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "use_timm_backbone": False,
        "backbone": None,
    },
    "dinov2": {**PATCHES, "mlp_ratio": 2},
    "dinov2_with_registers": {**PATCHES, "mlp_ratio": 2},
    "distilbert": {"vocab_size": 64, "dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2},
    "electra": {**TOKENS, "embedding_size": 8},
    "ernie": TOKENS,
    "gemma2": GROUPED,
    "gpt2": {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "pad_token_id": 1}
    | {"bos_token_id": 0, "eos_token_id": 2},
    "llama": TOKENS,
    "mistral": GROUPED,
    "modernbert": {**TOKENS, **ENDS},
    "mpnet": TOKENS,
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "resnet": {**STAGES, "embedding_size": 8, "layer_type": "basic"},
    "roberta": TOKENS,
    "siglip": {"vision_config": PATCHES, "text_config": {**TOKENS, "projection_size": 16}},
    "swin": {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    "swinv2": {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
    | {"window_size": 4},
    "vision-text-dual-encoder": {},
    "vit": PATCHES,
    "vit_msn": PATCHES,
    "xlm-roberta": TOKENS,
    "yolos": {**PATCHES, "image_size": [16, 16], "num_detection_tokens": 4},
}  # fmt: skip
HEADS = {
    "clip": ["text_projection", "visual_projection"],
    "deberta-v2": ["classifier", "pooler"],
    "detr": ["bbox_predictor", "class_labels_classifier"],
    "distilbert": ["classifier", "pre_classifier"],
    "gemma2": ["score"],
    "gpt2": ["score"],
    "llama": ["score"],
    "mistral": ["score"],
    "modernbert": ["classifier", "head"],
    "qwen2": ["score"],
    "qwen3": ["score"],
    "siglip": ["text_model.head", "vision_model.head"],
    "vision-text-dual-encoder": ["text_projection", "visual_projection"],
    "yolos": ["bbox_predictor", "class_labels_classifier"],
}
# Matrices and convolutions inside the blocks on which no adapter goes: what changes the resolution, depthwise
# convolutions, and the convolutional network below DETR.
LEFT_OUT = {
    "swin": ("reduction",), "swinv2": ("reduction", "continuous_position_bias"), "convnext": ("downsampling_layer", "dwconv"), "convnextv2": ("downsampling_layer", "dwconv"),
    "detr": ("backbone",),
}  # fmt: skip
ADAPTERS = ("dora", "ia3", "lora", "rora")


def make(architecture):
    torch.manual_seed(0)
    if architecture == "vision-text-dual-encoder":
        config = transformers.VisionTextDualEncoderConfig(
            vision_config=transformers.ViTConfig(**PATCHES).to_dict(),
            text_config=transformers.BertConfig(**TOKENS).to_dict(),
            projection_dim=8,
        )
        return transformers.VisionTextDualEncoderModel(config).eval()
    settings = dict(TINY[architecture])
    if architecture == "detr":
        settings["backbone_config"] = transformers.ResNetConfig(**TINY["resnet"], out_features=["stage2"])
    config = transformers.AutoConfig.for_model(architecture, **settings)
    if architecture == "deit":
        return transformers.DeiTForImageClassification(config).eval()
    kinds = {"clip": "AutoModel", "siglip": "AutoModel"}
    kinds |= dict.fromkeys(("detr", "yolos"), "AutoModelForObjectDetection")
    text = "vocab_size" in settings
    usual = "AutoModelForSequenceClassification" if text else "AutoModelForImageClassification"
    return getattr(transformers, kinds.get(architecture, usual)).from_config(config).eval()


def answers(model):
    """What a model says to the same input, whatever it takes."""
    generator = torch.Generator().manual_seed(1)
    kind = model.config.model_type
    inputs = {}
    if kind not in TINY or "vocab_size" not in TINY[kind]:
        inputs["pixel_values"] = torch.rand(2, 3, 16, 16, generator=generator)
    if kind in ("clip", "siglip", "vision-text-dual-encoder") or "pixel_values" not in inputs:
        inputs["input_ids"] = torch.randint(3, 60, (2, 6), generator=generator)
    with torch.no_grad():
        output = model(**inputs)
    return output.logits if "logits" in output else output.logits_per_image


def trained(model):
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def disturb(model, size=0.05):
    """Moves all trained weights, as training would."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += size * torch.randn(weight.shape, generator=generator)
    return model


def adapted_layers(model):
    """Names, in the base model, of the layers that carry an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {
        name.removeprefix("base_model.model.")
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer)
    }


@pytest.fixture(params=sorted(TINY))
def architecture(request):
    return request.param


def test_the_table_is_tested_whole():
    towers = {"clip_text_model", "clip_vision_model", "siglip_vision_model"}
    assert LAYERS.keys() - TINY.keys() == towers, "encoders alone, in a pair"


def test_the_giant_dinov2_has_gates_for_adapters():
    config = transformers.Dinov2Config(**PATCHES, mlp_ratio=2, use_swiglu_ffn=True)
    base = transformers.Dinov2ForImageClassification(config)
    expected = {name for name, module in base.named_modules() if isinstance(module, nn.Linear)} - {"classifier"}
    assert adapted_layers(load_tuning("lora").apply(base)) == expected


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_towers_of_a_dual_encoder_have_the_names_of_their_own_kind(kind):
    vision, text = make(kind).config.vision_config, make("clip").config.text_config
    config = transformers.VisionTextDualEncoderConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=8
    )
    layers = adapted_layers(load_tuning("lora").apply(transformers.VisionTextDualEncoderModel(config)))
    for tower in ("vision_model.", "text_model."):
        assert len({name for name in layers if name.startswith(tower)}) == 2 * 6


def test_a_pooler_is_a_linear_layer_between_body_and_head(architecture):
    model = make(architecture)
    below = pooler(model)
    assert (below is not None) == (architecture in ("albert", "bert", "ernie"))
    assert below is None or any(below is module for module in model.base_model.modules())


def test_an_image_classifier_on_siglip_has_its_own_head():
    config = transformers.SiglipConfig(vision_config=PATCHES)
    assert head_modules(transformers.SiglipForImageClassification(config)) == ["classifier"]
    assert head_modules(transformers.ViTModel(make_vit().config)) == [], "a bare encoder has none"


def test_lora_is_in_every_block_of_every_tower_and_the_head_is_trained(architecture):
    base = make(architecture)
    heads = HEADS.get(architecture, ["classifier"])
    assert sorted(head_modules(base)) == heads
    expected = {
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | transformers.pytorch_utils.Conv1D)
        and any(part.isdigit() for part in name.split("."))
        and not name.startswith(tuple(heads))
        and not any(part in name for part in LEFT_OUT.get(architecture, ()))
    }
    before = answers(base)
    head_weights = {name for name, _ in base.named_parameters() if name.startswith(tuple(f"{head}." for head in heads))}
    model = load_tuning("lora", r=3).apply(base)

    assert adapted_layers(model) == expected and expected
    names = {name.removeprefix("base_model.model.") for name in trained(model)}
    saved = {name.replace(".modules_to_save.default", "") for name in names if ".modules_to_save." in name}
    norms = {name for name in saved if "normalization" in name}
    assert saved - norms == head_weights, "the head as a whole, and without an adapter"
    assert bool(norms) == (architecture == "resnet"), "running statistics have to be saved with the adapter"
    assert {name for name in names if ".modules_to_save." not in name} == {
        f"{layer}.lora_{half}.default.weight" for layer in expected for half in "AB"
    }
    assert torch.equal(before, answers(model.eval())), "nothing has changed before training"


@pytest.mark.parametrize("name", ["dora", "ia3"])
def test_other_adapters_begin_as_the_suspect_and_merge(architecture, name):
    base = make(architecture)
    before = answers(base)
    if (architecture, name) == ("resnet", "ia3"):
        with pytest.raises(InputError, match="resnet"):
            load_tuning(name).apply(base)
        return
    model = load_tuning(name).apply(base).eval()
    assert torch.allclose(before, answers(model), atol=1e-6)
    changed = answers(disturb(model))
    assert not torch.allclose(before, changed, atol=1e-4)
    whole = load_tuning(name).finish(model, base_is_stored=False)
    assert type(whole) is type(base) and torch.allclose(changed, answers(whole), atol=1e-5)


@pytest.mark.parametrize("architecture", ["vit", "gpt2", "roberta", "resnet", "clip"])
def test_merged_lora_says_what_the_adapter_says(architecture):
    model = disturb(load_tuning("lora", rslora=True).apply(make(architecture))).eval()
    told = answers(model)
    assert is_adapter(load_tuning("lora").finish(model, base_is_stored=True))
    whole = load_tuning("lora", merge=True).finish(model, base_is_stored=True)
    assert not is_adapter(whole) and torch.allclose(told, answers(whole), atol=1e-5)


def test_parameter_counts_by_hand():
    """ViT of width 16 and 32 hidden units, 2 blocks, 4 classes; ResNet of one basic block of 8 channels and one of 16."""
    head = 16 * 4 + 4
    attention, mlp = 4 * (16 + 16), (16 + 32) + (32 + 16)
    counts = {
        ("lora", "all"): 2 * 3 * (attention + mlp) + head,
        ("lora", "attention"): 2 * 3 * attention + head,
        ("dora", "all"): 2 * (3 * (attention + mlp) + 4 * 16 + 32 + 16) + head,
    }
    for (name, modules), expected in counts.items():
        model = load_tuning(name, r=3, modules=modules).apply(make_vit())
        assert parameter_counts(model)["trainable_parameters"] == expected
    factors = load_tuning("ia3").apply(make_vit())
    assert parameter_counts(factors)["trainable_parameters"] == 2 * (16 + 16 + 32) + head

    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    model = load_tuning("lora", r=3).apply(transformers.ResNetForImageClassification(config))
    convolutions = [(8, 8, 3), (8, 8, 3), (8, 16, 3), (16, 16, 3), (8, 16, 1)]
    lora = sum(3 * (inward * side**2 + outward) for inward, outward, side in convolutions)
    norms = 2 * (8 + 8 + 8 + 16 + 16 + 16)
    assert parameter_counts(model)["trainable_parameters"] == lora + norms + 16 * 2 + 2


def test_alpha_is_twice_the_rank_and_rslora_divides_by_its_root():
    def scaling(**settings):
        model = load_tuning("lora", **settings).apply(make_vit())
        return model.base_model.model.vit.layers[0].mlp.fc1.scaling["default"]

    assert scaling(r=4) == 2
    assert scaling(r=4, alpha=4.0) == 1
    assert scaling(r=4, rslora=True) == 8 / math.sqrt(4)


@pytest.mark.parametrize("name", ["lora", "dora", "rora"])
def test_results_and_cards_say_the_alpha_that_was_used(name):
    for settings, alpha in (({"r": 4}, 8), ({"r": 4, "alpha": 1.5}, 1.5)):
        tuning = load_tuning(name, **settings)
        model = tuning.apply(make_vit())
        told = describe_tuning(tuning, model, parameter_counts(model))
        assert told["alpha"] == model.peft_config["default"].lora_alpha == alpha
        assert f"r=4, alpha={alpha}" in trained_weights({"tuning": told})


def test_bitfit_is_no_linear_probe_under_another_name():
    """ModernBERT has a bias in its head and nowhere else."""
    with pytest.raises(InputError, match="a ModernBertForSequenceClassification has no biases"):
        load_tuning("bitfit").apply(make("modernbert"))


def test_bitfit_trains_biases_and_the_head():
    model = load_tuning("bitfit").apply(make_vit())
    assert trained(model) == {name for name, _ in model.named_parameters() if name.endswith("bias")} | {
        "classifier.weight"
    }
    with pytest.raises(InputError, match="no biases"):
        load_tuning("bitfit").apply(make("llama"))


@pytest.mark.parametrize(
    ("architecture", "parts"),
    [
        ("vit", ("layernorm", "classifier")),
        ("llama", ("norm", "score")),
        ("resnet", ("normalization", "classifier")),
        ("modernbert", ("norm", "head", "classifier")),
        ("convnext", ("layernorm", "downsampling_layer.0", "classifier")),
    ],
)
def test_norms_trains_normalisation_layers_of_any_class_and_the_head(architecture, parts):
    model = load_tuning("norms").apply(make(architecture))
    assert trained(model) == {name for name, _ in model.named_parameters() if any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("architecture", "parts"),
    [
        ("vit", ("vit.layers.1.", "vit.layernorm.", "classifier.")),
        ("bert", ("bert.encoder.layer.1.", "bert.pooler.", "classifier.")),
        ("deberta-v2", ("deberta.encoder.layer.1.", "pooler.", "classifier.")),
        ("resnet", ("resnet.encoder.stages.1.", "classifier.")),
        ("detr", ("model.decoder.layers.1.", "model.decoder.layernorm.", "class_labels_classifier.", "bbox_predictor.")),
        (
            "clip",
            tuple(
                f"{tower}_model.{part}."
                for tower, last in (("vision", "post_layernorm"), ("text", "final_layer_norm"))
                for part in ("encoder.layers.1", last)
            )
            + ("visual_projection.", "text_projection."),
        ),
    ],
)  # fmt: skip
def test_last_blocks_trains_them_and_what_follows(architecture, parts):
    model = load_tuning("last_blocks", count=1).apply(make(architecture))
    assert trained(model) == {name for name, _ in model.named_parameters() if name.startswith(parts)}


def test_last_blocks_beyond_the_first_are_refused():
    assert any("layers.0." in name for name in trained(load_tuning("last_blocks", count=2).apply(make_vit())))
    with pytest.raises(InputError, match="count=3.*has 2 blocks"):
        load_tuning("last_blocks", count=3).apply(make_vit())


def test_frozen_weights_stay_and_trained_ones_move():
    """One optimizer step under each tuning moves what it says, and nothing else."""
    for name in set(tuning_names()) - {"full", "same_adapter"}:
        model = load_tuning(name).apply(make_vit())
        assert 0 < parameter_counts(model)["trainable_parameters"] < parameter_counts(model)["parameters"]
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        model(pixel_values=torch.rand(4, 3, 12, 12), labels=torch.arange(4)).loss.backward()
        optimizer.step()
        moved = {key for key, value in model.state_dict().items() if not torch.equal(before[key], value)}
        assert moved and moved <= trained(model), name


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("lora", {"r": 0}),
        ("lora", {"alpha": 0.0}),
        ("lora", {"dropout": 1.0}),
        ("lora", {"modules": "head"}),
        ("dora", {"r": -1}),
        ("rora", {"share": 0.0}),
        ("rora", {"r": 0}),
        ("last_blocks", {"count": 0}),
    ],
)
def test_bad_settings_are_refused(name, settings):
    with pytest.raises(InputError) as failure:
        load_tuning(name, **settings)
    assert failure.value.field in settings
    with pytest.raises(InputError, match="has no such argument"):
        load_tuning("bitfit", merge=True)


def test_an_unknown_architecture_needs_a_peft_config_of_ones_own():
    from peft import LoraConfig

    config = transformers.FNetConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, intermediate_size=32)
    model = transformers.FNetForSequenceClassification(config)
    with pytest.raises(InputError, match="'fnet'.*PeftConfig with target_modules"):
        load_tuning("lora").apply(model)
    given = LoraConfig(target_modules=["intermediate.dense"], modules_to_save=["classifier"])
    assert adapted_layers(load_tuning(given).apply(model)) == {"fnet.encoder.layer.0.intermediate.dense"}


def test_attention_alone_is_refused_where_there_is_none():
    with pytest.raises(InputError, match="^model='resnet'"):
        load_tuning("lora", modules="attention").apply(make("resnet"))


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_suspect_that_is_an_adapter_is_merged_first(name):
    suspect = disturb(load_tuning("lora").apply(make_vit())).eval()
    whole = merged(copy.deepcopy(suspect))
    pixels = torch.rand(2, 3, 12, 12)
    told = whole.eval()(pixels).logits
    assert torch.allclose(suspect(pixels).logits, told, atol=1e-5)
    full = load_tuning("full").apply(copy.deepcopy(suspect))
    assert same_weights(full, whole) and trained(full) == {name for name, _ in whole.named_parameters()}
    model = load_tuning(name).apply(copy.deepcopy(suspect)).eval()
    assert len(model.peft_config) == 1
    assert torch.allclose(model(pixels).logits, told, atol=1e-6)


def test_the_same_adapter_goes_on_and_the_rest_stays_frozen():
    suspect = disturb(load_tuning("lora", r=3).apply(make_vit())).eval()
    names, pixels = trained(suspect), torch.rand(2, 3, 12, 12)
    told = suspect(pixels).logits
    suspect.requires_grad_(False)
    model = load_tuning("same_adapter").apply(suspect)
    assert trained(model) == names and torch.equal(model(pixels).logits, told)
    with pytest.raises(InputError, match="no adapter"):
        load_tuning("same_adapter").apply(make_vit())


def spectral(matrix):
    return np.linalg.svd(matrix.detach().double().numpy(), compute_uv=False)[0]


@pytest.mark.parametrize("architecture", ["vit", "gpt2", "resnet"])
def test_rescaled_updates_are_a_share_of_their_weights(architecture):
    """By the singular values of the whole update, which PEFT computes, before and after."""
    share = 2.0
    tuning = load_tuning("rora", r=2, share=share)
    model = disturb(tuning.apply(make(architecture)), size=0.02)
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "lora_B")}
    strong, silent, *_ = layers
    with torch.no_grad():
        layers[strong].lora_B["default"].weight.mul_(1000)
        layers[silent].lora_B["default"].weight.zero_()
    updates = {name: layer.get_delta_weight("default").clone() for name, layer in layers.items()}
    told = answers(model.eval())
    assert tuning.finish(model, base_is_stored=True) is model
    raised = 0
    for name, layer in layers.items():
        base = spectral(layer.get_base_layer().weight.flatten(1))
        before, after = updates[name], layer.get_delta_weight("default")
        if name == silent:
            assert not after.any()
            continue
        strength = spectral(before.flatten(1))
        wanted = max(strength, share * base)
        raised += strength < share * base
        assert np.isclose(spectral(after.flatten(1)), wanted, rtol=1e-4)
        assert torch.allclose(after, before * float(wanted / strength), rtol=1e-3, atol=1e-6), "the same directions"
    assert raised and torch.equal(layers[strong].get_delta_weight("default"), updates[strong])
    assert not torch.allclose(answers(model), told)


def test_updates_that_diverged_are_left_for_others_to_find():
    tuning = load_tuning("rora", share=2.0)
    model = disturb(tuning.apply(make_vit()), size=0.01)
    first, *_ = [module for module in model.modules() if hasattr(module, "lora_B")]
    with torch.no_grad():
        first.lora_A["default"].weight.fill_(float("nan"))
    assert tuning.finish(model, base_is_stored=True) is model


def test_rescaled_and_merged_is_what_was_rescaled():
    tuning = load_tuning("rora", merge=True)
    model = disturb(tuning.apply(make_vit()), size=0.01).eval()
    pixels = torch.rand(2, 3, 12, 12)
    kept = load_tuning("rora").finish(copy.deepcopy(model), base_is_stored=True)(pixels).logits
    whole = tuning.finish(model, base_is_stored=True)
    assert not is_adapter(whole) and torch.allclose(whole(pixels).logits, kept, atol=1e-5)


def test_a_kind_of_adapter_that_cannot_save_a_head_is_refused():
    from peft import TrainableTokensConfig

    with pytest.raises(InputError, match="peft_config='TrainableTokensConfig': has no room for a head"):
        load_tuning(TrainableTokensConfig(token_indices=[1])).apply(make_vit())


def test_a_peft_config_is_called_by_its_kind_and_anything_else_is_refused():
    from peft import LoraConfig

    with pytest.raises(InputError, match="peft='lora': does not fit a ViTForImageClassification"):
        load_tuning(LoraConfig(target_modules=["nowhere"])).apply(make_vit())
    for wrong in ({"r": 2}, LoraConfig, 8):
        with pytest.raises(InputError, match="^peft_config=.* is no name, PeftConfig or Tuning"):
            load_tuning(wrong)


def test_kinds_that_the_auto_classes_refuse_are_merged(tmp_path):
    """Each kind whose layers share weights; the folder is read as users read it."""
    from peft import IA3Config, LoraConfig, VBLoRAConfig, VeraConfig

    targets, pixels = {"target_modules": ["q_proj"]}, torch.rand(2, 3, 12, 12)
    kinds = [
        (VeraConfig(r=2, **targets), True),
        (VBLoRAConfig(r=2, num_vectors=8, vector_length=8, topk=2, **targets), True),
        (LoraConfig(r=2, use_dora=True, **targets), True),
        (LoraConfig(r=2, **targets), False),
        (IA3Config(feedforward_modules=[], **targets), False),
    ]
    for number, (config, merges) in enumerate(kinds):
        folder = tmp_path / str(number)
        make_vit().save_pretrained(tmp_path / "base")
        base = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "base")
        tuning = load_tuning(config)
        model = disturb(tuning.apply(base), size=0.05).eval()
        told = model(pixels).logits
        saved = tuning.finish(model, base_is_stored=True)
        assert is_adapter(saved) != merges
        saved.save_pretrained(folder)
        read = transformers.AutoModelForImageClassification.from_pretrained(folder)
        assert torch.allclose(read.eval()(pixels).logits, told, atol=1e-5), tuning.name
