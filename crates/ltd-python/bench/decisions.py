"""What a decision takes from Python, beside what it takes in Rust.

    cargo build --release --package ltd-cycle --examples
    pip wheel --no-deps --wheel-dir dist ./crates/ltd-python && pip install dist/ltd_policy-*.whl
    python crates/ltd-python/bench/decisions.py PACKAGE...

Rounds of both alternate; the table has the medians, in microseconds.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

import ltd_policy
import numpy as np

RUST = Path(__file__).resolve().parents[3] / "target/release/examples/decision_time"


def in_rust(package: Path, repeats: int) -> np.ndarray:
    """Microseconds, [depths, 2]: whether to draft on, and how much to verify."""
    done = subprocess.run([RUST, package, str(repeats)], check=True, capture_output=True, text=True)
    return np.array([line.split()[1:] for line in done.stdout.splitlines()], dtype=float) / 1e3


def in_python(package: Path, repeats: int) -> np.ndarray:
    policy = ltd_policy.Policy.load(package)
    controller, width = policy.controller(), policy.beam_width
    rows = []
    for depth in range(policy.max_depth):
        at = np.arange(width + depth * width**2)
        scores = (-0.5 - 0.3 * (at % width) - 0.01 * at).astype(np.float32)
        rows.append([])
        for size in (False, True):
            start = time.perf_counter_ns()
            for _ in range(repeats):
                if size:
                    controller.begin_cycle()
                    controller.verification_size(scores, depth, 200)
                else:
                    controller.continue_drafting(scores, depth, 200)
            rows[-1].append((time.perf_counter_ns() - start) / repeats / 1e3)
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--repeats", type=int, default=5000, help="calls a round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="of both (default %(default)s)")
    options = parser.parse_args()
    print("| package | depth | continue, Python | in Rust | size, Python | in Rust |")
    print("| --- | --- | --- | --- | --- | --- |")
    for package in options.packages:
        rounds = [
            (in_python(package, options.repeats), in_rust(package, options.repeats)) for _ in range(options.rounds)
        ]
        python, rust = (np.median([times[side] for times in rounds], axis=0) for side in (0, 1))
        for depth, (of_python, of_rust) in enumerate(zip(python, rust)):
            cells = [f"{number:.2f}" for pair in zip(of_python, of_rust) for number in pair]
            print(f"| {package.name} | {depth} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
