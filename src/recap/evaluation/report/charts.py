"""The charts of a report: Vega-Lite specifications without data, which the page adds.

The fields of the data are fixed names such as `x`, `y` and `series`, never names of tasks or features: those would have
to be escaped, since Vega-Lite reads dots and brackets in the name of a field as a path.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair as alt

ROWS = "rows"
"""The name of the data of every chart."""
SIDES = ["this model", "baseline"]
_HEIGHT = 240


@dataclass(frozen=True)
class Chart:
    """A chart of one task, and its text."""

    key: str
    title: str
    summary: str
    """What it shows and how to read it."""
    columns: Sequence[tuple[str, str]]
    """(field, heading) of the table of its numbers."""
    spec: dict[str, Any]
    empty: str = ""
    """Stands in its place for a task without data; if empty, the chart is left out."""


def training_charts(measure: str) -> list[Chart]:
    """Losses, the `measure` of order and learning rates by step."""
    import altair as alt

    step = alt.X("x:Q", title="step", axis=alt.Axis(tickCount=5, format="~s"))
    line = alt.Chart(_data()).mark_line(strokeWidth=1.5)
    points = alt.Chart(_data()).mark_point(filled=True, opacity=1)
    size = alt.condition("datum.dot", alt.value(22), alt.value(0))
    dash = _dash("part", ["training", "validation"])
    loss = line.encode(step, _y("loss"), _side(), strokeDash=dash)
    loss += points.encode(step, _y("loss"), _side(), size=size)
    auc = line.encode(step, _y(measure), _side()) + points.encode(step, _y(measure), _side(), size=size)
    height = alt.Y(
        "y:Q",
        title="learning rate",
        axis=alt.Axis(format=".1~e", tickCount=5, labelExpr="datum.value ? datum.label : '0'"),
    )
    rate = line.encode(step, height, strokeDash=_dash("series", ["tower", "backbone"]))
    rate += points.encode(step, height, size=size)
    of_step = [("series", "model"), ("x", "step")]
    return [
        Chart(
            "loss",
            "Loss",
            "Training loss as it was minimised, and the log loss (in nats) of a binary task on the split at "
            "evaluations. A validation loss that rises while the training loss falls means overfitting.",
            [*of_step, ("part", "rows"), ("y", "loss")],
            _spec(loss),
            "The training recorded no loss of this task.",
        ),
        Chart(
            "auc",
            measure,
            f"{measure} on the split at the evaluations of the training.",
            [*of_step, ("y", measure)],
            _spec(auc),
            f"The training recorded no {measure} of this task on this split.",
        ),
        Chart(
            "rate",
            "Learning rate",
            "Learning rates of the backbone and of the task's tower.",
            [("series", "part"), ("x", "step"), ("y", "rate")],
            _spec(rate),
            "The training recorded no learning rates.",
        ),
    ]


def curve_charts(*, uncalibrated: bool) -> list[Chart]:
    """ROC, precision and recall, reliability, and the histogram of predictions.

    `uncalibrated`: reliability before calibration too.
    """
    return [_roc(), _precision_and_recall(), _reliability(uncalibrated=uncalibrated), _predictions()]


def _roc() -> Chart:
    import altair as alt

    unit, few = alt.Scale(domain=[0, 1]), alt.Axis(tickCount=5)
    diagonal = alt.Chart(alt.InlineData([{"x": 0, "y": 0}, {"x": 1, "y": 1}])).mark_line(
        strokeDash=[2, 3], strokeWidth=1, color="#888888"
    )
    curve = _curve().encode(
        alt.X("x:Q", title="false positive rate", scale=unit, axis=few),
        alt.Y("y:Q", title="true positive rate", scale=unit, axis=few),
    )
    return Chart(
        "roc",
        "ROC curve",
        "Share of the positives found against the share of negatives taken for positives, at every threshold. The "
        "diagonal is chance; the area below is the AUC.",
        [("series", "model"), ("x", "false positive rate"), ("y", "true positive rate")],
        _spec(diagonal.encode(x="x:Q", y="y:Q") + curve),
    )


def _precision_and_recall() -> Chart:
    import altair as alt

    unit, few = alt.Scale(domain=[0, 1]), alt.Axis(tickCount=5)
    curve = _curve().encode(
        alt.X("x:Q", title="recall", scale=unit, axis=few), alt.Y("y:Q", title="precision", axis=few)
    )
    return Chart(
        "pr",
        "Precision and recall",
        "Share of positives among the rows above a threshold, against the share of all positives that they hold.",
        [("series", "model"), ("x", "recall"), ("y", "precision")],
        _spec(curve),
    )


def _reliability(*, uncalibrated: bool) -> Chart:
    import altair as alt

    log, powers = alt.Scale(type="log", nice=False), _powers()
    base = alt.Chart(_data()).encode(alt.X("x:Q", title="mean prediction of the bin", scale=log, axis=powers), _side())
    bars = base.mark_rule().encode(alt.Y2("high:Q"), y=alt.Y("low:Q", scale=log))
    parts = alt.Scale(domain=["calibrated", "before calibration"], range=["circle", "diamond"])
    points = base.mark_point(filled=True, size=45, opacity=1).encode(
        y=alt.Y("y:Q", title="share of positives", scale=log, axis=powers)
    )
    if uncalibrated:
        points = points.encode(shape=alt.Shape("part:N", title=None, scale=parts))
    ideal = (
        alt.Chart(_data())
        .mark_line(strokeDash=[2, 3], strokeWidth=1, color="#888888")
        .encode(x=alt.X("x:Q"), y=alt.Y("x:Q"))
    )
    return Chart(
        "reliability",
        "Reliability",
        "Observed rate against the mean prediction, in bins of equal numbers of rows, with intervals of 95%. "
        "Points on the dotted line are calibrated; above it, predictions are too low. Bins without positives are "
        "not drawn.",
        [
            ("series", "model"),
            ("part", "probability"),
            ("count", "rows"),
            ("positives", "positives"),
            ("x", "mean prediction"),
            ("y", "share of positives"),
        ],
        _spec(ideal + bars + points),
    )


def _predictions() -> Chart:
    import altair as alt

    log = alt.Scale(type="log", nice=False)
    histogram = (
        alt.Chart(_data())
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            alt.X("x:Q", title="predicted probability", scale=log, axis=_powers()),
            alt.Y("y:Q", title="share of the class", axis=alt.Axis(format="~%")),
            alt.Color("series:N", title=None, scale=alt.Scale(domain=["positives", "negatives"])),
            strokeDash=_dash("series", ["positives", "negatives"]),
        )
    )
    return Chart(
        "histogram",
        "Predictions",
        "Distribution of the predicted probabilities of positives and negatives. The further apart, the better the "
        "ranking.",
        [("series", "class"), ("x", "from"), ("y", "share")],
        _spec(histogram),
    )


def _curve() -> Any:
    """A line for each model through the points in their order."""
    import altair as alt

    return alt.Chart(_data()).mark_line(strokeWidth=2, clip=True).encode(_side(), alt.Order("order:Q"))


def _powers() -> Any:
    """An axis with ticks at 1, 2 and 5 times the powers of ten."""
    import altair as alt

    values = [digit * 10.0**power for power in range(-7, 1) for digit in (1, 2, 5)]
    return alt.Axis(values=values, format="~g", labelSeparation=8)


def regression_charts() -> list[Chart]:
    """Mean labels by prediction, and the distributions of both."""
    import altair as alt

    few = alt.Axis(tickCount=5, labelExpr="format(datum.value, abs(datum.value) < 1000 ? '~g' : '~s')")
    base = alt.Chart(_data()).encode(alt.X("x:Q", title="mean prediction of the bin", axis=few), _side())
    bars = base.mark_rule().encode(alt.Y2("high:Q"), y=alt.Y("low:Q"))
    points = base.mark_point(filled=True, size=45, opacity=1).encode(y=alt.Y("y:Q", title="mean label", axis=few))
    ideal = (
        alt.Chart(_data())
        .mark_line(strokeDash=[2, 3], strokeWidth=1, color="#888888")
        .encode(x=alt.X("x:Q"), y=alt.Y("x:Q"))
    )
    values = (
        alt.Chart(_data())
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            alt.X("x:Q", title="value", axis=few),
            alt.Y("y:Q", title="share of the rows", axis=alt.Axis(format="~%")),
            alt.Color("series:N", title=None, scale=alt.Scale(domain=["predictions", "labels"])),
            strokeDash=_dash("series", ["predictions", "labels"]),
        )
    )
    return [
        Chart(
            "means",
            "Mean label by prediction",
            "Mean label against the mean prediction, in bins of equal numbers of rows, with intervals of 95%. Points "
            "on the dotted line have no bias.",
            [("series", "model"), ("count", "rows"), ("x", "mean prediction"), ("y", "mean label")],
            _spec(ideal + bars + points),
        ),
        Chart(
            "values",
            "Predictions and labels",
            "Distributions of the predicted values and of the labels; values beyond the axis count at its ends.",
            [("series", "values"), ("x", "from"), ("y", "share")],
            _spec(values),
        ),
    ]


def importance_chart(measure: str) -> Chart:
    """The `measure` of order that a task loses without each feature or group of features."""
    import altair as alt

    base = alt.Chart(_data()).encode(y=alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=220)))
    bars = base.mark_bar(height={"band": 0.6}).encode(
        x=alt.X("y:Q", title=f"{measure} lost", axis=alt.Axis(tickCount=8))
    )
    errors = base.mark_rule(strokeWidth=1.5, color="#888888").encode(x="low:Q", x2="high:Q")
    return Chart(
        "importance",
        f"{measure} lost without a feature",
        f"How much {measure} the model loses when rows exchange their values of a feature, with intervals of 95%. "
        "Features that say the same stand in for each other, so that each may look unimportant.",
        [("name", "features"), ("y", f"{measure} lost"), ("low", "from"), ("high", "to")],
        _spec(bars + errors, height=None),
    )


def _data() -> "alt.NamedData":
    import altair as alt

    return alt.NamedData(ROWS)


def _y(title: str) -> "alt.Y":
    import altair as alt

    return alt.Y("y:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5, format=".4~g"))


def _side() -> "alt.Color":
    import altair as alt

    return alt.Color("series:N", legend=None, scale=alt.Scale(domain=SIDES))


def _dash(field: str, domain: list[str]) -> "alt.StrokeDash":
    import altair as alt

    return alt.StrokeDash(f"{field}:N", title=None, scale=alt.Scale(domain=domain, range=[[1, 0], [5, 3]]))


def _spec(chart: Any, height: int | None = _HEIGHT) -> dict[str, Any]:
    """The specification, without the theme, the data, and `height` if that is None: the page adds them."""
    size = {} if height is None else {"height": height}
    spec: dict[str, Any] = chart.properties(width="container", **size).to_dict()
    for name in ("config", "$schema", "datasets") if "datasets" not in spec else ("config", "$schema"):
        spec.pop(name, None)
    return spec
