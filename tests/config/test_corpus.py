"""The message of every broken file of the corpus."""

import re
from pathlib import Path

import pytest
from config.corpus import EXPECTED, NAME, cases, expected, lines_of

CASES = cases()


def test_the_corpus_is_up_to_date_and_large() -> None:
    assert len(CASES) >= 150
    assert CASES.keys() == expected().keys(), f"run python tests/config/corpus.py and read the diff of {EXPECTED}"


@pytest.mark.parametrize("case", CASES)
def test_a_broken_file_is_refused_as_expected(case: str, tmp_path: Path) -> None:
    lines = lines_of(CASES[case], tmp_path)
    assert lines[0] == expected()[case]
    assert all(re.match(rf"{NAME}(:\d+:\d+)?: ", line) for line in lines)


def test_every_misspelt_key_gets_the_right_suggestion() -> None:
    for case, line in expected().items():
        match = re.fullmatch(r"misspelt (\w+)\.(\w+)", case)
        if match is not None and match[2] != "kind" and len(match[2]) > 2:  # two letters are close to nothing
            assert line.endswith(f"Did you mean '{match[2]}'?"), case
