"""What the tests decide by. LTD_PROGRAMS names the folder of the programs."""

from __future__ import annotations

import os
from pathlib import Path

import ltd_policy
import pytest
from programs import POLICIES, ROOT


@pytest.fixture(scope="session")
def programs() -> Path:
    return ROOT / os.environ.get("LTD_PROGRAMS", "target/debug")


@pytest.fixture(params=["factored", "pair"])
def package(request: pytest.FixtureRequest) -> Path:
    """Packages of the default pair."""
    return POLICIES / request.param


@pytest.fixture()
def policy(package: Path) -> ltd_policy.Policy:
    return ltd_policy.Policy.load(package)
