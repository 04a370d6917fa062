"""`Report`: what an evaluation measured, as plain data."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from srr_guard.training.evaluation.metrics import Figure, Metric
from srr_guard.training.evaluation.policies import PolicyFigures
from srr_guard.training.evaluation.probabilities import ProbabilityCurves


class Cost(BaseModel):
    """The cost of one scorer on the machine that ran the evaluation.

    Attributes:
        reference: The reference LLM it ran on: name and precision.
        parameters: Parameters of the whole reference LLM; None: not known.
        file_bytes: Size of its weight files.
        blocks_read: Decoder blocks that the scorer runs; those above are not needed.
        blocks: Decoder blocks of the whole model.
        milliseconds: Time per answer, encoded in lists of up to 8 answers to one request.
        answers: How many answers were timed.
        peak_bytes: Peak memory while the reference LLM was loaded and timed: resident memory
            of the process, or memory of the GPU it ran on. None: not known.

    Example:
        >>> cost = Cost(reference="tiny, float32", file_bytes=4_000_000, blocks_read=2, blocks=4,
        ...             milliseconds=1.5, answers=64)
        >>> f"{cost.milliseconds:.1f} ms for {cost.blocks_read} of {cost.blocks} blocks"
        '1.5 ms for 2 of 4 blocks'
    """

    model_config = ConfigDict(frozen=True)

    reference: str
    parameters: int | None = None
    file_bytes: int
    blocks_read: int
    blocks: int
    milliseconds: float
    answers: int
    peak_bytes: int | None = None


class Report(BaseModel):
    """Figures by data set, method and metric.

    Attributes:
        sets: Data set -> method -> metric -> figure. Sets named `NAME, ATTACK` have their
            harmful answers disguised; `all harmful sets` joins the plain ones with harm, and
            `all benign sets` those with helpful answers.
        list_sizes: Data set -> method -> size -> how often the one safe answer comes first.
        curves: Data set -> method -> curves of `p_safe`.
        policies: Data set -> rule -> what leaves the guard, by length and mixture of the lists.
            A scorer's rule has its name; `NAME, safest` is `prefer="safest"`.
        costs: Scorer -> what it costs.
        digests: SHA-256 of the data files, by name.
        reference: What the reference LLMs ran as: names and precision.

    Example:
        >>> Report(sets={}, digests={"test.jsonl": "0" * 64}).costs
        {}
    """

    model_config = ConfigDict(frozen=True)

    sets: Mapping[str, Mapping[str, Mapping[Metric, Figure]]]
    list_sizes: Mapping[str, Mapping[str, Mapping[int, Figure]]] = {}
    curves: Mapping[str, Mapping[str, ProbabilityCurves]] = {}
    policies: Mapping[str, Mapping[str, tuple[PolicyFigures, ...]]] = {}
    costs: Mapping[str, Cost] = {}
    digests: Mapping[str, str]
    reference: str = ""
