"""Membership inference against formulas worked out slowly, models whose members are known, and interruptions."""

import json
import math
import random
import tracemalloc
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from conftest import make_vit, same_weights
from datasets import ClassLabel

from hf_backdoor import InputError
from hf_backdoor.data.columns import resolve_columns
from hf_backdoor.membership import neural
from hf_backdoor.membership.evaluation import auc, auc_interval, balanced_accuracy, evaluate, roc_curve, tpr_at
from hf_backdoor.membership.ratios import lira, rmia, rmia_log_ratio
from hf_backdoor.membership.samples import gather
from hf_backdoor.membership.scores import confidence, entropy, log_odds, loss, modified_entropy
from hf_backdoor.membership.shadows import halves, shadow_folder, shadow_models
from hf_backdoor.sequela import Evidence, load_measure
from hf_backdoor.tasks import task_for


QUICK = {"steps": 3, "batch_size": 16}
CLASSES = tuple("abcdefghij")


# ---------------------------------------------------------------------------------------------------------- scores


def test_scores_of_one_answer_by_hand():
    p = [0.7, 0.2, 0.1]
    logits = np.log([p, p]).astype(np.float32) + 3
    labels = np.array([0, 2])
    assert loss(logits, labels) == pytest.approx([math.log(0.7), math.log(0.1)], rel=1e-6)
    assert log_odds(logits, labels) == pytest.approx([math.log(0.7 / 0.3), math.log(0.1 / 0.9)], rel=1e-6)
    assert confidence(logits, labels) == pytest.approx([math.log(0.7)] * 2, rel=1e-6)
    assert entropy(logits, labels) == pytest.approx([sum(q * math.log(q) for q in p)] * 2, rel=1e-6)
    right = 0.3 * math.log(0.7) + 0.2 * math.log(0.8) + 0.1 * math.log(0.9)
    wrong = 0.9 * math.log(0.1) + 0.7 * math.log(0.3) + 0.2 * math.log(0.8)
    assert modified_entropy(logits, labels) == pytest.approx([right, wrong], rel=1e-6)


@pytest.mark.parametrize("score", [loss, confidence, entropy, modified_entropy, log_odds])
def test_sure_answers_are_still_told_apart(score):
    logits = np.array([[50.0, 0, 0], [60, 0, 0], [80, 0, 0]], dtype=np.float32)
    assert (np.diff(score(logits, np.zeros(3, dtype=int))) > 0).all()
    extreme = score(np.array([[3000.0, 0, -3000], [0, 0, 0]], dtype=np.float32), np.array([1, 1]))
    assert np.isfinite(extreme).all()


# -------------------------------------------------------------------------------------------------- likelihood ratios


@pytest.fixture(scope="module")
def gaussian():
    """Scaled confidences of 60 samples that differ in mean and spread, 12 shadow models, half of which learned each."""
    generator = np.random.default_rng(0)
    samples, models = 60, 12
    learned = np.argsort(generator.random((models, samples)), axis=0) < models // 2
    mean, spread = generator.normal(0, 2, samples), generator.uniform(0.2, 2, samples)
    shadow = generator.normal(mean + 1.5 * learned, spread, (models, samples))
    return generator.normal(mean + 0.7, spread), shadow, learned


def normal_log(x, mean, variance):
    return -0.5 * math.log(2 * math.pi * variance) - (x - mean) ** 2 / (2 * variance)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("online", [False, True])
