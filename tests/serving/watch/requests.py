"""Requests and responses of a small model, for tests of what a server shows of itself."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from support import feed_table

from recap.inference.requests import RequestScorer
from recap.serving.contract import RankRequest, RankResponse

USER = ("user_id", "language", "hour")


def make_request(rows: int = 7, seed: int = 3, id_: str | None = "a") -> RankRequest:
    """A user, and candidates with all other columns of the feed but labels."""
    table = feed_table(rows, seed).drop_columns(["like", "share", "topics"])
    user = table.select(USER).slice(0, 1)
    return RankRequest("feed", user, table.drop_columns(list(USER)), id=id_)


def answer(scorer: RequestScorer, request: RankRequest, version: str = "1") -> RankResponse:
    """What the model predicts for a request."""
    (predictions,) = scorer.score([scorer.encode(request.user, request.candidates)])
    probabilities, scores = predictions.probabilities.numpy(), predictions.scores.numpy()
    return RankResponse("feed", version, scorer.config.tasks, probabilities, scores, len(scores), id=request.id)


def read_log(folder: Path) -> pa.Table:
    """All rows of a log."""
    import pyarrow.parquet as pq

    return pa.concat_tables([pq.read_table(file) for file in log_files(folder)], promote_options="default")


def log_files(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob("*.parquet"))
