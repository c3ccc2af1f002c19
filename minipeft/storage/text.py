"""Text to token ids and back: byte-level BPE by Hugging Face `tokenizers`.

Every byte has a token, so any text makes the round trip. `tokenizers` is imported, and the
file is read, on first use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from minipeft.storage.files import write_atomic

END, PAD, MASK = "<|end|>", "<|pad|>", "<|mask|>"
# role -> its names in a file: ours, GPT-2's (which has an end token and no padding), BERT's
ROLES = {
    "end": (END, "<|endoftext|>", "[SEP]"),
    "pad": (PAD, "[PAD]"),
    "mask": (MASK, "[MASK]"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
}


class Tokenizer:
    """Token ids of a text.

    tokenizer = Tokenizer("tokenizer.json")       read on first use; Tokenizer.load reads now
    tokenizer.encode("a cat") -> [64, 512]        special tokens written in the text are text
    tokenizer.decode([64, 512]) -> "a cat"
    """

    def __init__(self, source: Any) -> None:
        self._source = source  # a path, or a tokenizers.Tokenizer

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer.json now, so that a bad file is an error here."""
        tokenizer = cls(path)
        _ = tokenizer.end_id
        return tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 2000) -> Tokenizer:
        """Learn the merges from texts. The same texts give the same tokenizer, always.

        Ids 0 and 1 are the end and the padding token, then the 256 bytes, then the merges.
        A small text gives fewer tokens than `vocab_size`.
        """
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, pre_tokenizers, trainers

        specials = [END, PAD]
        least = len(specials) + 256
        if vocab_size < least:
            raise ValueError(f"vocab_size must be at least {least}, got {vocab_size}")
        inner = Inner(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=specials,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        inner.train_from_iterator(_strings(texts), trainer)
        if inner.get_vocab_size() == least:
            raise ValueError("nothing to learn: the texts hold no pair of bytes that repeats")
        return cls(inner)

    @cached_property
    def _inner(self) -> Any:
        inner = self._source
        if isinstance(inner, (str, Path)):
            from tokenizers import Tokenizer as Inner

            if not Path(inner).is_file():
                raise FileNotFoundError(f"there is no tokenizer file at {inner}")
            try:
                inner = Inner.from_file(str(inner))
            except Exception as error:  # the library raises bare Exception
                raise ValueError(f"{inner} is not a tokenizer.json: {error!s:.300}") from error
        inner.encode_special_tokens = True  # "<|end|>" in a text must not end it
        inner.no_padding()  # which the files of sentence encoders ask for
        inner.no_truncation()
        return inner

    @property
    def vocab_size(self) -> int:
        """How many ids there are, the special ones included."""
        return self._inner.get_vocab_size()

    @cached_property
    def end_id(self) -> int:
        """The id that ends every text."""
        found = self._special("end", None)
        if found is None:
            names = " or ".join(ROLES["end"])
            raise ValueError(f"the tokenizer {self._source} has no end token ({names})")
        return found

    @cached_property
    def pad_id(self) -> int:
        """The id that fills a batch; the end token's where the file has none of its own."""
        return self._special("pad", self.end_id)

    @cached_property
    def mask_id(self) -> int:
        """The id of a hidden token; where the file has none, the first one after its own."""
        return self._special("mask", self.vocab_size)

    @cached_property
    def cls_id(self) -> int:
        """The id that an encoder's text begins with; the end token's where the file has none."""
        return self._special("cls", self.end_id)

    @cached_property
    def sep_id(self) -> int:
        """The id behind each of an encoder's texts; the end token's where the file has none."""
        return self._special("sep", self.end_id)

    def _special(self, role: str, otherwise: Any) -> Any:
        """The id of the first of a role's names that the file has."""
        found = (self._inner.token_to_id(name) for name in ROLES[role])
        return next((i for i in found if i is not None), otherwise)

    def encode(self, text: str) -> list[int]:
        """Ids of one text, without an end token."""
        if not isinstance(text, str):
            raise TypeError(f"encode takes a str, got {type(text).__name__}; see encode_many")
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, faster than one by one."""
        batch = self._inner.encode_batch(list(_strings(texts)), add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens are left out."""
        ids = [int(i) for i in ids]
        wrong = [i for i in ids if not 0 <= i < self.vocab_size]
        if wrong:
            raise ValueError(f"token id {wrong[0]} is not in 0 … {self.vocab_size - 1}")
        return self._inner.decode(ids, skip_special_tokens=True)

    def token(self, i: int) -> str:
        """The text of one id, for tables and plots."""
        return self._inner.decode([i], skip_special_tokens=False)

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json, whole or not at all."""
        text = self._inner.to_str(pretty=True)
        write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def __repr__(self) -> str:
        return f"Tokenizer({str(self._source)!r})" if self._is_path() else "Tokenizer(trained)"

    def _is_path(self) -> bool:
        return isinstance(self._source, (str, Path))


def _strings(texts: Iterable[str]) -> Iterable[str]:
    """The texts, checked one by one: a lone str would be taken letter by letter."""
    if isinstance(texts, str):
        raise TypeError("expected several texts, got one str; put it in a list")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {i} is not a str but {type(text).__name__}")
        yield text
