"""Random inputs of the models, valid and invalid, as the JSON text of a request to Cog's server.

Every value is drawn from a list of valid or of invalid ones, so what the server has to answer is known without the code
that is tested. The lists follow the documented schemas and the READMEs.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


class Raw(str):
    """A JSON text that Python does not write, or that is not JSON."""


@dataclass(frozen=True)
class Case:
    """The body of one request, and whether its inputs are valid."""

    body: str
    valid: bool


@dataclass(frozen=True)
class Kind:
    """Valid and invalid values of one input."""

    valid: Sequence[Any]
    invalid: Sequence[Any]


@dataclass(frozen=True)
class Model:
    """The inputs of a quick prediction, and the kinds of all inputs."""

    quick: dict[str, Any]
    kinds: dict[str, Kind]
    required: Sequence[str] = field(default=())


NESTED = [{"a": [{"b": [None]}]}, Raw("[" * 100 + "]" * 100), [[1], {}], {}, []]
NO_NUMBERS = [None, True, False, "3", "", "x" * 1000, Raw("NaN"), Raw("Infinity"), Raw("1e400"), Raw("0x10"), *NESTED]
NO_WHOLE_NUMBERS = [1.5, -1.5, 2.000001, Raw("-0.0"), 1e300, -1e30, 10**30, 2**64, -(2**63), *NO_NUMBERS]
HALF_SURROGATES = [Raw(r'"\ud800"'), Raw(r'"a \udc00 b"'), Raw(r'"\ud83d\u0041"')]
NO_TEXTS = [None, 5, -1.5, True, *HALF_SURROGATES, Raw(r'"\x41"'), Raw('"'), *NESTED]
TEXTS = [
    "",
    "a red circle moving right",
    "赤い円 🔴 é\u0301 \u202e\x01 دائرة",
    "\x00\n\t!",
    "--remove-watermark",
    "(a:1.2), [b] BREAK <lora:c:1> __d__ {e|f}",
    "a red circle, " * 100,
    "x" * 5000,
    "../../etc/passwd",
    "'; DROP TABLE predictions; --",
]
NO_VIDEOS = [
    "",
    "/etc/passwd",
    "/etc/hostname",
    "/proc/self/environ",
    "/dev/zero",
    "/",
    "~/clip.mp4",
    "../zeroscope/example.gif",
    "predict.py",
    "file:///etc/passwd",
    "ftp://host/x",
    "HTTP://127.0.0.1:9/x.mp4",
    "a" * 1000,
    "/" + "a/" * 2000,
    "a" * 1_000_000,
    "a\x00b\nc",
    "data:",
    "data:,",
    "data:video/mp4;base64,!!!",
    "data:video/mp4;base64,AAAA",
    f"data:video/mp4;base64,{base64.b64encode(random.Random(0).randbytes(3000)).decode()}",
    f"data:image/png;base64,{'A' * 1_000_000}",
    "http://",
    "http://[",
    "http://127.0.0.1:9/x.mp4",
    "http://127.0.0.1:99999/x.mp4",
    f"http://127.0.0.1:9/{'a' * 1000}",
    "https://user:password@127.0.0.1:9/\x00",
    "javascript:alert(1)",
    *NO_TEXTS,
]


def integer(valid: Sequence[int], minimum: int, maximum: int = 10**15) -> Kind:
    """Return the values of an integer, whose valid ones are also given as whole floats."""
    outside = [minimum - 1, maximum + 1, minimum - 10**6, maximum + 10**6, float(minimum - 1), float(maximum + 1)]
    return Kind([*valid, *map(float, valid)], [*outside, *NO_WHOLE_NUMBERS])


def number(valid: Sequence[float], minimum: float, maximum: float) -> Kind:
    outside = [minimum - 0.001, maximum + 0.001, minimum - 1e6, maximum + 1e6, -1e300, 1e300, -(10**30), 10**30]
    return Kind(valid, [*outside, *NO_NUMBERS])


def choice(*valid: Any) -> Kind:
    others = ["", "other", f"{valid[0]} ", str(valid[-1]).upper() + "X", "x" * 1_000_000, 0, -1, 1.5, Raw("-0.0")]
    return Kind(valid, [*others, *(value for value in NO_NUMBERS if value not in ("3",)), *HALF_SURROGATES])


TEXT = Kind(TEXTS, NO_TEXTS)
BOOLEAN = Kind([True, False], [0, 1, 1.0, "true", "", None, Raw("True"), *NESTED])
SEED = integer([0, 1, 7, 2147483647], 0, 2147483647)

# The documented inputs of lucataco/animate-diff, and the bounds of README.md.
ANIMATE_DIFF = Model(
    {"prompt": "a red circle", "steps": 1, "guidance_scale": 1, "seed": 3},
    {
        "motion_module": choice("mm_sd_v14", "mm_sd_v15", "mm_sd_v15_v2"),
        "path": choice("toonyou_beta3.safetensors", "lyriel_v16.safetensors"),
        "prompt": TEXT,
        "n_prompt": TEXT,
        "steps": integer([1, 2, 3], 1, 100),
        "guidance_scale": number([1, 1.0, 1.5, 10], 1, 10),
        "seed": SEED,
    },
)

# The documented inputs of andreasjansson/stable-diffusion-animation, and the bounds of README.md.
SD_ANIMATION = Model(
    {
        "prompt_start": "a red circle",
        "prompt_end": "a blue square",
        "width": 128,
        "height": 128,
        "num_inference_steps": 1,
        "num_animation_frames": 2,
        "num_interpolation_steps": 1,
        "guidance_scale": 1,
        "seed": 3,
    },
    {
        "prompt_start": TEXT,
        "prompt_end": Kind(
            [text for text in TEXTS if text.strip() and "|" not in text] + ["a | b"],
            ["", "  ", "|", "a|", "|a", "a||b", "|" * 10_000, *NO_TEXTS],
        ),
        "width": Kind([128, 128.0], [127, 129, 0, -128, 128.5, 2048, "128", *NO_WHOLE_NUMBERS]),
        "height": Kind([128, 128.0], [127, 129, 0, -128, 128.5, 1024, "128", *NO_WHOLE_NUMBERS]),
        "num_inference_steps": integer([1, 2, 3], 1, 500),
        "prompt_strength": number([0, 0.5, 1, Raw("-0.0"), 1.0], 0, 1),
        "num_animation_frames": integer([2, 3], 2, 50),
        "num_interpolation_steps": integer([1, 2], 1, 50),
        "guidance_scale": number([1, 1.5, 20], 1, 20),
        "gif_frames_per_second": integer([1, 20, 50], 1, 50),
        "gif_ping_pong": BOOLEAN,
        "film_interpolation": BOOLEAN,
        "intermediate_output": BOOLEAN,
        "output_format": choice("gif", "mp4"),
        "seed": SEED,
    },
    required=("prompt_start", "prompt_end"),
)

# The documented inputs of anotherjesse/zeroscope-v2-xl, and the bounds of README.md.
ZEROSCOPE = Model(
    {
        "prompt": "a red circle",
        "width": 256,
        "height": 256,
        "num_frames": 1,
        "num_inference_steps": 1,
        "guidance_scale": 1,
        "seed": 3,
    },
    {
        "prompt": TEXT,
        "negative_prompt": TEXT,
        "init_video": Kind([], NO_VIDEOS),
        "init_weight": number([0, 0.5, 1, Raw("-0.0"), 1.0], 0, 1),
        "num_frames": integer([1, 2], 1),
        "num_inference_steps": integer([1, 2, 3], 1, 500),
        "width": integer([256, 264], 256),
        "height": integer([256, 264], 256),
        "guidance_scale": number([1, 1.5, 100], 1, 100),
        "fps": integer([1, 8, 120], 1, 120),
        "model": choice("xl", "576w", "potat1", "animov-512x"),
        "batch_size": integer([1, 2], 1, 100),
        "remove_watermark": BOOLEAN,
        "seed": integer([0, 1, 7, 2147483640], 0, 2147483647),
    },
)


def cases(model: Model, seed: int, count: int) -> Iterator[Case]:
    """Yield requests with up to three random inputs each, about every sixth of them valid."""
    rng = random.Random(seed)
    for _ in range(count):
        inputs, valid = dict(model.quick), True
        for name in rng.sample(sorted(model.kinds), rng.randint(1, 3)):
            kind = model.kinds[name]
            draws_valid = bool(kind.valid) and rng.random() < 0.5
            valid = valid and draws_valid
            inputs[name] = rng.choice(kind.valid if draws_valid else kind.invalid)
        if rng.random() < 0.1:
            inputs["unknown input"] = rng.choice(NESTED + TEXTS)  # Cog drops it
        if model.required and rng.random() < 0.05:
            del inputs[rng.choice(model.required)]
            valid = False
        body = f'{{"input": {_object(inputs)}}}'
        if rng.random() < 0.05:
            body, valid = (
                rng.choice([body[:-5], '{"input": []}', '{"input": "x"}', '{"input": 5}', "[]", "\x00"]),
                False,
            )
        yield Case(body, valid)


def _object(inputs: dict[str, Any]) -> str:
    members = (
        f"{json.dumps(name)}: {value if isinstance(value, Raw) else json.dumps(value)}"
        for name, value in inputs.items()
    )
    return f"{{{', '.join(members)}}}"
