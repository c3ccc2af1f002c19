"""What is claimed of prefix tuning, read off the results of runs.py and counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from minipeft.course.experiments.claims import Claim, Finding, cannot, compared, paper_row
from minipeft.course.experiments.prefix import runs
from minipeft.course.experiments.runner import results
from minipeft.ledger import get_paper

LECTURE = "06_prefix"
_claim = partial(Claim, lecture=LECTURE)
_pair = partial(compared, unit=" %")
LI, HU, OWN = "Li and Liang 2021", "Hu et al. 2021", "the lecture's own question"
AS_GOOD = 2.0  # points that "as good as" may lack


def scores(experiment: str, rates: Sequence[float], **which: Any) -> list[float]:
    """Test scores, seed by seed, at the rate that is best on validation data."""
    found = results(experiment)
    return found.where("test", lr=runs.best(found, rates, **which), **which)


def starting(name: str) -> list[float]:
    """Five positions from one of the starts."""
    return scores("prefix_start", runs.STARTS[name][1], start=name)


def long(n: int) -> list[float]:
    """A prefix of n positions that starts from words."""
    return scores("prefix_length", runs.LENGTH_RATES, n=n)


def special(kind: str, n: int) -> list[float]:
    """PrefixEmbed or PrefixLayer with n tokens."""
    return scores("prefix_special", runs.EMBED_RATES, kind=kind, n=n)


def in_layers(name: str) -> list[float]:
    """A prefix in some of the layers."""
    return scores("prefix_layers", runs.LENGTH_RATES, layers=name)


def inside(kind: str) -> list[float]:
    """An infix alone, or with a prefix; both start at random."""
    return scores("prefix_infix", runs.LENGTH_RATES, kind=kind)


def encoded(start: str, key: str = "test") -> list[float]:
    """BERT with a prefix, at the start's best rate; or "frozen", as it is."""
    found = results("prefix_encoder")
    lr = runs.best(found, (0.03, 0.1), start=start)
    return found.where(key, start=start, lr=lr)


def usable(name: str) -> list[int]:
    """How many of the three rates of a start end above 90 % on the test split, seed by seed."""
    found = results("prefix_start")
    rows = [found.where("test", start=name, lr=lr) for lr in runs.STARTS[name][1]]
    return [sum(score >= 90 for score in seed) for seed in zip(*rows, strict=True)]


def few(key: str, method: str, n: int, length: int = runs.FEW_LENGTHS[1]) -> list[float]:
    """A score after training on n records, seed by seed."""
    return results("prefix_few").where(key, method=method, n=n, length=length)


def _few(key: str, a: str, b: str, n: int, margin: float = 0.0) -> Finding:
    return compared(few(key, a, n), few(key, b, n), " BLEU", margin=margin)


def _lengths(a: int, b: int) -> Finding:
    first, second = (few("bleu_seen", "prefix", 50, length) for length in (a, b))
    return compared(first, second, " BLEU")


def gap(method: str, n: int) -> list[float]:
    """Loss on held-out records of seen categories less that on the trained ones, in nats."""
    pairs = zip(few("loss_seen", method, n), few("train", method, n), strict=True)
    return [held - seen for held, seen in pairs]


def _counted() -> Iterator[Claim]:
    for table, source in (("prefix", LI), ("e2e", HU), ("gpt3", HU)):
        paper = get_paper(table)
        for i, row in enumerate(paper.rows):
            if row.name.split()[-1].startswith(("PreEmbed", "PreLayer")) or "Prefix" in row.name:
                printed = row.printed if row.printed[:-1] else "0.1 % of the model"
                text = f"{' '.join(row.name.split())} trains {printed} ({table})"
                yield _claim(text, f"{source}, table of {table}", "section 2",
                             partial(paper_row, table, i))  # fmt: skip


def _quoted() -> Iterator[Claim]:
    """A row of the paper's table for each of its rows."""
    paper = get_paper("prefix")
    for row in paper.rows:
        text = f"{' '.join(row.name.split())} has {row.scores} ({paper.scores})"
        yield _claim(text, f"{LI}, table 1", "section 2",
                     cannot("GPT-2 and these sets are not here; quoted"))  # fmt: skip


