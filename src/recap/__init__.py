"""recap: an open heavy ranker, from one configuration file to scored candidates."""

__version__ = "0.1.0"
