"""A second implementation of LaMa's generator from its definition, in float64, with the published file's tensors.

Plain functions on (B, C, H, W) tensors. Sources: Suvorov et al., arXiv 2109.07161, section 2.1 and figure 2 (the
Fourier convolution); Chi et al., "Fast Fourier Convolution", NeurIPS 2020, figure 2; advimman/lama
configs/training/big-lama.yaml for the order and sizes of the layers. Fourier transforms are sums of waves, without FFT.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F

Weights = Mapping[str, torch.Tensor]
EPSILON = 1e-5  # of the norms


def reference_lama(weights: Weights, pictures: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the generator's output for pictures in [0, 1] and a mask of 0 and 1; sides are multiples of 8."""
    w = {key: value.double() for key, value in weights.items()}
    pictures, mask = pictures.double(), mask.double()
    x = torch.cat([pictures * (1 - mask), mask], dim=1)
    x = F.relu(norm(w, "model.1.bn_l", conv(w, "model.1.ffc.convl2l", x)))
    for index in (2, 3):
        x = F.relu(norm(w, f"model.{index}.bn_l", conv(w, f"model.{index}.ffc.convl2l", x, stride=2)))
    local = F.relu(norm(w, "model.4.bn_l", conv(w, "model.4.ffc.convl2l", x, stride=2)))
    global_ = F.relu(norm(w, "model.4.bn_g", conv(w, "model.4.ffc.convl2g", x, stride=2)))
    index = 5
    while f"model.{index}.conv1.ffc.convl2l.weight" in w:
        inner = fourier_convolution(w, f"model.{index}.conv1", local, global_)
        inner = fourier_convolution(w, f"model.{index}.conv2", *inner)
        local, global_ = local + inner[0], global_ + inner[1]
        index += 1
    x = torch.cat([local, global_], dim=1)
    for up in range(3):
        at = index + 1 + 3 * up
        kernel, bias = w[f"model.{at}.weight"], w[f"model.{at}.bias"]
        x = F.conv_transpose2d(x, kernel, bias, stride=2, padding=1, output_padding=1)
        x = F.relu(norm(w, f"model.{at + 1}", x))
    last = f"model.{index + 11}"
    return torch.sigmoid(conv(w, last, x) + w[f"{last}.bias"].view(-1, 1, 1))


def fourier_convolution(
    w: Weights, name: str, local: torch.Tensor, global_: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a layer's local and global channels; three convolutions, and a spectral transform of the global ones."""
    to_local = conv(w, f"{name}.ffc.convl2l", local) + conv(w, f"{name}.ffc.convg2l", global_)
    to_global = conv(w, f"{name}.ffc.convl2g", local) + spectral(w, f"{name}.ffc.convg2g", global_)
    return F.relu(norm(w, f"{name}.bn_l", to_local)), F.relu(norm(w, f"{name}.bn_g", to_global))


def spectral(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(norm(w, f"{name}.conv1.1", mix_channels(w, f"{name}.conv1.0", x)))
    real, imaginary = fourier_transform(x)
    # The real and imaginary parts of a channel are adjacent channels.
    parts = torch.stack([real, imaginary], dim=2).flatten(1, 2)
    parts = F.relu(norm(w, f"{name}.fu.bn", mix_channels(w, f"{name}.fu.conv_layer", parts)))
    inverse = inverse_transform(parts[:, 0::2], parts[:, 1::2], x.shape[3])
    return mix_channels(w, f"{name}.conv2", x + inverse)


def fourier_transform(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the real and imaginary parts of x's orthonormal transform, with frequencies 0 to W / 2 across."""
    height, width = x.shape[2:]
    across = angles(width, width // 2 + 1)
    down = angles(height, height)
    x = x / math.sqrt(height * width)
    real, imaginary = x @ across.cos().T, -(x @ across.sin().T)
    return down.cos() @ real + down.sin() @ imaginary, down.cos() @ imaginary - down.sin() @ real


def inverse_transform(real: torch.Tensor, imaginary: torch.Tensor, width: int) -> torch.Tensor:
    """Return the picture of a transform; a frequency across counts twice if its negative is omitted."""
    down, across = angles(real.shape[2], real.shape[2]), angles(width, width // 2 + 1)
    real, imaginary = down.cos() @ real - down.sin() @ imaginary, down.cos() @ imaginary + down.sin() @ real
    times = torch.full((width // 2 + 1, 1), 2.0, dtype=torch.float64)
    times[0] = 1
    if width % 2 == 0:
        times[-1] = 1
    return (real @ (times * across.cos()) - imaginary @ (times * across.sin())) / math.sqrt(real.shape[2] * width)


def angles(length: int, count: int) -> torch.Tensor:
    """Return the angle of frequency k at position n, (count, length)."""
    positions = torch.arange(length, dtype=torch.float64)
    return 2 * math.pi * torch.arange(count, dtype=torch.float64)[:, None] * positions / length


def conv(w: Weights, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """Convolve with reflection padding."""
    kernel = w[f"{name}.weight"]
    around = kernel.shape[-1] // 2
    return F.conv2d(F.pad(x, (around,) * 4, mode="reflect"), kernel, stride=stride)


def mix_channels(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return torch.einsum("oi, bihw -> bohw", w[f"{name}.weight"][:, :, 0, 0], x)


def norm(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    mean, variance, scale, shift = (
        w[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + EPSILON).sqrt() * scale + shift
