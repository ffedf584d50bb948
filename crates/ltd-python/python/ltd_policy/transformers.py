"""Copies of what was said, of a learned length, as candidates of Hugging Face transformers (5.24).

    policy = ltd_policy.Policy.load("policies")  # a factored policy that chooses what to draft from
    times = measure_forward_ms(model, policy)
    with drafting(model, policy, times):
        output = model.generate(**inputs, do_sample=False, prompt_lookup_num_tokens=1)

The package's predictor says how many tokens of a chain would be accepted; what a forward of this model costs is measured
here, as the package's own times are those of another program. No draft model is needed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.generation.candidate_generator import CandidateGenerator

import ltd_policy
from ltd_policy.chains import Copies, ForwardTimes, chain_lengths


@torch.inference_mode()
def measure_forward_ms(
    model: PreTrainedModel, policy: ltd_policy.Policy, context: int = 256, repeats: int = 9
) -> ForwardTimes:
    """The median time of a forward over each length of chain, after so many tokens."""
    for name, value in (("context", context), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, found {value}")
    lengths = [0, *chain_lengths(policy)]
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(context + 1 + lengths[-1], device=model.device).remainder(vocabulary)[None]
    cache = DynamicCache(config=model.config)
    model(ids[:, :context], cache=cache, use_cache=True, logits_to_keep=1)
    times: dict[int, list[float]] = {length: [] for length in lengths}
    # Interleaved, and the first round is a warm-up.
    for number in range(repeats + 1):
        for length in lengths:
            _wait(model)
            start = time.perf_counter()
            model(ids[:, context : context + 1 + length], cache=cache, use_cache=True)
            _wait(model)
            if number:
                times[length].append(1e3 * (time.perf_counter() - start))
            cache.crop(-(1 + length))
    return {length: float(np.median(of_length)) for length, of_length in times.items()}


def _wait(model: PreTrainedModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


class CopyCandidateGenerator(CandidateGenerator):
    """Candidates of one generation."""

    def __init__(
        self,
        policy: ltd_policy.Policy,
        times: ForwardTimes,
        max_length: int | None = None,
        end_tokens: Sequence[int] = (),
    ) -> None:
        missing = sorted({0, *chain_lengths(policy)} - set(times))
        if missing:
            raise ValueError(f"times: expected a time of each length of chain, found none of {missing}")
        self.copies, self.times, self.max_length = Copies(policy), times, max_length
        self.end_tokens = frozenset(end_tokens)
        # What the forwards so far yielded and took.
        self.tokens, self.spent_ms = 1.0, times[0]

    def get_candidates(
        self, input_ids: torch.LongTensor, **_: object
    ) -> tuple[torch.LongTensor, torch.FloatTensor | None]:
        """The text with a chain after it, or the text alone."""
        if input_ids.shape[0] != 1:
            raise ValueError(f"input_ids: expected one sequence, found {input_ids.shape[0]}")
        self.tokens += self.copies.read(input_ids[0].tolist())
        # The target adds a token of its own.
        room = self.max_length - input_ids.shape[1] - 1 if self.max_length else None
        chain = self.copies.draft(self.times, self.tokens / self.spent_ms, at_most=room)
        ends = [place for place, token in enumerate(chain) if token in self.end_tokens]
        chain = chain[: ends[0]] if ends else chain
        self.spent_ms += self.times[min(length for length in self.times if length >= len(chain))]
        if not chain:
            return input_ids, None
        return torch.cat((input_ids, input_ids.new_tensor([chain])), dim=1), None

    def update_candidate_strategy(self, input_ids: torch.LongTensor, scores: torch.Tensor, num_matches: int) -> None:
        """Nothing: the next text says what was accepted."""


@contextmanager
def drafting(model: PreTrainedModel, policy: ltd_policy.Policy, times: ForwardTimes) -> Iterator[None]:
    """Within it, model.generate(..., prompt_lookup_num_tokens=1) drafts by the policy, in place of prompt lookup."""

    def generator(*_: object, generation_config, **__: object) -> CopyCandidateGenerator:
        ends = getattr(generation_config, "_eos_token_tensor", None)
        end_tokens = [] if ends is None else ends.flatten().tolist()
        return CopyCandidateGenerator(policy, times, generation_config.max_length, end_tokens)

    if "_get_candidate_generator" in vars(model):
        raise RuntimeError("the model drafts by a policy already")
    model._get_candidate_generator = generator
    try:
        yield
    finally:
        del model._get_candidate_generator
