"""transformers with copies of a learned length writes what it writes without, on the default target."""

from __future__ import annotations

import ltd_policy
import pytest
import torch
from ltd_policy.chains import chain_lengths
from ltd_policy.transformers import CopyCandidateGenerator, drafting, measure_forward_ms
from programs import POLICIES, ROOT, TARGET
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = ["def add(a, b):\n    return a + b\n\n\n" * 3, "The quick brown fox jumps over the lazy dog.\n" * 4]


@pytest.fixture(scope="module")
def model():
    # More threads would wait for each other where tests share the cores.
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(ROOT / TARGET, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ROOT / TARGET)


@pytest.fixture(scope="module")
def factored() -> ltd_policy.Policy:
    return ltd_policy.Policy.load(POLICIES / "factored")


def test_text_is_that_of_greedy_decoding(model, tokenizer, factored: ltd_policy.Policy) -> None:
    times = measure_forward_ms(model, factored, context=32, repeats=3)
    forwards = 0
    hook = model.register_forward_hook(lambda *_: count())

    def count() -> None:
        nonlocal forwards
        forwards += 1

    plain_forwards = copied_forwards = 0
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")
        forwards = 0
        expected = model.generate(**ids, do_sample=False, max_new_tokens=40)
        plain_forwards, forwards = plain_forwards + forwards, 0
        with drafting(model, factored, times):
            found = model.generate(**ids, do_sample=False, max_new_tokens=40, prompt_lookup_num_tokens=1)
        copied_forwards += forwards
        assert found.tolist() == expected.tolist()
    hook.remove()
    assert copied_forwards < 0.8 * plain_forwards, (copied_forwards, plain_forwards)
    # Outside, prompt lookup is itself again.
    assert "_get_candidate_generator" not in vars(model)


def test_what_does_not_fit_is_refused(factored: ltd_policy.Policy) -> None:
    for wrong in ({"context": 0}, {"repeats": 0}):
        with pytest.raises(ValueError, match=f"{[*wrong][0]}: expected at least 1, found 0"):
            measure_forward_ms(None, factored, **wrong)
    with pytest.raises(ValueError, match="times: expected a time of each length of chain, found none of .2, "):
        CopyCandidateGenerator(factored, {0: 1.0})
    times = dict.fromkeys([0, *chain_lengths(factored)], 1.0)
    with pytest.raises(ValueError, match="input_ids: expected one sequence, found 2"):
        CopyCandidateGenerator(factored, times).get_candidates(torch.zeros((2, 3), dtype=torch.long))


def test_chains_end_before_the_end_of_the_text(factored: ltd_policy.Policy) -> None:
    times = dict.fromkeys([0, *chain_lengths(factored)], 1.0)
    text = torch.tensor([[5, 6, 7, 8, 9, 5, 6, 7, 8, 9, 5, 6, 7]])
    whole, logits = CopyCandidateGenerator(factored, times).get_candidates(text)
    assert logits is None and whole[0, 13:17].tolist() == [8, 9, 5, 6]
    cut, _ = CopyCandidateGenerator(factored, times, end_tokens=[5]).get_candidates(text)
    assert cut[0, 13:].tolist() == [8, 9]
    cut, _ = CopyCandidateGenerator(factored, times, max_length=15).get_candidates(text)
    assert cut[0, 13:].tolist() == [8]
    alone, _ = CopyCandidateGenerator(factored, times, max_length=14).get_candidates(text)
    assert alone.tolist() == text.tolist()
