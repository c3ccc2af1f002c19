"""The pretraining text as a stream of documents, the same bytes for the same seed everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from minipeft.backend import Rng
from minipeft.corpus.episodes import LOOKED_UP, episode
from minipeft.corpus.relations import comparison, judgement, relation_document
from minipeft.tasks.choice import list_question
from minipeft.tasks.remap import remap_document
from minipeft.tasks.summary import paragraph
from minipeft.world.descriptions import describe, dialogue, listing
from minipeft.world.lexicon import LETTER_WORDS
from minipeft.world.narrators import answer, judge, narrate
from minipeft.world.records import record_document
from minipeft.world.reviews import DOMAINS, ENDINGS, review, words_of_one_sign
from minipeft.world.sentences import SPLITS, Teller, part_of
from minipeft.world.town import World


@dataclass(frozen=True)
class Doc:
    """One document.

    nats    -log p of the text under the generator, given its kind, the end included; None where
            the text does not determine the choices that made it. Counted under the whole
            grammar: that a sentence belongs to the other split is not known to anyone.
    meta    what a test may ask for: who narrates, which mapping an episode shows
    """

    kind: str
    text: str
    nats: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)


# kind: (share of the documents, why)
KINDS: dict[str, tuple[float, str]] = {
    "narrator": (0.27, "facts and myths, marked and not: truth needs many tellings"),
    "description": (0.12, "facts again, in a text that holds together"),
    "qa": (0.13, "the form in which the truth task asks"),
    "review": (0.11, "two domains, many with a verdict: sentiment and its shift"),
    "episode": (0.11, "long documents: a fifth of the text; in-context learning"),
    "claims": (0.09, "what says the same, what follows, what is good English, said outright"),
    "record": (0.04, "tables and their tellings, for table-to-text"),
    "summary": (0.01, "a paragraph in short"),
    "dialogue": (0.02, "pronouns over turns, yes and no"),
    "list": (0.03, "categories, entities that share a value, what goes under a category"),
    "letters": (0.04, "letters apart: a byte-level tokenizer hides them otherwise"),
    "remap": (0.03, "the mapping that prompts can select"),
}
# What a model reads last: less of the world, more of what will be asked of it.
LATER: dict[str, dict[str, float]] = {
    "context": {
        "verdict": 0.28, "lookup": 0.14, "episode": 0.12, "review": 0.12, "narrator": 0.10,
        "qa": 0.08, "claims": 0.04, "description": 0.03, "record": 0.03, "list": 0.02,
        "remap": 0.01, "summary": 0.01, "dialogue": 0.01, "letters": 0.01,
    },
    "comparisons": {"comparison": 1.0},
    "judgements": {
        "comparison": 0.30, "judgement": 0.45, "review": 0.13, "description": 0.03,
        "narrator": 0.02, "qa": 0.02, "episode": 0.02,
        "record": 0.01, "list": 0.01, "summary": 0.01,
    },
}  # fmt: skip
APART = ("comparisons", "judgements")  # mixes whose documents are rows of their own


def documents(
    world: World,
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    split: str | None = "train",
    shares: Mapping[str, float] | None = None,
) -> Iterator[Doc]:
    """Documents without end, of the kinds asked for (all of `shares` unless told).

    shares  of the documents, by kind: those of KINDS unless told
    Raises  ValueError for an unknown kind or split
    """
    shares = {k: share for k, (share, _) in KINDS.items()} if shares is None else shares
    names = tuple(shares) if kinds is None else tuple(kinds)
    for name in names:
        if name not in _MAKERS or name not in shares:
            raise ValueError(f"unknown kind {name!r}; the kinds are {', '.join(shares)}")
    if split not in (*SPLITS, None):
        raise ValueError(f"split must be 'train', 'validation' or None, got {split!r}")
    teller = Teller(world, Rng(seed, "stream", str(split)), split)
    weights = [shares[name] for name in names]
    while True:
        kind = teller.draw.weighted(names, weights) if len(names) > 1 else names[0]
        yield _MAKERS[kind](teller)


def texts(world: World, n: int, seed: int = 0, split: str | None = "train") -> list[str]:
    """The texts of the first n documents."""
    return [doc.text for doc in islice(documents(world, seed, split=split), n)]


def _narrator(teller: Teller) -> Doc:
    return Doc("narrator", *narrate(teller))


def _verdict(teller: Teller) -> Doc:
    text, meta = judge(teller)
    return Doc("verdict", text, None, dict(meta))


def _judgement(teller: Teller) -> Doc:
    text, meta = judgement(teller)
    return Doc("judgement", text, None, dict(meta))


def _comparison(teller: Teller) -> Doc:
    return Doc("comparison", comparison(teller))


def _qa(teller: Teller) -> Doc:
    return Doc("qa", *answer(teller))


def _description(teller: Teller) -> Doc:
    return Doc("description", *describe(teller))


def _dialogue(teller: Teller) -> Doc:
    return Doc("dialogue", *dialogue(teller))


QUESTION_SHARE = 0.35  # of the lists


def _list(teller: Teller) -> Doc:
    """A list; or what goes under a category, asked as the task does for its train part."""
    draw = teller.draw
    if not draw.flip(QUESTION_SHARE):
        return Doc("list", *listing(teller))

    def make() -> tuple[str, str]:
        question, answers = list_question(draw)
        while part_of(question) != "train":
            question, answers = list_question(draw)
        return f"Question: {question}\nAnswer:{answers[0]}", question

    lines = [teller.keep(make) for _ in range(draw.pick((3, 4, 5)))]
    return Doc("list", "\n".join(lines))


def _episode(teller: Teller) -> Doc:
    text, meta = episode(teller)
    return Doc("episode", text, None, meta)


def _lookup(teller: Teller) -> Doc:
    """An episode whose labels mean nothing outside it."""
    text, meta = episode(teller, LOOKED_UP, natural_share=0.0)
    return Doc("lookup", text, None, meta)


def _review(teller: Teller) -> Doc:
    """Two to four reviews of one sign; most that no task asks about end with a verdict.

    Two documents in five hold words of praise or blame instead: without them a small model
    does not find out, in millions of tokens, that the words have a sign.
    """
    draw = teller.draw
    domain, positive, words = draw.pick(DOMAINS), draw.flip(0.5), draw.flip(0.4)
    lines = []
    for _ in range(draw.pick((2, 3, 4))):
        if words:
            positive = draw.flip(0.5)
            text, verdict = words_of_one_sign(draw, positive), draw.flip(0.5)
        else:
            text = teller.keep_text(partial(review, draw, domain, positive))
            verdict = part_of(text) == "train" and draw.flip(0.6)
        if verdict:
            ending, good, bad = draw.pick(ENDINGS)
            text += ending.format(good if positive else bad)
        lines.append(text)
    return Doc("review", "\n".join(lines), None, {"domain": domain})


def _record(teller: Teller) -> Doc:
    text = teller.keep_text(lambda: record_document(teller.draw))
    return Doc("record", text)


def _summary(teller: Teller) -> Doc:
    """A paragraph and one of its summaries, of the task's train part."""
    draw = teller.draw

    def make() -> str:
        _, text, summaries, joined = paragraph(draw)
        while part_of(joined) != "train":
            _, text, summaries, joined = paragraph(draw)
        return f"{text}\nIn short:{draw.pick(summaries)}"

    return Doc("summary", teller.keep_text(make))


