"""Aggregates over earlier impressions: counts, rates, recency and last values, as known at each impression."""
