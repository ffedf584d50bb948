"""Cross-entropy to a target's probabilities, some rows at a time.

Matrices of rows by vocabulary in f32, of which the plain formula writes and reads a dozen, would be most of a training's
memory and a good part of its time. Imported by train.py and supervision.py; see docs/head.md.
"""

import torch


def rows_at_once(device: torch.device) -> int:
    """Few enough for a CPU's cache; as many as keep another device busy."""
    return 64 if device.type == "cpu" else 1024


class SoftCrossEntropy(torch.autograd.Function):
    """`-sum p log softmax(logits)` over all rows of `logits` `[n, vocabulary]`.

    The probabilities of row `i` are `probabilities[rows[i]]`; they may add up to less than 1. The gradient is computed
    on the way and kept in the type of the logits.
    """

    @staticmethod
    def forward(ctx, logits: torch.Tensor, probabilities: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), device=logits.device)
        gradient = torch.empty_like(logits)
        count = rows_at_once(logits.device)
        for part, some, of_part in zip(logits.split(count), rows.split(count), gradient.split(count)):
            log_q, p = part.float().log_softmax(-1), probabilities[some]
            total -= (p * log_q).sum()
            of_part.copy_(log_q.exp_().mul_(p.sum(-1, keepdim=True)).sub_(p))
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx, scale: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None, None
