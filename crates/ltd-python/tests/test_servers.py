"""The examples for vLLM and SGLang: what they are called with and call, against the signatures of named versions.

fixtures/servers.json holds these signatures, with the files that they were read in. Neither server is installed: small
stand-ins of theirs have the same signatures, and refuse every other call.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import sys
import types
from collections.abc import Callable
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path

import ltd_policy
import numpy as np
import pytest
import torch
from programs import POLICIES, ROOT, TARGET

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import sglang_plugin  # noqa: E402
import vllm_proposer  # noqa: E402

SERVERS = json.loads((Path(__file__).parent / "fixtures/servers.json").read_text())
STEP_MS = {"1": 8.0, "8": 8.4, "64": 20.0}


def signature(text: str) -> inspect.Signature:
    return inspect.signature(eval(f"lambda {text[1:-1]}: None"))


def checked(text: str, function: Callable) -> Callable:
    """The function, for calls that the signature allows."""

    def call(*arguments, **named):
        bound = signature(text).bind(*arguments, **named)
        bound.apply_defaults()
        return function(*bound.args, **bound.kwargs)

    return call


@pytest.fixture(scope="module")
def factored() -> ltd_policy.Policy:
    return ltd_policy.Policy.load(POLICIES / "factored")


# vLLM


def vllm_config(
    drafts: int = 16, longest: int = 256, model: str = "a/name", **settings: object
) -> types.SimpleNamespace:
    """As much of a VllmConfig as the fixture lists."""
    own = {"package": str(POLICIES / "factored"), "step_ms": STEP_MS} | settings
    return types.SimpleNamespace(
        additional_config={"ltd_policy": own},
        speculative_config=types.SimpleNamespace(
            num_speculative_tokens=drafts, num_speculative_tokens_per_batch_size=None
        ),
        model_config=types.SimpleNamespace(max_model_len=longest, model=model),
    )


def proposer(**config: object) -> vllm_proposer.LearnedCopies:
    with pytest.warns(UserWarning, match="a/name: no folder"):
        return vllm_proposer.LearnedCopies(vllm_config(**config))


class Engine:
    """Rows of requests as vLLM's input batch has them."""

    def __init__(self, longest: int = 256, rows: int = 8) -> None:
        self.texts: list[list[int]] = []
        self.longest, self.rows = longest, rows
        # What earlier requests left behind.
        self.tokens = np.full((rows, longest), 77, dtype=np.int32)

    def step(self, proposer: vllm_proposer.LearnedCopies, sampled: list[list[int]]) -> list[list[int]]:
        """Adds what was sampled to each row, and asks for drafts."""
        lengths = np.zeros(self.rows, dtype=np.int32)
        for row, (text, new) in enumerate(zip(self.texts, sampled)):
            text += new
            self.tokens[row, : len(text)], lengths[row] = text, len(text)
        return proposer.propose(sampled, lengths, self.tokens, slot_mappings=None)


def repeating(first: int, length: int) -> list[int]:
    """A text that says five tokens over and over."""
    return [first + place % 5 for place in range(length)]


