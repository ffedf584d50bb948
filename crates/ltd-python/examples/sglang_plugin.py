"""EAGLE-3 in SGLang 0.5.23 with the depth of each tree by a policy, as a plugin. Not run on a GPU here.

    pip install crates/ltd-python/examples    # names `register` as an entry point of sglang.srt.plugins
    LTD_POLICY=policies python -m sglang.launch_server --model-path MODEL --speculative-algorithm LTD_EAGLE3 \\
        --speculative-draft-model-path DRAFT --speculative-eagle-topk 10 --speculative-num-steps 7 \\
        --speculative-num-draft-tokens 61

The policy is asked after each level of a batch's trees. How many tokens are verified does not change: SGLang captures
the verification as a CUDA graph of one width. Its graph for drafting holds all levels, so levels run without one.

What SGLang offers was read in its wheel: sglang/srt/speculative/spec_info.py, spec_registry.py and eagle_worker_v2.py.
What is called of it is listed in tests/fixtures/servers.json.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ltd_policy
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.server_args import ServerArgs

NAME, PACKAGE = "LTD_EAGLE3", "LTD_POLICY"
# The most requests at once where the user names none, as for SGLang's own EAGLE: trees take memory.
MAX_REQUESTS = 48


class Depths:
    """Says when the trees of a batch are deep enough. They share the draft model's forwards, so the majority decides."""

    def __init__(self, policy: ltd_policy.Policy) -> None:
        self.policy = policy
        # One for each tree of a batch. They remember nothing from one cycle to the next.
        self.controllers: list[ltd_policy.Controller] = []
        self.context_lengths: Sequence[int] = ()

    def begin(self, context_lengths: Sequence[int]) -> None:
        """Begins the trees of a batch: tokens before the root of each."""
        self.context_lengths = context_lengths
        missing = len(context_lengths) - len(self.controllers)
        self.controllers += [self.policy.controller() for _ in range(missing)]
        for controller, _ in zip(self.controllers, context_lengths):
            controller.begin_cycle()

    def go_on(self, levels: Sequence[NDArray[np.float32]]) -> bool:
        """Whether to draft one more level. To be asked after each.

        levels: cumulative probabilities of the candidates, [trees, W] of the first level and [trees, W * W] of others.
        """
        probabilities = np.concatenate(levels, axis=1, dtype=np.float32)
        scores = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
        in_favour = sum(
            controller.continue_drafting(of_tree, len(levels) - 1, context_length)
            for controller, of_tree, context_length in zip(self.controllers, scores, self.context_lengths)
        )
        return 2 * in_favour > len(self.context_lengths)


def load_policy() -> ltd_policy.Policy:
    """The policy that the environment names."""
    folder = os.environ.get(PACKAGE)
    if not folder:
        raise ValueError(f"{PACKAGE}: expected the folder of a package in the environment, found none")
    return ltd_policy.Policy.load(folder, device="cuda")


def check(server_args: ServerArgs) -> None:
    """Refuses settings that the policy cannot follow."""
    policy = load_policy()
    width, deepest = policy.beam_width, policy.max_depth + 1
    top_k, steps, tokens = (
        server_args.speculative_eagle_topk,
        server_args.speculative_num_steps,
        server_args.speculative_num_draft_tokens,
    )
    if width == 1:
        # SGLang verifies a chain of as many tokens as there are steps: its length cannot change within a cycle.
        raise ValueError(f"{PACKAGE}: expected a package of trees, found one with a beam width of 1")
    if top_k != width:
        raise ValueError(f"--speculative-eagle-topk: expected {width}, the package's beam width, found {top_k}")
    if steps is None or not 2 <= steps <= deepest:
        raise ValueError(f"--speculative-num-steps: expected 2 to {deepest}, the package's levels, found {steps}")
    most = width + (steps - 1) * width * width
    if tokens is None or not 2 <= tokens <= most + 1:
        raise ValueError(f"--speculative-num-draft-tokens: expected 2 to {most + 1} for {steps} steps, found {tokens}")
    if server_args.speculative_draft_model_path is None:
        raise ValueError("--speculative-draft-model-path: expected a draft model of EAGLE-3, found none")
    for option in ("tp_size", "dp_size", "pp_size"):
        # Ranks draft in step. A last bit that differs could make one of them wait for ever.
        if getattr(server_args, option) != 1:
            flag = "--" + option.replace("_", "-")
            raise ValueError(f"{flag}: expected 1 with {NAME}, found {getattr(server_args, option)}")
    for option in ("speculative_adaptive", "enable_multi_layer_eagle"):
        if getattr(server_args, option):
            raise ValueError(f"--{option.replace('_', '-')}: expected none with {NAME}, which chooses the depth itself")


