"""Sections between markers, and metadata, in cards with every oddity; nothing else of them changes."""

import random
import re

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard

from hf_backdoor import InputError
from hf_backdoor.cards.sections import (
    carry_over,
    kept_card,
    merge_metadata,
    put_section,
    read_card,
    read_metadata,
    remove_section,
    sections,
)


BEGIN, END = "<!-- hf_backdoor:sequela:begin -->", "<!-- hf_backdoor:sequela:end -->"
BODY = "## Sequela\n\n| | before |\n|---|---|\n| AUC | 0.6 |\n\n```text\n<!-- hf_backdoor:sequela:end -->\n```"


def block(body=BODY, newline="\n", name="sequela"):
    """A section, written down by hand."""
    lines = [f"<!-- hf_backdoor:{name}:begin -->", "", *body.split("\n"), "", f"<!-- hf_backdoor:{name}:end -->"]
    return newline.join(lines)


# Pieces of cards, each complete in itself: no code is left open. Markers in them are text.
PIECES = [
    "Plain words.",
    "# Überschrift",
    "模型卡片：这个模型用于图像分类。",
    "بطاقة النموذج",
    "🤗 Модель для классификации",
    "one line\u2028which is not\x0csplit\x85here",
    "",
    "   ",
    "---",
    "***",
    "<div align='center'>\n<b>raw</b>\n</div>",
    "<!-- a comment -->",
    "<!-- a comment\nof several lines\n```\n-->",
    f"Put it between `{BEGIN}` and {END}.",
    f"```\n{BEGIN}\ncode\n{END}\n```",
    f"~~~~markdown\n{BEGIN}\n~~~\n```\n{END}\n~~~~",
    f"   ```python\n{END}\n   ```",
    f"- item\n\n  ```\n  {BEGIN}\n  ```\n\nno list",
    f"1. one\n   ````\n   {BEGIN}\n   ```\n   ````\n2. two\n\nno list",
    "- ```\n  never closed, but the list ends\n\nhere",
    f"> ```\n> {BEGIN}\n> {END}\n> ```",
    "> ```\n> never closed, but the quotation ends",
    f"    {BEGIN}\n    indented code\n    {END}",
    f"  {END}",
    "{{ 7 * 7 }} {% raw %}",
    "| a | b |\n|---|---|\n| `x` | y |",
    "``` not `code` but inline",
    block("another one's section", name="other"),
    "<!-- hf_backdoor:other:begin -->",
    "bytes that are no UTF-8: \udcff\udc80",
]
METADATA = [
    "license: mit",
    "# only a comment",
    f"tags:\n- a  # why\n\nlanguage: no\nx: |\n  {BEGIN}\n  {END}",
    "{tags: [a, 'b'], license: mit}",
    "model-index:\n- name: m\n  results: []",
]


def pieces_of_a_card(chance):
    """Metadata (or none), and the text of a card in two parts, all with the same or with mixed line ends."""
    newlines = chance.choice([["\n"], ["\n"], ["\r\n"], ["\r"], ["\n", "\r\n"]])

    def text(parts, *, last=True):
        lines = "\n".join(parts).split("\n") if parts else []
        return "".join(line + chance.choice(newlines) for line in lines) if last else "\n".join(lines)

    head = chance.choice(["", "", "\ufeff"])
    if newlines != ["\r"] and chance.random() < 0.5:  # the Hub sees no metadata that end in a lone \r
        head += text(["---", chance.choice(METADATA), "---"])
    parts = [text(chance.choices(PIECES, k=chance.randint(0, 5))) for _ in range(2)]
    # A text that starts with `---` and has another one would be metadata.
    if "---" not in head and re.match(r"\s*---", "".join(parts)):
        parts[0] = "Words." + newlines[0] + parts[0]
    return head, *parts, newlines


def dominant(card):
    count = {"\r\n": len(re.findall("\r\n", card)), "\n": len(re.findall("(?<!\r)\n", card))}
    count["\r"] = len(re.findall("\r(?!\n)", card))
    return max(["\n", "\r\n", "\r"], key=lambda newline: count[newline])


