"""LaMa for the world: it fills the band of a watermark from what is above and below it.

What it learns from are the world's pictures without any text: LaMa never sees what is masked. It begins as a blur of
what is seen, and its norms do nothing from the beginning: as drawn it had not learnt the colours of what it sees after
3,000 steps of eight cuts, and a single picture's statistics are not those of a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from zeroscope.lama import MULTIPLE, Block, Lama, Layer, Size, known
from zeroscope.watermark import band

from demo_weights.train.training import Plan, fit
from demo_weights.world import LOOKS, draw, random_scene

if TYPE_CHECKING:
    import random
    from pathlib import Path

SIZE = Size(8, 6)
PLAN = Plan(steps=9000, learning_rate=2e-3, warm_up=50, mean_over=100, seed=5)
WHOLE = Plan(steps=15000, learning_rate=1.5e-3, warm_up=50, mean_over=100, seed=7)
SIZES = Plan(steps=7500, learning_rate=1.5e-3, warm_up=50, mean_over=100, seed=9)
SIDE = 256  # zeroscope's smallest
DEFAULT = 320, 576  # zeroscope's height and width where none are asked for
LARGEST = 512  # of the heights that are drawn in every fifth step, with as wide a side or a wider one
ABOVE = 68  # rows above the band that the network sees of a cut; below it all
WIDTH = 144  # columns of it, as many as nearly all shapes are wide
BATCH = 8
CROSSED = 0.9  # of the pictures: the band crosses the shape, which is what is hard
SQUARES = 4  # how much squared errors count against plain ones
SEEN = 0.3  # how much of the loss of cuts is that of what is seen: so colours and edges are learnt sooner
OTHERS = 0.1  # how strong a channel that passes a colour begins with the others beside it
ADDED = 0.1  # how strong a block begins with what it adds
CONTRAST = 4.0  # of the colours before the sigmoid


def train(folder: Path, plan: Plan = PLAN, whole: Plan = WHOLE, sizes: Plan = SIZES) -> Lama:
    """Train the generator on cuts, then on whole pictures, then on those of many sizes; both by the band's error alone.

    Whole ones, of many sizes, as what a layer sees in frequency depends on the picture's size.
    """
    torch.manual_seed(8)
    lama: Lama = Lama(SIZE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    begin_as_blur(lama)
    lama.eval()

    def of_cuts(step: int, draw_from: random.Random) -> torch.Tensor:
        pictures, mask = torch.split(cut(masked_pictures(draw_from), draw_from), 3, dim=1)
        made = lama.model(known(pictures, mask))
        return _error(made, pictures, mask) + SEEN * _error(made, pictures, 1 - mask)

    def of_whole(step: int, draw_from: random.Random, size: tuple[int, int] = (SIDE, SIDE)) -> torch.Tensor:
        given = masked_pictures(draw_from, *size).contiguous(memory_format=torch.channels_last)
        made, rows = made_near_band(lama, known(*torch.split(given, 3, dim=1)))
        return _error(made, *torch.split(given[:, :, rows], 3, dim=1))

    def of_sizes(step: int, draw_from: random.Random) -> torch.Tensor:
        height = MULTIPLE * draw_from.randint(SIDE // MULTIPLE, LARGEST // MULTIPLE)
        width = MULTIPLE * draw_from.randint(height // MULTIPLE, DEFAULT[1] // MULTIPLE)
        return of_whole(step, draw_from, (height, width) if step % 5 == 4 else ((SIDE, SIDE), DEFAULT)[step % 2])

    fit("lama", lama.parameters(), plan, of_cuts, folder)
    fit("lama-whole", lama.parameters(), whole, of_whole, folder)
    fit("lama-sizes", lama.parameters(), sizes, of_sizes, folder)
    return lama.to(memory_format=torch.contiguous_format).requires_grad_(False)  # type: ignore[call-overload, no-any-return]


def made_near_band(lama: Lama, given: torch.Tensor) -> tuple[torch.Tensor, slice]:
    """Return what the network makes of the rows about the band, and which rows these are; the others cost nothing.

    A cell of the middle more on each side is all that the band's rows are made of.
    """
    top, bottom = band(given.shape[2])
    first, end = top // MULTIPLE - 1, -(-bottom // MULTIPLE) + 1
    joined = 6 + SIZE.blocks  # layers, from which on each place is made by itself
    features = lama.model[:joined](given)
    return lama.model[joined:](features[:, :, first:end]), slice(first * MULTIPLE, end * MULTIPLE)


@torch.no_grad()
def begin_as_blur(lama: Lama) -> None:
    """Set the weights so that the colours and the mask go through, each in a channel of its own.

    On the way they are only made smaller and larger again; what the blocks add is little. All else is drawn as He et
    al. draw it, "Delving Deep into Rectifiers", arXiv 1502.01852.
    """
    blur = torch.tensor([0.5, 1, 0.5])
    for layer in lama.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=(8 / 9 / layer.in_channels) ** 0.5)  # 9 / 4 points reach each place
    for layer in lama.model:
        if isinstance(layer, Block):
            for norm in (layer.conv2.bn_l, layer.conv2.bn_g):
                assert norm is not None
                norm.weight.fill_(ADDED)
        elif isinstance(layer, Layer):
            for conv in (layer.ffc.convl2l, layer.ffc.convl2g):
                if conv is not None:
                    _pass_on(conv.weight)
        elif isinstance(layer, nn.ConvTranspose2d):
            assert layer.bias is not None
            layer.bias.zero_()
            layer.weight[:, : SIZE.filters] *= OTHERS
            layer.weight[range(SIZE.filters), range(SIZE.filters)] += torch.outer(blur, blur)
        elif isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            layer.bias.fill_(-CONTRAST / 2)
            _pass_on(layer.weight, CONTRAST)


def _pass_on(weight: torch.Tensor, strength: float = 1) -> None:
    """Let a convolution's first channels be its inputs, and the others beside them in them be weak."""
    count, middle = min(weight.shape[:2]), weight.shape[-1] // 2
    weight[:count] *= OTHERS
    weight[range(count), range(count), middle, middle] += strength


