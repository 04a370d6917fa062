"""The queueing simulation against results that are known in closed form."""

from __future__ import annotations

import importlib.util
import math
import random
import sys
from pathlib import Path
from statistics import fmean

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "fleet.py"


@pytest.fixture(scope="module")
def fleet():
    spec = importlib.util.spec_from_file_location("fleet_under_test", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_server_with_random_times(fleet, load):
    """M/M/1: the mean time in the system is 1 / (mu - lambda), exponentially distributed."""
    chance = random.Random(1)
    found = fleet.simulate(load, 1, lambda _: chance.expovariate(1.0), requests=60_000)
    assert fmean(found) == pytest.approx(1 / (1 - load), rel=0.1)
    p99 = fleet.quantiles(found)["p99"] / 1e3
    assert p99 == pytest.approx(math.log(100) / (1 - load), rel=0.1)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_server_with_equal_times(fleet, load):
    """M/D/1, by Pollaczek and Khinchine: the mean wait is load / (2 (1 - load))."""
    found = fleet.simulate(load, 1, lambda _: 1.0, requests=60_000)
    assert fmean(found) - 1 == pytest.approx(load / (2 * (1 - load)), rel=0.1)


def test_several_servers_lie_between_one_queue_and_one_each(fleet):
    """The wait with one queue each, joined where least waits, is above M/D/4, below M/D/1."""
    load = 0.7
    found = fmean(fleet.simulate(4 * load, 4, lambda _: 1.0, requests=60_000)) - 1
    offered = 4 * load
    term = offered**4 / math.factorial(4) / (1 - load)
    waits = term / (sum(offered**k / math.factorial(k) for k in range(4)) + term)  # Erlang C
    one_queue = waits / (4 * (1 - load)) / 2  # half of M/M/4: close to M/D/4
    assert one_queue * 0.8 < found < load / (2 * (1 - load))


def test_passes_are_shared_up_to_the_budget(fleet):
    """With a fixed cost alone, so many together hold so many times the load."""
    alone = fleet.Service(1.0, 0.0, budget=1)
    together = fleet.Service(1.0, 0.0, budget=8)
    assert together.capacity(1) == 8 * alone.capacity(1)
    found = fleet.simulate(4.0, 1, together.seconds, requests=20_000, budget=8)
    assert max(found) < 5.0
    assert min(found) >= 1.0


def test_costs_by_formula(fleet):
    """Weights of all blocks of SmolLM2-135M: 106 million, its 135 without the embedding's 28."""
    whole = fleet.Shape(30, 576, 1536, 192)
    assert whole.weights == pytest.approx(106.2e6, rel=0.01)
    assert whole.cache_bytes(1000) == 2 * 30 * 192 * 1000 * 4
    assert whole.flops(10, 0) == 20 * whole.weights
