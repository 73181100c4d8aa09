"""The samples that are asked about, and what a model says of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..exposure.queries import Queries, made_of_samples


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from ..sequela import Evidence

KINDS = ("members", "defense_members", "non_members")


@dataclass
class Samples:
    """Samples of all kinds, each once.

    Attributes:
        dataset (`Dataset`): input and label column.
        labels (`np.ndarray` of int64, `(samples,)`): class numbers.
        rows (`dict`): for each kind of which there are some, which rows they are, int64. The defence may have trained
            on training samples of the victim, so that a row is of both kinds.
        left_out (`int`): how many non-members were left out, as they are members too.
        digest (`str`): changes with the samples, and with what the processor makes of them.
    """

    dataset: Dataset
    labels: np.ndarray
    rows: dict[str, np.ndarray]
    left_out: int
    digest: str


def _check_kinds(evidence: Evidence) -> None:
    label = evidence.columns.label
    if evidence.columns.captions:
        raise InputError(
            "dataset", label, "holds captions; membership is inferred from the scores of classes, so give data with "
            "class labels"
        )  # fmt: skip
    known = [kind for kind in KINDS[:2] if len(getattr(evidence, kind))]
    if not known:
        raise InputError("members", 0, "there are neither training samples nor samples of the defence; give some")
    for kind in [*known, "non_members"]:
        dataset = getattr(evidence, kind)
        if len(dataset) < 2:
            raise InputError(kind, len(dataset), "needs two samples or more")
        names = [getattr(some.features[label], "names", None) for some in (getattr(evidence, known[0]), dataset)]
        if None not in names and names[0] != names[1]:
            raise InputError(
                kind, names[1], f"numbers other classes than {known[0]}, {names[0]}; cast the label column"
            )


def gather(evidence: Evidence, most: int | None) -> Samples:
    """The samples of all three kinds, or `most` of each, drawn with the seed of the evidence.

    Samples are the same if input and label are, as stored.

    Raises:
        InputError: captions, classes of different names, fewer than two samples of a kind, or fewer than two
            non-members that are no members.
    """
    from datasets import concatenate_datasets

    _check_kinds(evidence)
    columns = [evidence.columns.input, evidence.columns.label]
    parts: list[Dataset] = []
    keys: list[bytes] = []
    spans: dict[str, slice] = {}
    for number, kind in enumerate(KINDS):
        dataset = getattr(evidence, kind)
        if len(dataset) == 0:
            continue
        if most is not None and len(dataset) > most:
            drawn = np.random.default_rng([evidence.seed, number]).permutation(len(dataset))[:most]
            dataset = dataset.select(np.sort(drawn))
        dataset = dataset.select_columns(columns)
        if parts and dataset.features != parts[0].features:
            dataset = dataset.cast(parts[0].features)
        parts.append(dataset)
        spans[kind] = slice(len(keys), len(keys) + len(dataset))
        for batch in dataset.with_format("arrow").iter(100):  # as stored: no image is decoded
            keys += [hashlib.sha256(repr(row).encode()).digest() for row in batch.to_pylist()]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}  # where each sample stands first
    place = {row: number for number, row in enumerate(sorted(first.values()))}
    rows = {kind: np.unique([place[first[key]] for key in keys[span]]) for kind, span in spans.items()}
    others = np.setdiff1d(rows["non_members"], np.concatenate([rows[kind] for kind in rows if kind != "non_members"]))
    if len(others) < 2:
        raise InputError("non_members", len(others), "needs two samples or more that are not among the members too")
    left_out = len(rows["non_members"]) - len(others)
    dataset = concatenate_datasets(parts).select(list(place))
    digest = hashlib.sha256(b"".join(keys[row] for row in place))
    task = type(evidence.task)()
    task.prepare(evidence.processor, evidence.columns, dataset)
    for part in made_of_samples(task, evidence, dataset):
        digest.update(part)
    labels = np.asarray(task.label_numbers(dataset[columns[1]]))
    return Samples(dataset, labels, rows | {"non_members": others}, left_out, digest.hexdigest())


def logits_of(model: PreTrainedModel, dataset: Dataset, evidence: Evidence) -> np.ndarray:
    """The scores that a model in evaluation mode gives to the classes, float32 `(samples, classes)`."""
    import torch

    queries = Queries(model, evidence, dataset)
    with torch.no_grad():
        return np.concatenate([queries.logits(batch).cpu().numpy() for batch in queries.batches(dataset)])
