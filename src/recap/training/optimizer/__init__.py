"""Optimizers: algorithms, learning-rate schedules, clipping."""