def test_lira_is_its_formula(gaussian, online, fixed):
    target, shadow, learned = gaussian
    split = [
        ([s for s, known in zip(shadow[:, n], learned[:, n], strict=True) if known == kind], n)
        for kind in (True, False)
        for n in range(len(target))
    ]
    variances = {}
    for number, (values, n) in enumerate(split):
        average = sum(values) / len(values)
        variances[number] = (average, sum((v - average) ** 2 for v in values) / len(values), len(values), n)
    expected = []
    used = [variances[number] for number in range(0 if online else len(target), 2 * len(target))]
    pooled = sum(v * count for _, v, count, _ in used) / sum(count - 1 for _, _, count, _ in used)
    for n, x in enumerate(target):
        (m_in, v_in, _, _), (m_out, v_out, _, _) = variances[n], variances[len(target) + n]
        if fixed:
            v_in = v_out = pooled
        if online:
            expected.append(normal_log(x, m_in, v_in) - normal_log(x, m_out, v_out))
        else:
            expected.append((x - m_out) / math.sqrt(v_out))
    found = lira(target, shadow, learned, online=online, fixed_variance=fixed)
    assert found == pytest.approx(np.array(expected), rel=1e-9)
    if not online:  # the order is that of the paper's 1 - Pr[Z > f]
        paper = [0.5 * (1 + math.erf(z / math.sqrt(2))) for z in found]
        assert (np.argsort(paper, kind="stable") == np.argsort(found, kind="stable")).all()


@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("online", [False, True])
def test_rmia_is_its_formula(gaussian, online, gamma):
    a = 0.3
    target, shadow = (1 / (1 + np.exp(-values)) for values in gaussian[:2])
    learned = gaussian[2]

    def likelier(n):
        p_in = np.mean([p for p, known in zip(shadow[:, n], learned[:, n], strict=True) if known])
        p_out = np.mean([p for p, known in zip(shadow[:, n], learned[:, n], strict=True) if not known])
        return target[n] / ((p_in + p_out) / 2 if online else ((1 + a) * p_out + (1 - a)) / 2)

    population = range(40, 60)
    expected = [
        sum(likelier(n) / likelier(z) > gamma for z in population if z != n) / len(population) for n in range(60)
    ]
    ratios = rmia_log_ratio(np.log(target), np.log(shadow), learned, online=online, a=a)
    found = rmia(ratios, ratios[40:], gamma)
    assert 0 < np.mean(expected) < 1 and found == pytest.approx(np.array(expected), abs=1e-12)


def test_blocks_change_nothing(gaussian):
    target, shadow, learned = gaussian
    logs = -np.logaddexp(0, -target), -np.logaddexp(0, -shadow)
    for online in (False, True):
        for fixed in (False, True):
            whole = lira(target, shadow, learned, online=online, fixed_variance=fixed)
            parts = lira(target, shadow, learned, online=online, fixed_variance=fixed, block=7)
            assert parts == pytest.approx(whole, rel=1e-12)
        whole = rmia_log_ratio(*logs, learned, online=online)
        assert (rmia_log_ratio(*logs, learned, online=online, block=7) == whole).all()
    logits = np.random.default_rng(0).normal(size=(300_000, 2)).astype(np.float32)
    labels = np.arange(300_000) % 2
    assert (loss(logits, labels)[-5:] == loss(logits[-5:], labels[-5:])).all()


