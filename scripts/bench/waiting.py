"""Tokens per second beside busy processes, by the way in which LibTorch's threads wait for each other.

    python3 scripts/bench/waiting.py [--spin 1000 100000] [--busy 0 1 3] [--rounds 5]

`ltd-decode` decodes one prompt with each way of waiting in turn, alone and beside processes that keep a core busy each:
`own` is what the program chooses by itself, `runtime` what OpenMP's runtime would do (300,000 looks), `passive` sleeps at
once. Two threads, and one for comparison. Medians over the rounds, with the least and the greatest.
`cargo build --release --workspace --bins` comes before; nothing but Python itself is needed.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET, DRAFT = "models/smollm2-135m-instruct", "assets/eagle3-smollm2-135m"
WAYS = {"own": {}, "runtime": {"GOMP_SPINCOUNT": "300000"}, "passive": {"OMP_WAIT_POLICY": "passive"}}


@contextlib.contextmanager
def busy(count: int):
    """Some processes that do nothing, as fast as they can."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def decode(arguments: argparse.Namespace, way: dict[str, str], threads: int) -> float:
    """Tokens per second of one answer, prefill and loading not counted; at most a minute is waited."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    command = [
        *(arguments.program, "--target", arguments.target, "--draft", arguments.draft, "--dtype", arguments.dtype),
        *("--mode", "static", "--depth", "3", "--size", "12", "--threads", str(threads), "--json"),
        *("--max-new-tokens", str(arguments.max_new_tokens), "--token-ids", arguments.token_ids),
    ]
    try:
        output = subprocess.run(
            command, cwd=ROOT, env=environment | way, check=True, capture_output=True, text=True, timeout=60
        ).stdout
    except subprocess.TimeoutExpired:
        return 0.0
    return json.loads(output.splitlines()[-1])["tokens_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/ltd-decode")
    parser.add_argument("--target", default=TARGET)
    parser.add_argument("--draft", default=DRAFT)
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--token-ids", default="1 88 108 105 36 103")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 3], help="busy processes")
    parser.add_argument("--spin", nargs="*", default=[], help="further counts of looks to compare")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    ways = WAYS | {f"spin {count}": {"GOMP_SPINCOUNT": count} for count in arguments.spin}
    cases = [("1 thread", {}, 1), *((name, way, 2) for name, way in ways.items())]

    print(f"{'busy':>4} {'waiting':<12} {'tokens/s':>9}  least - greatest")
    for count in arguments.busy:
        speeds: dict[str, list[float]] = {name: [] for name, _, _ in cases}
        with busy(count):
            for _ in range(arguments.rounds):
                for name, way, threads in cases:
                    speeds[name].append(decode(arguments, way, threads))
        for name, found in speeds.items():
            print(
                f"{count:>4} {name:<12} {statistics.median(found):>9.1f}  {min(found):.1f} - {max(found):.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
