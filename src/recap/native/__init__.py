"""Low-level tricks for speed, each with a measured gain and a plain fallback.

`RECAP_PLAIN=1` in the environment turns all of them off: slower, with the same results except for dropout's draws.
"""

import os

SWITCH = "RECAP_PLAIN"


def plain() -> bool:
    """Whether the environment turns all tricks off, so that the fallbacks run."""
    return os.environ.get(SWITCH, "0") not in ("", "0")
