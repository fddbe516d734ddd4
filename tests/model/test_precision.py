"""Inference in bf16 and int8: near float32, and independent of the other rows bit for bit."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.rankers import make_batch, make_config, make_ranker
from torch import nn

from recap import runtime
from recap.config.training import InferencePrecision
from recap.errors import InputError
from recap.inference.predictor import Predictor
from recap.model import precision
from recap.model.inputs.tables import LocalTables, TableSpec
from recap.model.layers import ExactLinear
from recap.model.precision import Bf16Linear, Int8Linear, Int8Tables, lower_precision, resolve_precision
from recap.model.score_rows import score_rows
from recap.model.scorer import Scorer
from recap.native import SWITCH

CPU = torch.device("cpu")
LOWER: list[InferencePrecision] = ["bf16", "int8"]
LAYERS = {"bf16": Bf16Linear, "int8": Int8Linear}
DISTINCT = 5


@pytest.fixture(params=["this machine", "plain", "no bf16"])
def hardware(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on this machine, without torch's private functions, and without bf16 instructions."""
    if request.param != "this machine":
        monkeypatch.setenv(SWITCH, "1")
    if request.param == "no bf16":
        monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)


def layer(in_features: int = 200, out_features: int = 130) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(in_features, out_features)


@pytest.mark.usefixtures("hardware")
@pytest.mark.parametrize("name", LOWER)
@torch.inference_mode()
def test_a_rounded_layer_is_near_the_exact_one_and_treats_every_row_alike(name: str) -> None:
    exact = layer()
    rounded = LAYERS[name](exact)
    rows = torch.randn(DISTINCT, 200) * torch.tensor([1e-6, 1.0, 1e6, 0.0, 3.0])[:, None]
    expected = torch.stack([rounded(row.expand(64, -1))[0] for row in rows])
    errors = (expected - exact(rows)).norm(dim=1) / exact(rows).norm(dim=1)
    assert errors.max() < 0.02
    for size in (64, 320, 1024):
        chosen = torch.randint(0, DISTINCT, (size,), generator=torch.Generator().manual_seed(size))
        assert torch.equal(rounded(rows[chosen]), expected[chosen])
    assert torch.equal(rounded(rows[:4].reshape(2, 2, 200)), rounded(rows[:4]).reshape(2, 2, 130))


@pytest.mark.parametrize("name", LOWER)
@torch.inference_mode()
def test_rows_that_are_not_finite_stay_so(name: str) -> None:
    rows = torch.zeros(64, 200)
    rows[0, 3], rows[1, 3] = torch.nan, torch.inf
    output = LAYERS[name](layer())(rows)
    assert not output[:2].isfinite().any()
    assert output[2:].isfinite().all()


@pytest.mark.usefixtures("hardware", "three_threads")
@pytest.mark.parametrize("name", LOWER)
@pytest.mark.parametrize(
    "case", ["mask_net_parallel-mmoe", "dcn_parallel-share_all", "history_din", "history_transformer"]
)
def test_a_model_in_lower_precision_scores_a_row_alike_in_every_batch(
    name: InferencePrecision, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "LARGE", 4)
    config = make_config(case)
    ranker = make_ranker(config)
    batch = make_batch(config, rows=DISTINCT)
    exact = score_rows(Scorer.of(config, ranker).eval(), batch)
    lower_precision(ranker, name)
    scorer = Scorer.of(config, ranker).eval()
    alone = [score_rows(scorer, batch.rows(slice(row, row + 1))) for row in range(DISTINCT)]
    chosen = torch.randint(0, DISTINCT, (700,), generator=torch.Generator().manual_seed(0))
    scores = score_rows(scorer, batch.rows(chosen))
    assert torch.equal(scores.logits, torch.cat([one.logits for one in alone])[chosen])
    assert torch.equal(scores.score, torch.cat([one.score for one in alone])[chosen])
    assert not torch.equal(scores.logits, exact.logits[chosen])
    torch.testing.assert_close(scores.probabilities, exact.probabilities[chosen], rtol=0, atol=0.02)


def test_only_large_layers_are_rounded_and_never_those_of_logits() -> None:
    network = nn.Sequential(layer(127, 128), layer(128, 127), layer(128, 128), ExactLinear(128, 128))
    precision._replace_layers(network, Bf16Linear)
    assert [type(part) for part in network] == [nn.Linear, nn.Linear, Bf16Linear, ExactLinear]


@given(st.integers(1, 40), st.integers(1, 70), st.floats(1e-6, 1e6), st.integers(0, 9))
def test_a_number_of_a_rounded_table_is_off_by_at_most_half_a_step_of_its_row(
    rows: int, width: int, scale: float, seed: int
) -> None:
    tables = LocalTables([TableSpec("post", rows, width, ("post", "seen"))])
    random = torch.Generator().manual_seed(seed)
    exact = torch.randn(rows, width, generator=random) * scale
    exact[-1] = scale  # a row of equal numbers
    tables.set_rows("post", torch.arange(rows), exact)
    rounded = Int8Tables(tables)
    codes = torch.arange(rows)[:, None, None]
    vectors = rounded({"post": codes, "seen": codes.expand(-1, 3, 2)})
    steps = (exact.amax(dim=1) - exact.amin(dim=1)) / 255
    errors = (vectors["post"][:, 0] - exact).abs().amax(dim=1)
    assert (errors <= steps * 0.51 + exact.abs().amax() * 1e-6).all()
    assert torch.equal(vectors["post"][-1, 0], exact[-1])
    torch.testing.assert_close(vectors["seen"], (2 * vectors["post"]).expand(-1, 3, -1))
    assert sum(part.nbytes for part in rounded.stored()) == rows * (width + 8)


def test_auto_is_bf16_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, expected in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr(precision, "cpu_has_bf16", lambda has=has: has)
        assert resolve_precision("auto", CPU) == expected


def test_a_precision_that_is_unknown_or_not_supported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="precision: found 'fp8'; expected auto, float32, bf16 or int8"):
        Predictor.open(Path("missing"), precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="int8 computes on CPUs only"):
        resolve_precision("int8", torch.device("cuda"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert not runtime.cpu_has_int8()
    with pytest.raises(InputError, match="no instructions for int8 products"):
        resolve_precision("int8", CPU)
