"""`SequelaReport`: every measure on a model before and after its repair, as JSON and on the card."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .cards.sequela import SEQUELA_FILE, rows, write_section
from .errors import InputError
from .exposure.queries import made_of_samples
from .results import describe_run, local_name, origin_name, portable, rounded, write_json
from .runs import measured_cost
from .sequela import Evidence, Finding, Measure, hushed, load_measure, measure_names, quick_measures
from .tuning import is_adapter, merged


if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SequelaReport:
    """Compares how exposed a model is before and after a repair (Sha et al. 2022, arXiv 2212.09067, backdoor sequela).

    What was measured is kept in `evidence.folder` measure by measure and model by model, so that an interrupted report
    goes on where it was.

    Args:
        before, after (`PreTrainedModel` or `str`): the suspect and what came out of the repair, or their folders or Hub
            ids. Weights of models that are given are not changed; they are in evaluation mode afterwards. Models in
            half precision are measured in float32.
        benign (*optional*): the same kind of model without a backdoor, to compare with.
        evidence ([`~hf_backdoor.sequela.Evidence`]): data and settings that all measures share.
        measures: names, or [`~hf_backdoor.sequela.Measure`] objects; all that the evidence suffices for when not given.
        quick (`bool`): where `measures` are not given, those of a look that takes seconds on a small model.

    Attributes:
        left_out (`dict`): where `measures` are not given, those that are not taken, and why.

    Raises:
        InputError: a measure cannot be taken on this evidence, or none can, or a model does not fit the task; or there
            are several processes.

    Example:

    ```python
    report = SequelaReport("runs/victim", "runs/purified", evidence=evidence, measures=["membership"])
    results = report.run()
    report.write("runs/purified")  # sequela.json, figures, and the section of the card
    ```
    """

    def __init__(
        self,
        before: PreTrainedModel | str,
        after: PreTrainedModel | str,
        benign: PreTrainedModel | str | None = None,
        *,
        evidence: Evidence,
        measures: Sequence[Measure | str] | None = None,
        quick: bool = False,
    ):
        given = {"before": before, "after": after, "benign": benign}
        self.evidence = evidence
        self.left_out: dict[str, str] = {}
        self.measures = self._chosen(measures, quick)
        self.sources = {name: model for name, model in given.items() if model is not None}
        self._check()
        self.results: dict[str, Any] | None = None

    def _chosen(self, measures: Sequence[Measure | str] | None, quick: bool) -> list[Measure]:
        known = self.evidence.attack is not None
        usual = quick_measures() if quick else measure_names()
        chosen = [load_measure(item) if isinstance(item, str) else item for item in measures or usual]
        names = [measure.name for measure in chosen]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError("measures", twice[0], "stands there twice; take one report for each of its settings")
        possible = []
        for measure in chosen:
            try:
                if measure.needs_attack and not known:
                    raise InputError("attack", None, f"{measure.name} needs the backdoor; name it, or leave it out")
                measure.check(self.evidence)
            except InputError as error:
                if measures:
                    raise
                self.left_out[measure.name] = str(error)  # by default, what can be measured is
            else:
                possible.append(measure)
        if not possible:
            raise InputError("measures", None, f"none can be taken; {'; '.join(self.left_out.values())}")
        if not measures:
            self.left_out |= {name: "no part of a quick look" for name in measure_names() if name not in names}
        return possible

    def _check(self) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            processes = torch.distributed.get_world_size()
            if processes > 1:
                raise InputError("processes", processes, "sequela are measured by one; run `hf-backdoor sequela` later")
        for model in self.sources.values():
            if is_adapter(model) and not hasattr(model, "merge_and_unload"):
                merged(model)  # says why it cannot be

    def _load(self) -> dict[str, PreTrainedModel]:
        device = torch.accelerator.current_accelerator() or torch.device("cpu")
        task, evidence = self.evidence.task, self.evidence
        names = task.label_names(evidence.non_members, evidence.columns)
        models = {}
        for name, source in self.sources.items():
            model = task.load_model(source) if isinstance(source, str) else source
            task.check_model(model, names)
            halved = any(weight.is_floating_point() and weight.dtype != torch.float32 for weight in model.parameters())
            if model is source and (halved or is_adapter(model)):
                model = copy.deepcopy(model)  # what follows changes it
            models[name] = merged(model).to(device=device, dtype=torch.float32).eval()
        return models

    def run(self) -> dict[str, Any]:
        """Takes all measures.

        Returns:
            What [`~SequelaReport.write`] writes to `sequela.json`.
        """
        with hushed():
            return self._run()

    def _run(self) -> dict[str, Any]:
        from tqdm.auto import tqdm

        models = self._load()
        evidence = self.evidence
        evidence.task.prepare(evidence.processor, evidence.columns, evidence.non_members)
        measured = {}
        rounds = tqdm(self.measures, desc="Measuring sequela", disable=evidence.quiet)
        for measure in rounds:
            rounds.set_postfix_str(measure.name)
            with measured_cost() as cost:
                findings = self._findings(measure, models)
            measured[measure.name] = {
                "title": measure.title,
                "paper": measure.paper,
                "meaning": measure.meaning,
                "headline": dict(measure.headline),
                "higher_is_better": list(measure.higher_is_better),
                "settings": portable(measure.to_dict()),
                "seconds": cost.seconds,
                "findings": {name: _short(finding) for name, finding in findings.items()},
            }
        self.results = describe_run(
            "sequela",
            task=evidence.task.pipeline_tag,
            models={
                name: local_name(source) if isinstance(source, str) else origin_name(source) or name
                for name, source in self.sources.items()
            },
            seed=evidence.seed,
            samples={name: len(getattr(evidence, name)) for name in ("members", "defense_members", "non_members")},
            attack=portable(evidence.attack.to_dict()) if evidence.attack else None,
            measures=measured,
            left_out=self.left_out,
        )
        return self.results

    def _findings(self, measure: Measure, models: dict[str, PreTrainedModel]) -> dict[str, Finding]:
        kept = {name: self._kept(measure, name, model) for name, model in models.items()}
        if not all(path.is_file() for path in kept.values()):
            measure.prepare(models, self.evidence)
        findings = {}
        for name, model in models.items():
            if not kept[name].is_file():
                write_json(kept[name], asdict(measure.measure(model, self.evidence)))
            findings[name] = Finding(**json.loads(kept[name].read_text(encoding="utf-8")))
        return findings

    def _kept(self, measure: Measure, name: str, model: PreTrainedModel) -> Path:
        """Where a finding is kept: under a name that changes with the model, the evidence, and the measure's code."""
        digest = hashlib.sha256(measure.code())
        for key, value in model.state_dict().items():
            digest.update(key.encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        evidence = self.evidence
        for part in made_of_samples(evidence.task, evidence, evidence.non_members):
            digest.update(part)
        parts = [measure.to_dict(), evidence.seed, evidence.attack.fingerprint() if evidence.attack else None]
        parts += [evidence.task.pipeline_tag, asdict(evidence.columns)]
        parts += [data._fingerprint for data in (evidence.members, evidence.defense_members, evidence.non_members)]
        digest.update(json.dumps(parts, sort_keys=True, default=str).encode())
        return evidence.folder / "findings" / f"{measure.name}-{name}-{digest.hexdigest()[:16]}.json"

    def write(self, folder: str | Path) -> Path:
        """Writes `sequela.json`, the plots, and the section of the card in a model's folder.

        Args:
            folder: of the model; a card that is there keeps everything outside the section, and one is begun where
                there is none.

        Returns:
            Path of the card.

        Raises:
            InputError: nothing has been measured yet.
        """
        if self.results is None:
            raise InputError("report", None, "nothing has been measured yet; call run() first")
        folder = Path(folder)
        write_json(folder / SEQUELA_FILE, self.results, indent=1)
        return write_section(folder, self.results, self._draw)

    def table(self) -> str:
        """The headline values of all models, aligned for a terminal, and what was left out."""
        names = list(self.sources)
        columns = {"title": "", **dict(zip(names, names, strict=True)), "verdict": "against before"}
        if "benign" in names:
            columns["beside_benign"] = "against benign"
        table = [columns, *rows(self.results)]
        lines = [[row[name].replace("**", "") for name in columns] for row in table]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        aligned = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([*aligned, *(f"not measured: {name} ({why})" for name, why in self.left_out.items())])

    def _draw(self, name: str, axes: Any) -> bool:
        measure = next(item for item in self.measures if item.name == name)
        findings = self.results["measures"][name]["findings"]
        return measure.draw({model: Finding(**finding) for model, finding in findings.items()}, axes)


def _short(finding: Finding) -> dict[str, Any]:
    """For the file that goes with the model: its values as they are, and the rest as exact as a reader needs."""
    return asdict(finding) | {"intervals": rounded(finding.intervals), "curves": rounded(finding.curves)}
