"""Parquet files, with lists stored as packed bytes."""
