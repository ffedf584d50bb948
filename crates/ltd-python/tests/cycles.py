"""Made-up cycles, as crates/ltd-cycle/examples/steer.rs reads them, and what a sequence decides in them."""

from __future__ import annotations

import json

import ltd_policy
import numpy as np

VOCABULARY = 40


def make(policy: ltd_policy.Policy, count: int, seed: int) -> tuple[dict, list[dict]]:
    """A beginning, and cycles whose levels are as wide and as many as any tree can be."""
    random = np.random.default_rng(seed)
    width = policy.beam_width
    start = {"prompt": random.integers(0, VOCABULARY, 30).tolist(), "root": 3}
    cycles = []
    for cycle in range(count):
        # Sure drafts and unsure ones.
        spread = random.choice([0.05, 0.5, 2.0, 6.0])
        levels = []
        for level in range(policy.max_depth + 1):
            rows = 1 if level == 0 else width
            log_probs = -np.sort(random.exponential(spread, (rows, width)), axis=1).astype(np.float32)
            tokens = np.array([random.permutation(VOCABULARY)[:width] for _ in range(rows)], dtype=np.uint32)
            levels.append({"log_probs": log_probs, "tokens": tokens})
        # Now and then the text repeats itself, so that there is something to copy.
        repeats = cycle % 100 < 50
        accepted = 0 if repeats else int(random.integers(0, 5))
        next_token = cycle % 7 if repeats else int(random.integers(0, VOCABULARY))
        cycles.append({"levels": levels, "accepted": accepted, "next": next_token})
    return start, cycles


def as_lines(start: dict, cycles: list[dict]) -> str:
    def numbers(level: dict) -> dict:
        return {name: array.ravel().tolist() for name, array in level.items()}

    whole = [{**cycle, "levels": [numbers(level) for level in cycle["levels"]]} for cycle in cycles]
    return "".join(json.dumps(line) + "\n" for line in [start, *whole])


def steer(policy: ltd_policy.Policy, start: dict, cycles: list[dict]) -> tuple[list[dict], int]:
    """What is decided in each cycle, and the number of decisions."""
    sequence = policy.sequence(start["prompt"], start["root"])
    decided, decisions = [], 0
    for cycle in cycles:
        source = sequence.begin()
        depth = None
        decisions += 2
        if source.drafts:
            for depth, level in enumerate(cycle["levels"]):  # noqa: B007
                rows = len(sequence.frontier_tokens)
                sequence.push_level(level["log_probs"][:rows], level["tokens"][:rows])
                decisions += 1
                if not sequence.continue_drafting():
                    break
        size = sequence.verification_size()
        tree = sequence.verification()
        parents = tree.parents.tolist()
        decided.append(
            {
                "source": (source.kind, source.chain),
                "depth": depth,
                "size": size,
                "tokens": tree.tokens.tolist(),
                "parents": parents[1:],
            }
        )
        sequence.commit(first_children(tree.tokens.tolist(), parents, cycle["accepted"]), cycle["next"])
    return decided, decisions


def first_children(tokens: list[int], parents: list[int], count: int) -> list[int]:
    """The tokens of at most `count` rows, each the first child of the one before."""
    row, accepted = 0, []
    while len(accepted) < count and row in parents:
        row = parents.index(row)
        accepted.append(tokens[row])
    return accepted