def test_memory_does_not_grow_with_the_pairs():
    ratios = np.random.default_rng(0).normal(size=100_000)
    shadow, learned = np.tile(ratios, (4, 1)), np.tile([[True], [False]], (2, 100_000))
    tracemalloc.start()
    scores = rmia(rmia_log_ratio(ratios, shadow, learned), ratios)
    lira(ratios, shadow, learned, online=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(scores) == 100_000 and peak < 16e6, "all pairs would be 10 GB, even as single bytes"


def test_lira_finds_members_that_no_threshold_can():
    """Members are one higher than other samples of their own kind; the kinds differ by much more."""
    generator = np.random.default_rng(1)
    samples, models = 4000, 64
    learned = np.argsort(generator.random((models, samples)), axis=0) < models // 2
    mean = generator.normal(0, 10, samples)
    shadow = generator.normal(mean + learned, 0.5)
    member = np.arange(samples) < samples // 2
    target = generator.normal(mean + member, 0.5)
    ideal = 0.5 * (1 + math.erf(1 / 0.5 / math.sqrt(2) / math.sqrt(2)))  # P(N(1, s) > N(0, s))
    assert auc(target[member], target[~member]) < 0.6
    for online in (False, True):
        score = lira(target, shadow, learned, online=online)
        assert auc(score[member], score[~member]) == pytest.approx(ideal, abs=0.02)


def test_a_model_surer_than_all_shadow_models_does_not_hide_its_members():
    generator = np.random.default_rng(0)
    learned = np.argsort(generator.random((4, 500)), axis=0) < 2
    shadow = generator.normal(2.0 * learned, np.where(learned, 0.3, 1.0))  # trained a little: a smaller spread within
    member = np.arange(500) < 250
    score = lira(generator.normal(8.0 * member, 1), shadow, learned)
    assert auc(score[member], score[~member]) > 0.9


def test_too_few_shadow_models_are_refused():
    target, shadow = np.zeros(3), np.random.default_rng(0).normal(size=(2, 3))
    learned = np.array([[True] * 3, [False] * 3])
    with pytest.raises(InputError, match="spread is unknown"):
        lira(target, shadow, learned)
    with pytest.raises(InputError, match="one that did not learn it"):
        lira(target, shadow, np.ones_like(learned), online=False)
    with pytest.raises(InputError, match="one that learned it and one that did not"):
        rmia_log_ratio(target, shadow, ~np.ones_like(learned))


def test_the_network_learns_what_members_look_like_and_draws_nothing_from_outside():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 2000)
    learned = generator.random(2000) < 0.5
    logits = generator.normal(size=(2000, 5))
    logits[np.arange(2000), labels] += 2 + 3 * learned
    seen = neural.features(logits, labels)
    assert seen.shape == (2000, 6) and (np.diff(seen[:, :5]) <= 0).all()
    assert seen[:, :5].sum(1) == pytest.approx(np.ones(2000), abs=1e-5)
    assert (seen[:, 5] == (logits.argmax(1) == labels)).all()
    state = torch.get_rng_state()
    scores = [neural.score(neural.fit(seen[:1000], learned[:1000], 3), seen[1000:]) for _ in range(2)]
    assert (scores[0] == scores[1]).all() and torch.equal(state, torch.get_rng_state())
    assert auc(scores[0][learned[1000:]], scores[0][~learned[1000:]]) > 0.85


# ---------------------------------------------------------------------------------------------------------- quality


def test_perfect_separation():
    quality = evaluate(np.arange(1000.0) + 1000, np.arange(1000.0))
    assert quality.values["auc"] == 1 and quality.values["balanced_accuracy"] > 0.998
    assert quality.values["tpr_at_fpr_1e-2"] == quality.values["tpr_at_fpr_1e-3"] == 1
    assert quality.intervals["auc"][0] < 1 and quality.intervals["auc"][1] == pytest.approx(1)
    assert set(quality.curve["y"]) == {1.0}


def test_area_is_the_share_of_pairs_and_rates_are_counted():
    generator = np.random.default_rng(0)
    members, others = generator.integers(1, 8, 150).astype(float), generator.integers(0, 7, 200).astype(float)
    pairs = np.mean([(m > o) + (m == o) / 2 for m in members for o in others])
    assert auc(members, others) == pytest.approx(pairs)
    fpr, tpr, thresholds = roc_curve(members, others)
    for x, y, threshold in zip(fpr, tpr, thresholds, strict=True):
        assert (x, y) == ((others >= threshold).mean(), (members >= threshold).mean())
    assert np.trapezoid(tpr, fpr) == pytest.approx(pairs)
    for rate in (0.05, 0.3):
        allowed = [t for t in thresholds if (others >= t).mean() <= rate]
        assert tpr_at(fpr, tpr, rate, 200) == max((members >= t).mean() for t in allowed)
    quality = evaluate(members, others)
    for x, y in zip(quality.curve["x"], quality.curve["y"], strict=True):
        assert y == pytest.approx(tpr_at(fpr, tpr, x + 1e-6, 10**9), abs=1e-6)


