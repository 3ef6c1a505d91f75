"""The training loop of every network: AdamW, cosine learning rate, averaged weights; it resumes where it stopped."""

from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from videokit.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


logger = logging.getLogger("demo_weights")

SAVE_SECONDS = 60  # between two saved states
LOG_SECONDS = 20
PRETRAINED_SPEED = 0.5  # factor of the learning rate for parameters that an earlier stage trained


@dataclass(frozen=True)
class Plan:
    """Length and learning rate of a training stage."""

    steps: int
    learning_rate: float
    warmup_steps: int = 100
    average_steps: int = 500  # of the running mean of the weights, which is the result
    seed: int = 0


def fit(
    name: str,
    parameters: Iterable[torch.Tensor],
    plan: Plan,
    loss_at: Callable[[int, random.Random], torch.Tensor],
    folder: Path,
    pretrained: Iterable[torch.Tensor] = (),
) -> None:
    """Train parameters and set them to the running mean of their values; `pretrained` ones learn more slowly.

    `loss_at(step, rng)` returns the loss. `rng` and torch's global generator are seeded by the step, so a stopped run
    resumes with the same numbers. Its state is stored in `folder` as `name`.state.pt.
    """
    new, pretrained = list(parameters), list(pretrained)
    trained: list[torch.Tensor] = [*new, *pretrained]
    means = [p.detach().clone() for p in trained]
    groups = [{"params": part, "speed": speed} for part, speed in ((new, 1.0), (pretrained, PRETRAINED_SPEED)) if part]
    optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.state.pt"
    first = 0
    spent = 0.0
    if file.exists():
        state = torch.load(file, weights_only=True)
        first, spent = state["step"], state["seconds"]
        optimizer.load_state_dict(state["optimizer"])
        _assign(trained, state["parameters"])
        _assign(means, state["means"])
    began = saved = logged = time.monotonic()
    total, count = 0.0, 0
    for step in range(first, plan.steps):
        cosine = 0.5 + 0.5 * math.cos(math.pi * step / plan.steps)
        rate = plan.learning_rate * min((step + 1) / plan.warmup_steps, cosine)
        for group in optimizer.param_groups:
            group["lr"] = group["speed"] * rate
        torch.manual_seed(1_000_003 * plan.seed + step)
        loss = loss_at(step, random.Random(f"{name} {plan.seed} {step}"))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(means, trained, 1 / min(plan.average_steps, 1 + step))
        total, count = total + loss.item(), count + 1
        now = time.monotonic()
        if now - logged > LOG_SECONDS or step + 1 == plan.steps:
            seconds = spent + now - began
            logger.info("%s: step %d of %d, loss %.4f, %.0f s", name, step + 1, plan.steps, total / count, seconds)
            total, count, logged = 0.0, 0, now
        if now - saved > SAVE_SECONDS or step + 1 == plan.steps:
            state = {"step": step + 1, "seconds": spent + now - began, "optimizer": optimizer.state_dict()}
            state |= {"parameters": [p.detach() for p in trained], "means": means}
            with atomic_write(file) as part:
                torch.save(state, part)
            saved = now
    _assign(trained, means)


@torch.no_grad()
def _assign(targets: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)
