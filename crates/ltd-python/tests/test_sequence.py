"""Sequences: the order of calls, arrays of every kind, threads."""

from __future__ import annotations

import threading

import cycles
import ltd_policy
import numpy as np
import pytest


def level(policy: ltd_policy.Policy, rows: int = 1) -> tuple[np.ndarray, np.ndarray]:
    width = policy.beam_width
    log_probs = np.tile(-np.arange(1, width + 1, dtype=np.float32), (rows, 1))
    return log_probs, np.tile(np.arange(width, dtype=np.uint32), (rows, 1))


@pytest.fixture()
def sequence(policy: ltd_policy.Policy) -> ltd_policy.Sequence:
    # Nothing was said twice: trees.
    return policy.sequence([1, 2, 3], 4)


def test_calls_out_of_turn(policy: ltd_policy.Policy, sequence: ltd_policy.Sequence) -> None:
    calls = (sequence.continue_drafting, sequence.verification_size, sequence.verification)

    def refused(problem: str) -> None:
        for call in calls:
            with pytest.raises(ltd_policy.SequenceError, match=f"{call.__name__}: {problem}"):
                call()

    refused("no cycle is under way: expected begin first")
    with pytest.raises(ltd_policy.SequenceError, match="push_level: no cycle is under way: expected begin first"):
        sequence.push_level(*level(policy))
    sequence.begin_copy(3)
    with pytest.raises(ltd_policy.SequenceError, match="push_level: the cycle copies and has no tree"):
        sequence.push_level(*level(policy))
    sequence.begin()
    refused("the cycle has no tree yet: expected push_level first")
    assert sequence.begin().drafts
    sequence.push_level(*level(policy))
    depth = 0
    while depth < policy.max_depth:
        sequence.push_level(*level(policy, len(sequence.frontier_tokens)))
        depth += 1
    with pytest.raises(ltd_policy.SequenceError, match="as deep as the policy drafts"):
        sequence.push_level(*level(policy, len(sequence.frontier_tokens)))
    assert not sequence.continue_drafting()
    # A cycle that fails is begun again.
    sequence.begin()
    sequence.push_level(*level(policy))
    assert [len(sequence.verification(at_most=most)) for most in (1, 3, 0, 1)] == [2, 4, 1, 2]
    sequence.commit([0], 9)
    assert (sequence.context_length, sequence.root) == (5, 9)
    # A step of plain decoding.
    sequence.commit([], 8)
    assert (sequence.context_length, sequence.root) == (6, 8)


def test_a_tree_is_as_it_was_built(policy: ltd_policy.Policy, sequence: ltd_policy.Sequence) -> None:
    sequence.begin()
    log_probs, tokens = level(policy)
    sequence.push_level(log_probs, tokens)
    rows = len(sequence.frontier_tokens)
    assert rows == min(policy.beam_width, sequence.size_limit)
    assert sequence.frontier_tokens.tolist() == list(range(rows))
    assert sequence.frontier_parents.tolist() == [0] * rows
    # Below the second node the children are surest.
    log_probs, tokens = level(policy, rows)
    log_probs[0] *= 5.0
    log_probs[1] /= 100.0
    sequence.push_level(log_probs, tokens)
    assert sequence.frontier_parents.tolist()[0] == 1
    tree = sequence.verification(at_most=4)
    parents, depths, mask = tree.parents, tree.depths, tree.mask()
    assert tree.tokens[0] == 4 and len(tree) == len(tree.tokens) <= 5
    for row in range(len(tree)):
        above = parents[row]
        expected = {row} if above < 0 else {row, *np.flatnonzero(mask[above])}
        assert set(np.flatnonzero(mask[row])) == expected
        assert depths[row] == len(expected) - 1


