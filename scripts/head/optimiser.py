"""What moves a head's parameters: Muon for the matrices inside, AdamW for the output layer and the norms.

Muon (Jordan et al. 2024, as PyTorch has it) takes of a matrix's momentum the nearest orthogonal matrix; its steps are
scaled to be as large as AdamW's (arXiv 2502.16982), so that one learning rate serves both. Imported by train.py.
"""

from collections.abc import Mapping

import torch

from head import Head

# What each keeps of a parameter, by PyTorch's names.
MUON_STATE = ("momentum_buffer",)
ADAMW_STATE = ("step", "exp_avg", "exp_avg_sq")


class HeadOptimiser:
    def __init__(self, head: Head, weight_decay: float):
        inside = {name: parameter for name, parameter in head.named_parameters() if is_inside(name, parameter)}
        rest = {name: parameter for name, parameter in head.named_parameters() if name not in inside}
        muon = torch.optim.Muon(
            inside.values(), weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        )
        adamw = torch.optim.AdamW(rest.values(), betas=(0.9, 0.95), weight_decay=weight_decay)
        self.parts = ((muon, inside, MUON_STATE), (adamw, rest, ADAMW_STATE))

    def step(self, learning_rate: float) -> None:
        """Moves the parameters by their gradients, which are used up."""
        for optimiser, _, _ in self.parts:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
            optimiser.step()
            optimiser.zero_grad()

    def state(self) -> dict[str, torch.Tensor]:
        """What is needed to go on, each tensor as `KIND.PARAMETER`."""
        return {
            f"{kind}.{name}": value
            for optimiser, parameters, _ in self.parts
            for name, parameter in parameters.items()
            for kind, value in optimiser.state.get(parameter, {}).items()
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Goes on from what `state` gave after at least one step; a KeyError names what is missing."""
        for optimiser, parameters, kinds in self.parts:
            for name, parameter in parameters.items():
                state = {kind: tensors[f"{kind}.{name}"] for kind in kinds}
                # AdamW's count of steps is a scalar that stays on the CPU.
                optimiser.state[parameter] = {
                    kind: value.to(parameter.device) if value.dim() else value for kind, value in state.items()
                }


def is_inside(name: str, parameter: torch.Tensor) -> bool:
    return parameter.dim() == 2 and not name.startswith("lm_head")
