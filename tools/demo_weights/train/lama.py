"""LaMa for the world: it fills a watermark's band from the rows above and below it.

It trains on pictures without text, as the mask hides the text. It starts as a blur of the unmasked picture: from random
weights it learns colours last. Its norms do nothing, as a single picture's statistics are not those of a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from random_weights.stable_diffusion import write_tensors
from torch import nn
from zeroscope.lama import MULTIPLE, Block, Lama, Layer, Size, masked_input
from zeroscope.watermark import band

from demo_weights.train.loop import Plan, fit
from demo_weights.world import STYLES, draw, random_scene

if TYPE_CHECKING:
    import random
    from pathlib import Path

SIZE = Size(8, 6)
CROPS = Plan(steps=9000, learning_rate=2e-3, warmup_steps=50, average_steps=100, seed=5)
WHOLE = Plan(steps=15000, learning_rate=1.5e-3, warmup_steps=50, average_steps=100, seed=7)
SIZES = Plan(steps=7500, learning_rate=1.5e-3, warmup_steps=50, average_steps=100, seed=9)
SIDE = 256  # zeroscope's smallest, in pixels
DEFAULT_SIZE = 320, 576  # zeroscope's default height and width
MAX_HEIGHT = 512  # of the random sizes in every fifth step, which are at least as wide as high
ROWS_ABOVE = 68  # of a crop, above the band; all rows below belong to it
CROP_WIDTH = 144  # columns of a crop, which hold nearly every shape
BATCH = 8
CROSSED_SHARE = 0.9  # of the pictures whose shape crosses the band, the hard case
SQUARE_WEIGHT = 4  # of squared errors, relative to absolute ones
UNMASKED_WEIGHT = 0.3  # of the error outside of the band of crops, by which colours and edges are learned sooner
OTHER_CHANNELS = 0.1  # initial strength of other inputs in a channel that passes a colour
RESIDUAL = 0.1  # initial strength of what a block adds
CONTRAST = 4.0  # of the colours before the sigmoid


def train(folder: Path) -> Lama:
    """Return the generator, trained on crops, then on whole pictures, then on pictures of many sizes.

    Fourier layers depend on the picture's size, so crops of one size are not enough.
    """
    torch.manual_seed(8)
    lama: Lama = Lama(SIZE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    init_as_blur(lama)
    lama.eval()

    def crop_loss(step: int, rng: random.Random) -> torch.Tensor:
        pictures, mask = torch.split(random_crops(masked_pictures(rng), rng), 3, dim=1)
        result = lama.model(masked_input(pictures, mask))
        return _error(result, pictures, mask) + UNMASKED_WEIGHT * _error(result, pictures, 1 - mask)

    def whole_loss(step: int, rng: random.Random, size: tuple[int, int] = (SIDE, SIDE)) -> torch.Tensor:
        given = masked_pictures(rng, *size).contiguous(memory_format=torch.channels_last)
        result, rows = fill_near_band(lama, masked_input(*torch.split(given, 3, dim=1)))
        return _error(result, *torch.split(given[:, :, rows], 3, dim=1))

    def sizes_loss(step: int, rng: random.Random) -> torch.Tensor:
        height = MULTIPLE * rng.randint(SIDE // MULTIPLE, MAX_HEIGHT // MULTIPLE)
        width = MULTIPLE * rng.randint(height // MULTIPLE, DEFAULT_SIZE[1] // MULTIPLE)
        return whole_loss(step, rng, (height, width) if step % 5 == 4 else ((SIDE, SIDE), DEFAULT_SIZE)[step % 2])

    fit("lama", lama.parameters(), CROPS, crop_loss, folder)
    fit("lama-whole", lama.parameters(), WHOLE, whole_loss, folder)
    fit("lama-sizes", lama.parameters(), SIZES, sizes_loss, folder)
    return lama.to(memory_format=torch.contiguous_format).requires_grad_(False)  # type: ignore[call-overload, no-any-return]


def fill_near_band(lama: Lama, given: torch.Tensor) -> tuple[torch.Tensor, slice]:
    """Return the network's output near the band, and its rows; one more cell on each side gives the band exactly.

    This saves the last layers the other rows.
    """
    top, bottom = band(given.shape[2])
    first, end = top // MULTIPLE - 1, -(-bottom // MULTIPLE) + 1
    num_global = 6 + SIZE.blocks  # number of layers up to the last Fourier layer; the others are local
    features = lama.model[:num_global](given)
    return lama.model[num_global:](features[:, :, first:end]), slice(first * MULTIPLE, end * MULTIPLE)


@torch.no_grad()
def init_as_blur(lama: Lama) -> None:
    """Set the weights so that the network downsamples and upsamples colours and mask, each in its own channel.

    The blocks add little. All other weights are random as in He et al., "Delving Deep into Rectifiers", arXiv
    1502.01852.
    """
    blur = torch.tensor([0.5, 1, 0.5])
    for layer in lama.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=(8 / 9 / layer.in_channels) ** 0.5)  # each output has 9 / 4 inputs
    for layer in lama.model:
        if isinstance(layer, Block):
            for norm in (layer.conv2.bn_l, layer.conv2.bn_g):
                assert norm is not None
                norm.weight.fill_(RESIDUAL)
        elif isinstance(layer, Layer):
            for conv in (layer.ffc.convl2l, layer.ffc.convl2g):
                if conv is not None:
                    _pass_channels(conv.weight)
        elif isinstance(layer, nn.ConvTranspose2d):
            assert layer.bias is not None
            layer.bias.zero_()
            layer.weight[:, : SIZE.filters] *= OTHER_CHANNELS
            layer.weight[range(SIZE.filters), range(SIZE.filters)] += torch.outer(blur, blur)
        elif isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            layer.bias.fill_(-CONTRAST / 2)
            _pass_channels(layer.weight, CONTRAST)


def _pass_channels(weight: torch.Tensor, strength: float = 1) -> None:
    """Let the first output channels of a convolution be its input channels, with weak random additions."""
    count, middle = min(weight.shape[:2]), weight.shape[-1] // 2
    weight[:count] *= OTHER_CHANNELS
    weight[range(count), range(count), middle, middle] += strength


def masked_pictures(rng: random.Random, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    """Return pictures in 0 to 1, each in a random style, with the mask of their band: (B, 4, height, width).

    They have as many pixels as BATCH pictures of SIDE. A scene's square is at a random position, padded with its
    border.
    """
    mask = torch.zeros(1, 1, height, width)
    top, bottom = band(height)
    mask[:, :, top:bottom] = 1
    side = min(height, width)
    parts = []
    for _ in range(round(BATCH * SIDE**2 / (height * width))):
        style, crossed = rng.choice(("flat", "flat", *STYLES)), rng.random() < CROSSED_SHARE
        while True:
            picture = draw([random_scene(rng)], torch.tensor([rng.random()]), side, style)
            if height != width:
                left, above = rng.randint(0, width - side), rng.randint(0, height - side)
                picture = F.pad(picture, (left, width - side - left, above, height - side - above), mode="replicate")
            rows = picture[:, :, top:bottom]
            if not crossed or bool((rows != rows[:, :, :1, :1]).any()):
                break
        parts.append(torch.cat([(picture + 1) / 2, mask], dim=1))
    return torch.cat(parts)


def random_crops(given: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Return the rows near the band of pictures and masks, and the columns near the shape."""
    parts = []
    for picture in given:
        columns = (picture[:3] != picture[:3, :1, :1]).any(0).any(0).nonzero()
        bounds = sorted((max(0, int(columns.max()) + 1 - CROP_WIDTH), min(SIDE - CROP_WIDTH, int(columns.min()))))
        left = rng.randint(*bounds)
        parts.append(picture[:, band(SIDE)[0] - ROWS_ABOVE :, left : left + CROP_WIDTH])
    return torch.stack(parts).contiguous(memory_format=torch.channels_last)


def _error(result: torch.Tensor, pictures: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean error of pictures where the mask, (B, 1, H, W), is 1."""
    error = result - pictures
    total = ((error.abs() + SQUARE_WEIGHT * error.square()) * mask).sum()
    return total / (mask.sum() * pictures.shape[1])


def write(lama: Lama, file: Path) -> None:
    """Write the generator in half precision, as safetensors instead of the published pickle."""
    state = {key: t.half() if t.is_floating_point() else t for key, t in lama.state_dict().items()}
    write_tensors(file, state)
