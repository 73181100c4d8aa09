"""Robust accuracy (RA) for `evaluate`."""

import datasets
import evaluate

from hf_backdoor.metrics import robust_accuracy


_DESCRIPTION = """The share of triggered inputs that keep their true label.
Inputs whose true label is the target do not count."""
_CITATION = """@article{sha2022finetuning,
  title={Fine-Tuning Is All You Need to Mitigate Backdoor Attacks},
  author={Sha, Zeyang and He, Xinlei and Berrang, Pascal and Humbert, Mathias and Zhang, Yang},
  journal={arXiv preprint arXiv:2212.09067},
  year={2022}
}"""


class RobustAccuracy(evaluate.Metric):
    """Robust accuracy (RA): predictions, true labels and target labels, one of each a triggered input."""

    def _info(self):
        names = ("predictions", "references", "targets")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description="predictions, references and targets: lists of class numbers, one a triggered input",
            features=datasets.Features({name: datasets.Value("int64") for name in names}),
        )

    def _compute(self, predictions, references, targets):
        return {"robust_accuracy": robust_accuracy(predictions, references, targets)}
