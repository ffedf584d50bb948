"""The copy source, against a search through all of the text."""

from __future__ import annotations

import ltd_policy
import numpy as np
import pytest


def by_comparison(text: list[int], limit: int) -> tuple[int, int] | None:
    best = (0, 0)
    for end in range(1, len(text)):
        length = 0
        while length < min(limit, end) and text[end - 1 - length] == text[-1 - length]:
            length += 1
        best = max(best, (length, end))
    return best if best[0] else None


def test_finds_what_a_search_finds() -> None:
    random = np.random.default_rng(8)
    source, text, found = ltd_policy.CopySource(limit=4), [], 0
    for _ in range(400):
        new = random.integers(0, 5, random.integers(1, 4))
        source.extend(new)
        text += new.tolist()
        expected, occurrence = by_comparison(text, 4), source.find()
        assert len(source) == len(text)
        assert (occurrence and (occurrence.length, occurrence.end)) == expected
        if occurrence:
            found += 1
            assert 1 <= occurrence.agreeing <= occurrence.occurrences
            follows = (text[occurrence.end :] * 8)[:8]
            assert source.chain(8).tolist() == follows
    assert found > 100


def test_nothing_to_find_and_nothing_to_compare() -> None:
    source = ltd_policy.CopySource()
    assert source.find() is None and source.chain(3).tolist() == []
    source.extend([1, 2, 3])
    assert source.find() is None
    for limit in (0, 4097, 2**64 - 1):
        with pytest.raises(ValueError, match=f"limit: expected 1 to 4096, found {limit}"):
            ltd_policy.CopySource(limit=limit)
    with pytest.raises(ValueError, match="length: expected at most 4096, found 4097"):
        source.chain(4097)
    with pytest.raises(OverflowError):
        ltd_policy.CopySource(limit=-1)
