"""What a server shows of itself: metrics, drift, traces, and the log of requests."""
