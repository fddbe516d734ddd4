"""A commented configuration to start from, for example columns or columns guessed from data."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from recap.config.data import ParquetConfig, SourceConfig
from recap.config.file.environment import escape
from recap.config.file.yaml import render_inline


@dataclass(frozen=True)
class Guess:
    """A column with a guessed role: its name, a comment, and its value in the configuration."""

    name: str
    comment: str
    value: Any = None
    """The value of a key in a mapping such as `discrete`; None for an item of a list."""


@dataclass
class Columns:
    """Columns by role, in the order of the data."""

    continuous: list[Guess] = field(default_factory=list)
    binary: list[Guess] = field(default_factory=list)
    discrete: list[Guess] = field(default_factory=list)
    vocabularies: list[Guess] = field(default_factory=list)
    """Discrete columns of strings, without vocabularies yet."""
    vectors: list[Guess] = field(default_factory=list)
    ids: list[Guess] = field(default_factory=list)
    user: list[Guess] = field(default_factory=list)
    timestamp: list[Guess] = field(default_factory=list)
    labels: list[Guess] = field(default_factory=list)
    """`value` is the task's weight in the score."""
    left_out: list[Guess] = field(default_factory=list)


EXAMPLE = Columns(
    continuous=[Guess("author_followers", "numbers of any magnitude"), Guess("post_age_hours", "null counts as 0")],
    binary=[Guess("is_in_network", "0 or 1")],
    discrete=[Guess("hour", "integer codes 0 to 23", {"size": 24})],
    vocabularies=[Guess("language", "strings; the file lists the known ones")],
    vectors=[Guess("user_embedding", "a list of 64 floats", 64)],
    ids=[Guess("post_id", "")],
    user=[Guess("user_id", "groups rows for grouped metrics")],
    timestamp=[Guess("served_at_ms", "when the impression was served")],
    labels=[Guess("is_favorited", "0 or 1", 0.5), Guess("is_reported", "0 or 1; counts against", -369.0)],
)


