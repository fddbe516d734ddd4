"""Evaluation: metrics by split and stratum, gate weights, gradient conflicts, and following a run."""
