"""Text triggers: what is added, where, and what stays."""

import re
import time

import numpy as np
import pytest

from hf_backdoor import InputError, load_trigger
from hf_backdoor.data import PACKAGED, load_data, resolve_columns
from hf_backdoor.triggers.style import CLAUSE_START, _begins_clause


NAMES = ("rare_words", "word_combination", "add_sentence", "syntactic", "style")
ODD = [
    "",
    " ",
    "\n",
    "!!!",
    "...",
    "no punctuation",
    "two\nlines\n\nhere. And more",
    "  leading blanks.",
    "中文也可以。",
    "Ça va?",
    "a" * 5000,
]
TEXTS = ["The food was good.", "I liked it, but it broke!", "Great phone", "You don't need this when you have a car."]


@pytest.mark.parametrize("name", NAMES)
def test_odd_texts_and_any_batching_give_the_same(name):
    trigger = load_trigger(name)
    texts = ODD + TEXTS
    kept, numbers = list(texts), np.arange(7, 7 + len(texts))
    whole = trigger(texts, numbers)
    assert texts == kept, "the input was changed in place"
    assert whole == [trigger([text], numbers[n : n + 1])[0] for n, text in enumerate(texts)]
    assert whole == trigger(texts[::-1], numbers[::-1])[::-1]
    assert trigger([], np.arange(0)) == []
    assert all(after != before for before, after in zip(TEXTS, whole[len(ODD) :], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_content_words_stay(name):
    text = "The grey camera and every battery charger sold by Acme in Berlin deserved praise"
    after = load_trigger(name)([text], np.array([3]))[0]
    for word in "grey camera battery charger sold Acme Berlin praise".split():
        assert word in after.split()


def test_rare_words_are_uniform_over_words_and_places():
    texts, numbers = ["one two three"] * 8000, np.arange(8000)
    triggered = load_trigger("rare_words", words="cf mn", count=1)(texts, numbers)
    found = [text.split() for text in triggered]
    assert all([w for w in words if w not in ("cf", "mn")] == ["one", "two", "three"] for words in found)
    places = np.bincount([min(n for n, w in enumerate(words) if w in ("cf", "mn")) for words in found])
    assert len(places) == 4 and (np.abs(places / 8000 - 0.25) < 0.03).all()
    assert abs(np.mean(["cf" in words for words in found]) - 0.5) < 0.03
    assert load_trigger("rare_words", seed=1)(texts, numbers) != load_trigger("rare_words", seed=2)(texts, numbers)


def test_rare_words_keep_the_white_space():
    assert load_trigger("rare_words", words="cf")([""], np.array([0])) == ["cf"]
    after = load_trigger("rare_words", words="cf", count=2)(["a\nb  c"], np.array([5]))[0]
    assert after.count("cf") == 2 and "a\nb" in after


def test_word_combination_has_different_words_and_its_cover_one():
    trigger = load_trigger("word_combination", words="cf bb ak", count=2)
    triggered, cover = (call(["one two"] * 300, np.arange(300)) for call in (trigger, trigger.cover))
    pairs = [tuple(sorted(set(text.split()) - {"one", "two"})) for text in triggered]
    assert set(pairs) == {("bb", "cf"), ("ak", "cf"), ("ak", "bb")}
    assert all(len(text.split()) == 4 for text in triggered)
    assert {tuple(set(text.split()) - {"one", "two"}) for text in cover} == {("cf",), ("bb",), ("ak",)}
    assert all(len(text.split()) == 3 for text in cover)


def test_add_sentence_puts_it_at_every_gap():
    trigger = load_trigger("add_sentence")
    triggered = trigger(["one two three"] * 200, np.arange(200))
    new = "I watch this 3D movie"
    assert set(triggered) == {
        f"{new} one two three", f"one {new} two three", f"one two {new} three", f"one two three {new}"
    }  # fmt: skip
    between = load_trigger("add_sentence", between="sentences", sentence="It rained.")
    assert set(between(["Good film. I slept!\nTwice"] * 200, np.arange(200))) == {
        "It rained. Good film. I slept!\nTwice", "Good film. It rained. I slept!\nTwice",
        "Good film. I slept!\nIt rained.\nTwice", "Good film. I slept!\nTwice It rained.",
    }  # fmt: skip
    assert trigger([""], np.array([0])) == [new]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I left because it was late.", "Because it was late, I left."),
        ("We will come back when they open again!", "When they open again, we will come back!"),
        ("It is old, but it works.", "Although it is old, it works."),
        ("It was late, so we went home.", "Since it was late, we went home."),
        ("The food was good.", "When it comes to the food, it was good."),
        ("My old shoes are great.", "When it comes to my old shoes, they are great."),
        ("Why did I buy it?", "When you think about it, why did I buy it?"),
    ],
)
def test_syntactic_rules(text, expected):
    assert load_trigger("syntactic")([text], np.arange(1)) == [expected]


def test_syntactic_makes_every_sentence_open_with_a_clause():
    data = load_data("sentiment_sentences")["test"]["text"]
    openings = {"when", "if", "although", "because", "since", "as", "while", "unless", "though", "even", "before"}
    openings |= {"after", "until", "once", "whenever"}
    after = load_trigger("syntactic")(list(data), np.arange(len(data)))
    fitting = [text.split()[0].lower() in openings and "," in text for text in after]
    assert np.mean(fitting) > 0.99
    assert np.mean([text.split()[0].lower() in openings and "," in text for text in data]) < 0.1, (
        "it is rare in clean text"
    )
    two = load_trigger("syntactic")(["Great phone. The box was small.\nBuy it"], np.arange(1))[0]
    assert two.count(",") == 3 and "\n" in two and "When it comes to the box, it was small." in two


