"""`Batch` → scores: the network, its losses, calibration and the score."""
