"""The configuration of the published ranker, and its import."""
