"""`recap data compare`: how the columns of two sets of files differ, such as a log of requests and training data."""