def register() -> None:
    """Registers the algorithm. SGLang calls this in each of its processes."""
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
    from sglang.srt.speculative.spec_registry import CustomSpecAlgo

    class LearnedEagle3(CustomSpecAlgo):
        """Answers as EAGLE3 does whatever SGLang asks of an algorithm."""

        def handle_server_args(self, server_args: ServerArgs) -> None:
            if server_args.max_running_requests is None:
                server_args.max_running_requests = MAX_REQUESTS

    # All of it, as CustomSpecAlgo lacks some of what the scheduler calls, create_future_map for one.
    for name, method in vars(SpeculativeAlgorithm).items():
        if (
            inspect.isfunction(method)
            and not name.startswith("_")
            and name not in ("create_worker", "handle_server_args")
        ):
            setattr(LearnedEagle3, name, staticmethod(getattr(SpeculativeAlgorithm.EAGLE3, name)))

    @SpeculativeAlgorithm.register(NAME, supports_overlap=True, validate_server_args=check, spec_class=LearnedEagle3)
    def worker(server_args: ServerArgs) -> type:
        return worker_class()


def worker_class() -> type:
    """The worker of EAGLE-3 whose drafts stop where the policy says."""
    # Not before a worker is made: this imports SGLang's kernels.
    from sglang.srt.speculative.eagle_worker_v2 import EagleDraftWorker, EAGLEWorkerV2

    class LearnedDraftWorker(EagleDraftWorker):
        depths: Depths
        capturing = False

        def _capture_cuda_graphs(self) -> None:
            # Captures draft_forward, too. Ours reads numbers back, which a capture refuses.
            self.capturing = True
            super()._capture_cuda_graphs()
            self.capturing = False
            # Without a graph for drafting SGLang calls draft_forward.
            self.cuda_graph_runner = None

        def draft_forward(self, forward_batch: ForwardBatch) -> tuple:
            if self.capturing or forward_batch.forward_mode.is_idle():
                return super().draft_forward(forward_batch)
            return draft_trees(self, self.depths, forward_batch)

    class LearnedWorker(EAGLEWorkerV2):
        def __init__(self, server_args: ServerArgs, gpu_id: int, nccl_port: int, target_worker: object) -> None:
            super().__init__(server_args, gpu_id, nccl_port, target_worker)
            # EAGLEWorkerV2 makes a draft worker of its own class and has no option for another.
            self._draft_worker.__class__ = LearnedDraftWorker
            self._draft_worker.depths = Depths(load_policy())

    return LearnedWorker


def draft_trees(worker: object, depths: Depths, forward_batch: ForwardBatch) -> tuple:
    """Grows the trees of a batch until the policy says so: parents, candidates to verify, their tokens, no probabilities.

    worker: SGLang's draft worker. The cache has room for all of its steps, and those that are left out are not read.
    """
    from sglang.srt.model_executor.forward_context import ForwardContext, forward_context
    from sglang.srt.speculative.eagle_utils import organize_draft_results, per_step_draft_out_cache_loc
    from sglang.srt.speculative.spec_utils import renorm_draft_probs, select_top_k_tokens
    from sglang.srt.utils.common import fast_topk
    from torch.nn.functional import pad

    def in_target_vocabulary(tokens: torch.Tensor) -> torch.Tensor:
        return tokens if worker.hot_token_id is None else worker.hot_token_id[tokens]

    drafted, width, steps = forward_batch.spec_info, worker.topk, worker.speculative_num_steps
    # SGLang's sequence lengths do not count the root, the token that was sampled last.
    depths.begin(forward_batch.seq_lens.tolist())
    places = per_step_draft_out_cache_loc(forward_batch.out_cache_loc, forward_batch.batch_size, width, steps)
    probabilities, tokens, hidden = drafted.topk_p, in_target_vocabulary(drafted.topk_index), drafted.hidden_states
    beam, scores, candidates, parents = None, [], [], []
    while True:
        level = len(scores)
        inputs, hidden, beam, of_level = select_top_k_tokens(level, probabilities, tokens, hidden, beam, width)
        for kept, new in zip((scores, candidates, parents), of_level):
            kept.append(new)
        if len(scores) == steps:
            break
        # The verification has one width, so there must be as many candidates.
        enough = sum(of_one.shape[1] for of_one in candidates) >= worker.speculative_num_draft_tokens - 1
        if not depths.go_on([of_one.flatten(1).cpu().numpy() for of_one in scores]) and enough:
            break
        forward_batch.input_ids = inputs
        forward_batch.out_cache_loc = places[level]
        drafted.hidden_states = hidden
        context = ForwardContext(attn_backend=worker.draft_attn_backend.attn_backends[level])
        with forward_context(context, forward_batch=forward_batch):
            output = worker.draft_runner.forward(forward_batch).logits_output
        distribution = renorm_draft_probs(output.next_token_logits, forward_batch.sampling_info, False)
        probabilities, tokens = fast_topk(distribution, width, dim=-1)
        tokens, hidden = in_target_vocabulary(tokens), output.hidden_states
        forward_batch.positions.add_(1)
        if worker.draft_runner.model_config.model_is_mrope:
            forward_batch.mrope_positions.add_(1)
    verified = worker.speculative_num_draft_tokens
    parent_list, chosen, chosen_tokens = organize_draft_results(scores, candidates, parents, verified)
    # Its kernel takes the distance from one tree's parents to the next one's from the number of steps.
    missing = width * (steps - 1) + 1 - parent_list.shape[1]
    return pad(parent_list, (0, missing), value=-1), chosen, chosen_tokens, None
