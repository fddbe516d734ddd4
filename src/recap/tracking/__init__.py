"""Where the records of a run go: metrics.jsonl, TensorBoard, MLflow."""