@pytest.mark.parametrize("others", [100, 1500, 2999, 7000, 10**5])
def test_a_thinned_curve_is_exact_where_rates_are_reported(others):
    generator = np.random.default_rng(others)
    members, others = generator.normal(1, 2, 500), generator.normal(0, 1, others)
    quality = evaluate(members, others)
    assert len(quality.curve["x"]) <= 62 and quality.curve["x"][-1] == quality.curve["y"][-1] == 1
    for rate, name in ((0.01, "tpr_at_fpr_1e-2"), (0.001, "tpr_at_fpr_1e-3")):
        if quality.values[name] is not None:
            allowed = [y for x, y in zip(quality.curve["x"], quality.curve["y"], strict=True) if x <= rate + 1e-9]
            assert allowed[-1] == quality.values[name]


def test_what_takes_more_non_members_is_not_told():
    scores = np.arange(500.0)
    values = evaluate(scores, scores[:99]).values
    assert values["tpr_at_fpr_1e-2"] is None and values["tpr_at_fpr_1e-3"] is None
    values = evaluate(scores, scores[:100]).values
    assert values["tpr_at_fpr_1e-2"] == pytest.approx(401 / 500) and values["tpr_at_fpr_1e-3"] is None
    assert evaluate(scores, np.zeros(1000)).values["tpr_at_fpr_1e-3"] == pytest.approx(499 / 500)


def test_interval_of_a_published_example():
    # 6 against 7 observations, 38.5 of 42 pairs: Newcombe's interval as the R package SingleCaseES gives it.
    members, others = np.array([28.0, 25, 24, 27, 30, 30, 29]), np.array([20.0, 20, 26, 25, 22, 23])
    assert auc(members, others) == pytest.approx(38.5 / 42)
    assert auc_interval(38.5 / 42, 7, 6) == pytest.approx((0.5973193600384168, 0.9859976893703788), abs=1e-9)


def test_intervals_hold_the_truth_and_useless_attacks_are_useless():
    generator = np.random.default_rng(0)
    hits, balanced, own = 0, [], []
    for _ in range(300):
        members, others = generator.normal(size=(2, 40))
        low, high = auc_interval(auc(members, others), 40, 40)
        hits += low <= 0.5 <= high
        balanced.append(balanced_accuracy(members, others)[0])
        fpr, tpr, _ = roc_curve(members, others)
        own.append((1 + (tpr - fpr).max()) / 2)
    assert 0.92 <= hits / 300 <= 0.98
    assert np.mean(balanced) == pytest.approx(0.5, abs=0.01) and np.mean(own) > 0.55


def test_scores_that_say_nothing_are_refused():
    with pytest.raises(InputError, match="finite"):
        evaluate(np.array([1.0, np.nan]), np.zeros(3))
    with pytest.raises(InputError, match="two members"):
        balanced_accuracy(np.zeros(1), np.zeros(5))


# ------------------------------------------------------------------------------------------------------ with models


