"""Copies of a learned length in vLLM 0.33.0, as a proposer of its method `custom_class`. Not run on a GPU here.

    vllm serve MODEL --speculative-config '{"method": "custom_class", "model": "vllm_proposer.LearnedCopies",
                                            "num_speculative_tokens": 16}' \\
        --additional-config '{"ltd_policy": {"package": "policies", "step_ms": {"1": 8.1, "8": 8.8, "64": 13.9}}}'

vLLM makes one proposer per worker and asks it after each step, with token ids alone. It says nothing of which request a
row is, nor when one ends: rows move. So a request is known by its text.

What vLLM offers was read in its wheel: vllm/v1/spec_decode/custom_class_proposer.py, and in
vllm/v1/worker/gpu_model_runner.py `propose_draft_token_ids` and `_bookkeeping_sync`. It calls the interface
experimental.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ltd_policy
import numpy as np
from ltd_policy.chains import Copies, chain_lengths
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vllm.config import VllmConfig

# How much of what earlier steps yielded still counts after one more: batches grow and shrink.
MEMORY = 0.95


class StepTimes:
    """Milliseconds of a step, by the number of tokens that the target reads in it.

    Straight lines lead from one measured number to the next, and the last of them goes on.
    """

    def __init__(self, measured: Mapping[str, float]) -> None:
        where = "additional_config: ltd_policy.step_ms"
        try:
            points = sorted((int(tokens), float(ms)) for tokens, ms in measured.items())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"{where}: expected numbers of tokens with milliseconds, found {measured!r}") from None
        if len(points) < 2 or points[0][0] != 1:
            raise ValueError(f"{where}: expected times of 1 token and of more, found {measured!r}")
        if not all(0.0 < ms < float("inf") for _, ms in points):
            raise ValueError(f"{where}: expected milliseconds above 0, found {measured!r}")
        self.tokens, self.ms = zip(*points)

    def __call__(self, tokens: int) -> float:
        """The time of a step with so many tokens."""
        # The point before these tokens, and not the last one, which has no line after it.
        place = min(bisect_right(self.tokens, tokens), len(self.tokens) - 1) - 1
        slope = (self.ms[place + 1] - self.ms[place]) / (self.tokens[place + 1] - self.tokens[place])
        if tokens > self.tokens[-1]:
            # Noise must not make more tokens cheaper than all that were measured.
            return self.ms[-1] + max(0.0, slope) * (tokens - self.tokens[-1])
        return self.ms[place] + slope * (tokens - self.tokens[place])


@dataclass
class Request:
    """A request of the step before."""

    row: int
    text: NDArray[np.int32]
    copies: Copies


class LearnedCopies:
    """Drafts what followed the latest tokens where they stood before, as long as the policy finds it worth its time."""

    def __init__(self, vllm_config: VllmConfig) -> None:
        settings = settings_of(vllm_config.additional_config)
        speculative = vllm_config.speculative_config
        if speculative.num_speculative_tokens_per_batch_size is not None:
            # vLLM does not tell a class of the user's which of these numbers holds.
            raise ValueError(
                "speculative_config: num_speculative_tokens_per_batch_size: expected none with this proposer, "
                f"found {speculative.num_speculative_tokens_per_batch_size!r}"
            )
        self.policy = ltd_policy.Policy.load(settings["package"])
        self.step_ms = StepTimes(settings["step_ms"])
        self.max_model_len = vllm_config.model_config.max_model_len
        every, limit = chain_lengths(self.policy), speculative.num_speculative_tokens
        self.lengths = [length for length in every if length <= limit]
        if not self.lengths:
            raise ValueError(
                f"speculative_config: num_speculative_tokens: expected {every[0]} or more, the shortest chain of "
                f"{settings['package']}, found {limit}"
            )
        check_target(self.policy, vllm_config.model_config.model)
        self.requests: list[Request] = []
        # What the latest steps yielded and took, and the tokens that the target reads in the one under way.
        self.tokens, self.spent_ms, self.reads = 0.0, 0.0, 0

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: NDArray[np.int32],
        token_ids_cpu: NDArray[np.int32],
        slot_mappings: object = None,
    ) -> list[list[int]]:
        """The draft of each row, none for one whose prompt is not read yet.

        sampled_token_ids: what this step added to each row. num_tokens_no_spec: tokens of each row with these.
        token_ids_cpu: [rows, max_model_len], the text of each. Both have more rows than there are requests.
        """
        added = {row: len(sampled) for row, sampled in enumerate(sampled_token_ids) if len(sampled)}
        texts = {row: token_ids_cpu[row, : num_tokens_no_spec[row]].copy() for row in added}
        self.requests = requests_of(self.requests, texts, added, self.policy)
        drafts: list[list[int]] = [[] for _ in sampled_token_ids]
        if not self.requests:
            self.reads = 0
            return drafts
        tokens_per_ms = self._tokens_per_ms(sum(added.values()))
        # All requests share a forward. A chain costs what it adds to those of the rows above.
        self.reads = len(self.requests)
        for request in self.requests:
            request.copies.read(request.text)
            # The target adds a token of its own.
            room = self.max_model_len - len(request.text) - 1
            times = {length: self.step_ms(self.reads + length) for length in [0, *self.lengths]}
            drafts[request.row] = request.copies.draft(times, tokens_per_ms, at_most=max(0, room))
            self.reads += len(drafts[request.row])
        return drafts

    def _tokens_per_ms(self, added: int) -> float:
        # Times are those of the table, not of a clock: the ranks of a tensor-parallel group must draft the same.
        if self.reads:
            self.tokens = MEMORY * self.tokens + added
            self.spent_ms = MEMORY * self.spent_ms + self.step_ms(self.reads)
        else:
            # As if it decoded plainly so far.
            self.tokens, self.spent_ms = float(len(self.requests)), self.step_ms(len(self.requests))
        return self.tokens / self.spent_ms


def requests_of(
    before: Sequence[Request],
    texts: Mapping[int, NDArray[np.int32]],
    added: Mapping[int, int],
    policy: ltd_policy.Policy,
) -> list[Request]:
    """The requests of a step: those of the step before whose text went on, and new ones. Others are forgotten.

    texts: of the rows that grew. added: tokens by which each grew.
    """
    by_length: dict[int, list[Request]] = {}
    for request in before:
        by_length.setdefault(len(request.text), []).append(request)
    requests = []
    for row, text in texts.items():
        known = text[: len(text) - added[row]]
        same = by_length.get(len(known), [])
        # Requests of one text cannot be told apart, but rows seldom move.
        same.sort(key=lambda request: request.row != row)
        found = next((place for place, other in enumerate(same) if np.array_equal(other.text, known)), None)
        copies = Copies(policy) if found is None else same.pop(found).copies
        requests.append(Request(row, text, copies))
    return requests


def settings_of(additional_config: object) -> dict:
    """The part of vLLM's additional_config that is for this proposer."""
    where = "additional_config: ltd_policy"
    settings = additional_config.get("ltd_policy") if isinstance(additional_config, dict) else None
    if not isinstance(settings, dict) or set(settings) != {"package", "step_ms"}:
        raise ValueError(f"{where}: expected an object with package and step_ms, found {settings!r}")
    return settings


def check_target(policy: ltd_policy.Policy, model: str) -> None:
    """Refuses a package of another model. That of a name on a hub cannot be told."""
    if Path(model).is_dir():
        policy.check_models(target=ltd_policy.model_sha256(model))
    else:
        warnings.warn(f"{model}: no folder, so whether the package is of this model was not checked", stacklevel=2)
