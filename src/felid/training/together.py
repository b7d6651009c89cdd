"""What processes that train one model together tell each other: gradients and losses of a step, random states at a checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from felid.distributed import add_up, each, from_main, world


def own_share(batch: NDArray[np.int64]) -> tuple[NDArray[np.int64], float]:
    """This process's examples of a batch, and what their loss counts.

    A batch with fewer examples than processes leaves some without any: such a process takes the first one, which counts nothing,
    so that it computes what all others do.
    """
    here = world()
    own = batch[here.rank :: here.size]
    return (own, 1.0) if len(own) else (batch[:1], 0.0)


def start_alike(model: nn.Module) -> None:
    """Give all processes the main one's weights: processors differ in the last bits of what they draw."""
    for parameter in model.parameters():
        from_main(parameter.data)


def add_up_step(model: nn.Module, parts: dict[str, Tensor], counts: float) -> dict[str, Tensor]:
    """Sum the gradients of all processes in place, and their losses; what this process has counts `counts`.

    One message carries both, as float32. A parameter that no process has a gradient of keeps having none, as in one process,
    where the optimizer then leaves it alone.

    Returns:
        The sums of `parts`, whose names must be the same in all processes.
    """
    if world().size == 1:
        return parts
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    losses = torch.stack([part.detach().float() for part in parts.values()])
    sizes = [len(losses), len(used), *(gradient.numel() for gradient in gradients)]
    message = torch.cat([losses, used, *(gradient.flatten().float() for gradient in gradients)])
    losses, used, *summed = add_up(message.mul_(counts)).split(sizes)
    for parameter, is_used, gradient in zip(parameters, used.tolist(), summed, strict=True):
        parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if is_used else None
    return dict(zip(parts, losses, strict=True))


def seed_process(seed: int, step: int = 0) -> None:
    """Seed torch's generator: the main process as a single one would be, the others each in a way of their own."""
    rank = world().rank
    torch.manual_seed(seed if not rank else int(np.random.SeedSequence((seed, rank, step)).generate_state(1)[0]))


def random_states() -> dict[str, Any]:
    """States of torch's CPU generator: `rng` in the main process, `rng_others` in the rest where there are some."""
    main, *others = each(torch.get_rng_state())
    return {"rng": main, "rng_others": others} if others else {"rng": main}


def restore_random_state(state: dict[str, Any], seed: int, step: int) -> None:
    """Go on from what `random_states` noted; a process that was not there then gets a seed of its own."""
    known = [state["rng"], *state.get("rng_others", [])]
    if world().rank < len(known):
        torch.set_rng_state(known[world().rank])
    else:
        seed_process(seed, step)
