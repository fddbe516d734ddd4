"""A commented configuration to start from, for example columns or columns guessed from data."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from recap.config.data import ParquetConfig, SourceConfig
from recap.config.file.environment import escape
from recap.config.file.yaml import render_inline

_MAX_STEPS = 1_000_000
"""The default of `num_train_steps`."""
_DENSE_ROWS = 300_000
"""Rows of embedding tables up to which a step may update all of them."""


@dataclass(frozen=True)
class Guess:
    """A column with a guessed role: its name, a comment, and its value in the configuration."""

    name: str
    comment: str
    value: Any = None
    """The value of a key in a mapping such as `discrete`; None for an item of a list."""


@dataclass(frozen=True)
class Label:
    """A task and its label."""

    name: str
    """The name of the task."""
    comment: str
    weight: float
    """The task's weight in the score."""
    task: dict[str, Any] = field(default_factory=dict)
    """Fields of the task besides its tower."""
    data: dict[str, Any] = field(default_factory=dict)
    """Fields of the label in `train_data.tasks`."""


@dataclass
class Columns:
    """Columns by role, in the order of the data."""

    continuous: list[Guess] = field(default_factory=list)
    binary: list[Guess] = field(default_factory=list)
    discrete: list[Guess] = field(default_factory=list)
    vectors: list[Guess] = field(default_factory=list)
    histories: list[Guess] = field(default_factory=list)
    ids: list[Guess] = field(default_factory=list)
    user: list[Guess] = field(default_factory=list)
    timestamp: list[Guess] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    left_out: list[Guess] = field(default_factory=list)

    @property
    def has_features(self) -> bool:
        """Whether there is a column that the model reads."""
        return any((self.continuous, self.binary, self.discrete, self.vectors, self.histories))

    @property
    def names(self) -> list[str]:
        """The columns that a configuration reads or copies, each once."""
        guesses = (self.continuous, self.binary, self.discrete, self.vectors, self.histories, self.ids)
        features = [guess.name for role in (*guesses, self.user, self.timestamp) for guess in role]
        return list(dict.fromkeys([*features, *(label.data.get("column", label.name) for label in self.labels)]))


EXAMPLE = Columns(
    continuous=[Guess("author_followers", "numbers of any magnitude"), Guess("post_age_hours", "null counts as 0")],
    binary=[Guess("is_in_network", "0 or 1")],
    discrete=[
        Guess("hour", "integer codes 0 to 23", {"size": 24}),
        Guess("post_id", "any ids, hashed", {"hash": {"buckets": 100_000}}),
    ],
    vectors=[Guess("user_embedding", "a list of 64 floats", 64)],
    histories=[Guess("topics", "a list", {"ids": {"column": "topics", "hash": {"buckets": 1000}}, "max_length": 10})],
    ids=[Guess("post_id", "")],
    user=[Guess("user_id", "groups rows for metrics per user")],
    timestamp=[Guess("served_at_ms", "when the impression was served")],
    labels=[
        Label("is_favorited", "0 or 1; 20% are 1", 5.0),
        Label("is_reported", "0 or 1; 0.27% are 1; counts against", -370.0),
    ],
)


@dataclass(frozen=True)
class StarterData:
    """The data of a starter configuration."""

    train: SourceConfig
    rows: int
    """Rows of the training data."""
    sampled: int | None = None
    """Rows that were read to guess the columns."""
    guessed_from: int | None = None
    """Rows that the sample was drawn from."""
    validation: SourceConfig | None = None
    validation_comment: str = "later in time than the training data, if possible"
    analysis: str | None = None
    """The file with the scale of the continuous columns; None: measured batch by batch while training."""


EXAMPLE_DATA = StarterData(
    ParquetConfig(inputs=["data/train/*.parquet"]),
    1_000_000,
    validation=ParquetConfig(inputs=["data/validation/*.parquet"]),
)


