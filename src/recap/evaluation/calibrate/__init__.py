"""`recap calibrate`: fits a calibration on a split, shows its gain on other rows, and saves it with the model."""
