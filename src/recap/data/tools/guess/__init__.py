"""Guessing a configuration from data: the role of each column, vocabularies, and a validation set."""
