"""Which chain is worth most, and what one sequence copies."""

from __future__ import annotations

import ltd_policy
import numpy as np
import pytest
from ltd_policy.chains import Copies, best_chain, chain_lengths
from programs import POLICIES

REPEATED = [5, 6, 7, 8, 9, 5, 6, 7, 8, 9, 5, 6, 7]


@pytest.fixture(scope="module")
def factored() -> ltd_policy.Policy:
    return ltd_policy.Policy.load(POLICIES / "factored")


def test_a_chain_is_worth_its_tokens_less_its_time() -> None:
    times = {0: 10.0, 2: 11.0, 8: 30.0}
    assert best_chain([2, 8], [1.5, 3.0], times, tokens_per_ms=0.1) == 2
    assert best_chain([2, 8], [1.5, 7.5], times, tokens_per_ms=0.1) == 8
    assert best_chain([2, 8], [0.0, 0.0], times, tokens_per_ms=0.1) == 0


def test_a_length_without_a_time_is_not_chosen() -> None:
    assert best_chain([2, 8], [1.5, 7.5], {0: 10.0, 2: 11.0}, tokens_per_ms=0.1) == 2


def test_other_policies_have_no_lengths() -> None:
    with pytest.raises(ValueError, match="expected a factored policy that chooses what to draft from"):
        chain_lengths(ltd_policy.Policy.load(POLICIES / "pair"))


def test_texts_are_lists_or_arrays_and_are_read_once(factored: ltd_policy.Policy) -> None:
    times = dict.fromkeys([0, *chain_lengths(factored)], 1.0)
    drafts = []
    for text in (REPEATED, np.array(REPEATED, dtype=np.int32)):
        copies = Copies(factored)
        assert copies.read(text[:-1]) == 0
        assert copies.read(text) == 1
        assert copies.read(text) == 0
        drafts.append(copies.draft(times, tokens_per_ms=0.1))
    assert drafts[0] == drafts[1]
    assert drafts[0][:4] == [8, 9, 5, 6]


def test_a_dear_chain_is_not_drafted(factored: ltd_policy.Policy) -> None:
    copies = Copies(factored)
    copies.read(REPEATED)
    assert copies.draft({0: 1.0, **dict.fromkeys(chain_lengths(factored), 1e6)}, tokens_per_ms=1.0) == []


def test_nothing_is_drafted_before_a_text(factored: ltd_policy.Policy) -> None:
    with pytest.raises(ltd_policy.SequenceError, match="no text was read: call read first"):
        Copies(factored).draft({0: 1.0}, tokens_per_ms=1.0)
