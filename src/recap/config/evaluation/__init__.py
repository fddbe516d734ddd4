"""What an evaluation reports: metrics, and the strata of rows."""