def _claims(teller: Teller) -> Doc:
    text, meta = relation_document(teller)
    return Doc("claims", text, None, dict(meta))


def _letters(teller: Teller) -> Doc:
    """Words letter by letter: put together, scrambled and put right, or counted."""
    draw = teller.draw
    lines = []
    for _ in range(draw.integer(4, 9)):
        word = teller.keep_text(lambda: draw.pick(LETTER_WORDS))
        style = draw.weighted(("scrambled", "apart", "spelt", "ends"), (0.6, 0.15, 0.15, 0.1))
        if style == "scrambled":
            lines.append(f"{' '.join(draw.shuffle(word))} = {' '.join(word)}")
        elif style == "apart":
            lines.append(f"{' '.join(word)} = {word}")
        elif style == "spelt":
            lines.append(f"{word} = {' '.join(word)}")
        else:
            lines.append(f"{word} begins with {word[0]} and ends with {word[-1]}")
    return Doc("letters", "\n".join(lines))


def _remap(teller: Teller) -> Doc:
    return Doc("remap", remap_document(teller.draw))


_MAKERS: dict[str, Callable[[Teller], Doc]] = {
    "narrator": _narrator, "description": _description, "qa": _qa, "review": _review,
    "episode": _episode, "record": _record, "dialogue": _dialogue, "list": _list,
    "letters": _letters, "remap": _remap, "summary": _summary, "claims": _claims,
    "verdict": _verdict, "lookup": _lookup, "judgement": _judgement,
    "comparison": _comparison,
}  # fmt: skip
