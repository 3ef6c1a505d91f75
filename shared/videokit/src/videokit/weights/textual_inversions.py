"""Textual inversions that are often named in prompts: source, size, hash and licence of each file.

They are the negative ones that the documented example of animate-diff names. Sizes and hashes are the published ones.
The path is `embeddings/` with the name that prompts use.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from videokit.weights.table import HubFile, WeightFile

FOLDER = "embeddings"
WIDTH = 768  # numbers in a vector: the input embeddings of Stable Diffusion 1.5's text encoder


def _file(name: str, source: HubFile, size: int, sha256: str, licence: str) -> WeightFile:
    suffix = PurePosixPath(source.name).suffix
    return WeightFile(f"{FOLDER}/{name}{suffix}", source, licence, size, sha256)


TEXTUAL_INVERSIONS = (
    _file(
        "badhandv4",
        HubFile("AsciiP/badhandv4", "2b502522593609e877353007df4930f2ee1b11c1", "badhandv4.pt"),
        19371,
        "5e40d722fc3d0c2decb62debfaf8058db30ccdae9ab00ff64b183907b435708e",
        "Apache-2.0 (stated by Eugeoter/badhandv4 for the same file)",
    ),
    _file(
        "easynegative",
        HubFile("gsdf/EasyNegative", "4d0bc84060ecdf4134395108a247273b60e3d82d", "EasyNegative.safetensors", "dataset"),
        24655,
        "c74b4e810b030f6b75fde959e2db678c268d07115b85356d3c0138ba5eb42340",
        '"other", as its repository says, without terms',
    ),
    _file(
        "ng_deepnegative_v1_75t",
        HubFile("klnaD/negative_embeddings", "8d98fe00386ff4e8c920a81f41f2e4bd773fe9f3", "ng_deepnegative_v1_75t.pt"),
        231339,
        "54e7e4826d53949a3d0dde40aea023b1e456a618c608a7630e3999fd38f93245",
        "not stated",
    ),
    _file(
        "verybadimagenegative_v1.3",
        HubFile(
            "gemasai/verybadimagenegative_v1.3",
            "5ed69ce3e6d02d3ab0e318db2974cda4acbc4f99",
            "verybadimagenegative_v1.3.pt",
        ),
        31659,
        "d70463f87042e2b5951c303542f3e171cf49af9b7df53b2f20779493786eb143",
        "not stated",
    ),
    _file(
        "bad-artist",
        HubFile("nick-x-hacker/bad-artist", "40c53ef2aa7ae328c542dc6f691e3666c9d9889f", "bad-artist.pt"),
        7083,
        "2d356134903e8f47bf6cf519bdf577cdcee42fc717ef264498162e94f130843a",
        "CC0-1.0",
    ),
    # This name is that of a renamed copy of bad_prompt_version2. It was not confirmed that the copy has these bytes.
    _file(
        "bad_prompt_version2-neg",
        HubFile("Nerfgun3/bad_prompt", "72fd9d6011c2ba87b5847b7e45e6603917e3cbed", "bad_prompt_version2.pt", "dataset"),
        25515,
        "6f35e7dd816ae04bb3f774a9a17ebfbc50c0e3a53f69a9a40bed05936d3a3812",
        "OpenRAIL-M",
    ),
)
