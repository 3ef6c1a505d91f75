"""LaMa's generator computed from its definition, on the tensors of the published file as they are, in float64.

The second implementation that tests hold ours to: plain functions on (B, C, H, W) tensors. Sources: Suvorov et al.,
arXiv 2109.07161, section 2.1 and figure 2 (the Fourier convolution), and Chi et al., "Fast Fourier Convolution",
NeurIPS 2020, figure 2; the layers' order and sizes are those of advimman/lama configs/training/big-lama.yaml. Fourier
transforms are sums of waves here, no FFT.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F

Weights = Mapping[str, torch.Tensor]
EPSILON = 1e-5  # of the norms


def reference_lama(weights: Weights, pictures: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return what the generator makes of pictures in 0 to 1 and a mask of 0 and 1; sides are multiples of 8."""
    w = {key: value.double() for key, value in weights.items()}
    pictures, mask = pictures.double(), mask.double()
    x = torch.cat([pictures * (1 - mask), mask], dim=1)
    x = F.relu(norm(w, "model.1.bn_l", conv(w, "model.1.ffc.convl2l", x)))
    for index in (2, 3):
        x = F.relu(norm(w, f"model.{index}.bn_l", conv(w, f"model.{index}.ffc.convl2l", x, stride=2)))
    local = F.relu(norm(w, "model.4.bn_l", conv(w, "model.4.ffc.convl2l", x, stride=2)))
    other = F.relu(norm(w, "model.4.bn_g", conv(w, "model.4.ffc.convl2g", x, stride=2)))
    index = 5
    while f"model.{index}.conv1.ffc.convl2l.weight" in w:
        inner = fourier_convolution(w, f"model.{index}.conv1", local, other)
        inner = fourier_convolution(w, f"model.{index}.conv2", *inner)
        local, other = local + inner[0], other + inner[1]
        index += 1
    x = torch.cat([local, other], dim=1)
    for up in range(3):
        at = index + 1 + 3 * up
        kernel, bias = w[f"model.{at}.weight"], w[f"model.{at}.bias"]
        x = F.conv_transpose2d(x, kernel, bias, stride=2, padding=1, output_padding=1)
        x = F.relu(norm(w, f"model.{at + 1}", x))
    last = f"model.{index + 11}"
    return torch.sigmoid(conv(w, last, x) + w[f"{last}.bias"].view(-1, 1, 1))


def fourier_convolution(
    w: Weights, name: str, local: torch.Tensor, other: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer on local and global channels: three convolutions, and the spectral transform from global to global."""
    to_local = conv(w, f"{name}.ffc.convl2l", local) + conv(w, f"{name}.ffc.convg2l", other)
    to_other = conv(w, f"{name}.ffc.convl2g", local) + spectral(w, f"{name}.ffc.convg2g", other)
    return F.relu(norm(w, f"{name}.bn_l", to_local)), F.relu(norm(w, f"{name}.bn_g", to_other))


def spectral(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(norm(w, f"{name}.conv1.1", mixed(w, f"{name}.conv1.0", x)))
    real, imaginary = waves(x)
    # a channel's real and imaginary part stand beside each other
    parts = torch.stack([real, imaginary], dim=2).flatten(1, 2)
    parts = F.relu(norm(w, f"{name}.fu.bn", mixed(w, f"{name}.fu.conv_layer", parts)))
    made = picture(parts[:, 0::2], parts[:, 1::2], x.shape[3])
    return mixed(w, f"{name}.conv2", x + made)


def waves(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the real and imaginary parts of x's waves, 0 to W / 2 across; here and back has the same factor."""
    height, width = x.shape[2:]
    across = turns(width, width // 2 + 1)
    down = turns(height, height)
    x = x / math.sqrt(height * width)
    real, imaginary = x @ across.cos().T, -(x @ across.sin().T)
    return down.cos() @ real + down.sin() @ imaginary, down.cos() @ imaginary - down.sin() @ real


def picture(real: torch.Tensor, imaginary: torch.Tensor, width: int) -> torch.Tensor:
    """Return the picture of such waves: those across whose negatives are not there count twice."""
    down, across = turns(real.shape[2], real.shape[2]), turns(width, width // 2 + 1)
    real, imaginary = down.cos() @ real - down.sin() @ imaginary, down.cos() @ imaginary + down.sin() @ real
    times = torch.full((width // 2 + 1, 1), 2.0, dtype=torch.float64)
    times[0] = 1
    if width % 2 == 0:
        times[-1] = 1
    return (real @ (times * across.cos()) - imaginary @ (times * across.sin())) / math.sqrt(real.shape[2] * width)


def turns(length: int, count: int) -> torch.Tensor:
    """Return the angle of wave k at place n, (count, length)."""
    places = torch.arange(length, dtype=torch.float64)
    return 2 * math.pi * torch.arange(count, dtype=torch.float64)[:, None] * places / length


def conv(w: Weights, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """Convolve a picture that goes on as its mirror image."""
    kernel = w[f"{name}.weight"]
    around = kernel.shape[-1] // 2
    return F.conv2d(F.pad(x, (around,) * 4, mode="reflect"), kernel, stride=stride)


def mixed(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return torch.einsum("oi, bihw -> bohw", w[f"{name}.weight"][:, :, 0, 0], x)


def norm(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    mean, variance, scale, shift = (
        w[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + EPSILON).sqrt() * scale + shift