@pytest.mark.parametrize("seed", range(10))
def test_nothing_but_the_section_changes_in_any_card(seed):
    chance = random.Random(seed)
    for _ in range(100):
        head, first, second, newlines = pieces_of_a_card(chance)
        card = head + first + second
        if chance.random() < 0.3:
            card = card.rstrip("\r\n")
        newline = dominant(card)

        put = put_section(card, "sequela", BODY)
        written = block(newline=newline)
        closed = not card or card == "\ufeff" or card[-1] in "\r\n"
        if card == "\ufeff":
            assert put == card + newline + written
        else:
            assert put == (card + written + newline if closed else card + newline + written)
        assert put_section(put, "sequela", BODY) == put, "twice is as once"
        assert remove_section(put, "sequela") == card, "and back"
        assert remove_section(card, "sequela") == card
        assert sections(put)["sequela"] == BODY.replace("\n", newline)
        assert ("other" in sections(put)) == (
            block("another one's section", newline="\n", name="other") in re.sub("\r\n|\r", "\n", card)
        )
        on_top, body = put_section(card, "sequela", BODY, on_top=True), card[len(head) :]
        assert on_top == (head + written + newline + body if body else put)
        assert remove_section(on_top, "sequela") == card

        # In the middle, with a copy of it further down, and halves of markers here and there.
        old = block(chance.choice(["old", "old\n\n```\ncode\n```", ""]), chance.choice(newlines)) + chance.choice(
            newlines
        )
        half = chance.choice([BEGIN, END]) + chance.choice(newlines)
        new = put_section(head + first + old + second, "sequela", BODY)
        ending = old[len(old.rstrip("\r\n")) :]
        written = block(newline=dominant(head + first + old + second))
        assert new == head + first + written + ending + second, "in its place"
        both = head + first + old + second + old + half
        new = put_section(both, "sequela", BODY)
        assert new == head + first + block(newline=dominant(both)) + ending + second, "several become one"
        assert remove_section(new, "sequela") == head + first + second
        new = put_section(head + first + half + second, "sequela", BODY)
        assert remove_section(new, "sequela") == head + first + second, "half a marker takes no text with it"
        assert put_section(new, "sequela", BODY) == new and new.count(written.splitlines()[2]) == 1


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("lost", [f"{BEGIN}\n", f"\n{END}", BEGIN, END])
def test_a_section_that_lost_one_marker_is_not_doubled_by_itself(lost, newline):
    card = f"# Title\n\nWords.\n{block()}\n\n# More\n".replace("\n", newline)
    before, _, behind = card.rpartition(lost.replace("\n", newline))
    put = put_section(before + behind, "sequela", BODY)
    assert put.count("## Sequela") == put.count(BEGIN) == 1
    assert put_section(put, "sequela", BODY) == put
    assert re.sub(r"[\r\n]+", "\n", remove_section(put, "sequela")) == "# Title\nWords.\n# More\n"
    other = put_section(before + behind, "sequela", "new")
    assert "Words." in other and "| AUC | 0.6 |" in other, "what is not known to be ours stays"


def test_two_sections_do_not_meddle_with_each_other():
    card = put_section(put_section("# Title", "a", "one"), "b", "two")
    assert sections(card) == {"a": "one", "b": "two"}
    assert sections(put_section(card, "a", "three")) == {"a": "three", "b": "two"}
    assert remove_section(remove_section(card, "a"), "b") == remove_section(remove_section(card, "b"), "a") == "# Title"


def test_a_section_is_not_put_into_code_that_is_never_closed():
    card = "# Title\n\n```python\nforgotten\n\n# more\n"
    put = put_section(card, "sequela", BODY)
    assert put == f"# Title\n\n{block()}\n```python\nforgotten\n\n# more\n"
    assert put_section(put, "sequela", BODY) == put and remove_section(put, "sequela") == card


@pytest.mark.parametrize("body", ["a\n```\nopen", f"a\n{END}\nb", f"{BEGIN}"])
def test_a_body_that_would_break_the_card_is_refused(body):
    with pytest.raises(ValueError, match="not a section 'sequela'"):
        put_section("# Title\n", "sequela", body)
    with pytest.raises(ValueError, match="not a section"):
        put_section("# Title\n", "a name", "body")


