"""Captions of the miniature world in GenEval's six forms, with GenEval's metadata schema, paraphrases and flips."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hn.miniature.world import (
    COLOR_NAMES,
    DIRECTIONS,
    NUMBERS,
    OPPOSITE,
    PLURALS,
    RELATIONS,
    SHAPES,
    TAGS,
    Split,
    split_of_color,
    split_of_number,
    split_of_pair,
)

FORMAL = "a photo of"
PARAPHRASES = ("a photo of", "a picture of", "an image of", "a drawing of", "there is", "")
PHRASES = {"left of": "on the left of", "right of": "on the right of", "above": "above", "below": "below"}


@dataclass(frozen=True)
class Caption:
    """What a caption asks for: one or two kinds of objects, a number, colours, a relation of first to second."""

    tag: str
    shapes: tuple[str, ...]
    colors: tuple[str, ...] = ()
    number: int = 1
    relation: str | None = None

    @property
    def components(self) -> set[Split]:
        """The splits of everything the caption combines; empty for single objects, which combine nothing."""
        splits: set[Split] = {
            split_of_color(color, shape) for color, shape in zip(self.colors, self.shapes, strict=False)
        }
        if len(self.shapes) == 2 and self.shapes[0] != self.shapes[1]:
            splits.add(split_of_pair(*self.shapes))
        if self.tag == "counting":
            splits.add(split_of_number(self.number, self.shapes[0]))
        return splits

    @property
    def meaning(self) -> tuple:
        """Equal for captions that say the same: "a and b" and "b and a", "a above b" and "b below a"."""
        colors = self.colors or ("",) * len(self.shapes)
        things = list(zip(self.shapes, colors, strict=True))
        if self.relation is None:
            return (self.tag, self.number, *sorted(things))
        turned = self.relation in ("right of", "below")
        relation = OPPOSITE[self.relation] if turned else self.relation
        return (self.tag, relation, *(reversed(things) if turned else things))

    def text(self, opening: str = FORMAL, relation_phrase: str | None = None) -> str:
        """The caption in words; `opening` is one of `PARAPHRASES`."""
        if self.tag == "counting":
            body = f"{NUMBERS[self.number]} {PLURALS[self.shapes[0]]}"
            opening = "there are" if opening == "there is" else opening
        else:
            colors = self.colors or ("",) * len(self.shapes)
            things = [_with_article(f"{c} {s}".strip()) for c, s in zip(colors, self.shapes, strict=True)]
            body = f" {relation_phrase or self.relation or 'and'} ".join(things)
        return f"{opening} {body}".strip()

    def paraphrase(self, rng: random.Random) -> str:
        phrase = PHRASES[self.relation] if self.relation and rng.random() < 0.3 else None
        return self.text(rng.choice(PARAPHRASES), phrase)

    def metadata(self) -> dict:
        """The row of a GenEval prompt file: tag, include and exclude clauses, prompt."""
        clauses: list[dict] = [{"class": shape, "count": 1} for shape in self.shapes]
        for clause, color in zip(clauses, self.colors, strict=False):
            clause["color"] = color
        exclude: list[dict] = []
        if self.tag == "counting":
            clauses[0]["count"] = self.number
            exclude = [{"class": self.shapes[0], "count": self.number + 1}]
        if self.relation:  # as in the official file: the reference comes first, the placed object refers to clause 0
            clauses = [clauses[1], {**clauses[0], "position": [self.relation, 0]}]
        return {"tag": self.tag, "include": clauses, "exclude": exclude, "prompt": self.text()}

    def flips(self, rng: random.Random) -> list[Caption]:
        """Hard negatives: captions of the same form that a clean scene of this one contradicts."""
        other = [s for s in SHAPES if s not in self.shapes]
        if self.tag == "single_object":
            return [replace(self, shapes=(s,)) for s in rng.sample(other, 5)]
        if self.tag == "two_object":
            a, b = self.shapes
            swaps = [(a, s) for s in rng.sample(other, 3)] + [(s, b) for s in rng.sample(other, 2)]
            return [replace(self, shapes=pair) for pair in swaps]
        if self.tag == "counting":
            numbers = [replace(self, number=n) for n in NUMBERS if n != self.number]
            return numbers + [replace(self, shapes=(s,)) for s in rng.sample(other, 3)]
        if self.tag == "colors":
            color, colors = self.colors[0], [c for c in COLOR_NAMES if c not in self.colors]
            recolored = [replace(self, colors=(c,)) for c in rng.sample(colors, 3)]
            return recolored + [replace(self, shapes=(s,), colors=(color,)) for s in rng.sample(other, 2)]
        if self.tag == "position":
            a, b = self.shapes
            across = [r for r in RELATIONS if r not in (self.relation, OPPOSITE[self.relation])]
            return [
                replace(self, relation=OPPOSITE[self.relation]),
                replace(self, shapes=(b, a)),
                *(replace(self, relation=r) for r in across),
                replace(self, shapes=(a, rng.choice(other))),
            ]
        (a, b), (c, d) = self.shapes, self.colors
        spare = [x for x in COLOR_NAMES if x not in self.colors]
        return [
            replace(self, colors=(d, c)),
            replace(self, colors=(c, rng.choice(spare))),
            replace(self, colors=(rng.choice(spare), d)),
            replace(self, colors=(c, c)),
            replace(self, shapes=(a, rng.choice(other))),
        ]

    def contradicted_flips(self, rng: random.Random, direction: Sequence[float]) -> list[Caption]:
        """The flips that a clean scene of this caption contradicts for sure; on a diagonal two relations may hold.

        `direction` is the unit vector from the scene's second object to the first.
        """

        def may_hold(flip: Caption) -> bool:
            if flip.relation is None or set(flip.shapes) != set(self.shapes):
                return False
            along = sum(a * b for a, b in zip(DIRECTIONS[flip.relation], direction, strict=True))
            return (along if flip.shapes == self.shapes else -along) > 0.3

        return [flip for flip in self.flips(rng) if not may_hold(flip)]


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def captions_of(tag: str) -> Iterator[Caption]:
    """Every caption of one form, all splits, in a fixed order."""
    pairs = list(itertools.permutations(SHAPES, 2))
    if tag == "single_object":
        yield from (Caption(tag, (s,)) for s in SHAPES)
    elif tag == "two_object":
        yield from (Caption(tag, p) for p in pairs)
    elif tag == "counting":
        yield from (Caption(tag, (s,), number=n) for n in NUMBERS for s in SHAPES)
    elif tag == "colors":
        yield from (Caption(tag, (s,), (c,)) for c in COLOR_NAMES for s in SHAPES)
    elif tag == "position":
        yield from (Caption(tag, p, relation=r) for p in pairs for r in RELATIONS)
    elif tag == "color_attr":
        colors = list(itertools.permutations(COLOR_NAMES, 2))
        yield from (Caption(tag, p, c) for p in pairs for c in colors)
    else:
        raise ValueError(f"unknown tag {tag!r}; GenEval's tags are {', '.join(TAGS)}")


def split_captions(tag: str, split: Split) -> list[Caption]:
    """The captions of one form that combine only what `split` may; single objects belong to every split."""
    return [c for c in captions_of(tag) if c.components <= {split}]


def training_pools() -> dict[str, list[Caption]]:
    """The captions that training may use, by tag."""
    return {tag: split_captions(tag, "train") for tag in TAGS}


def judging_pools() -> dict[str, list[Caption]]:
    """The captions that the rewards are trained on, by tag.

    Those of training, and every number of every shape: from the few combinations of the training split (one or two
    numbers a shape) a reward learns by heart which it has seen, and would rank those first.
    """
    return {**training_pools(), "counting": list(captions_of("counting"))}


def evaluation_prompts(split: Split, per_tag: int, seed: int = 0) -> list[dict]:
    """Metadata rows of up to `per_tag` captions a tag, in GenEval's wording, chosen by seed."""
    rows = []
    for tag in TAGS:
        captions = split_captions(tag, split)
        rng = random.Random(f"{seed} {split} {tag}")
        rows += [caption.metadata() for caption in rng.sample(captions, min(per_tag, len(captions)))]
    return rows


def training_prompts(per_tag: int, seed: int = 0) -> list[dict]:
    """`per_tag` metadata rows a tag; a form with fewer captions and paraphrases repeats them.

    No row has GenEval's own opening, so that not even a single-object prompt is shared with the evaluation.
    """
    rows = []
    for tag in TAGS:
        texts = [(c, opening) for c in split_captions(tag, "train") for opening in PARAPHRASES[1:]]
        random.Random(f"{seed} train {tag}").shuffle(texts)
        for caption, opening in itertools.islice(itertools.cycle(texts), per_tag):
            rows.append({**caption.metadata(), "prompt": caption.text(opening)})
    return rows


def sample_caption(rng: random.Random, pools: dict[str, list[Caption]], weights: dict[str, float]) -> Caption:
    """A caption drawn by tag weight, then uniformly from that tag's pool."""
    tag = rng.choices(list(weights), list(weights.values()))[0]
    return rng.choice(pools[tag])


def vocabulary_corpus() -> list[str]:
    """Texts that contain every word of the world."""
    phrases = (None, *PHRASES.values())
    forms = [caption for tag in TAGS[:-1] for caption in captions_of(tag)]
    return [form.text(opening, phrase) for form in forms for opening in PARAPHRASES for phrase in phrases]
