"""Trees for EAGLE's own code, on a small draft model that has its signatures (SafeAILab/EAGLE at cb7e084).

crates/ltd-python/bench/steer_eagle.py runs that code itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import ltd_policy
import numpy as np
import pytest
import torch
from ltd_policy.eagle import as_eagle_verifies, steering

VOCABULARY, DRAFT_VOCABULARY, HIDDEN, ROOM = 64, 40, 12, 400


@pytest.fixture()
def exact() -> Iterator[None]:
    """In double precision: sums in another order must not tell paths apart."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class DraftModel(torch.nn.Module):
    """What steering() uses of `Model` (eagle/model/cnets.py): one layer of attention with a cache and a tree mask."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(3)

        def weights(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=random)

        self.config = SimpleNamespace(vocab_size=VOCABULARY, draft_vocab_size=DRAFT_VOCABULARY)
        self.embedding, self.places = weights(VOCABULARY, HIDDEN), weights(2 * ROOM, HIDDEN)
        self.fc, self.keys, self.values = weights(3 * HIDDEN, HIDDEN), weights(HIDDEN, HIDDEN), weights(HIDDEN, HIDDEN)
        self.head, self.norm = 2.0 * weights(HIDDEN, DRAFT_VOCABULARY), torch.nn.LayerNorm(HIDDEN)
        self.lm_head, self.logsoftmax = lambda hidden: hidden @ self.head, torch.nn.LogSoftmax(dim=-1)
        spread = torch.randperm(VOCABULARY, generator=random)[:DRAFT_VOCABULARY].sort().values
        self.d2t = spread - torch.arange(DRAFT_VOCABULARY)
        self.reset_kv()

    def reset_kv(self) -> None:
        self.stable_kv = self.tree_mask = None

    def topK_genrate(self, hidden_states, input_ids, head, logits_processor):
        raise AssertionError("EAGLE's own trees")

    @torch.no_grad()
    def forward(
        self,
        hidden_states,
        input_ids,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
    ):
        count = input_ids.shape[1]
        assert hidden_states.shape[:2] == input_ids.shape and use_cache
        before = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        places = torch.arange(before, before + count)[None] if position_ids is None else position_ids
        hidden = hidden_states[0] @ self.fc if hidden_states.shape[-1] == 3 * HIDDEN else hidden_states[0]
        x = torch.tanh(hidden + self.embedding[input_ids[0]] + self.places[places[0]])
        keys, values = (x @ self.keys)[None, None], (x @ self.values)[None, None]
        if past_key_values is not None:
            keys = torch.cat((past_key_values[0][0], keys), dim=2)
            values = torch.cat((past_key_values[0][1], values), dim=2)
        sees = torch.ones(count, before + count).tril(before)
        if self.tree_mask is not None:
            rows, columns = self.tree_mask.shape[2:]
            sees[-rows:, -columns:] *= self.tree_mask[0, 0]
        weight = torch.softmax((x @ keys[0, 0].T).masked_fill(sees == 0, -1e9), dim=-1)
        return (x + weight @ values[0, 0])[None], ((keys, values),)


class Recorded:
    """A sequence of a policy, with the levels that were pushed and what was decided."""

    def __init__(self, sequence: ltd_policy.Sequence) -> None:
        self._sequence, self.levels, self.source = sequence, [], None

    def __getattr__(self, name: str):
        return getattr(self._sequence, name)

    def begin(self) -> ltd_policy.Source:
        self.levels, self.source = [], self._sequence.begin()
        return self.source

    def push_level(self, log_probs: np.ndarray, tokens: np.ndarray) -> None:
        self.levels.append((log_probs, tokens))
        self._sequence.push_level(log_probs, tokens)


class RecordingPolicy:
    def __init__(self, policy: ltd_policy.Policy) -> None:
        self.policy, self.beam_width = policy, policy.beam_width

    def sequence(self, prompt: list[int], root: int) -> Recorded:
        self.latest = Recorded(self.policy.sequence(prompt, root))
        return self.latest


class Reference:
    """The same draft model without trees or a cache: each node's path is read from the beginning of the text."""

    def __init__(self, policy: ltd_policy.Policy, text: list[int]) -> None:
        self.layer, self.width = DraftModel(), policy.beam_width
        self.sequence = Recorded(policy.sequence(text[:-1], text[-1]))

    def next_tree(self, text: list[int]) -> ltd_policy.Verification:
        paths = [[]] if self.sequence.begin().drafts else []
        while paths:
            levels = [self._continuations(text, path) for path in paths]
            self.sequence.push_level(*(torch.stack(numbers).numpy() for numbers in zip(*levels)))
            if not self.sequence.continue_drafting():
                break
            parents, tokens = self.sequence.frontier_parents, self.sequence.frontier_tokens
            paths = [[*paths[parent], token] for parent, token in zip(parents.tolist(), tokens.tolist())]
        return self.sequence.verification()

    def _continuations(self, text: list[int], path: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, cache = self.layer(features_of(text[:-1]), input_ids=torch.tensor([text[1:]]), use_cache=True)
        for token in path:
            ids = torch.tensor([[token]])
            hidden, cache = self.layer(hidden[:, -1:], input_ids=ids, past_key_values=cache, use_cache=True)
        log_probs = self.layer.logsoftmax(self.layer.lm_head(self.layer.norm(hidden[0, -1])))
        best = torch.topk(log_probs.detach(), self.width)
        return best.values.float(), best.indices + self.layer.d2t[best.indices]


def make_model() -> SimpleNamespace:
    """What steering() uses of `EaModel` (eagle/model/ea_model.py)."""
    caches = [torch.zeros(2, 1, 1, ROOM, 1)]
    return SimpleNamespace(use_eagle3=True, ea_layer=DraftModel(), past_key_values_data=caches)


def next_token(text: list[int]) -> int:
    """The target: it says the same sentences again and again, with some changes."""
    return (7 * (len(text) % 13) + (text[-1] if len(text) % 29 == 0 else 5)) % VOCABULARY


def features_of(text: list[int]) -> torch.Tensor:
    random = torch.Generator().manual_seed(4)
    return torch.randn(VOCABULARY, 3 * HIDDEN, generator=random)[text][None]


def accepted_of(tokens: list[int], paths: list[list[int]], text: list[int]) -> list[int]:
    """What a target accepts of the best path."""
    best: list[int] = []
    for path in paths:
        said = list(text)
        for row in path[1:]:
            if row < 0 or tokens[row] != next_token(said):
                break
            said.append(tokens[row])
        best = max(best, said[len(text) :], key=len)
    return best


def generate(model: SimpleNamespace, prompt: list[int], length: int) -> Iterator[tuple[list[int], tuple]]:
    """EAGLE's loop: the text with the root, and the tree that is verified after it."""
    model.ea_layer.reset_kv()
    text, read = [*prompt, next_token(prompt)], 0
    while len(text) < length:
        new = features_of(text[read:-1])
        read = len(text) - 1
        tree = model.ea_layer.topK_genrate(new, input_ids=torch.tensor([text]), head=None, logits_processor=None)
        yield list(text), tree
        text += accepted_of(tree[0][0].tolist(), tree[1].tolist(), text)
        text.append(next_token(text))


def test_trees_are_those_of_a_draft_model_that_reads_every_path_alone(policy: ltd_policy.Policy, exact: None) -> None:
    model, recording, seen = make_model(), RecordingPolicy(policy), []
    with steering(model, recording):
        for _ in range(2):
            reference, before, decided = None, [], []
            for text, found in generate(model, prompt=list(range(20)), length=250):
                if reference is None:
                    reference = Reference(policy, text)
                else:
                    reference.sequence.commit(text[len(before) : -1], text[-1])
                before, expected = text, reference.next_tree(text)
                levels = recording.latest.levels
                assert len(levels) == len(reference.sequence.levels)
                for (log_probs, tokens), (of_paths, tokens_of_paths) in zip(levels, reference.sequence.levels):
                    assert np.allclose(log_probs, of_paths, atol=1e-5) and (tokens == tokens_of_paths).all()
                for one, other in zip(found, as_eagle_verifies(expected)):
                    assert one.dtype == other.dtype and torch.equal(one, other)
                source = recording.latest.source.kind
                decided.append((source, len(levels), len(expected)))
                # What was not drafted from is not read in the next generation.
                if len(text) > 200 and source == "copy":
                    break
            assert source == "copy"
            seen.append(decided)
    assert seen[0] == seen[1]
    # One and the same decision everywhere would tell nothing.
    sources, levels, sizes = (set(kind) for kind in zip(*seen[0]))
    assert {"tree", "copy"} <= sources and max(levels) >= 3 and len(levels) >= 3 and len(sizes) > 2, seen[0]


def test_a_tree_as_eagle_verifies_it(policy: ltd_policy.Policy) -> None:
    sequence, width = policy.sequence([1, 2, 3], 4), policy.beam_width
    sequence.begin()
    sequence.push_level(-torch.arange(1.0, width + 1)[None].numpy(), torch.arange(width).numpy())
    rows = len(sequence.frontier_tokens)
    # The second node's children are the best.
    log_probs = -torch.arange(1.0, width + 1).repeat(rows, 1)
    log_probs[1] /= 1000.0
    sequence.push_level(log_probs.numpy(), torch.arange(rows * width).numpy())
    tree = sequence.verification(at_most=4)
    tokens, paths, mask, depths = as_eagle_verifies(tree)
    assert tokens.tolist() == [tree.tokens.tolist()] and depths.tolist() == tree.depths.tolist()
    assert mask.dtype == torch.float32 and mask[0, 0].bool().tolist() == tree.mask().tolist()
    longest = int(depths.max()) + 1
    parents, leaves = tree.parents.tolist(), set(range(len(tree))) - set(tree.parents.tolist())
    # In the order in which EAGLE sorts them where it samples.
    assert paths.tolist() == sorted(paths.tolist(), key=lambda path: [row if row >= 0 else 99 for row in path])
    assert paths.shape == (len(leaves), longest) and longest == 3
    for path in paths.tolist():
        rows = [row for row in path if row >= 0]
        assert path == rows + [-1] * (longest - len(rows))
        # A path has the rows that its leaf sees, each below the one before it.
        assert [parents[row] for row in rows] == [-1, *rows[:-1]] and rows[-1] in leaves
        assert rows == mask[0, 0, rows[-1]].nonzero().flatten().tolist()
    # Nothing is proposed: a step of plain decoding.
    sequence.begin_copy(0)
    tokens, paths, mask, depths = as_eagle_verifies(sequence.verification())
    assert (tokens.tolist(), paths.tolist(), mask.tolist(), depths.tolist()) == ([[4]], [[0]], [[[[1.0]]]], [0])


def test_there_are_no_more_candidates_than_the_caches_have_room_for(policy: ltd_policy.Policy) -> None:
    model = make_model()
    text = [1, 2, 3, 4]
    for cells, candidates in [(3, 0), (4, 0), (6, 2), (60, None)]:
        model.past_key_values_data = [torch.zeros(2, 1, 1, 60, 1), torch.zeros(2, 1, 1, cells, 1)]
        model.ea_layer.reset_kv()
        with steering(model, policy):
            tokens, *_ = model.ea_layer.topK_genrate(features_of(text[:-1]), torch.tensor([text]), None, None)
        found = tokens.shape[1] - 1
        assert found == candidates if candidates is not None else found > 2


def test_what_does_not_fit_is_refused(policy: ltd_policy.Policy) -> None:
    model = make_model()
    text = torch.tensor([[1, 2, 3, 4]])
    with steering(model, policy):
        draft = model.ea_layer.topK_genrate
        with pytest.raises(RuntimeError, match="it drafts by a policy already"):
            with steering(model, policy):
                pass
        with pytest.raises(ValueError, match="input_ids: expected one sequence, found 2"):
            draft(features_of([1, 2, 3]), text.repeat(2, 1), None, None)
        # A generation that began outside.
        with pytest.raises(RuntimeError, match="found 2 for 4 tokens: a generation must begin and end within"):
            draft(features_of([2, 3]), text, None, None)
        draft(features_of([1, 2, 3]), text, None, None)
        with pytest.raises(RuntimeError, match="found 2 for 5 tokens"):
            draft(features_of([2, 3]), torch.tensor([[1, 2, 3, 4, 5]]), None, None)
    # Outside, trees are EAGLE's again, whatever happened inside.
    with pytest.raises(AssertionError, match="EAGLE's own trees"):
        model.ea_layer.topK_genrate(features_of([1, 2, 3]), text, None, None)
    model.use_eagle3 = False
    with pytest.raises(ValueError, match="expected a draft model of EAGLE-3"):
        with steering(model, policy):
            pass