def test_hostile_cards_take_no_time():
    for card in (
        "> " * 50_000 + "x",
        "- " * 50_000 + "x",
        "`" * 100_000,
        "* " * 50_000,
        " " * 100_000 + "---",
        "[" * 50_000,
    ):
        put = put_section(card, "sequela", BODY)
        assert remove_section(put, "sequela") == card
    with pytest.raises(InputError, match="aliases"):
        merge_metadata("---\na: &a [1]\nb: &b [*a, *a]\n---\n", tags=["x"])
    with pytest.raises(InputError, match="nested too deep"):
        merge_metadata("---\na: " + "[" * 50_000 + "\n---\n", tags=["x"])


# --- metadata ---------------------------------------------------------------------------------------------------------

CARD = """---
# made by hand
language: no   # Norwegian
license:   "mit"
tags: [vision, 'on']  # mine
widget:
- text: |
    ---
    two
  # a comment that hangs lower

model-index:
- name: theirs
  results:
  - task: {type: image-classification}
    dataset: {type: cifar10, name: CIFAR-10, revision: 0e1}
    metrics:
    - type: accuracy
      value: 0.90
      name: Accuracy
      verified: true
extra: 2024-01-01
---
# Title
"""


def result(value, metric="accuracy", name="Accuracy", **data):
    return EvalResult(
        task_type="image-classification", dataset_type="cifar10", dataset_name="CIFAR-10", metric_type=metric,
        metric_name=name, metric_value=value, **data,
    )  # fmt: skip


def test_only_the_keys_that_change_are_written_anew():
    card = merge_metadata(CARD, tags=["hf_backdoor", "vision"], base_model="org/base")
    assert card == CARD.replace("tags: [vision, 'on']  # mine", "tags: [vision, 'on', hf_backdoor]  # mine").replace(
        "extra: 2024-01-01\n", "extra: 2024-01-01\nbase_model: org/base\n"
    )
    assert merge_metadata(card, tags=["hf_backdoor"], base_model="org/base") == card
    assert merge_metadata(CARD, tags=[], datasets=None, eval_results=[]) == CARD
    assert merge_metadata(card, base_model="org/other") == card.replace("org/base", "org/other")


def test_entries_of_the_model_index_are_replaced_by_what_they_measure():
    ours = [
        result(0.8, dataset_revision="0e1"),
        result(0.6, "auc", "AUC", dataset_revision="0e1"),
        result(0.5, dataset_config="sequela-membership"),
    ]
    card = merge_metadata(CARD, eval_results=ours, model_name="ours")
    outside = CARD.index("model-index"), CARD.index("extra:")
    assert card.startswith(CARD[: outside[0]]) and card.endswith(CARD[outside[1] :])
    assert "revision: 0e1" in card, "as it was spelled, not 0.0"
    (model,) = read_metadata(card)["model-index"]
    assert model["name"] == "theirs"
    first, second = model["results"]
    assert first["metrics"] == [
        {"type": "accuracy", "value": 0.8, "name": "Accuracy"},
        {"type": "auc", "value": 0.6, "name": "AUC"},
    ], "replaced, with what verified another value, and joined by the new one"
    assert second["dataset"]["config"] == "sequela-membership"
    assert merge_metadata(card, eval_results=ours, model_name="ours") == card
    assert {r.metric_value for r in ModelCard(card).data.eval_results} == {0.8, 0.6, 0.5}, "the Hub reads it"

    newer = merge_metadata(card, eval_results=[result(0.7, dataset_revision="0e1")])
    values = [metric["value"] for one in read_metadata(newer)["model-index"][0]["results"] for metric in one["metrics"]]
    assert values == [0.7, 0.6, 0.5]


