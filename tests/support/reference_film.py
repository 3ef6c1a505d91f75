"""A second implementation of FILM from its definition, in float64, with the published file's tensors and keys.

Plain functions on (B, C, H, W) tensors. Source: google-research/frame-interpolation@a0d73e5
models/film_net/{interpolator,feature_extractor,pyramid_flow_estimator,fusion,util}.py. Warping and upsampling index
pixels directly; torch's grid_sample is not used.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

Weights = Mapping[str, torch.Tensor]


def reference_film(weights: Weights, x0: torch.Tensor, x1: torch.Tensor, time: float) -> torch.Tensor:
    """Return the picture at `time` between two of (1, 3, H, W), not clipped; sides are multiples of 64."""
    w = {key: value.double() for key, value in weights.items()}
    images = [image_pyramid(x0.double()), image_pyramid(x1.double())]
    features = [feature_pyramid(w, images[0]), feature_pyramid(w, images[1])]
    forward_flow = flow_synthesis(residual_flows(w, features[0], features[1]))
    backward_flow = flow_synthesis(residual_flows(w, features[1], features[0]))
    net = torch.zeros(0)
    for level in (4, 3, 2, 1, 0):
        to_x0, to_x1 = backward_flow[level] * time, forward_flow[level] * (1 - time)
        aligned = torch.cat(
            [
                warp(images[0][level], to_x0),
                warp(features[0][level], to_x0),
                warp(images[1][level], to_x1),
                warp(features[1][level], to_x1),
                to_x0,
                to_x1,
            ],
            dim=1,
        )
        if level == 4:
            net = aligned
            continue
        convs = f"fuse.convs.{3 - level}"
        net = net.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        net = conv(w, f"{convs}.0.conv", net)
        net = relu(conv(w, f"{convs}.1.conv", torch.cat([aligned, net], dim=1)))
        net = relu(conv(w, f"{convs}.2.conv", net))
    return conv(w, "fuse.output_conv", net)


def image_pyramid(image: torch.Tensor, levels: int = 7) -> list[torch.Tensor]:
    """Return an image at full, half, quarter ... size; each pixel is the mean of four."""
    return [image] if levels == 1 else [image, *image_pyramid(halve(image), levels - 1)]


def halve(x: torch.Tensor) -> torch.Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def feature_pyramid(w: Weights, images: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the cascaded features: level i has the first of subtree i, the second of subtree i - 1, and so on."""
    subtrees = []
    for image in images:
        head, subtree = image, []
        for depth in range(4):
            for layer in range(2):
                head = relu(conv(w, f"extract.extract_sublevels.convs.{depth}.{layer}.conv", head))
            subtree.append(head)
            if min(head.shape[2:]) > 1:
                head = halve(head)
        subtrees.append(subtree)
    return [torch.cat([subtrees[i - j][j] for j in range(4) if j <= i], dim=1) for i in range(len(images))]


def residual_flows(w: Weights, a: list[torch.Tensor], b: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the residual of each level to the flow from a to b, the finest first."""
    residuals = [predict(w, 6, a[6], b[6])]
    flow = residuals[0]
    for level in (5, 4, 3, 2, 1, 0):
        flow = double(2 * flow)
        residuals.insert(0, predict(w, level, a[level], warp(b[level], flow)))
        flow = residuals[0] + flow
    return residuals


def predict(w: Weights, level: int, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    name = "predict_flow._predictor" if level > 2 else f"predict_flow._predictors.{2 - level}"
    net = torch.cat([a, b], dim=1)
    for layer in range(4):
        net = relu(conv(w, f"{name}._convs.{layer}.conv", net))
    return conv(w, f"{name}._convs.4.conv", net)


def flow_synthesis(residuals: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the flows from their residuals, the finest first."""
    flows = [residuals[-1]]
    for residual in residuals[-2::-1]:
        flows.insert(0, residual + double(2 * flows[0]))
    return flows


def double(x: torch.Tensor) -> torch.Tensor:
    """Return x at twice its height and width, bilinear between pixel centres."""
    height, width = x.shape[2:]
    rows = (torch.arange(2 * height).double() + 0.5) / 2 - 0.5
    columns = (torch.arange(2 * width).double() + 0.5) / 2 - 0.5
    return bilinear(x, columns.expand(len(x), 2 * height, -1), rows[:, None].expand(len(x), -1, 2 * width))


def warp(x: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Return x at the position of every pixel plus its flow (dx, dy)."""
    height, width = x.shape[2:]
    return bilinear(x, torch.arange(width) + flow[:, 0], torch.arange(height)[:, None] + flow[:, 1])


def bilinear(x: torch.Tensor, columns: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return x at positions (B, H, W), clamped to its border."""
    columns, rows = columns.clamp(0, x.shape[3] - 1), rows.clamp(0, x.shape[2] - 1)
    left, top = columns.floor().long(), rows.floor().long()
    right, bottom = (left + 1).clamp(max=x.shape[3] - 1), (top + 1).clamp(max=x.shape[2] - 1)
    across, down = (columns - left)[:, None], (rows - top)[:, None]
    batch = torch.arange(len(x))[:, None, None]

    def at(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        return x[batch, :, row, column].movedim(-1, 1)

    upper = at(top, left) * (1 - across) + at(top, right) * across
    lower = at(bottom, left) * (1 - across) + at(bottom, right) * across
    return upper * (1 - down) + lower * down


def conv(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    """Convolve with TensorFlow's "same" padding: one more zero to the right and below for an even kernel."""
    before = (w[f"{name}.weight"].shape[-1] - 1) // 2
    after = w[f"{name}.weight"].shape[-1] - 1 - before
    return F.conv2d(F.pad(x, (before, after, before, after)), w[f"{name}.weight"], w[f"{name}.bias"])


def relu(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.2 * x)
