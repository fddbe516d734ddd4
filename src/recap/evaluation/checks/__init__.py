"""Checks of a trained model: each has a code, a severity, a sentence and advice."""
