"""The floating-point operations of a clip of each model, and the seconds that they take at best.

    script/bench flops

The operations are counted on torch's meta device, with the published architectures and the default inputs. The seconds
are estimates from published figures of GPUs, and nothing of them was measured.

It takes about 30 seconds on two idle cores.
"""

from __future__ import annotations

from tree import script_parser

from benchmarks.on_gpu.models import MODELS
from benchmarks.on_gpu.networks import count_flops

# Dense products of float16 with sums in float32, in TFLOP/s. Source: NVIDIA's data sheets (those of L4, L40S, H100 and
# H200 state twice as much, with sparsity); for the RTX 4090, the white paper of the Ada architecture.
PEAKS = {"T4": 65, "L4": 121, "RTX 4090": 165, "A100": 312, "L40S": 362, "H100 SXM, H200": 989}
SHARE = 0.4  # of the peak: an assumption, until script/bench gpu has measured it


def seconds(flops: float, peak: float) -> float:
    """Return the time of a clip on a GPU with a peak in TFLOP/s."""
    return flops / (SHARE * peak * 1e12)


def main() -> None:
    script_parser(__doc__).parse_args()
    clips = {}
    print("| model | network | TFLOP | calls in a clip | TFLOP in a clip |\n|---|---|---|---|---|")
    for model, subject in MODELS.items():
        clips[model] = 0
        for network in subject.networks(small=False):
            flops = count_flops(network)
            clips[model] += network.calls * flops
            calls = f"{network.calls} | {network.calls * flops / 1e12:.0f}" if network.calls else " | "
            print(f"| {model} | {network.name} | {flops / 1e12:.2f} | {calls} |", flush=True)
        print(f"| {model} | all | | | {clips[model] / 1e12:.0f} |")
    print(f"\n| GPU | peak, TFLOP/s | {' | '.join(clips)} |\n|---|---|{'---|' * len(clips)}")
    for gpu, peak in PEAKS.items():
        print(f"| {gpu} | {peak} | {' | '.join(f'about {seconds(flops, peak):.0f} s' for flops in clips.values())} |")
