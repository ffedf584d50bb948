#!/usr/bin/env python3
"""Loads what ltd-export writes with the programs that it is for: ONNX Runtime and stable-baselines3.

    scripts/head/python-without-cuda scripts/check_forms.py [--programs FOLDER] [--observations N]

Trains policies of the tiny pair for a few steps, exports the factored policy and the pair, and compares: the logits of
the probes, and the actions at random observations, with those of the safetensors files.
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
from safetensors import safe_open
from stable_baselines3 import PPO
from tiny_pair import ROOT, write_config, write_questions

# As in crates/ltd-export: relative to the largest logit, sums in another order.
TOLERANCE = 1e-4


def expect(holds: bool, problem: str) -> None:
    if not holds:
        sys.exit(f"check_forms: {problem}")


def configuration(folder: Path) -> Path:
    """A run of few steps that leaves a factored policy and a pair."""
    stages = {
        "predictor": {"epochs": 2, "net_arch": [16]},
        "size": {"total_timesteps": 128},
        "depth": {"total_timesteps": 128},
        "rounds": 0,
        "candidates": 1,
    }
    changes = {"replay": {"held_out": 0.3}, "stages": stages}
    return write_config(folder, "forms", write_questions(folder), changes)


class Network:
    """A network of a package, from its safetensors file."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="numpy") as file:
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
                x = np.maximum(x, 0.0)
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


def program(path: Path, *arguments: object) -> None:
    command = [str(path), *(str(argument) for argument in arguments)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    expect(done.returncode == 0, f"{path.name} ended with {done.returncode}: {done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder of the programs")
    parser.add_argument("--observations", type=int, default=10_000, help="random ones (default %(default)s)")
    options = parser.parse_args()
    random = np.random.default_rng(1)
    checked = set()
    with tempfile.TemporaryDirectory(prefix="ltd-forms-") as name:
        folder = Path(name)
        run, config = folder / "run", configuration(folder)
        program(options.programs / "ltd-train", "--config", config, "--run-dir", run)
        stages = sorted(path.name for path in (run / "stages").iterdir())
        for stage in (stages[0], stages[-1]):
            package = folder / stage
            program(options.programs / "ltd-export", "--run", run, "--stage", stage, "--out", package)
            for file in sorted(package.glob("*.safetensors")):
                network = Network(file)
                shape = (options.observations, network.probes.shape[1])
                # Of the size of scores, which most numbers of an observation are.
                observations = random.normal(-1.0, 1.5, shape).astype(np.float32)
                check_onnx(file.with_suffix(".onnx"), network, observations)
                checked.add(f"{file.stem}.onnx")
                archive = file.with_suffix(".sb3.zip")
                expect(archive.exists() == (file.stem in ("depth", "size", "source")), f"{archive}: {archive.exists()}")
                if archive.exists():
                    check_sb3(archive, network, observations)
                    checked.add(archive.name)
    wanted = {"depth.onnx", "depth.sb3.zip", "size.onnx", "size.sb3.zip", "factored.onnx"}
    expect(wanted <= checked, f"{sorted(wanted - checked)} were not exported")
    print(f"ONNX Runtime and stable-baselines3 decide alike: {', '.join(sorted(checked))}")


if __name__ == "__main__":
    main()
