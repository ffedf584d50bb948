"""Learned policies for speculative decoding, in engines written in Python.

A package that ltd-export wrote decides when a draft model stops drafting, how many candidates the target verifies, and
what to draft from. Nothing here needs PyTorch.

    import ltd_policy

    policy = ltd_policy.Policy.load("policies", device="cpu", dtype="bf16")
    policy.check_models(target=ltd_policy.model_sha256("models/target"))
    sequence = policy.sequence(prompt_ids, root=first_token)
    while True:
        source = sequence.begin()
        if source.drafts:
            ...  # push_level(log_probs, tokens) while continue_drafting()
        tree = sequence.verification()
        ...  # the target verifies tree.tokens under tree.mask()
        sequence.commit(accepted_tokens, next_token)
"""

from ltd_policy._fingerprint import model_sha256
from ltd_policy._native import (
    Controller,
    CopySource,
    Latency,
    Occurrence,
    PackageError,
    Policy,
    Sequence,
    SequenceError,
    Source,
    Verification,
    __version__,
)

__all__ = [
    "Controller",
    "CopySource",
    "Latency",
    "Occurrence",
    "PackageError",
    "Policy",
    "Sequence",
    "SequenceError",
    "Source",
    "Verification",
    "__version__",
    "model_sha256",
]
