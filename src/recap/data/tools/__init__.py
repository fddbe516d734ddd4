"""Commands on data: inspect, convert, vocabulary, analysis, guess, check."""
