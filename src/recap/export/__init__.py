"""A model as one program that runs without recap: features → network → calibration → score."""
