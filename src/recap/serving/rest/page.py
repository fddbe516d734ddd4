"""The page at `/`: one file that fetches nothing but this server's own JSON."""

import hashlib
from base64 import b64encode
from functools import cache
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

_TEMPLATES = resources.files("recap.serving.rest") / "templates"


async def page_answer(request: Request) -> Response:
    """The page, with a policy that allows only its own style and script, and requests to this server."""
    html, policy = _page()
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
    return Response(html, headers=headers, media_type="text/html")


@cache
def _page() -> tuple[str, str]:
    style, script = _read("page.css"), _read("page.js")
    html = _read("page.html").replace("/* page.css */", style).replace("/* page.js */", script)
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
