"""Which model a folder holds, as packages name it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

# In order of preference, as Hugging Face lays models out: one file, or shards with an index.
LAYOUTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


def model_sha256(folder: str | Path) -> str:
    """SHA-256 over a model folder's configuration and weights, to compare with that of a package."""
    folder = Path(folder)
    sums = hashlib.sha256()
    for path in [folder / "config.json", *_weights(folder)]:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                sums.update(block)
    return sums.hexdigest()


def _weights(folder: Path) -> list[Path]:
    for single, index in LAYOUTS:
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            shards = json.loads((folder / index).read_text())["weight_map"].values()
            return [folder / name for name in sorted(set(shards))]
    names = ", ".join(name for layout in LAYOUTS for name in layout)
    raise FileNotFoundError(f"{folder}: expected one of {names}, found none")
