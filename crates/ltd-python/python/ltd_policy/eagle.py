"""EAGLE-3's own Python code (SafeAILab/EAGLE at cb7e084), with trees by a policy.

    model = EaModel.from_pretrained(base_model_path=target, ea_model_path=draft)
    policy = ltd_policy.Policy.load("policies")
    with steering(model, policy):
        output = model.eagenerate(input_ids, temperature=0.0)

The policy decides how deep a tree is, how many candidates are verified, and whether a cycle copies from the text in
place of a tree, or adds a copy to it. The models, the verification, the sampling and the caches stay EAGLE's. Greedy
text stays the same, up to where EAGLE stops: that is after the cycle that reaches the limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

import ltd_policy

# What EAGLE's `topK_genrate` returns: tokens of all rows [1, rows], the rows of each path from the root to a leaf
# [leaves, longest], which rows each row sees [1, 1, rows, rows], and the depths of the rows [rows].
Tree = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@contextmanager
def steering(model: torch.nn.Module, policy: ltd_policy.Policy) -> Iterator[None]:
    """Within it, model.eagenerate(...) and model.ea_generate(...) draft by the policy.

    model: an EaModel with an EAGLE-3 draft model. Its `depth` and `top_k` are not used meanwhile, and its `total_tokens`
    only say how close to `max_length` EAGLE stops.
    """
    if not model.use_eagle3:
        raise ValueError("model: expected a draft model of EAGLE-3, found one of EAGLE-1 or 2 (use_eagle3=False)")
    layer = model.ea_layer
    if "topK_genrate" in vars(layer):
        raise RuntimeError("model: it drafts by a policy already")
    layer.topK_genrate = _Growth(model, policy).next_tree
    try:
        yield
    finally:
        del layer.topK_genrate


def as_eagle_verifies(tree: ltd_policy.Verification, device: torch.device | None = None) -> Tree:
    """A tree in the form in which EAGLE verifies one. Tokens and depths are on the device, as there."""
    paths = torch.tensor(_paths(tree.parents.tolist()))
    mask = torch.from_numpy(tree.mask()).float()[None, None]
    tokens = torch.from_numpy(tree.tokens.astype(np.int64))[None].to(device)
    return tokens, paths, mask, torch.from_numpy(tree.depths).to(device)


def _paths(parents: list[int]) -> list[list[int]]:
    """The rows from the root to each leaf, -1 behind the end: best candidates first, as EAGLE samples."""
    paths = []
    for leaf in set(range(len(parents))).difference(parents):
        path = [leaf]
        while parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        paths.append(path[::-1])
    longest = max(len(path) for path in paths)
    # No path is the beginning of another one, so the order does not depend on what is behind the end.
    return [path + [-1] * (longest - len(path)) for path in sorted(paths)]


class _Growth:
    """The trees of one generation after another."""

    def __init__(self, model: torch.nn.Module, policy: ltd_policy.Policy) -> None:
        self.model, self.layer, self.policy = model, model.ea_layer, policy
        self.sequence: ltd_policy.Sequence | None = None
        # Tokens that the sequence knows, and the target's features that the draft model has not read: it reads nothing
        # in cycles that copy.
        self.known, self.unread = 0, []

    @torch.no_grad()
    def next_tree(
        self, hidden_states: torch.Tensor, input_ids: torch.Tensor, head: object, logits_processor: object
    ) -> Tree:
        """What `topK_genrate` is called with: the features of the latest tokens, and the text with the next root."""
        self._read(hidden_states, input_ids)
        if self.sequence.begin().drafts:
            self._draft(input_ids)
        return as_eagle_verifies(self.sequence.verification(at_most=self._room()), hidden_states.device)

    def _read(self, features: torch.Tensor, input_ids: torch.Tensor) -> None:
        count, length = features.shape[1], input_ids.shape[1]
        if input_ids.shape[0] != 1:
            raise ValueError(f"input_ids: expected one sequence, found {input_ids.shape[0]}")
        # The features of everything before the root: a generation begins.
        if count == length - 1:
            *prompt, root = input_ids[0].tolist()
            self.sequence, self.unread = self.policy.sequence(prompt, root), []
        elif self.sequence is not None and count == length - self.known:
            *accepted, root = input_ids[0, self.known :].tolist()
            self.sequence.commit(accepted, root)
        else:
            raise RuntimeError(
                f"expected the features of a whole prompt, or those since the last tree, found {count} for {length} "
                "tokens: a generation must begin and end within steering(), and end before another one begins"
            )
        self.known = length
        self.unread.append(features)

    def _room(self) -> int:
        """Candidates for which EAGLE's caches of the target have room beside the root."""
        caches = min(cache.shape[-2] for cache in self.model.past_key_values_data)
        return max(caches - self.sequence.context_length - 1, 0)

    def _draft(self, input_ids: torch.Tensor) -> None:
        layer, sequence = self.layer, self.sequence
        # The draft model reads each feature with the token after it.
        text = input_ids[:, 1:].to(self.unread[0].device)
        cache = layer.stable_kv
        read = 0 if cache is None else cache[0][0].shape[2]
        layer.tree_mask = None
        hidden, cache = layer(
            torch.cat(self.unread, dim=1), input_ids=text[:, read:], past_key_values=cache, use_cache=True
        )
        layer.stable_kv, self.unread = cache, []
        hidden, position = hidden[:, -1:], text.shape[1]
        # Which of the nodes drafted so far each node of a level sees.
        seen = hidden.new_zeros((1, 1, 1, 0))
        while True:
            sequence.push_level(*self._continuations(hidden))
            if not sequence.continue_drafting():
                return
            parents = torch.from_numpy(sequence.frontier_parents).to(hidden.device)
            tokens = torch.from_numpy(sequence.frontier_tokens.astype(np.int64)).to(hidden.device)
            itself = torch.eye(len(parents), dtype=seen.dtype, device=seen.device)[None, None]
            seen = layer.tree_mask = torch.cat((seen[:, :, parents], itself), dim=3)
            hidden, cache = layer(
                hidden[:, parents],
                input_ids=tokens[None],
                past_key_values=cache,
                position_ids=torch.full_like(tokens, position)[None],
                use_cache=True,
            )
            position += 1

    def _continuations(self, hidden: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Log-probs and tokens of each row's best continuations, best first."""
        layer = self.layer
        log_probs = layer.logsoftmax(layer.lm_head(layer.norm(hidden[0])))
        log_probs, tokens = torch.topk(log_probs, self.policy.beam_width, dim=-1)
        if layer.config.vocab_size != layer.config.draft_vocab_size:
            tokens = tokens + layer.d2t[tokens]
        return log_probs.float().cpu().numpy(), tokens.cpu().numpy()
