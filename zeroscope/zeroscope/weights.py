"""The weight files of zeroscope: four models of one layout, and LaMa, with source, size, hash and licence of each file.

Sizes and hashes are the published ones, as far as they were found. The layout below a weights directory is that of the
models' repositories, and the same for real weights, demo weights and your own:

    MODEL/    tokenizer/, scheduler/, and unet/, vae/, text_encoder/ with config.json and a pickle of tensors
    lama/     best.ckpt

model_index.json is not listed, because in some repositories it names the wrong classes. zs2_XL/ and zs2_576w/ are the
same weights for another program. NAME.safetensors may replace a pickle NAME.bin or NAME.ckpt, and has priority. The
demo weights contain no pickles.
"""

from __future__ import annotations

from videokit.weights.table import HubFile, WeightFile

MODELS = ("xl", "576w", "potat1", "animov-512x")

UNET = "unet/diffusion_pytorch_model.bin"
VAE = "vae/diffusion_pytorch_model.bin"
TEXT_ENCODER = "text_encoder/pytorch_model.bin"
PARTS = (UNET, VAE, TEXT_ENCODER)
CONFIGS = ("unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json")
TOKENIZER = tuple(
    f"tokenizer/{name}" for name in ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
)
LAMA = "lama/best.ckpt"

Known = dict[str, tuple[int | None, str | None]]  # by file, the published size and SHA-256


def _model(model: str, repo: str, revision: str, licence: str, known: Known) -> tuple[WeightFile, ...]:
    """Return the files of one model at one commit of its repository."""
    return tuple(
        WeightFile(f"{model}/{name}", HubFile(repo, revision, name), licence, *known.get(name, (None, None)))
        for name in (*CONFIGS, *TOKENIZER, *PARTS)
    )


FILES = (
    *_model(
        "xl",
        "cerspense/zeroscope_v2_XL",
        "d5ff9043c7cc7438f4c3906a050c79f7fabacb45",
        "CC-BY-NC-4.0",
        {
            # from the commit that copied them to vdo/zeroscope_v2_XL, 6024bce
            UNET: (None, "37c52774b327ed2f438cffa8ea7d68359c165c2ecd1f689672c24d91e0a8f35c"),
            TEXT_ENCODER: (None, "bd7ce47cc60acd77764197de3e0e05d2134c5fdf3d3235d9a302cea675255709"),
            VAE: (None, "7cfdd672df17db3283633acb3721afc7735927293c2d3bd2bf64939a6dcd950e"),
        },
    ),
    *_model(
        "576w",
        "cerspense/zeroscope_v2_576w",
        "6963642a64dbefa93663d1ecebb4ceda2d9ecb28",
        "CC-BY-NC-4.0",
        {
            UNET: (2823110385, "42b51ea486109b7479366e01aae7e267a81bb750c13eb5c6b765a3d5bc7987c9"),
            TEXT_ENCODER: (None, "76877281ed10a4a71f6c2aa0edd286a9e5e23a852a05d13fb05965b464a305bb"),
        },
    ),
    # The version of June 2023, when the original was made: after 10,000 steps, before its weights were replaced.
    *_model(
        "potat1",
        "camenduru/potat1",
        "2202018af6d5459e3fad6e458813f475377c6476",
        "none stated; its base, ModelScope's text-to-video, is CC-BY-NC",
        {
            UNET: (2823110385, "85708d921aa6203ea28726fbe445f939c4102a5463ed1f63b951c09b7c587b61"),
            TEXT_ENCODER: (680904225, "36f0885277abe21ebdcf4e3a19a28263246ab9b319fa3b5d231ad8f944bbf988"),
            VAE: (None, "8b0d11ff25d00ceaa02f602831d9cfe650509fdc850c0a1bcb2acdfa03bd5d56"),
        },
    ),
    *_model(
        "animov-512x",
        "strangeman3107/animov-512x",
        "99b47714abed5d96c1ca9edc640f511b60ca579d",
        "CC-BY-NC-4.0",
        {UNET: (None, "7fe3a5e24d586eb9421a85aef53b6888abc3db0e776a6c436b2e9d9565e5ce8e")},
    ),
    WeightFile(
        LAMA,
        HubFile("akhaliq/lama", "e2339a4364798eb5a8e6ff741227b1039a9690b0", "best.ckpt"),
        "Apache-2.0",
        410046389,
        "fccb7adffd53ec0974ee5503c3731c2c2f1e7e07856fd9228cdcc0b46fd5d423",
    ),
)