def test_vllm_calls_what_the_class_has() -> None:
    published = SERVERS["vllm"]["signatures"]
    for name, function in [
        ("constructor", vllm_proposer.LearnedCopies),
        ("propose", vllm_proposer.LearnedCopies.propose),
    ]:
        theirs = signature(published[name]["signature"])
        bound = [p.name for p in theirs.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        named = [p.name for p in theirs.parameters.values() if p.kind is p.KEYWORD_ONLY]
        itself = ["proposer"] if name == "propose" else []
        inspect.signature(function).bind(*itself, *bound, **dict.fromkeys(named))
        # Positions mean what their names say.
        ours = [p for p in inspect.signature(function).parameters if p != "self"]
        assert ours[: len(bound)] == bound


def test_the_configuration_of_the_test_is_vllms() -> None:
    def fields(part: object, prefix: str = "") -> set[str]:
        found = set()
        for name, value in vars(part).items():
            found.add(prefix + name)
            if isinstance(value, types.SimpleNamespace):
                found |= fields(value, f"{prefix}{name}.")
        return found

    assert fields(vllm_config()) == set(SERVERS["vllm"]["fields"])


def test_a_proposal_is_what_the_sequence_says(factored: ltd_policy.Policy) -> None:
    ours, engine = proposer(), Engine()
    engine.texts = [repeating(10, 40)]
    sequence = factored.sequence(repeating(10, 40), 10)
    sampled = [[10]]
    tokens, spent_ms, chain = 1.0, ours.step_ms(1), []
    # Wrong tokens now and then.
    for step in range(12):
        if step:
            tokens, spent_ms = 0.95 * tokens + len(sampled[0]), 0.95 * spent_ms + ours.step_ms(1 + len(chain))
        chain = engine.step(ours, sampled)[0]
        lengths, expected = sequence.expected_of_chains()
        # Alone, and with times of its own, no other length is worth more.
        rate = tokens / spent_ms
        assert ours.tokens / ours.spent_ms == pytest.approx(rate)
        worth = {0: -rate * ours.step_ms(1)} | {
            int(length): float(accepted) - rate * ours.step_ms(1 + int(length))
            for length, accepted in zip(lengths, expected)
            if length <= 16
        }
        best = max(worth, key=lambda length: worth[length])
        sequence.begin_copy(best)
        assert chain == sequence.verification().tokens[1:].tolist(), step
        accepted = chain if step % 4 else chain[:1]
        following = 10 + (len(engine.texts[0]) + len(accepted)) % 5 if step % 4 else 60 + step
        sequence.commit(accepted, following)
        sampled = [[*accepted, following]]
    assert max(len(text) for text in engine.texts) > 60


def test_requests_come_move_and_go(factored: ltd_policy.Policy) -> None:
    ours, engine = proposer(), Engine()
    engine.texts = [repeating(10, 30), repeating(20, 35), repeating(30, 30)]
    drafts = engine.step(ours, [[10], [20], [30]])
    assert all(drafts)
    known = [request.copies for request in ours.requests]

    # The first ends, and the last takes its row.
    second, third = engine.texts[1], engine.texts[2]
    engine.texts = [third, second]
    drafts = engine.step(ours, [[*drafts[2], 30 + len(third + drafts[2]) % 5], [99]])
    assert [request.copies for request in ours.requests] == [known[2], known[1]]
    assert drafts[0] and drafts[1] == []

    # A new one whose prompt is read in two steps, while another row pauses.
    engine.texts = [third, repeating(40, 50)]
    drafts = engine.step(ours, [[30 + len(third) % 5], []])
    assert drafts[0] and drafts[1] == []
    assert [request.copies for request in ours.requests] == [known[2]]
    drafts = engine.step(ours, [[30 + len(third) % 5], [40]])
    assert all(drafts)
    # That one came back: its text is read afresh.
    engine.texts = [second, third]
    engine.step(ours, [[20], [98]])
    assert [request.copies is known[2] for request in ours.requests] == [False, True]
    assert ours.requests[0].copies.known == len(second)


def test_requests_of_one_text_have_sequences_of_their_own() -> None:
    ours, engine = proposer(), Engine()
    engine.texts = [repeating(10, 30), repeating(10, 30)]
    engine.step(ours, [[10], [10]])
    first, second = (request.copies for request in ours.requests)
    assert first is not second
    engine.step(ours, [[11], [50]])
    assert [request.copies for request in ours.requests] == [first, second]
    # A new one whose prompt is the text of another.
    engine.texts.append(list(engine.texts[0]))
    engine.step(ours, [[12], [51], [12]])
    assert [request.copies for request in ours.requests][:2] == [first, second]
    assert ours.requests[2].copies is not first


def test_finished_requests_are_forgotten() -> None:
    ours, engine = proposer(), Engine()
    engine.texts = [repeating(10, 30), repeating(20, 30)]
    engine.step(ours, [[10], [20]])
    engine.texts = engine.texts[:1]
    engine.step(ours, [[11]])
    assert len(ours.requests) == 1
    engine.texts = []
    assert engine.step(ours, []) == []
    assert ours.requests == []


def test_a_step_that_was_not_told_makes_a_text_a_new_one() -> None:
    ours, engine = proposer(), Engine()
    engine.texts = [repeating(10, 30)]
    engine.step(ours, [[10]])
    before = ours.requests[0].copies
    # vLLM does not ask while a text of the batch is near its longest.
    engine.texts[0] += [11, 12]
    assert engine.step(ours, [[13]])[0][:2] == [14, 10]
    assert ours.requests[0].copies is not before
    assert ours.requests[0].copies.known == 34


def test_drafts_fit_what_is_left_and_what_vllm_expects() -> None:
    for longest, most in [(256, 5), (36, 3), (33, 0)]:
        ours, engine = proposer(drafts=5, longest=longest), Engine(longest)
        engine.texts = [repeating(10, 31)]
        assert len(engine.step(ours, [[11]])[0]) <= most
    # The shortest length among which the policy chooses is the longest that fits.
    ours, engine = proposer(drafts=2), Engine()
    engine.texts = [repeating(10, 31)]
    assert engine.step(ours, [[11]]) == [[12, 13]]


def test_a_longer_batch_drafts_less() -> None:
    def drafted(requests: int) -> float:
        ours, engine = proposer(step_ms={"1": 8.0, "4": 8.1, "8": 40.0}), Engine()
        engine.texts = [repeating(10 * row, 31) for row in range(requests)]
        return sum(map(len, engine.step(ours, [[10 * row + 1] for row in range(requests)]))) / requests

    assert drafted(1) > drafted(8)


def test_a_chain_costs_what_it_adds_to_those_above() -> None:
    ours, engine = proposer(step_ms={"1": 8.0, "9": 8.1, "17": 90.0}), Engine()
    engine.texts = [repeating(10, 31), repeating(20, 31)]
    first, second = engine.step(ours, [[11], [21]])
    assert len(first) > len(second)


def test_times_between_measured_ones_lie_on_lines() -> None:
    times = vllm_proposer.StepTimes({"1": 10.0, "3": 14.0, "5": 15.0})
    assert [times(tokens) for tokens in (1, 2, 3, 4, 5, 9)] == [10.0, 12.0, 14.0, 14.5, 15.0, 17.0]
    # Noise must not make more tokens cheaper than fewer.
    assert vllm_proposer.StepTimes({"1": 10.0, "3": 9.0})(8) == 9.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_ms": 5}, "ltd_policy.step_ms: expected numbers of tokens with milliseconds, found 5"),
        ({"step_ms": {"2": 1.0, "4": 2.0}}, "step_ms: expected times of 1 token and of more, found"),
        ({"step_ms": {"1": 1.0}}, "step_ms: expected times of 1 token and of more, found"),
        ({"step_ms": {"1": 1.0, "2": 0.0}}, "step_ms: expected milliseconds above 0, found"),
        ({"other": 1}, "ltd_policy: expected an object with package and step_ms, found .*other"),
        ({"package": str(POLICIES / "pair")}, "expected a factored policy that chooses what to draft from"),
        ({"drafts": 1}, "num_speculative_tokens: expected 2 or more, the shortest chain of .*, found 1"),
        ({"model": str(ROOT / "tests/fixtures/tiny-pair/target")}, "target"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vllm_proposer.LearnedCopies(vllm_config(**settings))


def test_other_configurations_are_refused() -> None:
    config = vllm_config()
    config.additional_config = {}
    with pytest.raises(ValueError, match="ltd_policy: expected an object with package and step_ms, found None"):
        vllm_proposer.LearnedCopies(config)
    config = vllm_config()
    config.speculative_config.num_speculative_tokens_per_batch_size = [(1, 8, 4)]
    with pytest.raises(ValueError, match="num_speculative_tokens_per_batch_size: expected none with this proposer"):
        vllm_proposer.LearnedCopies(config)


def test_the_package_is_of_the_model() -> None:
    """No warning: the folder was compared."""
    vllm_proposer.LearnedCopies(vllm_config(model=str(ROOT / TARGET)))


# SGLang


@pytest.fixture(scope="module")
def pair() -> ltd_policy.Policy:
    return ltd_policy.Policy.load(POLICIES / "pair")


class Draft:
    """A draft model whose distributions follow from the token and the level; SGLang's worker and runner at once."""

    def __init__(self, policy: ltd_policy.Policy, steps: int, verified: int, sharpness: float) -> None:
        self.topk, self.speculative_num_steps, self.speculative_num_draft_tokens = policy.beam_width, steps, verified
        self.hot_token_id = torch.arange(VOCABULARY) + OFFSET
        self.draft_attn_backend = types.SimpleNamespace(attn_backends=[f"backend {step}" for step in range(steps)])
        self.draft_runner = self
        self.model_config = types.SimpleNamespace(model_is_mrope=False)
        self.forward = checked("(forward_batch)", self._forward)
        self.sharpness, self.levels = sharpness, []

    def logits(self, token: int) -> torch.Tensor:
        noise = torch.Generator().manual_seed(int(token))
        return self.sharpness * torch.randn(VOCABULARY, generator=noise)

    def _forward(self, batch: types.SimpleNamespace) -> types.SimpleNamespace:
        assert batch.spec_info.hidden_states.shape[0] == len(batch.input_ids) == len(batch.out_cache_loc)
        self.levels.append((ForwardContexts.active, batch.input_ids.tolist(), batch.out_cache_loc.tolist()))
        logits = torch.stack([self.logits(token) for token in batch.input_ids])
        # Hidden states that say which row they are of.
        hidden = batch.input_ids[:, None].float()
        return types.SimpleNamespace(
            logits_output=types.SimpleNamespace(next_token_logits=logits, hidden_states=hidden)
        )


VOCABULARY, OFFSET = 64, 1000


class ForwardContexts:
    active: str | None = None


@contextmanager
def in_context(context: types.SimpleNamespace, forward_batch: object):
    assert ForwardContexts.active is None and forward_batch is not None
    ForwardContexts.active = context.attn_backend
    yield
    ForwardContexts.active = None


def select(level, probabilities, tokens, hidden, beam, width):
    """The nodes that a level expands, and its candidates, by what SGLang's function returns."""
    trees = len(probabilities) if level == 0 else len(beam)
    if level == 0:
        parents = torch.arange(-1, width).expand(trees, -1)
        inputs, hidden = tokens.flatten(), hidden.repeat_interleave(width, dim=0)
        return inputs, hidden, probabilities, (probabilities[:, None], tokens, parents)
    products = beam[:, :, None] * probabilities.view(trees, width, width)
    best, places = products.flatten(1).topk(width)
    tokens = tokens.reshape(trees, width * width)
    rows = (torch.arange(trees)[:, None] * width + places // width).flatten()
    parents = places + width + width * width * (level - 1)
    return tokens.gather(1, places).flatten(), hidden[rows], best, (products, tokens, parents)


def organize(scores, tokens, parents, verified):
    assert sum(part.shape[1] for part in tokens) >= verified - 1
    nothing = torch.empty((len(scores[0]), 0), dtype=torch.long)
    return torch.cat([nothing, *parents[:-1]], dim=1), scores, tokens


class Algorithm(Enum):
    """SGLang's, with the methods that the fixture names."""

    EAGLE3 = auto()
    NONE = auto()


@pytest.fixture()
def sglang(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Stand-ins of the modules that the example imports."""
    published, registered = SERVERS["sglang"]["signatures"], {}

    def stand_in(path: str, value: object) -> None:
        module, _, name = path.rpartition(".")
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            above = ".".join(parts[:end])
            if above not in sys.modules:
                monkeypatch.setitem(sys.modules, above, types.ModuleType(above))
        setattr(sys.modules[module], name, value)

    def function(path: str, stand: Callable) -> None:
        stand_in(path, checked(published[path], stand))

    class CustomSpecAlgo:
        def __init__(self, *arguments, **named):
            signature(published["sglang.srt.speculative.spec_registry.CustomSpecAlgo"]).bind(*arguments, **named)

        def is_eagle(self) -> bool:
            return False

    def register(name, supports_overlap, validate_server_args, spec_class):
        def decorate(factory):
            algorithm = spec_class(
                name=name,
                factory=factory,
                supports_overlap=supports_overlap,
                validate_server_args=validate_server_args,
            )
            registered[name] = (algorithm, factory, validate_server_args)
            return factory

        return decorate

    for name in SERVERS["sglang"]["methods"]["names"]:
        monkeypatch.setattr(Algorithm, name, answer_of(name), raising=False)
    registration = "sglang.srt.speculative.spec_info.SpeculativeAlgorithm.register"
    keywords = checked(
        published[registration],
        lambda name, **named: register(name, **named),
    )
    monkeypatch.setattr(Algorithm, "register", keywords, raising=False)
    stand_in("sglang.srt.speculative.spec_info.SpeculativeAlgorithm", Algorithm)
    stand_in("sglang.srt.speculative.spec_registry.CustomSpecAlgo", CustomSpecAlgo)

    class EagleDraftWorker:
        cuda_graph_runner = cuda_graph_runner_for_draft_extend = None

        def _capture_cuda_graphs(self):
            self.captured = self.draft_forward(None)
            self.cuda_graph_runner = self.cuda_graph_runner_for_draft_extend = "a graph"

        def draft_forward(self, forward_batch):
            return "of SGLang"

    class EAGLEWorkerV2:
        def __init__(self, *arguments, **named):
            signature(published["sglang.srt.speculative.eagle_worker_v2.EAGLEWorkerV2"]).bind(*arguments, **named)
            self._draft_worker = EagleDraftWorker()

    stand_in("sglang.srt.speculative.eagle_worker_v2.EagleDraftWorker", EagleDraftWorker)
    stand_in("sglang.srt.speculative.eagle_worker_v2.EAGLEWorkerV2", EAGLEWorkerV2)
    function("sglang.srt.speculative.eagle_utils.organize_draft_results", organize)
    function(
        "sglang.srt.speculative.eagle_utils.per_step_draft_out_cache_loc",
        lambda places, trees, width, steps: places.view(trees, width, steps).permute(2, 0, 1).reshape(steps, -1),
    )
    function("sglang.srt.speculative.spec_utils.select_top_k_tokens", select)
    function(
        "sglang.srt.speculative.spec_utils.renorm_draft_probs",
        lambda logits, sampling, rejection: logits.softmax(-1),
    )
    function("sglang.srt.utils.common.fast_topk", lambda values, topk, dim: values.topk(topk, dim=dim))
    function(
        "sglang.srt.model_executor.forward_context.ForwardContext",
        lambda attn_backend, _: types.SimpleNamespace(attn_backend=attn_backend),
    )
    function("sglang.srt.model_executor.forward_context.forward_context", in_context)
    return types.SimpleNamespace(registered=registered, draft_worker=EagleDraftWorker)


def answer_of(name: str) -> Callable:
    return lambda self, *_: (name, self)


def batch_of(draft: Draft, roots: list[int], contexts: list[int]) -> types.SimpleNamespace:
    best = torch.stack([draft.logits(root) for root in roots]).softmax(-1).topk(draft.topk)
    places = len(roots) * draft.topk * draft.speculative_num_steps
    return types.SimpleNamespace(
        forward_mode=types.SimpleNamespace(is_idle=lambda: False),
        spec_info=types.SimpleNamespace(
            topk_p=best.values, topk_index=best.indices, hidden_states=torch.zeros(len(roots), 1)
        ),
        batch_size=len(roots),
        seq_lens=torch.tensor(contexts),
        out_cache_loc=torch.arange(places),
        positions=torch.tensor(contexts).repeat_interleave(draft.topk),
        sampling_info=None,
    )


def depth_alone(policy: ltd_policy.Policy, draft: Draft, root: int, context: int) -> int:
    """How deep the policy wants a tree, by numbers in NumPy."""
    controller, width = policy.controller(), policy.beam_width
    controller.begin_cycle()

    def continuations(token: int) -> tuple[np.ndarray, np.ndarray]:
        log_probs = draft.logits(token).double().log_softmax(-1).numpy()
        best = np.argsort(-log_probs)[:width]
        return log_probs[best], best + OFFSET

    of_level, tokens = continuations(root)
    scores, beam, depth = [of_level], (of_level, tokens), 0
    while depth < draft.speculative_num_steps - 1 and controller.continue_drafting(
        np.concatenate(scores).astype(np.float32), depth, context
    ):
        pairs = [continuations(token) for token in beam[1]]
        of_level = np.concatenate([score + log_probs for score, (log_probs, _) in zip(beam[0], pairs)])
        tokens = np.concatenate([of_one for _, of_one in pairs])
        scores.append(of_level)
        best = np.argsort(-of_level)[:width]
        beam, depth = (of_level[best], tokens[best]), depth + 1
    return depth


def test_trees_are_as_deep_as_the_policy_wants(sglang: types.SimpleNamespace, pair: ltd_policy.Policy) -> None:
    depths = sglang_plugin.Depths(pair)
    found = set()
    for root in range(12):
        for sharpness in (0.2, 3.0):
            draft = Draft(pair, pair.max_depth + 1, 2, sharpness)
            batch = batch_of(draft, [root], [100 + root])
            parents, scores, _, probabilities = sglang_plugin.draft_trees(draft, depths, batch)
            assert probabilities is None
            # As wide as those of the deepest tree.
            assert parents.shape == (1, pair.max_depth * pair.beam_width + 1)
            assert len(scores) - 1 == len(draft.levels) == depth_alone(pair, draft, root, 100 + root)
            found.add(len(draft.levels))
    assert len(found) > 1, found


def test_the_majority_of_a_batch_decides() -> None:
    class Wants:
        def __init__(self, depth: int) -> None:
            self.depth = depth

        def begin_cycle(self) -> None: ...

        def continue_drafting(self, scores: np.ndarray, draft_depth: int, context_length: int) -> bool:
            assert scores.dtype == np.float32 and context_length == 9
            return draft_depth < self.depth

    depths = sglang_plugin.Depths(types.SimpleNamespace(controller=None))
    depths.controllers = [Wants(1), Wants(1), Wants(5), Wants(5)]
    levels = [np.full((3, 2), 0.5, np.float32)]
    depths.begin([9, 9, 9])
    assert depths.go_on(levels)
    levels.append(np.zeros((3, 4), np.float32))
    assert not depths.go_on(levels)
    # A draw ends it: a level that half of them need is not worth the forward.
    levels = [np.full((4, 2), 0.5, np.float32), np.full((4, 4), 0.1, np.float32)]
    depths.begin([9, 9, 9, 9])
    assert not depths.go_on(levels)


def test_each_tree_of_a_batch_is_its_own(sglang: types.SimpleNamespace, pair: ltd_policy.Policy) -> None:
    draft = Draft(pair, 3, 2, 3.0)
    always = types.SimpleNamespace(begin=lambda contexts: None, go_on=lambda levels: True)
    _, scores, tokens, _ = sglang_plugin.draft_trees(draft, always, batch_of(draft, [3, 4], [50, 60]))
    alone = Draft(pair, 3, 2, 3.0)
    _, of_one, tokens_of_one, _ = sglang_plugin.draft_trees(alone, always, batch_of(alone, [4], [60]))
    for level in range(3):
        torch.testing.assert_close(scores[level][1:], of_one[level])
        assert tokens[level][1:].tolist() == tokens_of_one[level].tolist()
    width = pair.beam_width
    # Each level has its backend and its places in the cache; all steps have room.
    assert [level[0] for level in draft.levels] == ["backend 0", "backend 1"]
    assert draft.levels[1][2] == [3 * node + 1 for node in range(2 * width)]
    assert min(draft.levels[0][1]) >= OFFSET


def test_there_are_as_many_candidates_as_are_verified(sglang: types.SimpleNamespace, pair: ltd_policy.Policy) -> None:
    width = pair.beam_width
    never = types.SimpleNamespace(begin=lambda contexts: None, go_on=lambda levels: False)
    for verified, levels in [(width + 1, 1), (width + 2, 2), (width + width * width + 2, 3)]:
        draft = Draft(pair, 4, verified, 1.0)
        parents, scores, *_ = sglang_plugin.draft_trees(draft, never, batch_of(draft, [3], [50]))
        assert len(scores) == levels
        # The root's row is -1, too; each level but the last has one for each node that it expanded.
        assert (parents[0, 1:] >= 0).sum() == width * (levels - 1)


def test_the_worker_drafts_by_the_policy(
    sglang: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch, pair: ltd_policy.Policy
) -> None:
    monkeypatch.setenv("LTD_POLICY", str(POLICIES / "pair"))
    monkeypatch.setattr(sglang_plugin, "draft_trees", lambda worker, depths, batch: (worker, depths.policy.kind))
    with pytest.warns(UserWarning):
        worker = sglang_plugin.worker_class()(server_args=None, gpu_id=0, nccl_port=1, target_worker=None)
    draft = worker._draft_worker
    assert isinstance(draft, sglang.draft_worker)
    draft._capture_cuda_graphs()
    assert draft.captured == "of SGLang"
    # That of the draft model's reading of accepted tokens stays.
    assert (draft.cuda_graph_runner, draft.cuda_graph_runner_for_draft_extend) == (None, "a graph")
    batch = batch_of(Draft(pair, 3, 2, 1.0), [3], [50])
    assert draft.draft_forward(batch) == (draft, "pair")
    batch.forward_mode.is_idle = lambda: True
    assert draft.draft_forward(batch) == "of SGLang"
    for name in ("_capture_cuda_graphs", "draft_forward"):
        theirs = signature(
            SERVERS["sglang"]["signatures"][f"sglang.srt.speculative.eagle_worker_v2.EagleDraftWorker.{name}"]
        )
        assert list(inspect.signature(getattr(type(draft), name)).parameters) == list(theirs.parameters)


def test_the_algorithm_answers_as_eagle3(sglang: types.SimpleNamespace) -> None:
    sglang_plugin.register()
    algorithm, factory, validate = sglang.registered["LTD_EAGLE3"]
    own = {"create_worker", "handle_server_args"}
    for name in set(SERVERS["sglang"]["methods"]["names"]) - own:
        assert getattr(algorithm, name)() == (name, Algorithm.EAGLE3), name
    assert not hasattr(algorithm, "create_worker")
    assert validate is sglang_plugin.check
    args = types.SimpleNamespace(max_running_requests=None)
    algorithm.handle_server_args(args)
    assert args.max_running_requests == 48
    args.max_running_requests = 7
    algorithm.handle_server_args(args)
    assert args.max_running_requests == 7


def server_args(**changed: object) -> types.SimpleNamespace:
    args = dict.fromkeys(SERVERS["sglang"]["fields"]["names"]) | {
        "speculative_eagle_topk": 10,
        "speculative_num_steps": 3,
        "speculative_num_draft_tokens": 61,
        "speculative_draft_model_path": "a/draft",
        "tp_size": 1,
        "dp_size": 1,
        "pp_size": 1,
    }
    return types.SimpleNamespace(**args | changed)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"speculative_eagle_topk": 4}, "--speculative-eagle-topk: expected 10, the package's beam width, found 4"),
        ({"speculative_eagle_topk": None}, "--speculative-eagle-topk: expected 10, .* found None"),
        ({"speculative_num_steps": 1}, r"--speculative-num-steps: expected 2 to \d+, the package's levels, found 1"),
        ({"speculative_num_steps": 99}, r"--speculative-num-steps: expected 2 to \d+, the package's levels, found 99"),
        (
            {"speculative_num_draft_tokens": 212},
            "--speculative-num-draft-tokens: expected 2 to 211 for 3 steps, found 212",
        ),
        ({"speculative_draft_model_path": None}, "--speculative-draft-model-path: expected a draft model"),
        ({"tp_size": 2}, "--tp-size: expected 1 with LTD_EAGLE3, found 2"),
        ({"dp_size": 2}, "--dp-size: expected 1 with LTD_EAGLE3, found 2"),
        ({"pp_size": 2}, "--pp-size: expected 1 with LTD_EAGLE3, found 2"),
        ({"speculative_adaptive": True}, "--speculative-adaptive: expected none with LTD_EAGLE3"),
        ({"enable_multi_layer_eagle": True}, "--enable-multi-layer-eagle: expected none with LTD_EAGLE3"),
    ],
)
def test_settings_of_sglang_are_checked(changed: dict, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTD_POLICY", str(POLICIES / "pair"))
    sglang_plugin.check(server_args())
    with pytest.raises(ValueError, match=message):
        sglang_plugin.check(server_args(**changed))


def test_a_package_of_chains_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang_plugin, "load_policy", lambda: types.SimpleNamespace(beam_width=1, max_depth=7))
    with pytest.raises(ValueError, match="LTD_POLICY: expected a package of trees, found one with a beam width of 1"):
        sglang_plugin.check(server_args(speculative_eagle_topk=1))


def test_the_environment_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LTD_POLICY", raising=False)
    with pytest.raises(ValueError, match="LTD_POLICY: expected the folder of a package in the environment, found none"):
        sglang_plugin.load_policy()


def test_sglang_finds_the_plugin() -> None:
    project = (EXAMPLES / "pyproject.toml").read_text()
    group = SERVERS["sglang"]["plugins"]["group"]
    named = project.split(f'[project.entry-points."{group}"]\n')[1].split("\n")[0]
    name, value = named.replace('"', "").split(" = ")
    found = importlib.metadata.EntryPoint(name, value, group).load()
    assert found is sglang_plugin.register
