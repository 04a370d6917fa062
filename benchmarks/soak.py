"""The gateway under mixed and hostile load for a long time: leaks, crossed answers, lost requests.

    python benchmarks/soak.py --minutes 30 [--rate 12] [--real] [--json FILE]

Four processes on loopback: this one makes the load, a fake upstream and a scorer answer the gateway
and are killed and started again while it is asked. Each request has an id, which its answer must
carry; `soak_faults.py` lists what is sent, some of it by a policy that cuts answers off. At the end
the gateway gets SIGTERM under load. A second gateway writes its audit log to a full disk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from soak_faults import KINDS, Outcome, Target
from soak_upstream import run_upstream

from srr_guard.serving import logs
from srr_guard.serving.app import GatewayApp
from srr_guard.serving.config import GatewayConfig
from srr_guard.serving.server import gateway_server, listen
from srr_guard.testing import FakeScorer

KEY = "key-of-the-soak"
LIMITS = {
    "body_bytes": 50_000,
    "body_seconds": 2.0,
    "head_seconds": 2.0,
    "send_seconds": 5.0,
    "requests": 64,
    "shutdown_seconds": 20,
}
SAMPLING = {"n": 2, "attempts": 2, "backoff": 0.05, "timeout": 3.0, "deadline": 8.0}
POLICIES = {"default": {"sampling": SAMPLING}, "cut": {"sampling": {**SAMPLING, "cut_below": 0.2}}}

COUNTED = ("srr_guard_candidates_total", "srr_guard_tokens_saved_total")


def good_is_safe(prompt: str, answer: str) -> float:
    """Rate an answer by the word `good`."""
    return 0.9 if "good" in answer else 0.1


# ---- the processes ----


def run_scorer(port: int, pipe: Any, real: bool) -> None:
    """Serve scores."""
    from srr_guard import SRRScorer

    config = GatewayConfig(port=port)
    scorer: Any = SRRScorer.from_pretrained() if real else FakeScorer(good_is_safe)
    bound = listen(config)
    pipe.send(bound.getsockname()[1])
    gateway_server(GatewayApp(config, scorer=scorer), config).run(sockets=[bound])


class _Counted:
    """The gateway, which also says how many tasks its event loop has."""

    def __init__(self, app: GatewayApp) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/soak/tasks":
            body = b"%d" % len(asyncio.all_tasks())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, send)


def run_gateway(port: int, pipe: Any, settings: dict[str, Any], log: str) -> None:
    """Serve the gateway, with its log in a file."""
    sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115
    sys.stdout = sys.stderr
    config = GatewayConfig(port=port, **settings)
    logs.configure(config.logs)
    bound = listen(config)
    pipe.send(bound.getsockname()[1])
    app: Any = _Counted(GatewayApp(config))
    gateway_server(app, config).run(sockets=[bound])


class Child:
    """A server in a process of its own, which may be killed and started again on its port."""

    def __init__(self, target: Any, *arguments: Any) -> None:
        self._target, self._arguments = target, arguments
        self.port = 0
        self.process: Any = None
        self.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on the port it had."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self.process = context.Process(
            target=self._target, args=(self.port, theirs, *self._arguments), daemon=True
        )
        self.process.start()
        theirs.close()
        self.port = ours.recv()
        ours.close()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.join()

    def terminate(self, seconds: float = 30.0) -> int | None:
        """Ask it to end, and give its exit code."""
        self.process.terminate()
        self.process.join(seconds)
        code = self.process.exitcode
        self.process.kill()
        return code


# ---- what is measured ----


def of_process(pid: int) -> dict[str, int]:
    """Resident memory in KB, open file descriptors and threads of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "rss_kb": int(fields["VmRSS"].split()[0]),
        "fds": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(fields["Threads"]),
    }


@dataclass
class Ledger:
    """What was sent, and what came back.

    Attributes:
        sent: Ids of requests, by kind.
        outcomes: Counts by kind and what came back.
        crossed: Ids that got another one's answer, or id.
        leaked: Ids whose answer holds text below the threshold.
        chats: Counts of plain requests for an answer, by whether a server was down.
        wrong: Ids that got a status that their kind does not allow, with it.
        unanswered: Ids on which nothing came back though the client waited.
    """

    sent: dict[str, str] = field(default_factory=dict)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    crossed: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    wrong: list[tuple[str, str, str]] = field(default_factory=list)
    unanswered: list[tuple[str, str, str]] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    chats: Counter[tuple[str, str]] = field(default_factory=Counter)

    def note(self, kind: str, ident: str, outcome: Outcome, seconds: float, *, down: bool) -> None:
        """Note the end of one request, and whether a server was down meanwhile."""
        self.outcomes[kind, outcome.status] += 1
        if kind in ("chat", "chat stream", "responses"):
            self.chats["a server down" if down else "all servers up", outcome.status] += 1
        if not outcome.allowed:
            place = self.unanswered if outcome.status.startswith("no answer") else self.wrong
            place.append((kind, ident, outcome.status))
        if outcome.crossed:
            self.crossed.append(ident)
        if outcome.leaked:
            self.leaked.append(ident)
        if kind == "chat" and outcome.status == "200":
            self.took.append(seconds)


