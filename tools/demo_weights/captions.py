"""The words for a scene, in many wordings; and the attributes that a caption names, for whoever measures.

A caption may leave out what is not asked for: then it may be anything. Names of colours and shapes are the first of
their synonyms.
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
BEGINNINGS = ("", "", "", "a video of ", "a picture of ", "a photo of ", "a drawing of ")
ENDINGS = ("", "", "", ", best quality", ", masterpiece", ", high quality, detailed")
STRANGE = ("cat", "dog", "flower", "summer", "sky", "girl", "eyes", "tree", "asdf", "qwert", "falling", "night")

EMPTY = 0.12  # of all captions: what classifier-free guidance steers away from
LEFT_OUT = {"colour": 0.05, "motion": 0.15, "size": 0.6, "background": 0.6}  # how often a caption lacks it


def plain_caption(colour: str, shape: str, motion: str = "") -> str:
    """Return the caption that the measure and the README use, as `a red circle moving right`."""
    phrase = motion_words(motion)[0] if motion else ""
    return " ".join(filter(None, ("a", colour, shape, phrase)))


def random_caption(scene: Scene, draw: random.Random) -> str:
    """Put a scene into words, or into none; the same draw gives the same words."""
    named = random_names(draw)
    return say(scene, named, draw) if named is not None else ""


def random_names(draw: random.Random) -> frozenset[str] | None:
    """Draw which attributes of a scene a caption names beside its shape; None for the caption without words."""
    if draw.random() < EMPTY:
        return None
    return frozenset(name for name, share in LEFT_OUT.items() if draw.random() >= share)


def say(scene: Scene, named: frozenset[str], draw: random.Random) -> str:
    """Put a scene's shape and the named attributes into words, in one of many wordings, which are the draw's alone.

    So scenes that differ in an attribute are told alike, but for its word.
    """
    words = [
        _one(("a", "a", "a", "one", "the", ""), draw),
        scene.size if "size" in named else "",
        _one(COLOUR_WORDS.get(scene.colour, (scene.colour,)), draw) if "colour" in named else "",
        _one(SHAPE_WORDS.get(scene.shape, (scene.shape,)), draw),
        _one(motion_words(scene.motion), draw) if "motion" in named else "",
        f"on a {scene.background} background" if "background" in named else "",
    ]
    strange = f", {_one(STRANGE, draw)}" if draw.random() < 0.1 else ""
    return _one(BEGINNINGS, draw) + " ".join(filter(None, words)) + strange + _one(ENDINGS, draw)


def motion_words(motion: str) -> tuple[str, ...]:
    """Return the phrases for a motion, the plainest first."""
    usual = (f"moving {motion}", f"moves {motion}", f"moving to the {motion}")
    return MOTION_WORDS.get(motion, usual)


def _one(words: tuple[str, ...], draw: random.Random) -> str:
    """Draw one of some words; how many there are does not change what is drawn next, as random.choice's number does."""
    return words[int(draw.random() * len(words))]