CLAIMS = (
    *_counted(),
    *_quoted(),
    _claim("A prefix that starts from words beats one that starts at random",
           f"{LI}, figure 5", "figure 2", lambda: _pair(starting("words"), starting("random"))),
    _claim("An MLP beats training the keys and values as they are (random start)",
           f"{LI}, section 4.3", "figure 2",
           lambda: _pair(starting("random, MLP"), starting("random"))),
    _claim("An MLP beats training them as they are (start from words)", OWN, "figure 2",
           lambda: _pair(starting("words, MLP"), starting("words"))),
    _claim("The MLP makes training stable: it works at more of the rates tried (random start)",
           f"{LI}, section 4.3", "figure 2",
           lambda: compared(usable("random, MLP"), usable("random"), " of 3 rates")),
    _claim("Longer is better: 5 positions above 1", f"{LI}, figure 4", "figure 3",
           lambda: _pair(long(5), long(1))),
    _claim("Longer is better: 20 positions above 5", f"{LI}, figure 4", "figure 3",
           lambda: _pair(long(20), long(5))),
    _claim("Too long is worse: 20 positions above 60", f"{LI}, figure 4", "figure 3",
           lambda: _pair(long(20), long(60))),
    _claim("Embeddings alone say less: a prefix of 5 above PrefixEmbed of 16",
           f"{LI}, section 7.2", "figure 3", lambda: _pair(long(5), special("embed", 16))),
    _claim("PrefixEmbed gets worse with more tokens: 16 above 128", f"{HU}, section 3 and table 4",
           "figure 3", lambda: _pair(special("embed", 16), special("embed", 128))),
    _claim("PrefixLayer gets worse with more tokens: 16 above 128", f"{HU}, section 3 and table 4",
           "figure 3", lambda: _pair(special("layer", 16), special("layer", 128))),
    _claim("PrefixLayer is above PrefixEmbed (16 tokens)", f"{HU}, table 4", "figure 3",
           lambda: _pair(special("layer", 16), special("embed", 16))),
    _claim("A prefix is better than an infix (random starts)", f"{LI}, section 7.2", "section 7",
           lambda: _pair(starting("random"), inside("infix"))),
    _claim("Both together are better than a prefix alone (random starts)", OWN, "section 7",
           lambda: _pair(inside("both"), starting("random"))),
    _claim("A prefix teaches an encoder: above the frozen BERT (sentiment, from words)",
           "CMU 10-423", "section 8", lambda: _pair(encoded("words"), encoded("words", "frozen"))),
    _claim("There, too, a start from words beats a random one", OWN, "section 8",
           lambda: _pair(encoded("words"), encoded("random"))),
    _claim("The lower half of the layers is enough (2 points)", OWN, "section 7",
           lambda: _pair(in_layers("0-2"), long(5), margin=AS_GOOD)),
    _claim("The upper half of the layers is enough (2 points)", OWN, "section 7",
           lambda: _pair(in_layers("3-5"), long(5), margin=AS_GOOD)),
    _claim("With 50 records a prefix beats full fine-tuning (seen categories)",
           f"{LI}, figure 3; UW-Madison CS769", "section 6",
           lambda: _few("bleu_seen", "prefix", "full", 50)),
    _claim("With 50 records a prefix beats full fine-tuning (unseen categories)",
           f"{LI}, figure 3; UW-Madison CS769", "section 6",
           lambda: _few("bleu_unseen", "prefix", "full", 50)),
    _claim("With 50 records a prefix beats full fine-tuning (all categories)",
           f"{LI}, table 1", "section 6", lambda: _few("bleu_all", "prefix", "full", 50)),
    _claim("With 50 records 10 positions are better than 1", f"{LI}, figure 4", "section 6",
           lambda: _lengths(10, 1)),
    _claim("With 50 records 20 positions are better than 10", f"{LI}, figure 4", "section 6",
           lambda: _lengths(20, 10)),
    _claim("With 500 records it still does on unseen categories (WebNLG's U)", f"{LI}, table 1",
           "section 6", lambda: _few("bleu_unseen", "prefix", "full", 500)),
    _claim("With 500 records a prefix is as good as full on seen categories (2 BLEU)",
           f"{LI}, table 1", "section 6",
           lambda: _few("bleu_seen", "prefix", "full", 500, AS_GOOD)),
    _claim("Full fine-tuning overfits more: its gap between held-out and trained records is larger",
           'UW-Madison CS769, "Cool! But why?"', "section 6",
           lambda: compared(gap("full", 50), gap("prefix", 50), " nats a token", "50 records")),
    _claim("With 50 records a start from words beats a random one", f"{LI}, figure 5",
           "section 6", lambda: _few("bleu_seen", "prefix", "random", 50)),
    _claim("E2E, WebNLG and DART: prefix, adapters, top-2 and full in GPT-2 M and L (21 scores)",
           f"{LI}, table 1", "section 6",
           cannot("GPT-2 and these sets are not here; the table is quoted")),
    _claim("WikiSQL, MNLI and SAMSum with PrefixEmbed and PrefixLayer in GPT-3",
           f"{HU}, table 4", "section 5", cannot("GPT-3 is not here")),
    _claim("MNLI-n: with 100 to 10 000 examples both are far below full fine-tuning in GPT-3",
           f"{HU}, table 16", "section 5", cannot("GPT-3 is not here")),
    _claim("Summarization: a prefix of 200 positions is a little below full fine-tuning (XSum)",
           f"{LI}, table 2", "section 6",
           cannot("the course's `summary` is solved before any training (99 %)")),
)  # fmt: skip
