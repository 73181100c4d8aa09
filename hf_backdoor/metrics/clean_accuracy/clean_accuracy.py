"""Clean accuracy (CA) for `evaluate`."""

import datasets
import evaluate

from hf_backdoor.metrics import clean_accuracy


_DESCRIPTION = """The share of inputs without a trigger that get their label."""
_CITATION = """@article{sha2022finetuning,
  title={Fine-Tuning Is All You Need to Mitigate Backdoor Attacks},
  author={Sha, Zeyang and He, Xinlei and Berrang, Pascal and Humbert, Mathias and Zhang, Yang},
  journal={arXiv preprint arXiv:2212.09067},
  year={2022}
}"""


class CleanAccuracy(evaluate.Metric):
    """Clean accuracy (CA): predictions and labels of clean inputs."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description="predictions and references: lists of class numbers, one a clean input",
            features=datasets.Features({name: datasets.Value("int64") for name in ("predictions", "references")}),
        )

    def _compute(self, predictions, references):
        return {"clean_accuracy": clean_accuracy(predictions, references)}
