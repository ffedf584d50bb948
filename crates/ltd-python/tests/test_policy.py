"""Packages: what is told of them, and what is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import ltd_policy
import numpy as np
import pytest
from programs import DRAFT, ROOT, TARGET


def test_a_package_tells_what_it_is(package: Path, policy: ltd_policy.Policy) -> None:
    manifest = json.loads(policy.manifest_json)
    assert manifest == json.loads((package / "manifest.json").read_text())
    assert policy.kind == package.name
    assert (policy.beam_width, policy.max_depth, policy.chooses_source) == (10, 7, True)
    assert package.name in repr(policy)
    if policy.kind == "factored":
        table = policy.latency
        assert table.verify_ms(8, 64) > 0.0 and table.root_ms(1, 64) > 0.0 and table.level_ms(1, 4, 64) > 0.0
    else:
        assert policy.latency is None


def test_models_are_told_apart(policy: ltd_policy.Policy) -> None:
    target, draft = (ltd_policy.model_sha256(ROOT / folder) for folder in (TARGET, DRAFT))
    policy.check_models(target=target, draft=draft)
    policy.check_models()
    policy.check_models(target=target.upper())
    with pytest.raises(ltd_policy.PackageError, match="sum of the draft to compare with is `dec38f`, expected 64"):
        policy.check_models(draft="dec38f")
    with pytest.raises(
        ltd_policy.PackageError, match="its target is smollm2-135m-instruct .*, that of this program is " + draft[:12]
    ):
        policy.check_models(target=draft)
    with pytest.raises(FileNotFoundError, match="expected one of model.safetensors"):
        ltd_policy.model_sha256(ROOT)


def test_other_conditions_are_a_warning(package: Path) -> None:
    with pytest.warns(UserWarning, match="dtype bf16 .here: f32."):
        ltd_policy.Policy.load(package, device="cpu", dtype="f32", temperature=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ltd_policy.Policy.load(package, device="cpu", dtype="bf16", threads=2, temperature=0.0, top_k=5)
    for wrong, problem in [
        ({"temperature": -1.0}, "temperature is -1.0, must be"),
        ({"dtype": "bfloat16"}, "dtype is `bfloat16`, must be f32, bf16 or f16"),
        ({"device": "tpu"}, "device is `tpu`, must be cpu or cuda"),
        ({"top_p": 0.9}, "temperature: expected one with top_p or top_k"),
    ]:
        with pytest.raises(ValueError, match=problem):
            ltd_policy.Policy.load(package, **wrong)


def test_damaged_packages_are_refused(package: Path, tmp_path: Path) -> None:
    def changed(name: str, change) -> Path:
        folder = tmp_path / f"{name}-{change.__name__}"
        shutil.copytree(package, folder)
        path = folder / name
        path.write_bytes(change(path.read_bytes()))
        return folder

    def cut(data: bytes) -> bytes:
        return data[: len(data) // 2]

    def newer(data: bytes) -> bytes:
        return json.dumps({**json.loads(data), "format_version": 99}).encode()

    def quirks(data: bytes) -> bytes:
        return json.dumps({**json.loads(data), "compat": "unheard-of"}).encode()

    def unheard_of(data: bytes) -> bytes:
        return data.replace(b'"source": "context_length"', b'"source": "telepathy"')

    with pytest.raises(ltd_policy.PackageError, match="nowhere does not exist"):
        ltd_policy.Policy.load(tmp_path / "nowhere")
    with pytest.raises(ltd_policy.PackageError, match="expected a policy package"):
        ltd_policy.Policy.load(tmp_path)
    for change, problem in [(cut, "manifest.json"), (newer, "99"), (quirks, "unheard-of"), (unheard_of, "telepathy")]:
        with pytest.raises(ltd_policy.PackageError, match=problem):
            ltd_policy.Policy.load(changed("manifest.json", change))
    network = "factored.safetensors" if package.name == "factored" else "size.safetensors"
    with pytest.raises(ltd_policy.PackageError, match="SHA-256|hash"):
        ltd_policy.Policy.load(changed(network, cut))
    with pytest.raises(TypeError):
        ltd_policy.Policy.load(3)


def test_unknown_decisions_are_named(policy: ltd_policy.Policy) -> None:
    scores = np.full(policy.beam_width, -1.0, dtype=np.float32)
    with pytest.raises(ValueError, match='decision: expected (depth, size|factored), found "speed"'):
        policy.observe("speed", scores, 0, 5)
    with pytest.raises(ValueError, match='found "source"'):
        policy.observe("source", scores, 0, 5)
    sequence = policy.sequence([1, 2, 1], 2)
    assert policy.observe_source(sequence).shape == (24 if policy.kind == "factored" else 19,)
