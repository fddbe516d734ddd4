"""Phrases that messages share."""

from recap.text import suggest


def test_known_names_are_in_quotes_where_one_could_not_be_seen() -> None:
    assert suggest("", ["a", "b"]) == "Known: a, b."
    assert suggest("", []) == "Known: none."
    assert suggest("pricee", ["", "price"]) == "Known: '', 'price'. Did you mean 'price'?"
    assert suggest("x", ["price ", "day"]) == "Known: 'price ', 'day'."
