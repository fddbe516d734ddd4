"""Shared tables and histories: what is refused, and the tables they give."""

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
            "features.discrete.second_author.table: unknown table 'autor'. Known: post, author. Did you mean 'author'?",
        ),
        (
            ["features.discrete.third={table: second_author}"],
            "features.discrete.third.table: 'second_author' shares the table of 'author'; write table: author",
        ),
        (
            ["features.discrete.third={table: third}"],
            "features.discrete.third.table: a feature cannot share its own table",
        ),
        (
            ["features.histories.watched.attributes.author.table=second_author"],
            "features.histories.watched.attributes.author.table: 'second_author' shares the table of 'author'",
        ),
        (
            ["features.histories.actions.ids={column: watched, table: posts}"],
            "features.histories.actions.ids.table: unknown table 'posts'. Known: post, author.",
        ),
        (
            ["model.embeddings.second_author=3"],
            "model.embeddings.second_author: 'second_author' shares the table of 'author', and so its width; remove",
        ),
        (
            ["model.embeddings.watched=3"],
            "model.embeddings.watched: 'watched' shares the table of 'post', and so its width; remove it here",
        ),
        (
            ["model.embeddings={post: 4, author: 4, actions: 4, languages: 4}"],
            "model.embeddings: no width for history 'hashed'; add 'hashed: WIDTH' or 'default: WIDTH'",
        ),
        (
            ["model.embeddings.post=0"],
            "model.embeddings.post: width 0 removes the table of 'post', which history 'watched' reads; set width",
        ),
        (
            ["model.embeddings.actions=0"],
            "model.embeddings.actions: width 0 removes the table of 'actions', which history 'actions' reads",
        ),
        (
            ["model.histories={watched: {encoder: {kind: pooling}}}"],
            "model.histories: no encoder for history 'actions'; add 'actions: {encoder: {kind: …}}' or 'default: {…}'",
        ),
        (
            ["model.histories.wacthed={encoder: {kind: pooling}}"],
            "model.histories.wacthed: unknown history 'wacthed'. Known: actions, languages, "
            "hashed, watched, lately. Did you mean 'watched'?",
        ),
        (
            ["model.histories.watched.encoder.target=pots"],
            "model.histories.watched.encoder.target: unknown discrete feature 'pots'. Known: "
            "post, author, second_author. Did you mean 'post'?",
        ),
        (
            ["model.histories.lately.encoder.target=second_author"],
            "model.histories.lately.encoder.target: 'second_author' uses the table of 'author', but the ids of "
            "history 'lately' use that of 'post'",
        ),
        (
            ["features.discrete.posts={table: post, length: 2}", "model.histories.lately.encoder.target=posts"],
            "model.histories.lately.encoder.target: 'posts' has 2 values per row; a target has one",
        ),
        (
            ["model.histories.actions={encoder: {kind: din, target: post}}"],
            "model.histories.actions.encoder.target: the ids of history 'actions' do not share the table of "
            "the target; write 'ids: {column: …, table: post}'",
        ),
        (
            ["model.histories.lately.encoder.num_heads=3"],
            "model.histories.lately.encoder.num_heads: must divide width, 8; found 3",
        ),
        (
            ["model.histories.lately.encoder={kind: hstu, target: post, ages: gap}"],
            "model.histories.lately.encoder.ages: unknown attribute of history 'lately' 'gap'. Known: none",
        ),
        (
            ["model.histories.watched.encoder={kind: hstu, target: post, interleave: acton}"],
            "model.histories.watched.encoder.interleave: unknown attribute of history 'watched' 'acton'. Known: "
            "action, language, gap, author, hashed. Did you mean 'action'?",
        ),
        (
            ["model.histories.watched.encoder={kind: hstu, target: post, ages: action}"],
            "model.histories.watched.encoder.ages: 'action' has codes, but an age is a number; name an attribute with "
            "only a column",
        ),
        (
            ["model.histories.watched.encoder={kind: one_trans, num_layers: 3, retained_events: [4]}"],
            "model.histories.watched.encoder.retained_events: must have one number for each block but the last, 2; "
            "found 1",
        ),
        (
            ["model.histories.watched.encoder={kind: one_trans, num_layers: 3, retained_events: [3, 4]}"],
            "model.histories.watched.encoder.retained_events.1: must be at most the number before it, 3; found 4",
        ),
        (
            ["model.histories.watched.encoder={kind: one_trans, width: 6, num_heads: 4}"],
            "model.histories.watched.encoder.num_heads: must divide width, 6; found 4",
        ),
        (
            ["model.histories.watched.encoder={kind: one_trans, target: post}"],
            "model.histories.watched.encoder.target: 'target' is unknown",
        ),
        (
            ["features.histories={default: {ids: {column: watched, size: 3}}}"],
            "features.histories.default: 'default' is reserved; rename the column",
        ),
        (
            ["features.histories={a/b: {ids: {column: watched, size: 3}}}"],
            "features.histories.a/b: 'a/b' contains '/', which is reserved; rename the history",
        ),
        (
            ["features.histories.author={ids: {column: watched, size: 3}}"],
            "features.histories.author: column 'author' is listed twice, but a column has one role",
        ),
        (
            ["features.histories.hashed.ids={column: liked, size: 3}", "train_data.tasks.like={column: liked}"],
            "features.histories.hashed: 'liked' is the label of 'like', and a label cannot be a history; remove it",
        ),
        (
            ["features.histories.hashed.ids={column: like, size: 3}"],
            "features.histories.hashed: 'like' is a task, and a label cannot be a history; remove it",
        ),
        (
            ["features.discrete.actions/ids={size: 3}"],
            "features.histories.actions.ids: column 'actions/ids' is listed twice, but a column has one role",
        ),
        (
            ["features.histories.watched.attributes.action.hash={buckets: 3}"],
            "features.histories.watched.attributes.action: needs at most one of size, vocabulary, hash, "
            "zero_collision and table; found column, size, hash",
        ),
        (
            ["features.histories.watched.attributes.action={column: watched_action, siez: 3}"],
            "features.histories.watched.attributes.action.siez: 'siez' is unknown. Known: column, size. Did you mean",
        ),
        (
            ["features.discrete.post={hash: {buckets: 3}, size: 3}"],
            "features.discrete.post: needs exactly one of size, vocabulary, hash, zero_collision and table; "
            "found hash, size",
        ),
    ],
)
def test_a_mistake_is_refused_at_its_position(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(VALID, overrides)
    assert message in str(caught.value)


def test_a_dumped_configuration_reads_back_as_itself(tmp_path: Path) -> None:
    config = load_config(VALID)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config


def test_features_and_events_that_share_no_table_have_their_own() -> None:
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
    assert features.path_of_table("watched/attributes/action") == (
        "features",
        "histories",
        "watched",
        "attributes",
        "action",
    )
    assert features.columns == ["post", "topics", "watched_action", "watched_language", "watched", "watched_gap"]