def test_arrays_that_do_not_fit(policy: ltd_policy.Policy, sequence: ltd_policy.Sequence) -> None:
    width = policy.beam_width
    log_probs, tokens = level(policy)
    wide = np.zeros((1, 2 * width), dtype=np.float32)
    cases = [
        (log_probs.tolist(), tokens, TypeError, "log_probs: expected a C-contiguous array of float32, found list"),
        (log_probs.astype(np.float64), tokens, TypeError, "found one of float64"),
        (wide[:, ::2], tokens, ValueError, "log_probs: expected .* found one that is not contiguous"),
        (log_probs[:, 1:].copy(), tokens, ValueError, rf"expected shape \(1, {width}\), found \(1, {width - 1}\)"),
        (log_probs, tokens[:, 1:], ValueError, rf"tokens: expected the shape of log_probs, .* found .1, {width - 1}."),
        (log_probs, tokens.T.copy(), ValueError, rf"tokens: expected the shape of log_probs, .* found .{width}, 1."),
        (log_probs, tokens.ravel()[1:], ValueError, f"tokens: expected 1 rows of {width}, found {width - 1} numbers"),
        (log_probs, tokens.astype(np.float32), TypeError, "tokens: expected an array of uint32, int32 or int64"),
        (log_probs, tokens.astype(np.int64) - 1, ValueError, "tokens: expected tokens, from 0 to .* found -1"),
        (log_probs, "words", TypeError, "tokens: expected whole numbers, found str"),
        (np.full_like(log_probs, np.nan), tokens, ValueError, "expected a logarithm of a probability, found NaN"),
        (-log_probs, tokens, ValueError, r"log_probs\[0\]\[0\]: expected a logarithm of a probability, found 1"),
        (log_probs[:, ::-1].copy(), tokens, ValueError, r"log_probs\[0\]\[1\]: expected the best continuations first"),
    ]
    sequence.begin()
    for first, second, kind, problem in cases:
        with pytest.raises(kind, match=problem):
            sequence.push_level(first, second)
    # Nothing of these was taken.
    sequence.push_level(log_probs.ravel(), tokens.astype(np.int64))
    controller = policy.controller()
    with pytest.raises(ValueError, match="draft_depth: expected at most 7"):
        controller.continue_drafting(log_probs, 9, 3)
    with pytest.raises(ValueError, match=rf"scores: expected shape \({width + width * width},\)"):
        controller.continue_drafting(log_probs.ravel(), 1, 3)
    with pytest.raises(ValueError, match=r"scores\[0\]: expected a logarithm"):
        controller.verification_size(np.full(width, np.nan, dtype=np.float32), 0, 3)
    with pytest.raises(ValueError, match="frontier: expected at most 10, the beam width, found 11"):
        controller.verification_size(log_probs.ravel(), 0, 3, frontier=11)
    with pytest.raises(OverflowError):
        policy.sequence([1], -1)
    with pytest.raises(ValueError, match="prompt: expected tokens"):
        policy.sequence([1, 1 << 40], 1)


def test_copies_that_are_too_long(policy: ltd_policy.Policy) -> None:
    with pytest.raises(ValueError, match="begin_copy: expected a chain of at most 4096 tokens, found 4097"):
        policy.sequence([1, 2], 3).begin_copy(4097)


def test_copies(policy: ltd_policy.Policy) -> None:
    sequence = policy.sequence([5, 6, 7, 8, 5], 6)
    sequence.begin_copy(3)
    tree = sequence.verification()
    assert tree.tokens.tolist() == [6, 7, 8, 5] and tree.chain_rows.tolist() == [1, 2, 3]
    sequence.commit([7, 8], 9)
    lengths, expected = sequence.expected_of_chains()
    if policy.kind == "factored":
        # 9 is new.
        assert lengths.tolist() == [2, 4, 8, 12, 16, 24] and not expected.any()
        expected = policy.sequence([5, 6, 7, 8, 5], 6).expected_of_chains()[1]
        assert (np.diff(expected) >= 0.0).all() and 0.0 < expected[0] <= 2.0
    else:
        assert len(lengths) == len(expected) == 0


def test_threads_share_a_policy_and_wait_for_a_sequence(policy: ltd_policy.Policy) -> None:
    start, made = cycles.make(policy, 200, seed=7)
    expected, _ = cycles.steer(policy, start, made)
    found: dict[int, list[dict]] = {}

    def run(thread: int) -> None:
        found[thread] = cycles.steer(policy, start, made)[0]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(4)] == [expected] * 4


def test_threads_wait_for_a_sequence(policy: ltd_policy.Policy) -> None:
    """Calls are mixed, but none is lost, whatever the other thread does."""
    sequence, controller, stop = policy.sequence([1, 2, 3], 4), policy.controller(), threading.Event()
    problems: list[Exception] = []

    def work() -> None:
        scores = np.full(policy.beam_width, -1.0, dtype=np.float32)
        while not stop.is_set():
            try:
                sequence.begin()
                sequence.push_level(*level(policy, len(sequence.frontier_tokens)))
                sequence.continue_drafting()
                sequence.verification().mask()
                controller.verification_size(scores, 0, 5)
            except (ltd_policy.SequenceError, ValueError):
                pass  # The other thread ended the cycle in between.
            except Exception as problem:
                problems.append(problem)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5000):
        sequence.commit([1], 2)
    stop.set()
    for thread in threads:
        thread.join()
    assert sequence.context_length == 3 + 10_000 and problems == []
