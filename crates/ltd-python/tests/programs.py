"""Programs and files of the checkout that the tests use."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# The pair that the policies were trained for.
TARGET, DRAFT = "models/smollm2-135m-instruct", "tests/fixtures/eagle3-smollm2-135m"
POLICIES = ROOT / "tests/fixtures/policies"


def run_program(path: Path, *arguments: object, given: str | None = None) -> str:
    """What a program prints."""
    command = [str(path), *(str(argument) for argument in arguments)]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{path.name} ended with {done.returncode}: {done.stderr}"
    return done.stdout
