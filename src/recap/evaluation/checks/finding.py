"""`Finding`: what a check found; and the codes of all checks."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The most severe first."""
PAGE = "docs/checks.md"


@dataclass(frozen=True)
class CheckSpec:
    """The facts about one check, for its findings and the documentation."""

    code: str
    title: str
    severity: Severity
    """The usual one."""
    finds: str
    """When it speaks: a line of Markdown."""
    advice: str
    """What to do."""

    @property
    def page(self) -> str:
        """The section of the documentation."""
        return f"{PAGE}#{self.code.lower()}"


@dataclass(frozen=True)
class Finding:
    """One thing that a check found."""

    code: str
    severity: Severity
    subject: str
    """The task, feature or setting; empty for the run as a whole."""
    text: str
    """A sentence with the numbers."""
    advice: str
    page: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


CHECKS = {
    spec.code: spec
    for spec in (
        CheckSpec(
            "R001",
            "Overfit",
            "warning",
            "The AUC of a task on training rows is above that on the split by more than 0.02, and by more than chance.",
            "Train fewer steps (`training.watch`), or regularise: dropout, weight decay, smaller embeddings.",
        ),
        CheckSpec(
            "R002",
            "Underfit",
            "warning",
            "A task with 200 positives is predicted no better than by its mean label, on training rows too.",
            "Train longer, raise the learning rate, or give the task features that tell something about it.",
        ),
        CheckSpec(
            "R003",
            "Miscalibrated task",
            "warning",
            "PCTR/CTR of a task is off by more than 5%, and its interval, corrected for the number of tasks, does not "
            "contain 1; an error beyond a factor of 2.",
            "Run `recap calibrate`; look for down-sampling rates that are not configured, and for drift.",
        ),
        CheckSpec(
            "R004",
            "Miscalibrated slice",
            "warning",
            "The rows with one value of a feature are over- or under-predicted, corrected for all values looked at.",
            "Run `recap calibrate --by` with the feature, or give the feature a wider embedding.",
        ),
        CheckSpec(
            "R005",
            "Label leak",
            "error",
            "One column alone ranks the rows of a task almost perfectly (AUC ≥ 0.99), or the model does (AUC > 0.995).",
            "Remove columns that are written after the engagement, or that are made from it.",
        ),
        CheckSpec(
            "R006",
            "Useless features",
            "note",
            "Exchanging the values of a feature between rows changes no task by more than chance, and the mean AUC by "
            "less than 0.0005.",
            "Leave them out and compare (`recap compare`): the model gets faster and the data smaller.",
        ),
        CheckSpec(
            "R007",
            "Time overlap",
            "warning",
            "The split begins before the training rows end.",
            "Split by time (`recap data split`), so that the evaluation resembles the use of the model.",
        ),
        CheckSpec(
            "R008",
            "Shared rows",
            "error",
            "Rows of the split are among the training rows, more often than training rows repeat each other.",
            "Remove these rows from one of the two; look for files that both name.",
        ),
        CheckSpec(
            "R009",
            "Too few positives",
            "warning",
            "A task has fewer than 100 positives, or negatives, on the split.",
            "Evaluate on more rows; do not decide by this task.",
        ),
        CheckSpec(
            "R010",
            "Distribution shift",
            "warning",
            "The values of a feature differ between the training rows and the split, by a PSI above 0.25; or a "
            "label rate by half.",
            "Look for a change of how the column is made, or a split of other hours or days; train on newer rows.",
        ),
        CheckSpec(
            "R011",
            "Worse than trees",
            "warning",
            "LightGBM, fitted on a sample of the same columns, has a higher AUC on the same rows by more than chance.",
            "Look at featurization and learning rates first; `recap config new` writes a good start.",
        ),
        CheckSpec(
            "R012",
            "Loss still falling",
            "note",
            "The training loss of the last tenth of the steps is below that of the tenth before by more than "
            "chance, at a learning rate that has not ended.",
            "Train longer: raise `training.num_train_steps`.",
        ),
        CheckSpec(
            "R013",
            "Loss long flat",
            "note",
            "The training loss has not fallen in the last half of the steps.",
            "Train fewer steps, or let the learning rate fall (`kind: linear_ramp_to_cosine`).",
        ),
        CheckSpec(
            "R014",
            "Gradient conflict",
            "warning",
            "The gradients of a task point against those of the others on shared parameters: a mean cosine below −0.1.",
            "Balance the gradients (`optimizer.balancing`), or share less (`model.sharing`).",
        ),
        CheckSpec(
            "R015",
            "Dominated score",
            "warning",
            "One task makes more than 80% of the score, though several tasks have a weight.",
            "Look at the weights: `recap weights suggest`, and the sliders of the report.",
        ),
        CheckSpec(
            "R016",
            "Unknown ids",
            "warning",
            "More than 20% of the values of a discrete feature are unknown or missing.",
            "Write the vocabulary from newer rows (`recap data vocabulary`), or hash the column.",
        ),
        CheckSpec(
            "R017",
            "Missing numbers",
            "warning",
            "More than half of the values of a numeric feature are missing or not finite.",
            "Look for a broken join; add a binary feature that tells whether the value is present.",
        ),
        CheckSpec(
            "R018",
            "Setting at its edge",
            "note",
            "The best evaluation was the last or the first one; or a ramp, a schedule or an average is longer than the "
            "run.",
            "Move the setting, and train again.",
        ),
    )
}


def finding(code: str, subject: str, text: str, severity: Severity | None = None) -> Finding:
    """A finding of check `code`, by default of its usual severity."""
    spec = CHECKS[code]
    return Finding(code, severity or spec.severity, subject, text, spec.advice.replace("`", ""), spec.page)
