"""What a new run starts from: earlier weights, the rates of its tasks, and a look at its first rows."""
