"""The examples of docs/deploy.md run."""

from __future__ import annotations

import re

import ltd_policy
import pytest
import torch
from programs import ROOT, TARGET
from transformers import AutoModelForCausalLM


def test_the_examples_of_the_page_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/deploy.md").read_text()
    cycle, copies = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[:2]
    exec(compile(cycle, "docs/deploy.md", "exec"), {})
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32).eval()
    given = {"ltd_policy": ltd_policy, "model": model}
    given["inputs"] = {"input_ids": torch.tensor([[5, 6, 7, 8] * 3]), "max_new_tokens": 8}
    exec(compile(copies, "docs/deploy.md", "exec"), given)
    assert given["output"].shape == (1, 20)
