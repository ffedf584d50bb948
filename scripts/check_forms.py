#!/usr/bin/env python3
"""Loads what ltd-export writes with the programs that it is for: ONNX Runtime, stable-baselines3 and OpenVINO GenAI.

    scripts/head/python-without-cuda scripts/check_forms.py [--programs FOLDER] [--observations N]

Trains policies of the tiny pair for a few steps, exports the factored policy and the pair, imports policies of the
published code, and compares: the logits of the probes, and the actions at random observations, with those of the
safetensors files. OpenVINO GenAI reads settings of packages that hold constants.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import openvino_genai
from safetensors import safe_open
from stable_baselines3 import PPO
from tiny_pair import ROOT, run_program, train_and_export

# As the published code's policies are saved: scripts/fixtures/official_policies.py.
PUBLISHED = ROOT / "tests/fixtures/official-policies"

# As in crates/ltd-export: relative to the largest logit, sums in another order.
TOLERANCE = 1e-4


def expect(holds: bool, problem: str) -> None:
    if not holds:
        sys.exit(f"check_forms: {problem}")


class Network:
    """A network of a package, from its safetensors file."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="numpy") as file:
            self.activation = json.loads(file.metadata()["policy"]).get("activation", "relu")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        count = sum(name.endswith(".weight") for name in tensors)
        parts = [(tensors[f"layers.{index}.weight"], tensors[f"layers.{index}.bias"]) for index in range(count)]
        self.layers = parts
        self.probes, self.answers = tensors["probe.observations"], tensors["probe.logits"]

    def logits(self, observations: np.ndarray) -> np.ndarray:
        x = observations
        for index, (weight, bias) in enumerate(self.layers):
            x = x @ weight.T + bias
            if index + 1 < len(self.layers):
                x = np.tanh(x) if self.activation == "tanh" else np.maximum(x, 0.0)
        return x

    def compare(self, name: str, expected: np.ndarray, found: np.ndarray) -> None:
        expect(expected.shape == found.shape, f"{name}: shape {found.shape}, expected {expected.shape}")
        scale = np.maximum(1.0, np.abs(expected).max(axis=1, keepdims=True))
        worst = (np.abs(found - expected) / scale).max()
        expect(worst <= TOLERANCE, f"{name}: logits differ by {worst:.2e} of the largest, expected {TOLERANCE}")


def check_onnx(path: Path, network: Network, observations: np.ndarray) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [given], [told] = session.get_inputs(), session.get_outputs()
    width, count = network.probes.shape[1], network.answers.shape[1]
    shapes = ((given.name, given.shape), (told.name, told.shape))
    expect(shapes == (("observation", ["batch", width]), ("logits", ["batch", count])), f"{path}: {shapes}")
    properties = session.get_modelmeta().custom_metadata_map
    expect(json.loads(properties["ltd.layout"])["name"] != "" and "ltd.actions" in properties, f"{path}: {properties}")

    def logits(rows: np.ndarray) -> np.ndarray:
        return session.run(["logits"], {"observation": rows})[0]

    network.compare(f"{path} (probes)", network.answers, logits(network.probes))
    network.compare(f"{path} (one row)", network.answers[:1], logits(network.probes[:1]))
    network.compare(f"{path} (random)", network.logits(observations), logits(observations))


def check_sb3(path: Path, network: Network, observations: np.ndarray) -> None:
    policy = PPO.load(path, device="cpu")
    shape, count = policy.observation_space.shape, policy.action_space.n
    expect((shape, count) == ((observations.shape[1],), network.answers.shape[1]), f"{path}: {shape}, {count} actions")
    logits = network.logits(observations)
    actions, _ = policy.predict(observations, deterministic=True)
    # Where two actions are as good but for rounding, either will do.
    chosen = np.take_along_axis(logits, actions[:, None].astype(int), axis=1)[:, 0]
    worst = (logits.max(axis=1) - chosen).max()
    expect(worst <= TOLERANCE * max(1.0, np.abs(logits).max()), f"{path}: an action is worse by {worst:.2e}")
    expect(len(set(actions.tolist())) > 1, f"{path}: one action at all {len(actions)} observations tells nothing")


def check_package(package: Path, random: np.random.Generator, count: int) -> set[str]:
    """Checks every form of every network; says which files were checked."""
    checked = set()
    for file in sorted(package.glob("*.safetensors")):
        network = Network(file)
        # Of the size of scores, which most numbers of an observation are.
        observations = random.normal(-1.0, 1.5, (count, network.probes.shape[1])).astype(np.float32)
        check_onnx(file.with_suffix(".onnx"), network, observations)
        checked.add(f"{file.stem}.onnx")
        archive = file.with_suffix(".sb3.zip")
        expect(archive.exists() == (file.stem in ("depth", "size", "source")), f"{archive}: {archive.exists()}")
        for form in (archive, file.with_suffix(".official.zip")):
            if form.exists():
                check_sb3(form, network, observations)
                checked.add(form.name)
    return checked


