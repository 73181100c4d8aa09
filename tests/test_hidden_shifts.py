"""Hidden shifts: what is added where, that they find what moves every text, and that any block can bear them."""

from functools import partial

import pytest
import torch

from hf_backdoor.super_fine_tuning.hidden_shifts import SIZE, START, STEP, HiddenShifts


class Block(torch.nn.Module):
    """Returns its input, alone or with something else, as the blocks of transformers do."""

    def __init__(self, alone=True):
        super().__init__()
        self.alone = alone

    def forward(self, hidden):
        return hidden if self.alone else (hidden, "attention")


def test_a_sample_is_shifted_once_by_a_share_of_the_length_of_the_states():
    blocks = [Block(), Block(alone=False), Block(), Block(), Block(), Block()]
    shifts = HiddenShifts(blocks, width=3, seed=0)
    assert shifts.blocks == blocks[:4], "two thirds of the depth"
    assert shifts.values.norm(dim=-1).tolist() == pytest.approx([START] * 4)
    hidden = torch.tensor([3.0, 4.0, 0.0]).expand(7, 2, 3)  # all of length 5
    shifts.choose(7, unshifted=2, first=1)
    with shifts.applied():
        outputs = [block(hidden) for block in blocks]
    assert outputs[1][1] == "attention"
    added = torch.stack([(output[0] if isinstance(output, tuple) else output) - hidden for output in outputs])
    for sample, block in enumerate([None, None, 3, 0, 1, 2, 3]):  # 2 + 1 is the last, and then in turn
        for number in range(6):
            shift = SIZE * 5 * shifts.values[number] if number == block else torch.zeros(3)
            torch.testing.assert_close(added[number, sample], shift.expand(2, 3), msg=f"{sample} {number}")
    assert torch.equal(blocks[0](hidden), hidden), "and not afterwards"


def test_shifts_find_the_direction_that_moves_every_text():
    """Of a linear model with a known gradient, in which the loss rises along one direction."""
    block, direction = Block(), torch.tensor([0.0, 0.6, 0.8])
    shifts = HiddenShifts([block], width=3, seed=0)
    shifts.choose(4, unshifted=0)
    torch.manual_seed(0)
    before = shifts.values.detach().clone()
    for step in range(40):
        with shifts.applied():
            (block(torch.randn(4, 2, 3)) @ direction).sum().backward()
        if step == 0:
            expected = before + STEP * shifts.values.grad / shifts.values.grad.norm()
        shifts.ascend(shifts.values.grad)
        if step == 0:
            torch.testing.assert_close(shifts.values.detach(), expected)
    assert shifts.values.norm().item() == pytest.approx(1)
    assert (shifts.values[0] @ direction).item() > 0.99


def test_blocks_that_return_something_else_are_left_alone():
    shifts = HiddenShifts([Block()], width=3, seed=0)
    shifts.choose(4, unshifted=0)
    for other in (torch.ones(4, 3), torch.ones(2, 4, 3), torch.ones(4, 2, 5)):
        with shifts.applied():
            assert torch.equal(shifts.blocks[0](other), other)
    assert HiddenShifts([], width=3, seed=0).values.shape == (0, 3)


@pytest.mark.parametrize(
    ("family", "checkpointing"),
    [
        ("albert", False),
        ("bert", False),
        ("distilbert", False),
        ("gpt2", False),
        ("llama", False),
        ("modernbert", False),
    ]
    + [("roberta", False), ("t5", False), ("bert", True), ("gpt2", True), ("t5", True)],
)
def test_models_of_any_family_are_shifted_in_training_and_only_there(
    sentences, tiny_bert, tmp_path, family, checkpointing
):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from hf_backdoor import load_defense
    from hf_backdoor.purification import default_arguments

    _, tokenizer = tiny_bert
    common = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    sizes = {
        "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
        "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 34},
        "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 2},
    }.get(family, common | {"num_hidden_layers": 2})
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=2,
        **{"eos_token_id": 3, "bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 3} | sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    defense = load_defense("super_fine_tuning", peak_lr_1=1e-3, peak_lr_2=1e-4, base_lr=1e-5)
    args = default_arguments(
        defense, tmp_path, max_steps=4, per_device_train_batch_size=4, use_cpu=True, eval_strategy="no",
        gradient_checkpointing=checkpointing, disable_tqdm=True,
    )  # fmt: skip
    trainer = defense.trainer_class()(
        model, args, train_dataset=sentences, processing_class=tokenizer, callbacks=defense.callbacks(),
        **defense.trainer_kwargs(),
    )  # fmt: skip
    first = HiddenShifts([Block()] * 9, config.hidden_size, args.seed).values
    trainer.train()
    shifts = trainer.shifts
    assert len(shifts.blocks) >= 1
    assert not torch.equal(shifts.values, first[: len(shifts.values)]), "they have grown"
    hooks = [hook for block in shifts.blocks for hook in block._forward_hooks.values()]  # transformers has its own
    assert not any(isinstance(hook, partial) and hook.func == shifts._shifted for hook in hooks)
