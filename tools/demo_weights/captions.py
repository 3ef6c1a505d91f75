"""Captions of scenes in many wordings.

A caption may omit an attribute; any value of the attribute matches then. The names of colours and shapes are the first
of their synonyms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from demo_weights.world import Scene

COLOUR_WORDS = {"purple": ("purple", "purple", "violet")}
SHAPE_WORDS = {"circle": ("circle", "circle", "ball", "dot"), "square": ("square", "square", "box")}
MOTION_WORDS = {
    "still": ("standing still", "still", "not moving"),
    "up": ("moving up", "moves up", "moving upwards"),
    "down": ("moving down", "moves down", "moving downwards"),
}
PREFIXES = ("", "", "", "a video of ", "a picture of ", "a photo of ", "a drawing of ")
SUFFIXES = ("", "", "", ", best quality", ", masterpiece", ", high quality, detailed")
UNRELATED_WORDS = (
    "cat", "dog", "flower", "summer", "sky", "girl", "eyes", "tree", "asdf", "qwert", "falling", "night",
)  # fmt: skip

EMPTY_SHARE = 0.12  # of all captions: the unconditional case of classifier-free guidance
OMITTED_SHARE = {"colour": 0.05, "motion": 0.15, "size": 0.6, "background": 0.6}


def plain_caption(colour: str, shape: str, motion: str = "") -> str:
    """Return the caption that the measures and the READMEs use, as `a red circle moving right`."""
    phrase = motion_phrases(motion)[0] if motion else ""
    return " ".join(filter(None, ("a", colour, shape, phrase)))


def random_caption(scene: Scene, rng: random.Random) -> str:
    """Return a random caption of a scene, sometimes the empty one."""
    attributes = random_attributes(rng)
    return write_caption(scene, attributes, rng) if attributes is not None else ""


def random_attributes(rng: random.Random) -> frozenset[str] | None:
    """Return which attributes a random caption names besides the shape; None for the empty caption."""
    if rng.random() < EMPTY_SHARE:
        return None
    return frozenset(name for name, share in OMITTED_SHARE.items() if rng.random() >= share)


def write_caption(scene: Scene, attributes: frozenset[str], rng: random.Random) -> str:
    """Return a caption that names a scene's shape and these attributes, in a wording that depends on `rng` alone.

    With equal states of `rng`, the captions of scenes that differ in one attribute differ in its words only.
    """
    words = [
        _choose(("a", "a", "a", "one", "the", ""), rng),
        scene.size if "size" in attributes else "",
        _choose(COLOUR_WORDS.get(scene.colour, (scene.colour,)), rng) if "colour" in attributes else "",
        _choose(SHAPE_WORDS.get(scene.shape, (scene.shape,)), rng),
        _choose(motion_phrases(scene.motion), rng) if "motion" in attributes else "",
        f"on a {scene.background} background" if "background" in attributes else "",
    ]
    unrelated = f", {_choose(UNRELATED_WORDS, rng)}" if rng.random() < 0.1 else ""
    return _choose(PREFIXES, rng) + " ".join(filter(None, words)) + unrelated + _choose(SUFFIXES, rng)


def motion_phrases(motion: str) -> tuple[str, ...]:
    """Return the phrases for a motion, the plainest first."""
    usual = (f"moving {motion}", f"moves {motion}", f"moving to the {motion}")
    return MOTION_WORDS.get(motion, usual)


def _choose(words: tuple[str, ...], rng: random.Random) -> str:
    """Return a random word; unlike random.choice, the number of words does not change the later random numbers."""
    return words[int(rng.random() * len(words))]
