"""The first table of docs/which_one.md: for each situation one method, and what the tables say of it."""

from __future__ import annotations

from typing import Any

from cells import share


PURIFY, NEW_HEAD = "`purify`", "`purify --new_head yes`"
AS_USUAL = "fine-tune all weights, as usual"
LORA, LORA_UNDER_HEAD = "`purify --peft lora`, r=16", "`purify --new_head yes --peft lora`, r=16"
# The situation, what to do in it, and which setting and purification of docs/paradigms.md to look at.
ADVICE = (
    ("an image classifier", PURIFY, "standalone_vit", "sft"),
    ("a CLIP-style pair of encoders", PURIFY, "standalone_clip", "sft"),
    ("the same, both pretrained", "`purify`, or fine-tune", "standalone_clip-pretrained", "sft"),
    ("a text classifier, triggered by a word", LORA, "standalone_text", "lora_16"),
    ("the same, by a sentence", "take another model", "standalone_text-sentence", "sft"),
    ("the same, by syntax", "take another model", "standalone_text-syntactic", "sft"),
    ("an adapter on a trusted base", "`purify --defense fine_mixing`", "standalone_text-adapter", "fine_mixing"),
    ("a ViT, moved to your labels", AS_USUAL, "transfer_vit", "sft"),
    ("a CLIP, moved to your captions", AS_USUAL, "transfer_clip", "sft"),
    ("a text model, moved to your labels", AS_USUAL, "transfer_text", "sft"),
    ("the same, to labels and texts", NEW_HEAD, "transfer_text-pretrained", "sft"),
    ("an image encoder under your head", NEW_HEAD, "encoder_vit", "sft"),
    ("the image tower of a CLIP, likewise", NEW_HEAD, "encoder_clip", "sft"),
    ("a text encoder, likewise", LORA_UNDER_HEAD, "encoder_text", "lora_16"),
)


def is_move(setting: str) -> bool:
    """Whether the model goes to other labels, and a linear probe comes first."""
    return setting.startswith(("transfer", "encoder"))


def _both(measured: list[dict[str, Any]]) -> str:
    """Attack success rate and clean accuracy in percent, with their spread."""
    names = ("attack_success_rate", "clean_accuracy") if measured else ()
    return " / ".join(share(one[name] for one in measured) for name in names)


def summary(rows: list[dict[str, Any]]) -> str:
    """As Markdown; a move begins with a linear probe, which is what stands there before."""
    lines = ["| you have | before | fine-tuned | purified | benign, purified | seeds | do |", "|---" * 7 + "|"]
    for situation, advice, setting, method in ADVICE:
        own = [row for row in rows if row["setting"] == setting]

        def of(method: str, own: list[dict[str, Any]] = own) -> list[dict[str, Any]]:
            return [row["measured"] for row in own if row["method"] == method]

        if not of(method):
            continue
        before = [row["suspect"] for row in own if row["method"] == "sft"] if is_move(setting) else of("undefended")
        states = [before, of("fine_tuning"), of(method), of("benign-sft")]
        lines.append(f"| {' | '.join([situation, *map(_both, states), str(len(of(method))), advice])} |")
    return "\n".join(lines)