def test_entries_that_others_appended_several_times_become_one():
    from huggingface_hub.repocard_data import eval_results_to_model_index

    index = [
        model for value in (0.1, 0.2) for model in eval_results_to_model_index("m", [result(value), result(0.3, "f1")])
    ]
    card = f"---\n{yaml.safe_dump({'model-index': index})}---\n"
    merged = read_metadata(merge_metadata(card, eval_results=[result(0.9)]))["model-index"]
    found = [
        (metric["type"], metric["value"]) for model in merged for one in model["results"] for metric in one["metrics"]
    ]
    assert sorted(found) == [("accuracy", 0.9), ("f1", 0.3), ("f1", 0.3)], "what is not ours stays"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# T\r\n", "---\r\ntags:\r\n- x\r\n---\r\n# T\r\n"),
        ("\ufeff# T", "\ufeff---\ntags:\n- x\n---\n# T"),
        ("\ufeff---\r\na: 1\r\n---\r\n", "\ufeff---\r\na: 1\r\ntags:\r\n- x\r\n---\r\n"),
        ("", "---\ntags:\n- x\n---\n"),
        ("---\n\n---\ntext", "---\ntags:\n- x\n---\ntext"),
        ("---\n# why\n---", "---\n# why\ntags:\n- x\n---"),
        ("---\ntags: # none\na: 1\n---\n", "---\ntags:\n- x # none\na: 1\n---\n"),
        ("---\ntags: y\n---\n", "---\ntags:\n- y\n- x\n---\n"),
        ("---\ntags:\n  - y  # first\n\n# next\na: 1\n---\n", "---\ntags:\n- y\n- x  # first\n\n# next\na: 1\n---\n"),
        ("---\ntags: >\n  y\n\na: 1\n---\n", "---\ntags:\n- >\n  y\n- x\n\na: 1\n---\n"),
        ("---\n{a: 1, tags: [y]}\n---\n", "---\n{a: 1, tags: [y, x]}\n---\n"),
        ("---\n{a: 1, tags: y}\n---\n", "---\na: 1\ntags:\n- y\n- x\n---\n"),
        ("---\n? tags\n: - y\na: no\n---\n", "---\ntags:\n- y\n- x\na: no\n---\n"),
        ("---\na: 1\n...\n---\n", "---\na: 1\ntags:\n- x\n---\n"),
        ("---\ntags: [x]\n---\n", "---\ntags: [x]\n---\n"),
    ],
)  # fmt: skip
def test_every_kind_of_metadata(before, after):
    assert merge_metadata(before, tags=["x"]) == after
    assert merge_metadata(after, tags=["x"]) == after


@pytest.mark.parametrize("block", ["- a\n- b", "a: [", "just words", "a: 1\n---x\na\tb: 2", "a: 2024-99-99"])
def test_metadata_that_cannot_be_read_are_named(block):
    with pytest.raises(InputError, match=r"README.md='metadata': .* mend them"):
        read_metadata(f"---\n{block}\n---\n# T\n")


def test_a_model_index_that_is_none_is_named():
    card = "---\nmodel-index: nonsense\n---\n# T\n"
    for edit in (read_metadata, lambda card: merge_metadata(card, eval_results=[result(0.5)])):
        with pytest.raises(InputError, match="README.md='model-index: nonsense': must be a list"):
            edit(card)


def test_broken_metadata_do_not_keep_a_section_out():
    card = "---\na: [\n---\n# T\n"
    assert remove_section(put_section(card, "sequela", BODY), "sequela") == card


# --- cards that others write over -------------------------------------------------------------------------------------


def test_sections_and_their_metadata_are_carried_over_to_a_new_card():
    old = merge_metadata(
        put_section(CARD, "sequela", BODY), tags=["sequela"], base_model="org/base", eval_results=[result(0.4, "auc")]
    )
    new = merge_metadata("---\nlicense: mit\n---\n# New\n", eval_results=[result(0.7)], model_name="new")
    carried = carry_over(old, new)
    assert sections(carried) == {"sequela": BODY} and "# New" in carried and "# Title" not in carried
    metadata = read_metadata(carried)
    assert metadata["tags"] == ["vision", "on", "sequela"] and metadata["base_model"] == "org/base"
    values = {
        (r["dataset"].get("revision"), m["type"]): m["value"]
        for r in metadata["model-index"][0]["results"]
        for m in r["metrics"]
    }
    assert values[None, "accuracy"] == 0.7 and values[None, "auc"] == 0.4, "the new card's own, and the section's"
    assert carry_over(carried, carried) == carried
    assert carry_over(CARD, new) == new, "without a section nothing is carried"


@pytest.mark.parametrize("section", ["card", "sequela"])
def test_a_file_that_is_written_over_keeps_what_is_ours(tmp_path, section):
    path = tmp_path / "README.md"
    path.write_bytes(put_section(CARD, section, BODY).replace("\n", "\r\n").encode())
    before = path.read_bytes()
    with kept_card(path):
        path.write_text("# Draft\n")
    after = read_card(path)
    if section == "card":
        assert path.read_bytes() == before, "a card of ours stays as it is"
    else:
        assert after.startswith("---\n") and "# Draft" in after and "sequela" in sections(after)
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]
