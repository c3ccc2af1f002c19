"""The tokenizer: every text makes the round trip, and training is deterministic."""

import hashlib
import json
import subprocess
import sys

import pytest

from minipeft.storage.files import data_dir
from minipeft.storage.text import Tokenizer

TEXTS = ["The cat sat on the mat.\n", "The dog sat on the cat's mat, and the cat ran.\n"] * 3
ODD = [
    "",
    "?",
    "a 😀 b 한국어 é",
    "one\n\ntwo\t three  \n",
    "<|end|> is text, <|pad|> too",
    "\x00\xad",
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, vocab_size=278)


@pytest.mark.parametrize("text", ODD)
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.end_id not in ids and tokenizer.pad_id not in ids
    assert tokenizer.encode_many([text, "x"]) == [ids, tokenizer.encode("x")]


def test_special_ids_come_first_and_are_left_out_of_text(tokenizer):
    assert (tokenizer.end_id, tokenizer.pad_id, tokenizer.vocab_size) == (0, 1, 278)
    assert (tokenizer.token(0), tokenizer.token(1)) == ("<|end|>", "<|pad|>")
    assert tokenizer.decode([*tokenizer.encode("cat"), 0, 1]) == "cat"


def made(specials, tmp_path):
    """A tokenizer of bytes with these special tokens, which puts the first before every text."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers, processors

    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Inner(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(specials)
    inner.post_processor = processors.TemplateProcessing(
        single=f"{specials[0]} $A", special_tokens=[(specials[0], 0)]
    )
    inner.save(str(tmp_path / "made.json"))
    return Tokenizer.load(tmp_path / "made.json")


def test_ids_of_special_tokens_are_the_files_where_it_has_them(tokenizer, tmp_path):
    assert tokenizer.mask_id == tokenizer.vocab_size
    other = made(["<|pad|>", "<|end|>", "<|mask|>"], tmp_path)
    assert (other.pad_id, other.end_id, other.mask_id) == (0, 1, 2)  # 0 is an id like others
    assert (other.cls_id, other.sep_id) == (1, 1)
    assert made(["<|endoftext|>"], tmp_path).pad_id == 0
    bert = made(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], tmp_path)
    assert (bert.pad_id, bert.cls_id, bert.sep_id, bert.end_id, bert.mask_id) == (0, 2, 3, 3, 4)


def test_many_texts_get_no_special_tokens_either(tmp_path):
    own = made(["<|end|>", "<|pad|>"], tmp_path)
    assert own.encode_many(["ab", ""]) == [own.encode("ab"), []] and len(own.encode("ab")) == 2


def test_a_file_neither_pads_nor_cuts_texts(tmp_path):
    from tokenizers import Tokenizer as Inner

    made(["<|end|>", "<|pad|>"], tmp_path)
    inner = Inner.from_file(str(tmp_path / "made.json"))
    inner.enable_padding(length=9)
    inner.enable_truncation(max_length=2)
    inner.save(str(tmp_path / "made.json"))
    read = Tokenizer.load(tmp_path / "made.json")
    assert len(read.encode("abc")) == 3
    assert [len(ids) for ids in read.encode_many(["a", "abc"])] == [1, 3]


def test_training_learns_words(tokenizer):
    assert len(tokenizer.encode(" the cat sat")) == 3


def test_training_is_the_same_in_another_process(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "here.json")
    code = (
        "import sys; from minipeft.storage.text import Tokenizer; "
        f"Tokenizer.train({TEXTS!r}, vocab_size=278).save(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there.json")], check=True)
    here, there = ((tmp_path / f"{name}.json").read_bytes() for name in ("here", "there"))
    assert hashlib.sha256(here).digest() == hashlib.sha256(there).digest()


def test_save_and_load_give_the_same_ids(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    loaded = Tokenizer.load(tmp_path / "t.json")
    assert loaded.encode_many(ODD) == tokenizer.encode_many(ODD)
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_the_file_is_read_on_first_use(tmp_path):
    tokenizer = Tokenizer(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match="none.json"):
        tokenizer.encode("a")


def test_a_wrong_file_is_named(tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text('{"model": 3}')
    with pytest.raises(ValueError, match=r"bad\.json is not a tokenizer\.json"):
        Tokenizer.load(bad)


def test_a_file_without_end_token_is_refused(tmp_path):
    from tokenizers import Tokenizer as Inner
    from tokenizers import models

    Inner(models.BPE()).save(str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match="has no end token"):
        Tokenizer.load(tmp_path / "t.json")


def test_wrong_arguments_are_named(tokenizer):
    with pytest.raises(TypeError, match="takes a str, got list"):
        tokenizer.encode(["a"])
    with pytest.raises(TypeError, match="got one str"):
        tokenizer.encode_many("abc")
    with pytest.raises(TypeError, match="text 1 is not a str but int"):
        Tokenizer.train(["a", 1])
    with pytest.raises(ValueError, match="at least 258, got 100"):
        Tokenizer.train(TEXTS, vocab_size=100)
    with pytest.raises(ValueError, match="nothing to learn"):
        Tokenizer.train([])
    for wrong in (278, -1):
        with pytest.raises(ValueError, match=f"token id {wrong} is not in 0 … 277"):
            tokenizer.decode([5, wrong])


def test_gpt2_golden_cases(real_data):
    golden = json.loads(real_data("tokenizer_golden/golden_gpt2_bert.json").read_text())["gpt2"]
    tokenizer = Tokenizer.load(real_data("gpt2_tokenizer/tokenizer.json"))
    assert len(golden) == 26
    assert tokenizer.end_id == tokenizer.pad_id == 50256
    for case in golden.values():
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["text"]


def test_an_error_fits_a_screen_though_the_file_holds_a_long_token(tmp_path):
    whole = json.loads((data_dir() / "tokenizer.json").read_text(encoding="utf-8"))
    whole["model"]["merges"][0] = ["9" * 10_000, "9"]  # the library's message has it all
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(ValueError, match="is not a tokenizer.json: Token `9999") as error:
        Tokenizer(file).encode("a")
    assert len(str(error.value)) < 800
