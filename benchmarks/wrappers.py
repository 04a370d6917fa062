"""What a wrapper adds to a call of an instant model: srr_guard, Guardrails AI, NeMo Guardrails.

    python benchmarks/wrappers.py --guardrails-ai PYTHON --nemo PYTHON

Each library runs in its own environment (PYTHON is that environment's interpreter) around
LangChain's `FakeListChatModel`, with no checks at all: srr_guard with n=1 and a FakeScorer, the
others with no validators and no rails. The processes take turns, five rounds each; the median of
the rounds' medians counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

COMMON = """
import statistics, time
from langchain_core.language_models import FakeListChatModel
model = FakeListChatModel(responses=["one"])
"""
WRAPPED = {
    "srr_guard": """
from srr_guard import SafetyRanker, SamplingPolicy
from srr_guard.testing import FakeScorer
chain = SafetyRanker(
    model, scorer=FakeScorer(lambda prompt, answer: 0.9), sampling=SamplingPolicy(n=1)
)
""",
    "Guardrails AI": """
from guardrails import Guard
chain = model | Guard().to_runnable()
""",
    "NeMo Guardrails": """
from nemoguardrails import RailsConfig
from nemoguardrails.integrations.langchain.runnable_rails import RunnableRails
chain = RunnableRails(RailsConfig.from_content(yaml_content="models: []")) | model
""",
}
MEASURE = """
def median(call, times=300):
    for _ in range(30):
        call()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append((time.perf_counter() - started) * 1e3)
    return statistics.median(taken)
print("RESULT", median(lambda: model.invoke("hi")), median(lambda: chain.invoke("hi")))
"""


def milliseconds(python: str, wrapped: str) -> tuple[float, float]:
    """Medians of the bare and of the wrapped model, in a fresh process."""
    code = COMMON + WRAPPED[wrapped] + MEASURE
    # telemetry that cannot be sent would be retried in the middle of the measurement
    environment = {**os.environ, "OTEL_SDK_DISABLED": "true"}
    output = subprocess.check_output(
        [python, "-c", code], text=True, env=environment, stderr=subprocess.DEVNULL
    )
    line = next(line for line in output.splitlines() if line.startswith("RESULT"))
    bare, ours = map(float, line.split()[1:])
    return bare, ours


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--guardrails-ai")
    parser.add_argument("--nemo")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    pythons = {
        "srr_guard": sys.executable,
        "Guardrails AI": options.guardrails_ai,
        "NeMo Guardrails": options.nemo,
    }
    found: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name, python in pythons.items():
            if python:
                bare, wrapped = milliseconds(python, name)
                found.setdefault("bare model", []).append(bare)
                found.setdefault(name, []).append(wrapped)
    bare = statistics.median(found["bare model"])
    for name, times in found.items():
        median = statistics.median(times)
        print(f"{name:<16} {median:6.2f} ms, adds {median - bare:5.2f}")


if __name__ == "__main__":
    main()
