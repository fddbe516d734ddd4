"""What an evaluation collects: metrics of all rows and of strata, gate weights, gradient conflicts."""
