"""Short runs of the tiny pair, for the scripts that try the programs."""

from __future__ import annotations

import json
import subprocess
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
    ppo = {"n_steps": 64, "n_envs": 1, "n_epochs": 4, "net_arch": {"pi": [32], "vf": [32]}}
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


def train_and_export(folder: Path, programs: Path) -> tuple[Path, Path]:
    """Packages of a run of few steps: a factored policy, and a pair that chooses what to draft from."""
    stages = {
        "predictor": {"epochs": 2, "net_arch": [16]},
        "size": {"total_timesteps": 128},
        "depth": {"total_timesteps": 128},
        "rounds": 1,
        "round": [{"train": "source", "total_timesteps": 128}],
        "candidates": 1,
    }
    changes = {"replay": {"held_out": 0.3}, "stages": stages, "source": {"ppo": {"n_steps": 64, "n_epochs": 4}}}
    run, config = folder / "run", write_config(folder, "policies", write_questions(folder), changes)
    run_program(programs / "ltd-train", "--config", config, "--run-dir", run)
    stages = sorted(path.name for path in (run / "stages").iterdir())
    packages = folder / "factored", folder / "pair"
    for stage, package in zip((stages[0], stages[-1]), packages):
        run_program(programs / "ltd-export", "--run", run, "--stage", stage, "--out", package)
    return packages


def run_program(path: Path, *arguments: object, given: str | None = None) -> str:
    """What a program prints; RuntimeError if it fails."""
    command = [str(path), *(str(argument) for argument in arguments)]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{path.name} ended with {done.returncode}: {done.stderr}")
    return done.stdout
