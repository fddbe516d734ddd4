"""A trained model at work on unseen candidates."""
