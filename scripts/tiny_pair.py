"""Short runs of the tiny pair, for the scripts that try the programs."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAIR = ROOT / "tests/fixtures/tiny-pair"
WORDS = ["The cat", "Once upon", "In the", "def add", "To be", "It was", "Call me", "A long", "for i", "Two"]


def write_questions(folder: Path, times: int = 1) -> Path:
    """A file of ten prompts in tokens, so often."""
    path = folder / "questions.jsonl"
    lines = (json.dumps({"token_ids": [byte + 4 for byte in word.encode()]}) + "\n" for word in WORDS * times)
    path.write_text("".join(lines))
    return path


def write_config(folder: Path, name: str, questions: Path, changes: dict) -> Path:
    """A configuration whose `changes` replace whole entries."""
    prompts = {"train": {"take": 6}, "validation": {"skip": 6, "take": 2}, "evaluation": {"skip": 8, "take": 2}}
    ppo = {"n_steps": 64, "n_epochs": 4, "net_arch": {"pi": [32], "vf": [32]}}
    config = {
        "engine": {
            "target": str(PAIR / "target"),
            "draft": str(PAIR / "draft"),
            "dtype": "f32",
            "max_depth": 7,
            "max_length": 128,
            "threads": 1,
        },
        "prompts": {part: {"file": str(questions), **lines} for part, lines in prompts.items()},
        "max_new_tokens": 32,
        "depth": {"actions": {"max_depth": 5}, "ppo": ppo},
        "size": {"ppo": ppo},
        "evaluation": {"max_new_tokens": 8, "grid": {"depths": [1], "sizes": [4]}},
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config | changes))
    return path
