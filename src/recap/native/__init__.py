"""Tricks below the libraries, each with its measured gain and a plain fallback.

`RECAP_PLAIN=1` in the environment turns all of them off: slower, and the same results up to what dropout draws.
"""

import os

SWITCH = "RECAP_PLAIN"


def plain() -> bool:
    """Whether the environment turns all tricks off."""
    return os.environ.get(SWITCH, "0") not in ("", "0")