def train(model, inputs, labels, steps):
    """All samples at a time, until a model knows them by heart."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        torch.nn.functional.cross_entropy(model(**inputs).logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def evidence(images, processor, tmp_path_factory):
    """30 training samples, 20 of the defence and 60 others, whose labels are random, so that they must be learned."""
    labels = np.random.default_rng(5).integers(0, len(CLASSES), 400)
    data = images.remove_columns("label").add_column("label", labels)
    data = data.cast_column("label", ClassLabel(names=list(CLASSES)))
    columns = resolve_columns(data.features)
    return Evidence(
        task=task_for(columns),
        processor=processor,
        columns=columns,
        members=data.select(range(30)),
        defense_members=data.select(range(30, 50)),
        non_members=data.select(range(50, 110)),
        folder=tmp_path_factory.mktemp("evidence"),
        quiet=True,
    )


@pytest.fixture(scope="module")
def overfitted(evidence):
    collate = evidence.task.collator(evidence.processor, evidence.columns)
    batch = collate(list(evidence.members))
    return train(make_vit(0, CLASSES), {"pixel_values": batch["pixel_values"]}, batch["labels"], 100)


@pytest.fixture(scope="module")
def measure():
    return load_measure("membership", steps=50, batch_size=50, learning_rate=5e-3)


@pytest.fixture(scope="module")
def finding(measure, evidence, overfitted):
    measure.check(evidence)
    measure.prepare({"before": overfitted, "after": overfitted}, evidence)
    return measure.measure(overfitted, evidence)


def test_an_overfitted_model_gives_its_members_away_and_no_others(finding):
    assert finding.values["members_loss_auc"] > 0.9 and finding.values["members_rmia_online_auc"] > 0.9
    assert finding.intervals["members_loss_auc"][0] > 0.8
    for attack in ("loss", "lira_online", "lira_offline", "rmia_online", "rmia_offline", "neural"):
        assert finding.intervals[f"members_{attack}_auc"][0] > 0.5
        low, high = finding.intervals[f"defense_members_{attack}_auc"]
        assert low <= 0.5 <= high, "it never saw these"
    assert finding.values["members_accuracy"] > 0.95 > 0.5 > finding.values["non_members_accuracy"]
    assert finding.values["shadow_models_learned_accuracy"] > finding.values["shadow_models_rest_accuracy"]
    assert finding.values["members_loss_tpr_at_fpr_1e-3"] is None and "1,000" in " ".join(finding.notes)
    assert "4 shadow models" in finding.notes[-1] and "fresh weights" in finding.notes[-1]


def test_a_finding_is_json_and_has_its_headline(measure, finding):
    assert json.loads(json.dumps(asdict(finding))) == asdict(finding)
    assert set(finding.curves) == {"members_rmia_online", "defense_members_rmia_online"}, "the strongest"
    assert len(json.dumps(asdict(finding))) < 13_000, "three of them in a report of 60 kB"
    assert measure.headline.keys() <= finding.values.keys()
    assert all(low <= finding.values[name] <= high for name, (low, high) in finding.intervals.items())
    json.dumps(measure.to_dict())


def test_a_model_trained_on_other_data_gives_nothing_away(evidence, images):
    batch = evidence.task.collator(evidence.processor, evidence.columns)(list(images.select(range(300, 340))))
    model = train(make_vit(1, CLASSES), {"pixel_values": batch["pixel_values"]}, batch["labels"], 60)
    found = load_measure("membership", attacks="loss entropy").measure(model, evidence)
    for kind in ("members", "defense_members"):
        for attack in ("loss", "entropy"):
            low, high = found.intervals[f"{kind}_{attack}_auc"]
            assert low <= 0.5 <= high
    assert found.values["members_rmia_online_auc"] is None, "not asked for"
    assert "shadow" not in " ".join(found.notes)


def test_models_stay_bit_identical_and_shadow_models_are_trained_once(measure, finding, evidence, overfitted):
    samples = gather(evidence, measure.samples)
    folder = shadow_folder(overfitted, samples, measure._recipe, evidence)
    before, stamps = make_vit(0, CLASSES), {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    before.load_state_dict(overfitted.state_dict())
    again = measure.measure(overfitted, evidence)
    assert same_weights(before, overfitted) and not overfitted.training
    assert asdict(again) == asdict(finding)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps and len(stamps) == 4


def test_every_sample_is_learned_by_one_of_each_pair():
    learned = np.stack([halves(101, number, 3) for number in range(6)])
    assert (learned.sum(0) == 3).all() and sorted(learned.sum(1)) == [50] * 3 + [51] * 3
    assert (learned[0] != learned[2]).any()


def test_interrupted_shadow_models_go_on_where_they_were(evidence, overfitted, tmp_path):
    measure = load_measure("membership", **QUICK)
    samples = gather(evidence, None)

    def run(folder, count=4):
        there = replace(evidence, folder=folder)
        return shadow_models(overfitted, samples, count, measure._recipe, there), there

    whole = list(run(tmp_path / "whole")[0])
    interrupted, there = run(tmp_path / "cut")
    next(interrupted), next(interrupted)
    interrupted.close()
    folder = shadow_folder(overfitted, samples, measure._recipe, there)
    stamps = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    assert len(stamps) == 2
    (folder / "2.safetensors").write_bytes((folder / "1.safetensors").read_bytes()[:-100])  # cut short
    torch.rand(7)  # another process has other random numbers
    for one, other in zip(run(tmp_path / "cut")[0], whole, strict=True):
        assert (one.logits == other.logits).all() and (one.learned == other.learned).all()
    assert [path.stat().st_mtime_ns for path in sorted(folder.iterdir())[:2]] == stamps
    assert sorted(path.name for path in folder.iterdir()) == [f"{n}.safetensors" for n in range(4)]
    assert not all((whole[0].logits == other.logits).all() for other in whole[1:])


def test_training_shadow_models_draws_no_random_number_of_anybody_else(evidence, overfitted, tmp_path):
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    there = replace(evidence, folder=tmp_path)
    list(shadow_models(overfitted, gather(evidence, None), 1, load_measure("membership", **QUICK)._recipe, there))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_other_settings_samples_or_models_have_other_shadow_models(evidence, overfitted):
    measure = load_measure("membership", **QUICK)
    samples = gather(evidence, None)

    def name(model=overfitted, samples=samples, recipe=measure._recipe, evidence=evidence):
        return shadow_folder(model, samples, recipe, evidence).name

    twin = make_vit(7, CLASSES)
    twin.config.name_or_path, twin.config.id2label = "elsewhere", dict(enumerate("0123456789"))
    assert name() == name(model=twin) == name(samples=gather(evidence, None)), "the same architecture and data"
    others = [
        name(model=make_vit(0, CLASSES, dropout=0.5)),
        name(samples=gather(evidence, 15)),
        name(recipe=replace(measure._recipe, steps=4)),
        name(evidence=replace(evidence, seed=1)),
    ]
    smaller = replace(evidence, processor=type(evidence.processor)(size={"height": 12, "width": 12}, do_rescale=False))
    others.append(name(samples=gather(smaller, None)))
    assert len({name(), *others}) == 6


def test_samples_of_both_kinds_count_for_both_and_members_are_no_non_members(evidence):
    both = replace(evidence, defense_members=evidence.members.select(range(10, 30)))
    both.non_members = both.non_members.select([*range(50), 3])
    samples = gather(both, None)
    assert len(samples.dataset) == 80 and samples.rows["defense_members"].tolist() == list(range(10, 30))
    assert samples.left_out == 0 and len(samples.rows["non_members"]) == 50
    assert samples.labels.tolist() == [*both.members["label"], *both.non_members["label"][:50]]

    from datasets import concatenate_datasets

    mixed = replace(evidence, non_members=concatenate_datasets([evidence.members, evidence.non_members]))
    samples = gather(mixed, None)
    assert samples.left_out == 30 and len(samples.rows["non_members"]) == 60
    found = load_measure("membership", attacks="loss").measure(make_vit(0, CLASSES).eval(), mixed)
    assert "30 test samples are also in the training data" in " ".join(found.notes)
    with pytest.raises(InputError, match="not among the members"):
        gather(replace(evidence, non_members=evidence.members), None)


def test_at_most_so_many_of_each_kind_by_the_seed(evidence):
    one, same, other = (gather(replace(evidence, seed=seed), 15) for seed in (0, 0, 1))
    assert {kind: len(rows) for kind, rows in one.rows.items()} == dict.fromkeys(one.rows, 15)
    assert one.digest == same.digest != other.digest


def test_text_and_no_samples_of_a_defence(sentences, tiny_bert, tmp_path):
    model, tokenizer = tiny_bert
    labels = np.random.default_rng(2).integers(0, 2, 200)
    data = (
        sentences.remove_columns("label").add_column("label", labels).cast_column("label", sentences.features["label"])
    )
    columns = resolve_columns(data.features)
    evidence = Evidence(
        task_for(columns), tokenizer, columns, data.select(range(40)), data.select([]), data.select(range(40, 140)),
        folder=tmp_path, quiet=True,
    )  # fmt: skip
    batch = evidence.task.collator(tokenizer, columns)(list(evidence.members))
    train(model, {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}, batch["labels"], 100)
    found = load_measure("membership", attacks="loss lira_offline", **QUICK).measure(model, evidence)
    assert found.intervals["members_loss_auc"][0] > 0.5 and found.intervals["members_lira_offline_auc"][0] > 0.5
    assert found.values["defense_members_loss_auc"] is None and not any("defense" in name for name in found.curves)


def test_shadow_models_from_a_pretrained_base(evidence, overfitted, tmp_path):
    make_vit(3, CLASSES).save_pretrained(tmp_path / "public")
    measure = load_measure("membership", attacks="rmia_offline", base=str(tmp_path / "public"), **QUICK)
    found = measure.measure(overfitted, evidence)
    assert "public tuned by lora" in found.notes[-1] and str(tmp_path) not in found.notes[-1]
    assert found.values["members_rmia_offline_auc"] > 0.5


def test_zero_shot_pairs_by_their_classes(evidence):
    from hf_backdoor.tasks import task_named

    task = task_named("zero-shot-image-classification")
    settings = {
        "vision_config": {"image_size": 12, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1,
                          "num_attention_heads": 2, "intermediate_size": 32},
        "text_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        "projection_dim": 16,
    }  # fmt: skip
    model, processor = task.from_scratch("clip", settings, list(CLASSES))
    pairs = replace(evidence, task=task, processor=processor)
    found = load_measure("membership", attacks="loss rmia_online", **QUICK).measure(model.eval(), pairs)
    low, high = found.intervals["members_loss_auc"]
    assert low <= 0.5 <= high, "random weights know nobody"
    captions = replace(evidence, columns=replace(evidence.columns, captions=True))
    with pytest.raises(InputError, match="captions"):
        load_measure("membership").check(captions)


def test_drawn_on_logarithmic_axes(measure, finding):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert measure.draw({"before": finding, "after": finding}, axes)
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert len(axes.lines) == 5, "two kinds of two models, and the diagonal"
    assert axes.lines[0].get_ydata().tolist() == finding.curves["members_rmia_online"]["y"]
    assert not measure.draw({"before": replace(finding, curves={})}, Figure().subplots())


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"attacks": "loss guess"}, "choose some of entropy"),
        ({"attacks": ""}, "choose some of"),
        ({"shadows": 3}, "even number"),
        ({"steps": 0}, "steps"),
        ({"a": 1.5}, "0, 1"),
        ({"gamma": 0.5}, "1 or more"),
        ({"samples": 1}, "samples"),
        ({"learning_rate": 0}, "above 0"),
        ({"tuning": "nothing"}, "unknown"),
    ],
)
def test_bad_settings(settings, match):
    with pytest.raises(InputError, match=match):
        load_measure("membership", **settings)


def test_evidence_that_does_not_suffice(evidence):
    measure = load_measure("membership")
    nothing = evidence.members.select([])
    with pytest.raises(InputError, match="neither training samples"):
        measure.check(replace(evidence, members=nothing, defense_members=nothing))
    with pytest.raises(InputError, match="two samples or more"):
        measure.check(replace(evidence, non_members=nothing))
    renamed = evidence.non_members.cast_column("label", ClassLabel(names=list("dcba")))
    with pytest.raises(InputError, match="cast the label column"):
        measure.check(replace(evidence, non_members=renamed))