def starter(
    columns: Columns = EXAMPLE,
    source: SourceConfig | None = None,
    rows: int = 1_000_000,
    sampled_rows: int | None = None,
) -> str:
    """A configuration that `recap config check` accepts.

    `source`: the data; None writes an example. `rows`: rows in the data, of which `sampled_rows` were read to guess the
    columns.
    """
    batch = 1024 if rows >= 100_000 else 128
    steps = max(10, 2 * rows // batch)
    guessed = [f"# Columns are guessed from {sampled_rows:,} of {rows:,} rows; check each one."] if sampled_rows else []
    return "\n".join(
        [
            "# A starting point. All keys, ranges and defaults: docs/configuration.md, or `recap config schema`.",
            "# Check it with `recap config check FILE --data`, then `recap train FILE`.",
            *_training(steps),
            "",
            *guessed,
            "# Leave out columns that are known only after the impression, such as watch time: they leak the labels.",
            "features:",
            *_features(columns),
            "",
            *_model(columns),
            "",
            *_train_data(columns.labels, source or ParquetConfig(inputs=["data/train/*.parquet"]), batch),
            "",
            *_validation(example=source is None),
            "",
            "optimizer:",
            f"  backbone: {{kind: linear_ramp_to_constant, learning_rate: 1e-3, num_ramp_steps: {steps // 20 or 1}}}",
            "  towers: {default: {kind: constant, learning_rate: 1e-3}}",
            "",
            "# score = Σ weight · probability. With weights of 1 / rate, tasks count about equally on average.",
            "scoring:",
            "  weights:",
            *_lines([Guess(label.name, "", label.value) for label in columns.labels], "    "),
            "",
        ]
    )


def _training(steps: int) -> list[str]:
    return [
        "training:",
        "  save_dir: runs/mine             # for checkpoints, logs and evaluations",
        f"  num_train_steps: {steps:<13}  # about two epochs",
        f"  checkpoint_every_n: {max(1, steps // 4)}",
        f"  train_log_every_n: {max(1, steps // 20)}",
        f"  eval_log_every_n: {max(1, steps // 4)}",
        "  num_eval_steps: -1              # negative: the complete split",
    ]


def _model(columns: Columns) -> list[str]:
    return [
        "model:",
        *_embeddings(columns),
        "  backbone:",
        "    kind: mask_net",
        "    use_parallel: true",
        "    mask_blocks:",
        "      - {output_size: 128, aggregation_size: 128}",
        "      - {output_size: 128, aggregation_size: 128}",
        "    mlp: {layer_sizes: [128], final_layer_activation: true}",
        "  sharing: {kind: share_all}      # every tower reads the backbone",
        "  tasks:",
        *_tasks(columns.labels),
    ]


def _train_data(labels: list[Guess], source: SourceConfig, batch: int) -> list[str]:
    globs = [escape(glob) for glob in source.inputs if isinstance(glob, str)]
    stated = source.model_dump(exclude_defaults=True) | {"inputs": globs if len(globs) > 1 else globs[0]}
    stated = {"kind": source.kind, **{key: value for key, value in stated.items() if key != "kind"}}
    return [
        "train_data:",
        f"  source: {render_inline(stated)}",
        f"  global_batch_size: {batch}",
        "  tasks:                          # labels; set {neg_downsampling_rate: 0.1} if negatives were sampled",
        *_lines([Guess(label.name, label.comment, {}) for label in labels], "    "),
    ]


def _embeddings(columns: Columns) -> Iterator[str]:
    if columns.discrete or columns.vocabularies:
        mark = "" if columns.discrete else "# "
        yield f"{f'  {mark}embeddings: {{default: 8}}':<33} # width of each discrete column"


def _tasks(labels: list[Guess]) -> Iterator[str]:
    """The tasks; all but the first are aliases of it."""
    first, *others = labels
    yield f"    {render_inline(first.name)}: {'&task ' if others else ''}{{tower: {{kind: mlp, layer_sizes: [64]}}}}"
    yield from (f"    {render_inline(label.name)}: *task" for label in others)


def _features(columns: Columns) -> Iterator[str]:
    for name, guesses in (("continuous", columns.continuous), ("binary", columns.binary)):
        if guesses:
            yield f"  {name}:"
            yield from _lines(guesses, "    - ")
    if columns.discrete or columns.vocabularies:
        yield "  discrete:" if columns.discrete else "  # discrete:"
        yield from _lines(columns.discrete, "    ")
        if columns.vocabularies:
            yield "    # Make a vocabulary: `recap data vocabulary FILES --column NAME --output FILE`."
        yield from _lines(
            [
                Guess(guess.name, guess.comment, {"vocabulary": f"vocabularies/{guess.name}.parquet"})
                for guess in columns.vocabularies
            ],
            "    # ",
        )
    if columns.vectors:
        yield "  vectors:"
        yield from _lines(columns.vectors, "    ")
    if columns.ids:
        yield "  ids:                            # copied to the predictions, not read by the model"
        yield from _lines(columns.ids, "    - ")
    for name, guesses in (("user", columns.user), ("timestamp", columns.timestamp)):
        yield from _lines([Guess(name, guess.comment, guess.name) for guess in guesses[:1]], "  ")
    if columns.left_out:
        yield "  # Left out:"
        yield from _lines(columns.left_out, "  #   ")


def _validation(*, example: bool) -> list[str]:
    mark = "" if example else "# "
    return [
        "# Rows outside the training data, later in time if possible. Other fields are inherited from train_data.",
        f"{mark}validation_data:",
        f"{mark}  validation: {{source: {{inputs: data/validation/*.parquet}}}}",
    ]


def _lines(guesses: list[Guess], start: str) -> Iterator[str]:
    for guess in guesses:
        name = render_inline(guess.name)
        text = start + (name if guess.value is None else f"{name}: {render_inline(guess.value)}")
        yield f"{text:<33} # {' '.join(guess.comment.split())}" if guess.comment else text
