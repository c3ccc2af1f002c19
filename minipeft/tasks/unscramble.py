"""Unscramble: letters put in order. One of the tasks on which GPT-3 was shown examples.

The letters stand apart ("a s i n o c = c a s i n o"), as in the pretraining text: a byte-level
tokenizer would hide them otherwise.
"""

from __future__ import annotations

from collections import defaultdict

from minipeft.backend import Rng
from minipeft.tasks.base import Example, Pattern, Task
from minipeft.world.grammar import Draw
from minipeft.world.lexicon import LETTER_WORDS
from minipeft.world.sentences import part_of, split_of


class Unscramble(Task):
    """Scrambled words; the references are all words of these letters.

    Splits  share no word. train, validation, test: words that the pretraining text spells;
            unseen: words that it never shows letter by letter
    """

    name = "unscramble"
    kind = "generation"
    metric = "exact"
    splits = ("train", "validation", "test", "unseen")
    sizes = (1000, 200, 200, 200)
    patterns = (
        Pattern("{x} ="),
        Pattern("Letters: {x}\nWord:"),
        Pattern("Put in order: {x} ="),
    )

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        draw = Draw(Rng(seed, self.name, split))
        words = [w for w in LETTER_WORDS if _split(w) == split]
        seen: set[str] = set()
        out: list[Example] = []
        while len(out) < n:
            word = draw.pick(words)
            text = " ".join(draw.shuffle(word))
            letters = "".join(sorted(word))
            if text in seen or text.replace(" ", "") in _ANAGRAMS[letters]:
                continue
            seen.add(text)
            others = [w for w in _ANAGRAMS[letters] if w != word]
            answers = tuple(" " + " ".join(w) for w in (word, *others))
            out.append(Example(pattern.template.format(x=text), answers[0], references=answers))
        return out


_ANAGRAMS: dict[str, list[str]] = defaultdict(list)
for _word in LETTER_WORDS:
    _ANAGRAMS["".join(sorted(_word))].append(_word)


def _split(word: str) -> str:
    """The split of a word, which is that of its letters in any order."""
    words = _ANAGRAMS["".join(sorted(word))]
    if all(split_of(w) == "validation" for w in words):
        return "unseen"
    return part_of("".join(sorted(word)))
