"""DPM-Solver++(2M) in float64, from its paper, with Stable Diffusion's noise schedule."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

Predict = Callable[[torch.Tensor, int], torch.Tensor]  # returns the noise in x at timestep t


def alpha_bars() -> np.ndarray:
    """Return the alpha_bar of 1000 timesteps: sqrt(beta) is linear from sqrt(0.00085) to sqrt(0.012).

    Source: the published scheduler_config.json.
    """
    return np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def timesteps_of(steps: int) -> list[int]:
    """Return steps + 1 timesteps, evenly spaced from 999 to 0 and rounded, as in DPM-Solver's own code."""
    return np.linspace(0, 999, steps + 1).round().astype(int)[::-1].tolist()


def plain_dpm_solver(predict: Predict, x: torch.Tensor, steps: int, start: int = 0) -> torch.Tensor:
    """Return the last x of algorithm 2 of Lu et al., arXiv 2211.01095, with x0 = (x - sigma eps) / alpha.

    With fewer than 15 steps the last one is of first order, as in the authors' own code (`lower_order_final`).
    """
    alpha_bar, t = alpha_bars(), timesteps_of(steps)
    alpha, sigma = np.sqrt(alpha_bar[t]), np.sqrt(1 - alpha_bar[t])
    lam = np.log(alpha / sigma)
    x, previous = x.double(), None
    for i in range(start + 1, steps + 1):
        data = (x - sigma[i - 1] * predict(x, t[i - 1])) / alpha[i - 1]
        h = lam[i] - lam[i - 1]
        if previous is None or (i == steps and steps < 15):
            d = data
        else:
            r = (lam[i - 1] - lam[i - 2]) / h
            d = (1 + 1 / (2 * r)) * data - 1 / (2 * r) * previous
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * np.expm1(-h) * d
        previous = data
    return x
