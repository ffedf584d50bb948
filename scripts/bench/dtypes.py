"""Where greedy text in bf16 parts from that in f32, and how many drafted tokens are accepted in either.

    python3 scripts/bench/dtypes.py --questions data/humaneval.jsonl ... --limit 80 --out dtypes

Each question file is decoded by `ltd-decode` with a fixed tree in both number types, and plainly in bf16, where forwards of
different widths round differently unless they are batch invariant. In f32 trees give the text of plain decoding; `--check` decodes that too and fails if
they part. Answers go to `--out`, and what is there is not decoded again. `cargo build --release --workspace --bins` comes
before; nothing but Python itself is needed.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLAIN, TREE = "plain", "tree"


def decode(arguments: argparse.Namespace, questions: Path, dtype: str, mode: str) -> dict[str, dict]:
    """The answers of `ltd-decode` by question."""
    answers = arguments.out / f"{questions.stem}-{dtype}-{mode}.jsonl"
    if not answers.exists():
        tree = ["--mode", "static", "--depth", str(arguments.depth), "--size", str(arguments.size)]
        command = [
            *(arguments.program, "--target", arguments.target, "--draft", arguments.draft, "--dtype", dtype),
            *("--questions", questions, "--limit", str(arguments.limit), "--json"),
            *("--max-new-tokens", str(arguments.max_new_tokens)),
            *(tree if mode == TREE else ["--mode", "ar"]),
        ]
        output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        lines = [line for line in output.splitlines() if '"question_id"' in line]
        written = answers.with_suffix(".new")
        written.write_text("\n".join(lines) + "\n")
        written.rename(answers)
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    return {line["question_id"]: line for line in lines}


def partings(first: dict[str, dict], second: dict[str, dict]) -> list[int]:
    """Index of the first token that differs, of each question whose answers differ."""
    found = []
    for question, answer in first.items():
        tokens, others = answer["output_ids"], second[question]["output_ids"]
        if tokens != others:
            same = [index for index, pair in enumerate(zip(tokens, others)) if pair[0] != pair[1]]
            found.append(same[0] if same else min(len(tokens), len(others)))
    return found


def share(found: list[int], count: int) -> str:
    """How many answers part, and where: median and quartiles."""
    if len(found) < 2:
        return f"{len(found)} of {count} {found or ''}".strip()
    low, median, high = statistics.quantiles(found, n=4, method="inclusive")
    return f"{len(found)} of {count}, at {median:.0f} ({low:.0f} - {high:.0f})"


def acceptance(answers: dict[str, dict]) -> float:
    """Tokens per cycle."""
    return sum(line["tokens"] for line in answers.values()) / sum(line["cycles"] for line in answers.values())


def main() -> None:
    """Decodes what is not there yet and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=Path, nargs="+", required=True)
    parser.add_argument("--limit", type=int, default=80)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--target", default="models/smollm2-135m-instruct")
    parser.add_argument("--draft", default="assets/eagle3-smollm2-135m")
    parser.add_argument("--program", default="target/release/ltd-decode")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    print("| prompts | bf16 parts from f32 | bf16: tree parts from plain | acceptance length, f32 | bf16 |")
    print("| --- | --- | --- | --- | --- |")
    for questions in (path.resolve() for path in arguments.questions):
        f32, bf16 = (decode(arguments, questions, dtype, TREE) for dtype in ("f32", "bf16"))
        plain = decode(arguments, questions, "bf16", PLAIN)
        if arguments.check and (lossy := partings(decode(arguments, questions, "f32", PLAIN), f32)):
            sys.exit(f"{questions}: in f32 the texts of plain decoding and of trees part at {lossy}")
        parted = " | ".join(share(partings(plain, other), len(plain)) for other in (f32, bf16))
        print(f"| {questions.stem} | {parted} | {acceptance(f32):.2f} | {acceptance(bf16):.2f} |")


if __name__ == "__main__":
    main()
