"""What evaluations read: metrics, strata of rows, gates of comparisons, and backtests."""