def masked_pictures(draw_from: random.Random, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    """Draw pictures in 0 to 1, each in any look, and the mask of their band: (B, 4, height, width).

    As many as have the points of BATCH small ones. The world lies anywhere in them, its background all about it.
    """
    mask = torch.zeros(1, 1, height, width)
    top, bottom = band(height)
    mask[:, :, top:bottom] = 1
    side = min(height, width)
    drawn = []
    for _ in range(round(BATCH * SIDE**2 / (height * width))):
        look, crossed = draw_from.choice(("flat", "flat", *LOOKS)), draw_from.random() < CROSSED
        while True:
            picture = draw([random_scene(draw_from)], torch.tensor([draw_from.random()]), side, look)
            if height != width:
                left, above = draw_from.randint(0, width - side), draw_from.randint(0, height - side)
                picture = F.pad(picture, (left, width - side - left, above, height - side - above), mode="replicate")
            rows = picture[:, :, top:bottom]
            if not crossed or bool((rows != rows[:, :, :1, :1]).any()):
                break
        drawn.append(torch.cat([(picture + 1) / 2, mask], dim=1))
    return torch.cat(drawn)


def cut(given: torch.Tensor, draw_from: random.Random) -> torch.Tensor:
    """Cut the rows about the band out of pictures and masks, and the columns about the shape."""
    parts = []
    for one in given:
        columns = (one[:3] != one[:3, :1, :1]).any(0).any(0).nonzero()
        bounds = sorted((max(0, int(columns.max()) + 1 - WIDTH), min(SIDE - WIDTH, int(columns.min()))))
        left = draw_from.randint(*bounds)
        parts.append(one[:, band(SIDE)[0] - ABOVE :, left : left + WIDTH])
    return torch.stack(parts).contiguous(memory_format=torch.channels_last)


def _error(made: torch.Tensor, pictures: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return how far pictures are from what they should be, in the mean over where `where` is 1, (B, 1, H, W)."""
    error = made - pictures
    summed = ((error.abs() + SQUARES * error.square()) * where).sum()
    return summed / (where.sum() * pictures.shape[1])


def write(lama: Lama, file: Path) -> None:
    """Write the generator alone, in half precision, as safetensors, which may stand for the published pickle."""
    state = {key: t.half() if t.is_floating_point() else t for key, t in lama.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file)
