"""Where the records of a run are stored: metrics.jsonl, TensorBoard, MLflow. None of them can stop a run."""
