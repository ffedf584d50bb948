"""The decisions of the Python package are those of the Rust crates."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import cycles
import ltd_policy
import numpy as np
from programs import DRAFT, POLICIES, ROOT, TARGET, run_program
from safetensors import safe_open


def test_a_sequence_decides_as_in_rust(package: Path, policy: ltd_policy.Policy, programs: Path) -> None:
    start, made = cycles.make(policy, 6000, seed=5)
    found, decisions = cycles.steer(policy, start, made)
    assert decisions > 10_000
    lines = run_program(programs / "examples/steer", package, given=cycles.as_lines(start, made)).splitlines()
    expected = [json.loads(line) for line in lines]
    for cycle in expected:
        kind, *chain = re.findall(r"\w+", cycle["source"])
        cycle["source"] = (kind.lower(), int(chain[-1]) if chain else 0)
    assert found == expected
    # One and the same decision everywhere would tell nothing.
    assert len({cycle["source"] for cycle in found}) > 1
    assert policy.kind == "pair" or len({cycle["depth"] for cycle in found}) > 2


def test_observations_are_those_of_the_networks() -> None:
    """The network of the package, on what is observed, gives the decision. (A factored policy weighs it first.)"""
    package = POLICIES / "pair"
    policy = ltd_policy.Policy.load(package)
    random = np.random.default_rng(6)
    networks = {name: layers(package / f"{name}.safetensors") for name in ("depth", "size")}
    sizes = json.loads(policy.manifest_json)["policy"]["pair"]["size"]["learned"]["actions"]["size"]
    controller, width = policy.controller(), policy.beam_width
    for number in range(500):
        depth = number % policy.max_depth
        count = width + depth * width * width
        scores = -random.exponential(random.choice([0.1, 1.0, 5.0]), count).astype(np.float32)
        summary = (scores, depth, int(random.integers(1, 500)))
        go_on = logits(networks["depth"], policy.observe("depth", *summary))
        assert controller.continue_drafting(*summary) == (go_on.argmax() == 1)
        size = sizes[logits(networks["size"], policy.observe("size", *summary)).argmax()]
        assert controller.verification_size(*summary) == size


def layers(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    with safe_open(path, framework="numpy") as file:
        count = sum(name.endswith(".weight") for name in file.keys())
        names = [(f"layers.{layer}.weight", f"layers.{layer}.bias") for layer in range(count)]
        return [(file.get_tensor(weight), file.get_tensor(bias)) for weight, bias in names]


def logits(network: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray) -> np.ndarray:
    for number, (weight, bias) in enumerate(network):
        x = weight @ x + bias
        x = np.maximum(x, 0.0) if number + 1 < len(network) else x
    return x


def test_decisions_of_the_engine_are_repeated_from_its_trees(programs: Path, tmp_path: Path) -> None:
    """The trees of real cycles: what the engine decided there, a controller decides again.

    LTD_ANSWERS says of how many answers; 75 have more than 10,000 decisions.
    """
    package = without_source(POLICIES / "pair", tmp_path / "trees-only")
    policy = ltd_policy.Policy.load(package)
    controller, width, asked, depths = policy.controller(), policy.beam_width, 0, set()
    lines = (ROOT / "data/humaneval.jsonl").read_text().splitlines()[: int(os.environ.get("LTD_ANSWERS", 2))]
    for number, text in enumerate(json.loads(line)["turns"][0] for line in lines):
        dump = tmp_path / f"{number}.safetensors"
        pair = ["--target", ROOT / TARGET, "--draft", ROOT / DRAFT]
        steered = ["--mode", "policy", "--policy", package, "--max-new-tokens", 120, "--dump-trees", dump]
        run_program(programs / "ltd-decode", *pair, *steered, text)
        with safe_open(dump, framework="numpy") as file:
            for cycle in range(int(file.metadata()["cycles"])):
                scores, context, selected = (
                    file.get_tensor(f"cycle.{cycle}.{name}") for name in ("scores", "prefix_len", "selected")
                )
                reached = (len(scores) - width) // width**2
                controller.begin_cycle()
                for depth in range(reached + 1):
                    seen = scores[: width + depth * width * width]
                    assert controller.continue_drafting(seen, depth, int(context[0])) == (depth < reached)
                    asked += 1
                assert controller.verification_size(scores, reached, int(context[0])) == len(selected)
                depths.add(reached)
                asked += 1
    print(f"{asked} decisions at recorded trees")
    assert asked > 60 * len(lines) / 2 and len(depths) > 2, (asked, depths)


def without_source(package: Path, to: Path) -> Path:
    """The pair with trees alone: dumps have no copies."""
    to.mkdir()
    manifest = json.loads((package / "manifest.json").read_text())
    dropped = manifest["policy"]["pair"]["source"]["learned"]["file"]
    manifest["policy"]["pair"]["source"] = "trees"
    del manifest["files"][dropped]
    for name in manifest["files"]:
        (to / name).write_bytes((package / name).read_bytes())
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to