@dataclass(frozen=True)
class Sizes:
    """What depends on the number of training rows."""

    batch: int
    epochs: int
    width: int
    """Width of the hidden layers."""
    embedding: int
    rate: float
    """The highest learning rate."""
    steps: int
    """Steps of the run."""
    evaluations: int

    @classmethod
    def of(cls, rows: int) -> "Sizes":
        """Small networks and batches for few rows; fewer epochs for many."""
        batch = next(batch for limit, batch in ((30_000, 64), (500_000, 256), (math.inf, 1024)) if rows < limit)
        epochs = next(epochs for limit, epochs in ((30_000, 5), (20_000_000, 3), (math.inf, 1)) if rows < limit)
        width, embedding = (64, 4) if rows < 1_000_000 else (256, 16)
        steps = max(1, epochs * rows // batch)
        rate = 1e-3 if rows < 30_000 else 2e-3
        return cls(batch, epochs, width, embedding, rate, steps, evaluations=10)

    @property
    def interval(self) -> int:
        """Steps between evaluations; the last one is at the last step, and no other is close to it."""
        return math.ceil(self.steps / self.evaluations)


def starter(columns: Columns = EXAMPLE, data: StarterData = EXAMPLE_DATA) -> str:
    """A configuration that `recap config check` accepts."""
    sizes = Sizes.of(data.rows)
    guessed = []
    if data.sampled is not None:
        sampled = f"{data.sampled:,} of {data.guessed_from or data.rows:,} rows"
        guessed = [f"# Columns are guessed from {sampled}; check each one."]
    return "\n".join(
        [
            "# A starting point. All keys, ranges and defaults: docs/configuration.md, or `recap config schema`.",
            "# Check it with `recap config check FILE --data`, then `recap train FILE`.",
            *_training(sizes, columns.labels, watches=data.validation is not None),
            "",
            *guessed,
            "# Leave out columns that are known only after the impression, such as watch time: they leak the labels.",
            "features:",
            *_features(columns),
            "",
            *_model(columns, sizes, data.analysis),
            "",
            *_train_data(columns.labels, data.train, sizes),
            "",
            *_validation(data),
            "",
            *_optimizer(sizes, columns),
            "",
            "# score = Σ weight · prediction. With weights of 1 / rate, tasks count about equally on average.",
            "scoring:",
            "  weights:",
            *_lines([Guess(label.name, "", label.weight) for label in columns.labels], "    "),
            "",
        ]
    )


def _training(sizes: Sizes, labels: list[Label], *, watches: bool) -> Iterator[str]:
    yield "training:"
    yield "  save_dir: runs/mine             # for checkpoints, logs and evaluations"
    if sizes.steps > _MAX_STEPS:
        yield f"  num_train_steps: {sizes.steps:<14} # all epochs of train_data.num_epochs"
    yield f"  checkpoint_every_n: {sizes.interval}"
    yield "  checkpoint_max_to_keep: 2       # besides the best of watch"
    yield f"  train_log_every_n: {max(1, sizes.steps // 20)}"
    evaluations = f"about {sizes.evaluations} times in the run" if sizes.interval > 1 else "after every step"
    yield f"{f'  eval_log_every_n: {sizes.interval}':<33} # {evaluations}"
    yield "  num_eval_steps: -1              # negative: the complete split"
    decay = max(0.9, round(1 - 10 / sizes.steps, 4)) if sizes.steps < 10_000 else 0.999
    yield f"{f'  ema: {{decay: {decay}}}':<33} # averages weights: less noise, better calibration"
    if watches:
        metric = "log_loss" if any("objective" not in label.task for label in labels) else "rmse"
        yield f"  watch: {{metric: {metric}, split: validation, stop_after: 4}} # keeps the best; ends overfitting"


def _model(columns: Columns, sizes: Sizes, analysis: str | None) -> Iterator[str]:
    yield "model:"
    if analysis is not None:
        featurization = render_inline({"kind": "z_score_log", "analysis": escape(analysis)})
        yield f"{f'  featurization: {featurization}':<33} # mean and deviation; remeasure: `recap data analysis`"
    if columns.discrete or columns.histories:
        yield f"{f'  embeddings: {{default: {sizes.embedding}}}':<33} # width of each discrete column"
    if columns.histories:
        yield "  histories: {default: {encoder: {kind: pooling}}} # the mean of the embeddings of a list"
    yield "  backbone:"
    yield "    kind: mlp                     # others, such as mask_net and dcn: docs/model.md"
    yield f"    layer_sizes: [{sizes.width}, {sizes.width}]"
    yield "    final_layer_activation: true"
    yield "  sharing: {kind: share_all}      # every tower reads the backbone"
    yield "  tasks:"
    first, *others = columns.labels
    tower = f"{{kind: mlp, layer_sizes: [{sizes.width // 2}]}}"
    yield _task(first, f"&tower {tower}" if others else tower)
    yield from (_task(label, "*tower") for label in others)


def _task(label: Label, tower: str) -> str:
    fields = "".join(f", {render_inline(key)}: {render_inline(value)}" for key, value in label.task.items())
    return f"    {render_inline(label.name)}: {{tower: {tower}{fields}}}"


def _table_rows(columns: Columns) -> int:
    """Rows of all embedding tables that are hashed."""
    codes = [*(guess.value for guess in columns.discrete), *(guess.value["ids"] for guess in columns.histories)]
    return sum(code["hash"]["buckets"] for code in codes if "hash" in code)


def _optimizer(sizes: Sizes, columns: Columns) -> list[str]:
    ramp = max(1, sizes.steps // 20)
    rates = f"learning_rate: {sizes.rate:g}, final_learning_rate: 0, num_ramp_steps: {ramp}"
    tables = []
    if _table_rows(columns) > _DENSE_ROWS:
        tables = [
            "  tables: {algorithm: {kind: adam}, learning_rate: *rates, sparse: true} # a step updates its own rows"
        ]
    elif columns.discrete or columns.histories:
        tables = ["  embedding_l2: 1e-3              # keeps embeddings of rare values small"]
    return [
        "# The rate rises over a twentieth of the run, then falls along a cosine that ends with the run.",
        "optimizer:",
        f"  backbone: &rates {{kind: linear_ramp_to_cosine, {rates}}}",
        "  towers: {default: *rates}",
        *tables,
    ]


def _source(source: SourceConfig) -> str:
    globs = [escape(glob) for glob in source.inputs if isinstance(glob, str)]
    stated = source.model_dump(exclude_defaults=True) | {"inputs": globs if len(globs) > 1 else globs[0]}
    return render_inline({"kind": source.kind, **{key: value for key, value in stated.items() if key != "kind"}})


def _train_data(labels: list[Label], source: SourceConfig, sizes: Sizes) -> Iterator[str]:
    yield "train_data:"
    yield f"  source: {_source(source)}"
    yield f"  global_batch_size: {sizes.batch}"
    yield f"{f'  num_epochs: {sizes.epochs}':<33} # passes over the rows"
    yield "  tasks:                          # labels; set {neg_downsampling_rate: 0.1} if negatives were sampled"
    yield from _lines([Guess(label.name, label.comment, label.data) for label in labels], "    ")


def _features(columns: Columns) -> Iterator[str]:
    for name, guesses in (("continuous", columns.continuous), ("binary", columns.binary)):
        if guesses:
            yield f"  {name}:"
            yield from _lines(guesses, "    - ")
    for name, guesses in (
        ("discrete", columns.discrete),
        ("vectors", columns.vectors),
        ("histories", columns.histories),
    ):
        if guesses:
            yield f"  {name}:"
            yield from _lines(guesses, "    ")
    if columns.ids:
        yield "  ids:                            # copied to the predictions"
        yield from _lines(columns.ids, "    - ")
    for name, guesses in (("user", columns.user), ("timestamp", columns.timestamp)):
        yield from _lines([Guess(name, guess.comment, guess.name) for guess in guesses[:1]], "  ")
    if columns.left_out:
        yield "  # Left out:"
        yield from _lines(columns.left_out, "  #   ")


def _validation(data: StarterData) -> list[str]:
    mark = "# " if data.validation is None else ""
    source = _source(data.validation or ParquetConfig(inputs=["FILES"]))
    remedy = [] if data.validation is not None else ["# Without it, overfitting goes unnoticed; see --validation."]
    return [
        f"# Rows outside the training data: {data.validation_comment}.",
        *remedy,
        "# Other fields are inherited from train_data.",
        f"{mark}validation_data:",
        f"{mark}  validation: {{source: {source}}}",
    ]


def _lines(guesses: list[Guess], start: str) -> Iterator[str]:
    for guess in guesses:
        name = render_inline(guess.name)
        text = start + (name if guess.value is None else f"{name}: {render_inline(guess.value)}")
        yield f"{text:<33} # {' '.join(guess.comment.split())}" if guess.comment else text
