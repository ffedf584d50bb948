"""Model folders on disk, as ltd-engine reads and writes them: `config.json`, safetensors, atomic writes.

Imported by the commands of this folder; see docs/head.md.
"""

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

TARGET_ARCHITECTURE = "LlamaForCausalLM"
HEAD_ARCHITECTURE = "LlamaForCausalLMEagle3"
# What a head norms; the first is EAGLE-3.
NORMS = ("eagle3", "eagle3.1")
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
INDEX = "model.safetensors.index.json"
FINGERPRINT_BLOCK = 1 << 20
USAGE_ERROR = 2


class InputError(Exception):
    """Something the user gave is wrong; the message names it, what was expected and what was found."""


def run_command(program: str, main: Callable[[], None]) -> None:
    """Runs a command; an InputError ends it with exit code 2 and one line instead of a traceback."""
    try:
        main()
    except InputError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Nobody else writes to the folder meanwhile; the system sees to it, also that it ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            problem = "another process is writing this folder: wait until it has ended, or choose another one"
            raise InputError(f"{folder}: {problem}") from error
        yield


def write_atomically(path: Path, content: bytes | str) -> None:
    """The file appears complete or not at all, also when the machine goes down in between."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: dict) -> None:
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text, found {error}") from error


def read_json(path: Path) -> dict:
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: expected JSON, found {error.msg}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def check_same(path: Path, found: dict, expected: dict) -> None:
    """Two flat records of settings are equal, or the error names each key that differs, with both values."""
    changed = [
        f"{key} is {found.get(key)!r}, now {expected.get(key)!r}"
        for key in sorted(found.keys() | expected.keys())
        if found.get(key) != expected.get(key)
    ]
    if changed:
        raise InputError(f"{path}: expected the settings it was started with, found: {'; '.join(changed)}")


@dataclass(frozen=True)
class Config:
    """What `config.json` says of a Llama-architecture target, or of a head for one."""

    raw: dict
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    vocabulary: int
    layers: int
    max_positions: int

    @property
    def feature_layers(self) -> tuple[int, int, int]:
        """Layers of a target whose inputs are the head's features."""
        return 2, self.layers // 2, self.layers - 3

    @property
    def draft_vocabulary(self) -> int:
        return self.raw.get("draft_vocab_size") or self.vocabulary

    @property
    def target_hidden(self) -> int:
        return self.raw.get("target_hidden_size") or self.hidden

    @property
    def norms_features(self) -> bool:
        """Whether a head norms each of the three features before `fc` (EAGLE-3.1, arXiv 2605.09992)."""
        return bool(self.raw.get("fc_norm"))

    @property
    def norms_output(self) -> bool:
        """Whether a head norms what the next step reads (EAGLE-3.1)."""
        return bool(self.raw.get("norm_output"))

    def of_head(self, draft_vocabulary: int, dtype: torch.dtype, norms: str = NORMS[0]) -> "Config":
        """Of a head for this target, as wide as one of its layers."""
        changed = {
            "architectures": [HEAD_ARCHITECTURE],
            "num_hidden_layers": 1,
            "draft_vocab_size": draft_vocabulary,
            "tie_word_embeddings": False,
            "torch_dtype": str(dtype).removeprefix("torch."),
        }
        if norms == "eagle3.1":
            changed |= {"fc_norm": True, "norm_output": True}
        return parse_config(Path("config.json"), {**self.raw, **changed}, HEAD_ARCHITECTURE)


def load_config(folder: Path, architecture: str) -> Config:
    path = folder / "config.json"
    return parse_config(path, read_json(path), architecture)


def parse_config(path: Path, raw: dict, architecture: str) -> Config:
    def check(key: str, holds: bool, expected: object, found: object) -> None:
        if not holds:
            raise InputError(f"{path}: {key}: expected {expected}, found {found}")

    def integer(key: str, default: int | None = None) -> int:
        value = raw.get(key) if raw.get(key) is not None else default
        check(key, isinstance(value, int) and value > 0, "a positive number", value)
        return value

    named = raw.get("architectures") or []
    check("architectures", architecture in named, architecture, ", ".join(named) or "nothing")
    for key, only in (("rope_scaling", None), ("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        check(key, raw.get(key, only) == only, repr(only), repr(raw.get(key)))
    hidden, heads = integer("hidden_size"), integer("num_attention_heads")
    config = Config(
        raw=raw,
        hidden=hidden,
        intermediate=integer("intermediate_size"),
        heads=heads,
        kv_heads=integer("num_key_value_heads", heads),
        head_dim=integer("head_dim", hidden // heads),
        rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope_theta=raw.get("rope_theta", 10_000.0),
        vocabulary=integer("vocab_size"),
        layers=integer("num_hidden_layers"),
        max_positions=integer("max_position_embeddings"),
    )
    check("num_key_value_heads", heads % config.kv_heads == 0, f"a divisor of {heads} heads", config.kv_heads)
    check("head_dim", config.head_dim % 2 == 0, "an even number", config.head_dim)
    draft = integer("draft_vocab_size", config.vocabulary)
    check("draft_vocab_size", draft <= config.vocabulary, f"at most {config.vocabulary}", draft)
    if architecture == HEAD_ARCHITECTURE:
        check("num_hidden_layers", config.layers == 1, "1", config.layers)
        for key in ("norm_before_fc", "norm_before_residual"):
            check(key, not raw.get(key), "false (the trainer's heads have no such norm)", raw.get(key))
    else:
        # The feature layers must be distinct and have a layer after them.
        check("num_hidden_layers", config.layers >= 6, "at least 6", config.layers)
    return config


def weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, or the shards that the index names."""
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    if (folder / INDEX).is_file():
        shards = read_json(folder / INDEX).get("weight_map", {}).values()
        return [folder / name for name in sorted(set(shards))]
    raise InputError(f"{folder}: expected model.safetensors or {INDEX}, found neither")


def fingerprint(folder: Path) -> str:
    """Tells models apart without reading gigabytes: config, and size, start and end of each weight file."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(FINGERPRINT_BLOCK))
            file.seek(max(0, size - FINGERPRINT_BLOCK))
            digest.update(file.read())
    return digest.hexdigest()[:16]


class Weights:
    """The tensors of a folder. `take` removes them one by one, `finish` reports what was missing or left over."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.missing: list[str] = []
        self.tensors: dict[str, torch.Tensor] = {}
        for path in weight_files(folder):
            try:
                self.tensors |= load_file(path)
            except (OSError, SafetensorError) as error:
                raise InputError(f"{path}: expected safetensors, found: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, *shape: int) -> torch.Tensor:
        tensor = self.tensors.pop(name, None)
        if tensor is None:
            self.missing.append(name)
            return torch.zeros(shape)
        if tuple(tensor.shape) != shape:
            raise InputError(f"{self.folder}: {name}: expected shape {shape}, found {tuple(tensor.shape)}")
        return tensor

    def discard(self, name: str) -> None:
        self.tensors.pop(name, None)

    def finish(self) -> None:
        if self.missing:
            raise InputError(f"{self.folder}: tensors are missing: {', '.join(self.missing)}")
        if self.tensors:
            raise InputError(f"{self.folder}: unexpected tensors: {', '.join(sorted(self.tensors))}")