def check_openvino(programs: Path, package: Path, folder: Path) -> None:
    """Settings of constants, and one that neither side accepts."""
    manifest = json.loads((package / "manifest.json").read_text())

    def settings(name: str, width: int, depth: int, size: int, source: object = "trees") -> tuple[int, Path]:
        constants = {"depth": {"constant": {"value": depth}}, "size": {"constant": {"value": size}}, "source": source}
        made = folder / name
        made.mkdir()
        changes = {"beam_width": width, "policy": {"pair": constants}, "fallback": None, "files": {}}
        (made / "manifest.json").write_text(json.dumps(manifest | changes))
        command = [programs / "ltd-export", "--package", made, "--for", "openvino", "--out", made / "settings"]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return done.returncode, made / "settings/openvino.json"

    def load(path: Path) -> openvino_genai.GenerationConfig:
        config = openvino_genai.GenerationConfig(str(path))
        # What ends a text is the model's to say.
        config.set_eos_token_id(2)
        config.validate()
        return config

    copies = {"rule": {"match_length": 1, "chain": 5}}
    for name, arguments, expected in (
        ("tree", (10, 3, 24), {"branching_factor": 10, "tree_depth": 4, "num_assistant_tokens": 24}),
        ("chain", (1, 3, 24), {"branching_factor": 1, "tree_depth": 4, "num_assistant_tokens": 4}),
        ("copies", (10, 3, 2, copies), {"max_ngram_size": 16, "num_assistant_tokens": 5}),
    ):
        code, path = settings(name, *arguments)
        expect(code == 0, f"{name}: ltd-export ended with {code}")
        config = load(path)
        found = {key: getattr(config, key) for key in json.loads(path.read_text())}
        expect(found == expected, f"{name}: OpenVINO GenAI reads {found}, expected {expected}")
        expect(config.is_prompt_lookup() == (name == "copies"), f"{name}: prompt lookup is {config.is_prompt_lookup()}")
    code, _ = settings("refused", 10, 3, 3)
    expect(code == 2, f"a tree with fewer candidates than levels: ltd-export ended with {code}, expected 2")
    refused = folder / "refused.json"
    refused.write_text(json.dumps({"branching_factor": 10, "tree_depth": 4, "num_assistant_tokens": 3}))
    try:
        load(refused)
    except RuntimeError as error:
        expect(
            "num_assistant_tokens >= tree_depth" in str(error), f"OpenVINO GenAI refuses for another reason: {error}"
        )
    else:
        expect(False, "OpenVINO GenAI accepts a tree with fewer candidates than levels")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder of the programs")
    parser.add_argument("--observations", type=int, default=10_000, help="random ones (default %(default)s)")
    options = parser.parse_args()
    random = np.random.default_rng(1)
    checked = set()
    with tempfile.TemporaryDirectory(prefix="ltd-forms-") as name:
        folder, programs = Path(name), options.programs
        imported = folder / "imported"
        archives = ("--depth", PUBLISHED / "depth.zip", "--size", PUBLISHED / "size.zip")
        try:
            packages = train_and_export(folder, programs)
            config = folder / "policies.json"
            run_program(programs / "ltd-export", "import", *archives, "--config", config, "--out", imported)
        except RuntimeError as error:
            sys.exit(f"check_forms: {error}")
        for package in (*packages, imported):
            checked |= check_package(package, random, options.observations)
        for kind in ("depth", "size"):
            # What was saved is what was read.
            network = Network(imported / f"{kind}.safetensors")
            observations = random.normal(-1.0, 1.5, (options.observations, network.probes.shape[1]))
            check_sb3(PUBLISHED / f"{kind}.zip", network, observations.astype(np.float32))
        check_openvino(programs, packages[-1], folder)
    pair = {f"{kind}.{form}" for kind in ("depth", "size", "source") for form in ("onnx", "sb3.zip")}
    wanted = {*pair, "factored.onnx", "depth.official.zip", "size.official.zip"}
    expect(wanted <= checked, f"{sorted(wanted - checked)} were not exported")
    print(
        f"ONNX Runtime and stable-baselines3 decide alike: {', '.join(sorted(checked))}; OpenVINO GenAI reads settings"
    )


if __name__ == "__main__":
    main()
