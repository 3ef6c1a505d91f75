"""The loop that trains every network of the small weights: AdamW, a cosine, a running mean of the weights; resumable.

What a network is and what it is asked for is in the modules named after them.
"""

from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


logger = logging.getLogger("demo_weights")

SAVE_SECONDS = 60  # between two states that a killed run goes on from
LOG_SECONDS = 20
KNOWN = 0.5  # how fast parameters go on that were trained before, against new ones


@dataclass(frozen=True)
class Plan:
    """How long and how fast a network learns."""

    steps: int
    learning_rate: float
    warm_up: int = 100
    mean_over: int = 500  # steps of the running mean of the weights, which is what is kept
    seed: int = 0


def fit(
    name: str,
    parameters: Iterable[torch.Tensor],
    plan: Plan,
    loss_at: Callable[[int, random.Random], torch.Tensor],
    folder: Path,
    known: Iterable[torch.Tensor] = (),
) -> None:
    """Train parameters, and leave in them the running mean of what they were; `known` ones more slowly.

    `loss_at(step, draw)` returns the loss; `draw` and torch's global generator are seeded by the step, so a run that
    was stopped goes on as if it had not been. The state lies in `folder`.
    """
    fresh, known = list(parameters), list(known)
    trained: list[torch.Tensor] = [*fresh, *known]
    means = [p.detach().clone() for p in trained]
    groups = [{"params": part, "speed": speed} for part, speed in ((fresh, 1.0), (known, KNOWN)) if part]
    optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / f"{name}.state.pt"
    first = 0
    spent = 0.0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        first, spent = kept["step"], kept["seconds"]
        optimizer.load_state_dict(kept["optimizer"])
        _assign(trained, kept["parameters"])
        _assign(means, kept["means"])
    began = saved = logged = time.monotonic()
    total, count = 0.0, 0
    for step in range(first, plan.steps):
        rate = plan.learning_rate * min((step + 1) / plan.warm_up, 0.5 + 0.5 * math.cos(math.pi * step / plan.steps))
        for group in optimizer.param_groups:
            group["lr"] = group["speed"] * rate
        torch.manual_seed(1_000_003 * plan.seed + step)
        loss = loss_at(step, random.Random(f"{name} {plan.seed} {step}"))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(means, trained, 1 / min(plan.mean_over, 1 + step))
        total, count = total + loss.item(), count + 1
        now = time.monotonic()
        if now - logged > LOG_SECONDS or step + 1 == plan.steps:
            seconds = spent + now - began
            logger.info("%s: step %d of %d, loss %.4f, %.0f s", name, step + 1, plan.steps, total / count, seconds)
            total, count, logged = 0.0, 0, now
        if now - saved > SAVE_SECONDS or step + 1 == plan.steps:
            kept = {"step": step + 1, "seconds": spent + now - began, "optimizer": optimizer.state_dict()}
            torch.save(kept | {"parameters": [p.detach() for p in trained], "means": means}, state.with_suffix(".part"))
            state.with_suffix(".part").rename(state)
            saved = now
    _assign(trained, means)


@torch.no_grad()
def _assign(targets: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)
