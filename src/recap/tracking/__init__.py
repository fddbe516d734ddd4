"""Trackers, which store the records of a run: metrics.jsonl, TensorBoard, MLflow. None of them can stop a run."""
