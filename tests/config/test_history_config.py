"""What a configuration may not say of shared tables and of histories."""

from pathlib import Path
from typing import Any

import pytest

from recap.config.file.load import dump_config, load_config
from recap.errors import ConfigError

VALID = Path(__file__).parent / "valid" / "histories.yaml"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["features.discrete.second_author={table: autor}"],
            "features.discrete.second_author.table: 'autor' is no discrete feature with a table. "
            "Known: post, author. Did you mean 'author'?",
        ),
        (
            ["features.discrete.third={table: second_author}"],
            "features.discrete.third.table: 'second_author' has no table of its own, it uses that of 'author'; "
            "name the owner",
        ),
        (
            ["features.discrete.third={table: third}"],
            "features.discrete.third.table: a feature cannot use its own",
        ),
        (
            ["features.histories.watched.attributes.author.table=second_author"],
            "features.histories.watched.attributes.author.table: 'second_author' has no table of its own",
        ),
        (
            ["features.histories.actions.ids={column: watched, table: posts}"],
            "features.histories.actions.ids.table: 'posts' is no discrete feature with a table. Known: post, author.",
        ),
        (
            ["model.embeddings.second_author=3"],
            "model.embeddings.second_author: 'second_author' uses the table of 'author', and has its width; leave",
        ),
        (
            ["model.embeddings.watched=3"],
            "model.embeddings.watched: 'watched' uses the table of 'post', and has its width; leave this one out",
        ),
        (
            ["model.embeddings={post: 4, author: 4, actions: 4, languages: 4}"],
            "model.embeddings: no width for history 'hashed'; add 'hashed: WIDTH' or 'default: WIDTH'",
        ),
        (
            ["model.embeddings.post=0"],
            "model.embeddings.post: width 0 leaves out the table of 'post', which history 'watched' reads; give it a",
        ),
        (
            ["model.embeddings.actions=0"],
            "model.embeddings.actions: width 0 leaves out the table of 'actions', which history 'actions' reads",
        ),
        (
            ["model.histories={watched: {encoder: {kind: pooling}}}"],
            "model.histories: no encoder for history 'actions'; add 'actions: {encoder: {kind: …}}' or 'default: {…}'",
        ),
        (
            ["model.histories.wacthed={encoder: {kind: pooling}}"],
            "model.histories.wacthed: 'wacthed' is no history of this configuration. Known: actions, languages, "
            "hashed, watched, lately. Did you mean 'watched'?",
        ),
        (
            ["model.histories.watched.encoder.target=pots"],
            "model.histories.watched.encoder.target: 'pots' is no discrete feature of this configuration. Known: "
            "post, author, second_author. Did you mean 'post'?",
        ),
        (
            ["model.histories.lately.encoder.target=second_author"],
            "model.histories.lately.encoder.target: 'second_author' uses the table of 'author', but the ids of "
            "history 'lately' use that of 'post'",
        ),
        (
            ["features.discrete.posts={table: post, length: 2}", "model.histories.lately.encoder.target=posts"],
            "model.histories.lately.encoder.target: 'posts' holds 2 values a row; the candidate must be one",
        ),
        (
            ["model.histories.actions={encoder: {kind: din, target: post}}"],
            "model.histories.actions.encoder.target: the ids of history 'actions' have a table of their own, so no "
            "candidate can be compared to them; say 'ids: {column: …, table: post}'",
        ),
        (
            ["model.histories.lately.encoder.num_heads=3"],
            "model.histories.lately.encoder.num_heads: 3 heads cannot part a width of 8; take a divisor of it",
        ),
        (
            ["features.histories={default: {ids: {column: watched, size: 3}}}"],
            "features.histories.default: 'default' is a reserved name; rename the column",
        ),
        (
            ["features.histories={a/b: {ids: {column: watched, size: 3}}}"],
            "features.histories.a/b: 'a/b' holds '/', which parts a history from its columns; rename it",
        ),
        (
            ["features.histories.author={ids: {column: watched, size: 3}}"],
            "features.histories.author: column 'author' is declared twice; each column has one role",
        ),
        (
            ["features.histories.hashed.ids={column: like, size: 3}"],
            "features.histories.hashed: 'like' is a task, so its column is a label and no history",
        ),
        (
            ["features.discrete.actions/ids={size: 3}"],
            "features.histories.actions.ids: column 'actions/ids' is declared twice; each column has one role",
        ),
        (
            ["features.histories.watched.attributes.action.hash={buckets: 3}"],
            "features.histories.watched.attributes.action: at most one of size, vocabulary, hash and table may be "
            "set; numbers have none",
        ),
        (
            ["features.histories.watched.attributes.action={column: watched_action, siez: 3}"],
            "features.histories.watched.attributes.action.siez: 'siez' is unknown. Known: column, size. Did you mean",
        ),
        (
            ["features.discrete.post={hash: {buckets: 3}, size: 3}"],
            "features.discrete.post: exactly one of size, vocabulary, hash and table must be set",
        ),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_said(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(VALID, overrides)
    assert message in str(caught.value)


def test_what_is_written_is_read_back_the_same(tmp_path: Path) -> None:
    config = load_config(VALID)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config


def test_the_tables_are_those_of_features_and_of_events_that_share_none() -> None:
    features: Any = load_config(VALID).features
    assert list(features.code_spaces) == [
        "post",
        "author",
        "actions/ids",
        "languages/ids",
        "hashed/ids",
        "watched/attributes/action",
        "watched/attributes/language",
        "watched/attributes/hashed",
    ]
    assert features.place_of("watched/attributes/action") == (
        "features",
        "histories",
        "watched",
        "attributes",
        "action",
    )
    assert features.columns == ["post", "topics", "watched_action", "watched_language", "watched", "watched_gap"]
