"""A second implementation of AnimateDiff's UNet from its definition, in float64, with the published files' tensors.

Plain functions on (B, C, F, H, W) tensors, with the keys of CompVis and AnimateDiff. Sources: CompVis/latent-diffusion
ldm/modules/diffusionmodules/openaimodel.py and ldm/modules/attention.py; guoyww/AnimateDiff@a3b0bee
animatediff/models/{unet,resnet,motion_module}.py. GroupNorm has the original's scope. Motion modules and spatial
attention normalise each frame separately. ResNets and the last norm normalise each frame separately if the original's
use_inflated_groupnorm is true, and all frames together otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange

HEADS, GROUPS = 8, 32  # of Stable Diffusion 1.5 and of AnimateDiff


class ReferenceUNet:
    """The UNet of one checkpoint and one motion module."""

    def __init__(
        self, checkpoint: Mapping[str, torch.Tensor], motion: Mapping[str, torch.Tensor], *, inflated_groupnorm: bool
    ) -> None:
        prefix = "model.diffusion_model."
        self.w = {k.removeprefix(prefix): v.double() for k, v in checkpoint.items() if k.startswith(prefix)}
        self.w |= {k: v.double() for k, v in motion.items()}
        self.over_frames = not inflated_groupnorm
        self.has_mid_motion = any(k.startswith("mid_block.motion_modules") for k in motion)

    def __call__(self, x: torch.Tensor, timestep: int, text: torch.Tensor) -> torch.Tensor:
        """Return the noise in x (B, 4, F, H, W) at a timestep, in float64; text is (B, L, D)."""
        x, text = x.double(), text.double()
        emb = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", self.timestep_embedding(timestep))))
        h = self.conv("input_blocks.0.0", x)
        skips = [h]
        for level in range(4):
            for j in range(2):
                n = f"input_blocks.{1 + 3 * level + j}"
                h = self.resnet(f"{n}.0", h, emb)
                if level < 3:
                    h = self.spatial_attention(f"{n}.1", h, text)
                h = self.motion(f"down_blocks.{level}.motion_modules.{j}", h)
                skips.append(h)
            if level < 3:
                h = self.conv(f"input_blocks.{3 * level + 3}.0.op", h, stride=2)
                skips.append(h)
        h = self.resnet("middle_block.0", h, emb)
        h = self.spatial_attention("middle_block.1", h, text)
        if self.has_mid_motion:
            h = self.motion("mid_block.motion_modules.0", h)
        h = self.resnet("middle_block.2", h, emb)
        for level in range(4):
            for j in range(3):
                n = f"output_blocks.{3 * level + j}"
                h = self.resnet(f"{n}.0", torch.cat([h, skips.pop()], dim=1), emb)
                if level > 0:
                    h = self.spatial_attention(f"{n}.1", h, text)
                h = self.motion(f"up_blocks.{level}.motion_modules.{j}", h)
            if level < 3:
                h = h.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
                h = self.conv(f"output_blocks.{3 * level + 2}.{1 if level == 0 else 2}.conv", h)
        return self.conv("out.2", F.silu(self.norm("out.0", h, 1e-5, over_frames=self.over_frames)))

    def timestep_embedding(self, timestep: int) -> torch.Tensor:
        half = self.w["time_embed.0.weight"].shape[1] // 2
        angles = timestep * torch.exp(-math.log(10000) * torch.arange(half).double() / half)
        return torch.cat([angles.cos(), angles.sin()])

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def conv(self, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = self.w[f"{name}.weight"]
        frames = rearrange(x, "b c f h w -> (b f) c h w")
        y = F.conv2d(frames, weight, self.w[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)
        return rearrange(y, "(b f) c h w -> b c f h w", b=x.shape[0])

    def norm(self, name: str, x: torch.Tensor, eps: float, over_frames: bool) -> torch.Tensor:
        groups = rearrange(x, "b (g c) f h w -> b g c f h w", g=GROUPS)
        axes = (2, 3, 4, 5) if over_frames else (2, 4, 5)
        centred = groups - groups.mean(axes, keepdim=True)
        scaled = centred / (centred.square().mean(axes, keepdim=True) + eps).sqrt()
        y = rearrange(scaled, "b g c f h w -> b (g c) f h w")
        return y * self.w[f"{name}.weight"].view(-1, 1, 1, 1) + self.w[f"{name}.bias"].view(-1, 1, 1, 1)

    def layer_norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def resnet(self, name: str, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        over_frames = self.over_frames
        h = self.conv(f"{name}.in_layers.2", F.silu(self.norm(f"{name}.in_layers.0", x, 1e-5, over_frames)))
        h = h + self.linear(f"{name}.emb_layers.1", F.silu(emb)).view(1, -1, 1, 1, 1)
        h = self.conv(f"{name}.out_layers.3", F.silu(self.norm(f"{name}.out_layers.0", h, 1e-5, over_frames)))
        return h + (self.conv(f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in self.w else x)

    def attention(self, name: str, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            rearrange(self.linear(f"{name}.{part}", source), "n l (heads d) -> n heads l d", heads=HEADS)
            for part, source in (("to_q", x), ("to_k", context), ("to_v", context))
        )
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.linear(f"{name}.to_out.0", rearrange(weights @ v, "n heads l d -> n l (heads d)"))

    def feed_forward(self, name: str, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.linear(f"{name}.net.0.proj", x).chunk(2, dim=-1)
        return self.linear(f"{name}.net.2", value * F.gelu(gate))

    def spatial_attention(self, name: str, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        b, _, f, height, _ = x.shape
        h = self.conv(f"{name}.proj_in", self.norm(f"{name}.norm", x, 1e-6, over_frames=False))
        h = rearrange(h, "b c f h w -> (b f) (h w) c")
        block = f"{name}.transformer_blocks.0"
        normed = self.layer_norm(f"{block}.norm1", h)
        h = h + self.attention(f"{block}.attn1", normed, normed)
        context = text.repeat_interleave(f, dim=0)
        h = h + self.attention(f"{block}.attn2", self.layer_norm(f"{block}.norm2", h), context)
        h = h + self.feed_forward(f"{block}.ff", self.layer_norm(f"{block}.norm3", h))
        h = rearrange(h, "(b f) (h w) c -> b c f h w", b=b, h=height)
        return x + self.conv(f"{name}.proj_out", h)

    def motion(self, name: str, x: torch.Tensor) -> torch.Tensor:
        b, _, f, height, width = x.shape
        name = f"{name}.temporal_transformer"
        h = rearrange(self.norm(f"{name}.norm", x, 1e-6, over_frames=False), "b c f h w -> (b h w) f c")
        h = self.linear(f"{name}.proj_in", h)
        block = f"{name}.transformer_blocks.0"
        for a in range(2):
            normed = self.layer_norm(f"{block}.norms.{a}", h)
            normed = normed + self.w[f"{block}.attention_blocks.{a}.pos_encoder.pe"][:, :f]
            h = h + self.attention(f"{block}.attention_blocks.{a}", normed, normed)
        h = h + self.feed_forward(f"{block}.ff", self.layer_norm(f"{block}.ff_norm", h))
        h = rearrange(self.linear(f"{name}.proj_out", h), "(b h w) f c -> b c f h w", b=b, h=height, w=width)
        return x + h
