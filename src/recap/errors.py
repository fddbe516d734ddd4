"""The errors a user can meet. Each says what was found, what is accepted and what to do next.

RecapError               exit code 1
├── InputError           exit code 2: the user gave something that cannot be used
│   ├── ConfigError      a configuration file, an override, or what they say together
│   ├── DataError        a file, a column or a row
│   └── CheckpointError  a run, a checkpoint or a model directory
└── RunError             a run that began well and failed
"""


class RecapError(Exception):
    """Anything recap reports to its user; the command line prints the message, never a traceback."""

    exit_code = 1


class InputError(RecapError):
    """The user gave something that cannot be used; nothing was changed."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration that cannot be used; the message lists every problem found."""


class DataError(InputError):
    """Data that cannot be used; the message names file, column and row where they are known."""


class CheckpointError(InputError):
    """A run, checkpoint or model directory that is missing, damaged or does not fit."""


class RunError(RecapError):
    """A run that began well and failed, such as a loss that is not finite."""