def answered_twice(log: Path, sent: dict[str, str]) -> tuple[int, list[str]]:
    """Requests that stand in the gateway's log, and those that stand there more than once."""
    lines: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and record.get("request") in sent:
                lines[record["request"]] += 1
    return len(lines), [ident for ident, count in lines.items() if count > 1]


# ---- the run ----


class Soak:
    """One run."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.ledger = Ledger()
        self.samples: list[dict[str, Any]] = []
        self.restarts: Counter[str] = Counter()
        self.seconds_down: defaultdict[str, float] = defaultdict(float)
        self._down: set[str] = set()
        self._last_up = 0.0
        self.log = folder / "gateway.log"
        self.audit = folder / "audit.jsonl"
        self.upstream = Child(run_upstream)
        self.scorer = Child(run_scorer, options.real)
        self.gateway = Child(run_gateway, self._settings(str(self.audit)), str(self.log))
        self.full = Child(run_gateway, self._settings("/dev/full"), str(folder / "full.log"))
        self._numbers = iter(range(sys.maxsize))
        self._load: set[asyncio.Task[None]] = set()

    counted: list[str]

    def _settings(self, audit: str) -> dict[str, Any]:
        return {
            "upstreams": [{"url": f"{self.upstream.url}/v1", "timeout": 3.0}],
            "scorer": {"urls": [f"{self.scorer.url}/v1"], "timeout": 5.0},
            "policies": POLICIES,
            "keys": [{"name": "soak", "key": KEY, "policies": list(POLICIES)}],
            "limits": LIMITS,
            "audit": audit,
        }

    async def run(self) -> dict[str, Any]:
        """Load, restarts, samples, SIGTERM, and what came of it."""
        most = httpx2.Limits(max_connections=1000, max_keepalive_connections=20)
        async with httpx2.AsyncClient(timeout=30.0, limits=most, trust_env=False) as http:
            self.http = http
            for child in (self.scorer, self.gateway, self.full):
                await _ready(http, child.url)
            seconds = 60 * self.options.minutes
            end = time.monotonic() + seconds
            tasks = [
                asyncio.create_task(self._sampling(seconds)),
                asyncio.create_task(self._restarting(end)),
            ]
            while time.monotonic() < end:
                self._send()
                await asyncio.sleep(random.expovariate(self.options.rate))
            await asyncio.gather(*tasks)
            await self._sample("end, load on")
            await asyncio.gather(*self._load)
            await _quiet(http, self.gateway.url)
            await self._sample("end, idle")
            metrics = (await http.get(f"{self.gateway.url}/metrics")).text
            self.counted = [line for line in metrics.splitlines() if line.startswith(COUNTED)]
            full = await self._full_disk()
            last = await self._sigterm()
        return self._report(full, last)

    def _send(self, kind: str | None = None) -> None:
        names = list(KINDS)
        kind = kind or random.choices(names, [KINDS[name].weight for name in names])[0]
        ident = f"id-{next(self._numbers)}"
        self.ledger.sent[ident] = kind
        task = asyncio.create_task(self._one(kind, ident))
        self._load.add(task)
        task.add_done_callback(self._load.discard)

    async def _one(self, kind: str, ident: str) -> None:
        started = time.perf_counter()
        down = bool(self._down)
        target = Target(self.http, "127.0.0.1", self.gateway.port, KEY)
        try:
            outcome = await asyncio.wait_for(KINDS[kind].send(target, ident), 45)
        except (httpx2.HTTPError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            outcome = Outcome(f"no answer: {type(error).__name__}", allowed=self._stopping)
        down = down or bool(self._down) or self._last_up > started
        self.ledger.note(kind, ident, outcome, time.perf_counter() - started, down=down)

    _stopping = False

    async def _restarting(self, end: float) -> None:
        children = {"upstream": self.upstream, "scorer": self.scorer}
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, random.uniform(20, 40)))
            name = random.choice(list(children))
            if end - time.monotonic() < 15:
                return  # so that the end is calm
            killed = time.perf_counter()
            self._down.add(name)
            await asyncio.to_thread(children[name].kill)
            await asyncio.sleep(random.uniform(0, 2))
            await asyncio.to_thread(children[name].start)
            await _answers(self.http, children[name].url)
            self._last_up = time.perf_counter()
            self._down.discard(name)
            self.seconds_down[name] += self._last_up - killed
            self.restarts[name] += 1

    async def _sampling(self, seconds: float) -> None:
        await asyncio.sleep(seconds * 0.05)
        await self._sample("begin (5%)")
        for share in range(1, 10):
            await asyncio.sleep(seconds * 0.095)
            await self._sample(f"{5 + 9.5 * share:.0f}%")

    async def _sample(self, when: str) -> None:
        answer = await self.http.get(f"{self.gateway.url}/soak/tasks")
        found = {"when": when, **of_process(self.gateway.process.pid), "tasks": int(answer.text)}
        self.samples.append({**found, "requests": len(self.ledger.sent)})
        print(self.samples[-1], flush=True)

    async def _full_disk(self) -> dict[str, Any]:
        """Each answer whose line cannot be written must fail, and the gateway must go on."""
        statuses: Counter[int] = Counter()
        target = Target(self.http, "127.0.0.1", self.full.port, KEY)
        for i in range(20):
            outcome = await KINDS["chat"].send(target, f"id-full{i}")
            statuses[int(outcome.status)] += 1
        alive = (await self.http.get(f"{self.full.url}/healthz")).status_code
        return {"statuses": dict(statuses), "healthz": alive, "exit": self.full.terminate()}

    async def _sigterm(self) -> dict[str, Any]:
        """Ask the gateway to end while 24 requests are under way."""
        before = sum(self.ledger.outcomes.values())
        for _ in range(24):
            self._send("slow upstream")
        target = f"{self.gateway.url}/metrics"
        while "srr_guard_in_flight 24.0" not in (await self.http.get(target)).text:
            await asyncio.sleep(0.005)
        code = await asyncio.to_thread(self.gateway.terminate)
        await asyncio.gather(*self._load)
        return {"under way": 24, "ended": sum(self.ledger.outcomes.values()) - before, "exit": code}

    def _report(self, full: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
        for child in (self.upstream, self.scorer):
            child.kill()
        ledger = self.ledger
        logged, twice = answered_twice(self.log, ledger.sent)
        lines = self.audit.read_text().splitlines()
        for line in lines:
            json.loads(line)
        cuts = statistics.quantiles(ledger.took, n=100) if len(ledger.took) > 1 else [0.0] * 99
        return {
            "samples": self.samples,
            "restarts": dict(self.restarts),
            "seconds down": {name: round(s, 1) for name, s in self.seconds_down.items()},
            "chats": {", ".join(k): n for k, n in sorted(ledger.chats.items())},
            "outcomes": {" -> ".join(k): n for k, n in sorted(ledger.outcomes.items())},
            "sent": len(ledger.sent),
            "ended": sum(ledger.outcomes.values()),
            "logged": logged,
            "logged twice": twice,
            "crossed": ledger.crossed,
            "leaked": ledger.leaked,
            "wrong": ledger.wrong,
            "unanswered": ledger.unanswered,
            "chat_ms": {"p50": 1e3 * cuts[49], "p99": 1e3 * cuts[98]},
            "candidates": [line.removeprefix("srr_guard_") for line in self.counted],
            "audit lines": len(lines),
            "full disk": full,
            "sigterm": last,
        }


async def _answers(http: httpx2.AsyncClient, url: str) -> None:
    """Wait until a server answers anything at all."""
    while True:
        with contextlib.suppress(httpx2.HTTPError):
            await http.post(f"{url}/v1/chat/completions", json={})
            return
        await asyncio.sleep(0.05)


async def _ready(http: httpx2.AsyncClient, url: str) -> None:
    while True:
        with contextlib.suppress(httpx2.HTTPError):
            if (await http.get(f"{url}/readyz")).status_code == 200:
                return
        await asyncio.sleep(0.1)


async def _quiet(http: httpx2.AsyncClient, url: str) -> None:
    """Wait until nothing is under way, for the time that slow clients are given too."""
    while "srr_guard_in_flight 0.0" not in (await http.get(f"{url}/metrics")).text:
        await asyncio.sleep(0.1)
    await asyncio.sleep(2 * LIMITS["head_seconds"])


def show(report: dict[str, Any]) -> Iterator[str]:
    """The report as lines of Markdown."""
    yield "| when | requests | memory MB | file descriptors | threads | tasks |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in report["samples"]:
        cells = (row["when"], row["requests"], f"{row['rss_kb'] / 1024:.1f}")
        yield f"| {' | '.join(map(str, (*cells, row['fds'], row['threads'], row['tasks'])))} |"
    yield ""
    yield "| what was sent | came back | times |"
    yield "| --- | --- | --- |"
    for name, count in report["outcomes"].items():
        kind, status = name.split(" -> ")
        yield f"| {kind} | {status} | {count} |"
    yield ""
    names = ("sent", "ended", "logged", "restarts", "seconds down", "chats")
    for name in (*names, "candidates", "audit lines", "full disk", "sigterm"):
        yield f"{name}: {report[name]}"
    for name in ("logged twice", "crossed", "leaked", "wrong", "unanswered"):
        yield f"{name}: {len(report[name])} {report[name][:5]}"
    yield f"chat: p50 {report['chat_ms']['p50']:.1f} ms, p99 {report['chat_ms']['p99']:.1f} ms"


def main() -> None:
    """Run, print, write; a fault makes the exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=12.0, help="requests a second")
    parser.add_argument("--real", action="store_true", help="the shipped scorer, not a fake one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    random.seed(options.seed)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(Soak(options, Path(folder)).run())
    print("\n".join(show(report)))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    faults = ("logged twice", "crossed", "leaked", "wrong", "unanswered")
    lost = report["sent"] != report["ended"]
    sys.exit(1 if lost or any(report[name] for name in faults) else 0)


if __name__ == "__main__":
    main()
