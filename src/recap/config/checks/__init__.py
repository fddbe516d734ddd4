"""Checks across sections: each function takes the sections it compares and yields their problems."""
