"""Backtests: train on the past, evaluate on what comes next."""
