"""Other weights of the score: real lists re-ranked by them, weights that reach a target, and the Pareto front."""
