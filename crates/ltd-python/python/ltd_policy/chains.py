"""Copies of what was said, of a learned length, where an engine says what its forwards cost.

The package's predictor says how many tokens of a chain would be accepted. Its latency table is of another program, so
the times come from the engine. No draft model is needed, and no PyTorch.

    copies = Copies(policy)
    copies.read(prompt_ids + first_token)
    while True:
        chain = copies.draft(times, tokens_per_ms)
        ...  # the target verifies the chain, and the text grows
        copies.read(text)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

import ltd_policy

# Milliseconds of a forward over the root and a chain, by the chain's length.
ForwardTimes = Mapping[int, float]


def chain_lengths(policy: ltd_policy.Policy) -> list[int]:
    """The lengths of chains among which a policy chooses; none of them is a step of plain decoding."""
    lengths, _ = policy.sequence([0], 0).expected_of_chains()
    if len(lengths) == 0:
        raise ValueError("expected a factored policy that chooses what to draft from, found one that does not")
    return lengths.tolist()


def best_chain(lengths: Sequence[int], expected: Sequence[float], times: ForwardTimes, tokens_per_ms: float) -> int:
    """The chain that is worth most: accepted tokens less what its time is worth. Only those that have a time."""
    worth = {0: 1.0 - tokens_per_ms * times[0]}
    for length, accepted in zip(lengths, expected):
        if length in times:
            worth[int(length)] = 1.0 + float(accepted) - tokens_per_ms * times[int(length)]
    return max(worth, key=lambda length: worth[length])


class Copies:
    """What one sequence copies."""

    def __init__(self, policy: ltd_policy.Policy) -> None:
        self.policy = policy
        self.sequence: ltd_policy.Sequence | None = None
        # Tokens that the sequence knows.
        self.known = 0

    def read(self, text: Sequence[int] | NDArray[np.int32]) -> int:
        """Reads the whole text so far: first the prompt and the target's first token. How many tokens one step added.

        Of those that it added the last is the target's own, and the ones before it were accepted.
        """
        new = text[self.known :]
        if self.sequence is None:
            self.sequence = self.policy.sequence(text[:-1], int(text[-1]))
            new = text[:0]
        elif len(new):
            self.sequence.commit(new[:-1], int(new[-1]))
        self.known = len(text)
        return len(new)

    def draft(self, times: ForwardTimes, tokens_per_ms: float, at_most: int | None = None) -> list[int]:
        """The tokens to verify next, at most so many, where a millisecond yields so many tokens; none to decode plainly.

        The lengths among which it chooses are those that have a time. It needs one of 0, too.
        """
        if self.sequence is None:
            raise ltd_policy.SequenceError("draft: no text was read: call read first")
        lengths, expected = self.sequence.expected_of_chains()
        self.sequence.begin_copy(best_chain(lengths, expected, times, tokens_per_ms))
        return self.sequence.verification(at_most=at_most).tokens[1:].tolist()
