"""What an evaluation measures besides the metrics of all rows."""
