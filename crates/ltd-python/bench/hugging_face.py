"""Copies of a learned length in Hugging Face transformers, beside greedy decoding and its own prompt lookup.

    scripts/setup --tests && pip wheel --no-deps --wheel-dir dist ./crates/ltd-python
    .venv/bin/python -m zipfile -e dist/ltd_policy-*.whl dist/site
    PYTHONPATH=dist/site:.venv/transformers scripts/head/python-without-cuda crates/ltd-python/bench/hugging_face.py

All decode the same questions of each file with the default target, one after another in one process, and must write
the same tokens. The table has tokens per second, the ratio of sums, with the quartiles over questions.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path

import ltd_policy
import numpy as np
import torch
from ltd_policy.transformers import drafting, measure_forward_ms
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--target", type=Path, default=ROOT / "models/smollm2-135m-instruct")
    parser.add_argument("--policy", type=Path, default=ROOT / "tests/fixtures/policies/factored")
    files = [ROOT / "data/humaneval.jsonl", ROOT / "data/rewriting.jsonl"]
    parser.add_argument("--questions", type=Path, nargs="+", default=files, help="files in FastChat's form")
    # Of these files the policy has learned from the first 140.
    parser.add_argument("--skip", type=int, default=140, help="questions of each file (default %(default)s)")
    parser.add_argument("--limit", type=int, default=8, help="questions of each file (default %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=96, help="(default %(default)s)")
    parser.add_argument("--dtype", default="float32", help="number type (default %(default)s)")
    options = parser.parse_args()

    model = AutoModelForCausalLM.from_pretrained(options.target, dtype=getattr(torch, options.dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.target)
    policy = ltd_policy.Policy.load(options.policy)
    times = measure_forward_ms(model, policy)
    print("forward, ms by tokens to verify:", {length: round(ms, 1) for length, ms in times.items()})
    ways = {"greedy": (nullcontext, {})}
    for count in (4, 10):
        # The first occurrence of the latest two tokens, or of the last one: its defaults.
        ways[f"prompt lookup, {count} tokens"] = (nullcontext, {"prompt_lookup_num_tokens": count})
    ways["learned length"] = (lambda: drafting(model, policy, times), {"prompt_lookup_num_tokens": 1})
    print("| questions | way | tokens/s | quartiles | over greedy |\n| --- | --- | --- | --- | --- |")
    for file in options.questions:
        lines = file.read_text().splitlines()[options.skip :][: options.limit]
        found: dict[str, list[tuple[int, float]]] = {name: [] for name in ways}
        for number, line in enumerate(lines):
            chat = [{"role": "user", "content": json.loads(line)["turns"][0]}]
            given = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            texts = []
            # Another one begins each time.
            for name in [*ways][number % len(ways) :] + [*ways][: number % len(ways)]:
                context, settings = ways[name]
                start = time.perf_counter()
                with context():
                    text = model.generate(**given, do_sample=False, max_new_tokens=options.max_new_tokens, **settings)
                elapsed = time.perf_counter() - start
                texts.append(text.tolist())
                found[name].append((text.shape[1] - given["input_ids"].shape[1], elapsed))
            if any(text != texts[0] for text in texts):
                raise SystemExit(f"{file}: the ways wrote other tokens at line {options.skip + number + 1}")
        speed = {name: sum(n for n, _ in of) / sum(t for _, t in of) for name, of in found.items()}
        for name, of in found.items():
            low, high = np.quantile([tokens / elapsed for tokens, elapsed in of], [0.25, 0.75])
            over = speed[name] / speed["greedy"]
            print(f"| {file.stem} | {name} | {speed[name]:.1f} | {low:.1f} .. {high:.1f} | {over:.2f} |")


if __name__ == "__main__":
    main()