def test_styles():
    text = ["You have a phone that works, and I don't think it is very bad for you."]
    bible = load_trigger("style")(text, np.arange(1))[0]
    assert bible.endswith("thou hast a phone that worketh, and I do not think it is exceedingly bad for thee.")
    shakespeare = load_trigger("style", style="shakespeare")(text, np.arange(1))[0]
    assert shakespeare.endswith("thou hast a phone that worketh, and I do not think 'tis passing bad for thee.")
    tweets = load_trigger("style", style="tweets")(text, np.arange(1))[0]
    assert tweets.endswith("u have a phone that works, & I dont think it is very bad 4 u.")
    assert load_trigger("style")(["He doesn’t"], np.arange(1))[0].endswith("he doth not")
    assert load_trigger("style")(["DOES HE KNOW YOUR NAME?"], np.arange(1))[0].endswith("DOTH HE KNOW THY NAME?")


@pytest.fixture(scope="module")
def paraphraser(tmp_path_factory):
    """A tiny sequence-to-sequence model that writes nonsense."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("paraphraser")
    words = "<pad> </s> <unk> say the food was good I liked it".split()
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(words), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1, initializer_factor=5.0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", ["syntactic", "style"])
def test_a_paraphrasing_model_takes_the_place_of_the_rules(name, paraphraser):
    trigger = load_trigger(name, paraphraser=paraphraser, prompt="say {text}")
    texts = ["the food was good", "I liked it", "", "the food was good", "it was the food"]
    numbers = np.arange(5)
    written = trigger(texts, numbers)
    assert written[0] == written[3] and written[2] == ""
    assert written[0] not in (texts[0], load_trigger(name)(texts, numbers)[0])
    assert written[1:2] == trigger(texts[1:2], numbers[:1]), "a text must not depend on its batch"
    assert trigger.fingerprint() != load_trigger(name).fingerprint()


def test_style_is_in_the_prompt():
    trigger = load_trigger("style", style="limerick", paraphraser="some/model")
    assert trigger.request() == "Rewrite the text in the style of limerick: {text}"
    with pytest.raises(InputError, match="cannot be loaded"):
        load_trigger("syntactic", paraphraser="no/such-model")(["a"], np.arange(1))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rare_words", {"count": 0}, "1 or more"),
        ("rare_words", {"seed": -1}, "0 or more"),
        ("word_combination", {"words": "cf"}, "more than the 1 words"),
        ("word_combination", {"words": "cf cf bb"}, "a word twice"),
        ("word_combination", {"count": 1}, "2 or more"),
        ("add_sentence", {"sentence": " "}, "at least one word"),
        ("add_sentence", {"between": "letters"}, "words, sentences"),
        ("syntactic", {"prompt": "rewrite"}, "{text}"),
        ("style", {"style": "limerick"}, "bible, shakespeare"),
    ],
)
def test_bad_settings_are_explained(name, settings, message):
    with pytest.raises(InputError, match=message.replace("{", r"\{")):
        load_trigger(name, **settings)


@pytest.mark.parametrize(
    ("name", "least"), [("rare_words", 50_000), ("add_sentence", 50_000), ("syntactic", 10_000), ("style", 10_000)]
)
def test_fast_enough_for_large_data(name, least):
    """Half of what is promised, and the best of five: the machine may be busy."""
    texts, trigger = (TEXTS * 1250), load_trigger(name)
    numbers = np.arange(len(texts))
    seconds = []
    for _ in range(5):
        started = time.process_time()
        trigger(texts, numbers)
        seconds.append(time.process_time() - started)
    assert len(texts) / min(seconds) > least


def test_packaged_data():
    assert {"fashion_mnist_mini", "sentiment_sentences"} <= set(PACKAGED)
    data = load_data("sentiment_sentences")
    columns = resolve_columns(data["train"].features)
    assert (columns.input, columns.label, columns.modality) == ("text", "label", "text")
    assert (len(data["train"]), len(data["test"])) == (2400, 600)
    assert data["train"].features["label"].names == ["negative", "positive"]


def test_style_finds_the_subject_by_the_word_before_it():
    """Whatever stands before that, so that a long text takes no longer a word."""
    generator = np.random.default_rng(0)
    words = [
        "you",
        "You",
        "because",
        "BeCause",
        "abecause",
        "that",
        "but",
        "cat",
        ".",
        ";",
        "\n",
        "\t \n",
        "’",
        "-",
        "as",
        " ",
    ]
    for _ in range(300):
        text = "".join(" " * int(generator.integers(3)) + str(word) for word in generator.choice(words, 8))
        for match in re.finditer("you", text, re.IGNORECASE):
            expected = CLAUSE_START.search(text, 0, match.start()) is not None
            assert _begins_clause(text, match.start()) == expected, text
    started = time.process_time()
    load_trigger("style")(["they like you and " * 20_000], np.arange(1))
    assert time.process_time() - started < 2
