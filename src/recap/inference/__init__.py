"""A trained model scores files and tables."""
