#!/usr/bin/env python3
"""What training with many ranks costs: stragglers, the store, and the learner that all of them wait for.

    ltd-decode ... --json > cycles.jsonl
    simulate_ranks.py cycles.jsonl [--steps N] [--ranks 8,64,512] [--store-ms T] [--update-ms T] [--slow SHARE]

A rollout of a rank is so many cycles, drawn from the measured ones. All ranks wait for the slowest; then the first one
reads every other rank's steps, learns from all of them, and sends the policy. What is printed is the mean time of a
rollout by part, and the share of a rank's time in which it takes steps.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROLLOUTS = 200


def cycle_times(path: Path) -> np.ndarray:
    """Milliseconds of each cycle."""
    lines = (json.loads(line) for line in path.read_text().splitlines() if line.startswith("{"))
    parts = ("draft_ms", "verify_ms", "policy_ms")
    # The last line of an answer sums up.
    return np.array([sum(line[part] for part in parts) for line in lines if "cycles" not in line])


def simulate(
    times: np.ndarray, ranks: int, steps: int, slow: float, random: np.random.Generator
) -> tuple[float, float]:
    """Mean time in ms that a rank's steps take, and that those of the slowest do."""
    means, slowest = [], []
    # Some machines are slower than others throughout.
    pace = 1 + slow * random.random(ranks)
    for _ in range(ROLLOUTS):
        totals = random.choice(times, (ranks, steps)).sum(axis=1) * pace
        means.append(totals.mean())
        slowest.append(totals.max())
    return float(np.mean(means)), float(np.mean(slowest))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("cycles", type=Path, help="what ltd-decode --json printed")
    parser.add_argument("--steps", type=int, default=128, help="cycles of a rank's rollout (default %(default)s)")
    parser.add_argument("--ranks", default="1,8,64,512", help="numbers of ranks (default %(default)s)")
    parser.add_argument("--store-ms", type=float, default=0.5, help="store, per rank (default %(default)s)")
    parser.add_argument("--update-ms", type=float, default=10.0, help="update, per rank (default %(default)s)")
    parser.add_argument(
        "--slow", type=float, default=0.05, help="slowest machine over the fastest (default %(default)s)"
    )
    options = parser.parse_args()
    times = cycle_times(options.cycles)
    if not len(times):
        print(f"simulate_ranks: {options.cycles}: has no cycle, as ltd-decode --json prints them", file=sys.stderr)
        return 2
    deviation = times.std() / times.mean()
    print(
        f"{len(times)} cycles of {times.mean():.1f} ms, which deviate by {deviation:.0%}; {options.steps} per rollout\n"
    )
    print("| ranks | steps, mean | slowest rank | store | update | a rollout | at work | speed-up |")
    print("|------:|------------:|-------------:|------:|-------:|----------:|--------:|---------:|")
    random = np.random.default_rng(0)
    alone = None
    for ranks in (int(number) for number in options.ranks.split(",")):
        mean, slowest = simulate(times, ranks, options.steps, options.slow, random)
        store, update = options.store_ms * (ranks - 1), options.update_ms * ranks
        total = slowest + store + update
        rate = ranks / total
        alone = alone or rate
        print(
            f"| {ranks} | {mean / 1e3:.2f} s | {slowest / 1e3:.2f} s | {store / 1e3:.2f} s | {update / 1e3:.2f} s "
            f"| {total / 1e3:.2f} s | {mean / total:.0%} | {rate / alone:.1f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
