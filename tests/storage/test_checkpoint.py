"""Files of arrays and models: what is written comes back, and a wrong file is refused."""

import json
import os
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.engine import Tensor
from minipeft.methods import BitFit, Full, LoRA, Quantize, Subspace, TopK
from minipeft.models import BERT, GPT, BERTConfig, GPTConfig, LLaMA, LLaMAConfig, ViT, ViTConfig
from minipeft.nn import Linear, Parameter
from minipeft.storage import checkpoint
from minipeft.storage.checkpoint import (
    CheckpointError,
    fingerprint,
    load_arrays,
    load_model,
    save_arrays,
    save_model,
)
from minipeft.storage.text import Tokenizer
from tests.fuzz import in_time

F32 = np.arange(12, dtype=np.float32)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def file_of(header, data=b"\0" * 8, length=None):
    """The bytes of a safetensors file with any header and any lie about its length."""
    header = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


GOOD = file_of({"a": entry()})
ONE = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'

WRONG = {
    "empty": (b"", "header too small"),
    "cut in the header": (GOOD[:20], "invalid header length"),
    "cut in the values": (GOOD[:-1], "not fully covered"),
    "one byte too many": (GOOD + b"x", "not fully covered"),
    "header of 4 exabytes": (file_of({"a": entry()}, length=2**62), "header too large"),
    "header of 200 MB": (struct.pack("<Q", 200_000_000) + b"{" * 99, "header too large"),
    "not JSON": (file_of("hello"), "invalid JSON"),
    "not UTF-8": (struct.pack("<Q", 2) + b"\xff\xfe", "invalid UTF-8"),
    "a list": (file_of("[1]"), "invalid JSON"),
    "overlap": (
        file_of({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12),
        "invalid offset for tensor `b`",
    ),
    "gap": (
        file_of({"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20),
        "invalid offset for tensor `b`",
    ),
    "shared bytes": (file_of({"a": entry(), "b": entry()}), "invalid offset"),
    "backwards": (file_of({"a": entry(offsets=(8, 0))}), "invalid offset for tensor `a`"),
    "shape too big": (file_of({"a": entry(shape=(3,))}), "invalid shape, data type, or offset"),
    "negative shape": (file_of({"a": entry(shape=(-2,))}), "integer `-2`"),
    "shape overflows": (file_of({"a": entry(shape=(2**62, 4))}), "overflow"),
    "unknown dtype": (file_of({"a": entry("F99")}), "unknown variant `F99`"),
    "metadata of numbers": (file_of({"__metadata__": {"x": 1}, "a": entry()}), "expected a string"),
    "a name twice": (file_of("{" + ONE + "," + ONE + "}"), "the name 'a' is given twice"),
    "a metadata name twice": (
        file_of('{"__metadata__":{"x":"1","x":"2"},' + ONE + "}"),
        "the name 'x' is given twice",
    ),
    "8-bit floats": (
        file_of({"a": entry("F8_E4M3", offsets=(0, 2))}, b"\0\0"),
        "a has dtype F8_E4M3, wanted one of F64",
    ),
    "a boolean 3": (file_of({"a": entry("BOOL", offsets=(0, 2))}, b"\1\3"), "holds the byte 3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_by_name(case, tmp_path):
    data, message = WRONG[case]
    (tmp_path / "bad.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_arrays(tmp_path / "bad.safetensors")
    assert "bad.safetensors" in str(caught.value)


def test_the_good_file_of_these_tests_is_read(tmp_path):
    (tmp_path / "good").write_bytes(GOOD)
    arrays, metadata = load_arrays(tmp_path / "good")
    assert arrays["a"].tolist() == [0, 0] and metadata == {}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_non_finite_values_are_refused_unless_allowed(bad, dtype, tmp_path):
    path = tmp_path / "a"
    arrays = {"fine": F32, "layer.w": np.array([1, bad, 2], dtype)}
    with pytest.raises(
        CheckpointError, match=r"layer\.w cannot be saved: it must be finite, but 1"
    ):
        save_arrays(path, arrays, {})
    assert not path.exists()
    save_arrays(path, arrays, {}, allow_nonfinite=True)
    with pytest.raises(CheckpointError, match=r"layer\.w must be finite, but 1 of its 3 values"):
        load_arrays(path)
    loaded, _ = load_arrays(path, allow_nonfinite=True)
    assert np.array_equal(loaded["layer.w"], np.array([1, bad, 2], dtype), equal_nan=True)


@pytest.mark.parametrize(
    "array",
    [
        F32.reshape(3, 4).T,
        F32[::3],
        np.asfortranarray(F32.reshape(3, 4)),
        F32.reshape(1, 3, 4).astype(">f8"),
        np.float32(2.5),
        np.zeros((0, 3)),
        np.zeros((2, 0), bool),
        np.array([True, False]),
        np.arange(5, dtype=np.int8),
        np.arange(5, dtype=np.uint64),
        F32.astype(np.float16),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}{a.strides}",
)
def test_round_trip_keeps_values_shape_and_dtype(array, tmp_path):
    save_arrays(tmp_path / "a", {"w": array}, {"why": "test"})
    arrays, metadata = load_arrays(tmp_path / "a")
    assert metadata == {"why": "test"}
    assert arrays["w"].dtype == array.dtype.newbyteorder("=")
    assert arrays["w"].shape == array.shape
    assert np.array_equal(arrays["w"], array)
    assert arrays["w"].flags.writeable and arrays["w"].flags.c_contiguous


def test_bfloat16_is_read_as_float32(tmp_path):
    values = np.array([1.0, -2.5, 3e38], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    header = {"a": entry("BF16", (3,), (0, 6))}
    (tmp_path / "a").write_bytes(file_of(header, upper.tobytes()))
    loaded = load_arrays(tmp_path / "a")[0]["a"]
    assert loaded.dtype == np.float32
    np.testing.assert_allclose(loaded, values, rtol=2**-8)


def test_device_arrays_are_saved(backend, tmp_path):
    save_arrays(tmp_path / "a", {"w": backend.arange(6).reshape(2, 3).T}, {})
    assert load_arrays(tmp_path / "a")[0]["w"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_metadata_must_be_strings(tmp_path):
    with pytest.raises(TypeError, match="'steps': 3"):
        save_arrays(tmp_path / "a", {"w": F32}, {"steps": 3})


@pytest.mark.parametrize("step", ["save_file", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_alone(step, tmp_path, monkeypatch):
    path = tmp_path / "a"
    save_arrays(path, {"w": F32}, {})

    def fail(*args):
        raise OSError("disk full")

    owner = "safetensors.numpy" if step == "save_file" else "os"
    monkeypatch.setattr(f"{owner}.{step}", fail)
    with pytest.raises(OSError, match="disk full"):
        save_arrays(path, {"w": F32 + 1}, {})
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert np.array_equal(load_arrays(path)[0]["w"], F32)


@pytest.mark.skipif(os.name != "posix", reason="posix: file modes")
def test_a_written_file_has_the_mode_of_any_new_file(tmp_path):
    save_arrays(tmp_path / "a", {"w": F32}, {})
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_arrays(tmp_path)
    with pytest.raises(FileNotFoundError, match="none"):
        load_arrays(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="folder .*nowhere does not exist"):
        save_arrays(tmp_path / "nowhere" / "a", {"w": F32}, {})


def test_fingerprint_is_of_values_as_float32():
    half = {"b": F32.astype(np.float16), "a": F32.reshape(3, 4)}
    assert fingerprint(half) == fingerprint({k: half[k].astype(np.float64) for k in "ab"})
    assert fingerprint({"a": F32.reshape(3, 4).T}) == fingerprint({"a": F32.reshape(3, 4).T.copy()})


@pytest.mark.parametrize(
    "other",
    [
        {"a": F32.reshape(4, 3)},
        {"b": F32},
        {"a": F32, "b": F32},
        {"a": F32[::-1]},
        {"a": F32 + 1e-3},
    ],
)
def test_fingerprint_tells_names_shapes_and_values_apart(other):
    assert fingerprint({"a": F32}) != fingerprint(other)


def test_a_shape_without_values_is_not_written(tmp_path):
    hollow = {"w": np.broadcast_to(np.float32(0), (1000, 1000))}
    for use in (fingerprint, lambda arrays: save_arrays(tmp_path / "a", arrays, {})):
        with pytest.raises(CheckpointError, match="w has a shape but no values"):
            use(hollow)


# --- the shipped data ------------------------------------------------------------------------


def test_data_dir_prefers_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path))
    assert checkpoint.data_dir() == tmp_path
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="MINIPEFT_DATA names .*none"):
        checkpoint.data_dir()


def test_data_dir_names_every_place_it_looked_in(tmp_path, monkeypatch):
    package = tmp_path / "minipeft"
    package.mkdir()
    monkeypatch.delenv("MINIPEFT_DATA", raising=False)
    monkeypatch.setattr("minipeft.storage.files.__file__", str(package / "storage" / "files.py"))
    (tmp_path / "pyproject.toml").touch()
    with pytest.raises(FileNotFoundError) as caught:
        checkpoint.data_dir()
    for place in ("$MINIPEFT_DATA", str(tmp_path / "data"), str(package / "data")):
        assert place in str(caught.value)
    (package / "data").mkdir()
    assert checkpoint.data_dir() == package / "data"
    (tmp_path / "data").mkdir()
    assert checkpoint.data_dir() == tmp_path / "data"
    (tmp_path / "pyproject.toml").unlink()
    assert checkpoint.data_dir() == package / "data"


def test_an_unknown_model_name_lists_the_shipped_ones(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    for name in ("tiny-gpt", "other"):
        (tmp_path / "models" / f"{name}.safetensors").touch()
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"\['other', 'tiny-gpt'\].*mean 'tiny-gpt'"):
        load_model("tiny_gpt")
    with pytest.raises(FileNotFoundError, match="there is no file .*tiny-gpt"):
        load_model(tmp_path / "tiny-gpt")  # a path, though its last part is a name


# --- models ----------------------------------------------------------------------------------

CONFIG = {"vocab": 30, "context": 8, "width": 8, "layers": 2, "heads": 2}
IDS = np.array([[3, 1, 4, 1, 5]])


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A data folder with one model and a tokenizer; yields the model."""
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path))
    (tmp_path / "models").mkdir()
    model = GPT(GPTConfig(**CONFIG), seed=1)
    save_model(model, tmp_path / "models" / "small.safetensors", {"steps": 3}, dtype="float16")
    Tokenizer.train(["a cat and a cat"], 260).save(tmp_path / "tokenizer.json")
    return model


def test_a_model_comes_back_bit_for_bit(tmp_path):
    model = GPT(GPTConfig(**CONFIG, dropout=0.1), seed=1)
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.config == model.config
    assert np.array_equal(again(IDS).data, model(IDS).data)
    assert again.head.weight is again.emb.tok.weight
    arrays, metadata = load_arrays(tmp_path / "m.safetensors")
    assert "head.weight" not in arrays
    assert json.loads(metadata["ties"]) == {"head.weight": "emb.tok.weight"}


def test_a_shipped_model_is_found_by_name(shipped):
    model = load_model("small")
    assert model.card == {"steps": 3}
    assert model.tokenizer.decode(model.tokenizer.encode("a cat")) == "a cat"
    assert model(IDS).dtype == np.float32
    np.testing.assert_allclose(model(IDS).data, shipped(IDS).data, atol=1e-3)


def test_a_float64_copy_has_the_fingerprint_of_the_float32_one(shipped):
    single, double = load_model("small"), load_model("small", dtype="float64")
    assert double(IDS).dtype == np.float64
    assert fingerprint(single.state_dict()) == fingerprint(double.state_dict())
    assert fingerprint(single.state_dict()) != fingerprint(shipped.state_dict())  # it was rounded
    with pytest.raises(ValueError, match="dtype must be 'float32' or 'float64', got 'float16'"):
        load_model("small", dtype="float16")


def test_a_linear_head_is_new_and_seeded_and_saved(shipped, tmp_path):
    model = load_model("small", head="linear", classes=3, seed=5)
    assert model(IDS).shape == (1, 3)
    assert np.array_equal(model.emb.tok.weight.data, load_model("small").emb.tok.weight.data)
    same, other = (load_model("small", "linear", 3, seed=s).head.weight.data for s in (5, 6))
    assert np.array_equal(same, model.head.weight.data)
    assert not np.array_equal(other, model.head.weight.data)

    path = tmp_path / "classifier.safetensors"
    save_model(model, path)
    for again in (load_model(path), load_model(path, "linear"), load_model(path, classes=3)):
        assert np.array_equal(again(IDS).data, model(IDS).data)
    assert load_model(path, "linear", 4)(IDS).shape == (1, 4)
    back = load_model(path, "lm")
    assert np.array_equal(back(IDS).data, load_model("small")(IDS).data)
    with pytest.raises(ValueError, match="classes goes with head='linear'"):
        load_model("small", head="linear")


# -- memory -----------------------------------------------------------------------------------


def peak_of(call):
    """The largest number of bytes that the call held at a time."""
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.fixture(scope="module")
def broad(tmp_path_factory):
    """A model's size in float32, and its files in float32 and float16."""
    folder = tmp_path_factory.mktemp("broad")
    model = GPT(GPTConfig(vocab=256, context=64, width=128, layers=8, heads=2))
    for dtype in ("float32", "float16"):
        save_model(model, folder / dtype, dtype=dtype)
    load_model(folder / "float32")  # what is imported late
    return 4 * model.num_parameters(), folder


def test_reading_takes_the_bytes_of_the_file(broad):
    size, folder = broad
    assert size < peak_of(lambda: load_arrays(folder / "float32")) < 1.1 * size
    assert size / 2 < peak_of(lambda: load_arrays(folder / "float16")) < 0.6 * size


def test_one_large_array_is_read_in_its_own_bytes(tmp_path):
    array = np.ones(1 << 21, np.float32)
    save_arrays(tmp_path / "a", {"a": array}, {})
    assert peak_of(lambda: load_arrays(tmp_path / "a")) < 1.1 * array.nbytes


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("head", [{}, {"head": "linear", "classes": 3}])
def test_loading_takes_the_bytes_of_the_model_once(dtype, head, broad):
    size, folder = broad
    assert size < peak_of(lambda: load_model(folder / dtype, **head)) < 1.15 * size


def test_a_loaded_array_is_the_models_own():
    """What is adopted is not copied, and a state that somebody holds is."""
    model, other = GPT(GPTConfig(**CONFIG)), GPT(GPTConfig(**CONFIG), seed=1)
    state = {name: array.copy() for name, array in other.state_dict().items()}
    held = dict(state)
    model.load_state_dict(state)
    for name, p in model.named_parameters():
        assert not np.shares_memory(p.data, state[name])
    model.adopt_state_dict(state)
    assert not state
    for name, p in model.named_parameters():
        assert p.data is held[name] and p.version == 2


def test_what_does_not_fit_is_not_adopted():
    model = GPT(GPTConfig(**CONFIG))
    before = {name: p.data for name, p in model.named_parameters()}
    state = {name: array.copy() for name, array in model.state_dict().items()}
    state["ln_f.bias"] = state["ln_f.bias"][:-1]
    count = len(state)
    with pytest.raises(ValueError, match="wrong shape"):
        model.adopt_state_dict(state)
    assert len(state) == count
    assert all(p.data is before[name] for name, p in model.named_parameters())


def test_an_untied_head_stays_untied(tmp_path):
    model = GPT(GPTConfig(**CONFIG), seed=1)
    model.head.weight = Parameter(model.head.weight.data + 1)
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert np.array_equal(again(IDS).data, model(IDS).data)
    assert again.head.weight is not again.emb.tok.weight


def test_half_precision_refuses_what_does_not_fit(tmp_path):
    model = GPT(GPTConfig(**CONFIG))
    model.ln_f.weight.data = model.ln_f.weight.data * 1e5
    for sign in (1, -1):
        model.ln_f.weight.data = sign * model.ln_f.weight.data
        with pytest.raises(CheckpointError, match=r"ln_f\.weight does not fit in float16.* 1e\+05"):
            save_model(model, tmp_path / "m", dtype="float16")
    assert not list(tmp_path.iterdir())


def test_a_shape_only_model_is_not_saved(tmp_path):
    with pytest.raises(RuntimeError, match="no values"):
        save_model(GPT(GPTConfig(**CONFIG), init="shape"), tmp_path / "m")


BERT_CONFIG = BERTConfig(**CONFIG, mlp=12)
LLAMA_CONFIG = LLaMAConfig(**CONFIG, mlp=12, kv_heads=1)
VIT_CONFIG = ViTConfig(image=4, patch=2, channels=1, width=8, layers=2, heads=2, classes=3)
IMAGE = np.sin(np.arange(16.0)).reshape(1, 1, 4, 4)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (BERT(BERT_CONFIG, seed=1), IDS),
        (BERT(replace(BERT_CONFIG, head="linear", classes=3), seed=1), IDS),
        (BERT(replace(BERT_CONFIG, head="linear", classes=3, pool="mean"), seed=1), IDS),
        (ViT(replace(VIT_CONFIG, qkv_bias=False, head_width=3, activation="relu"), seed=1), IMAGE),
        (LLaMA(LLAMA_CONFIG, seed=1), IDS),
        (LLaMA(replace(LLAMA_CONFIG, tied=True, theta=50.0), seed=1), IDS),
    ],
    ids=["mlm", "linear", "mean", "vit", "llama", "tied"],
)
def test_every_other_family_comes_back_bit_for_bit(model, x, tmp_path):
    save_model(model, tmp_path / "m.safetensors", {"steps": 3})
    again = load_model(tmp_path / "m.safetensors")
    assert type(again) is type(model) and again.config == model.config
    assert np.array_equal(again(x).data, model(x).data) and again.card == {"steps": 3}
    assert hasattr(again, "tokenizer") != isinstance(model, ViT)


def test_a_bert_gets_a_classifier_and_its_masked_words_back(tmp_path):
    base, path = BERT(BERT_CONFIG, seed=1), tmp_path / "m.safetensors"
    save_model(base, path)
    model = load_model(path, "linear", 3, seed=5)
    assert model(IDS).shape == (1, 3)
    assert np.array_equal(model.blocks[1].ln_2.weight.data, base.blocks[1].ln_2.weight.data)
    assert np.array_equal(model.emb.tok.weight.data, base.emb.tok.weight.data)
    assert model.pooler.new and model.head.new  # MLM pretraining has no pooler
    same, other = (load_model(path, "linear", 3, seed=s).pooler.weight.data for s in (5, 6))
    assert np.array_equal(same, model.pooler.weight.data) and not np.array_equal(other, same)

    tuned = tmp_path / "classifier.safetensors"
    save_model(model, tuned)
    again = load_model(tuned)
    assert np.array_equal(again(IDS).data, model(IDS).data)
    wider = load_model(tuned, classes=4, seed=7)
    assert wider(IDS).shape == (1, 4) and wider.head.new and not wider.pooler.new
    assert np.array_equal(wider.pooler.weight.data, model.pooler.weight.data)
    back = load_model(tuned, "mlm")  # its transform is new
    assert back(IDS).shape == (1, 5, 30) and back.mlm.fc.new
    assert back.head.weight is back.emb.tok.weight
    for name, wrong in (("lm", "a BERT: head must be 'mlm' or 'linear', got 'lm'"),
                        ("linear", "classes goes with head='linear'")):  # fmt: skip
        with pytest.raises(ValueError, match=wrong):
            load_model(path, name)


@pytest.mark.parametrize("tied", [False, True])
def test_a_llama_gets_a_classifier(tied, tmp_path):
    base, path = LLaMA(replace(LLAMA_CONFIG, tied=tied), seed=1), tmp_path / "m.safetensors"
    save_model(base, path)
    model = load_model(path, "linear", 3, seed=5)
    assert model(IDS).shape == (1, 3) and model.head.new
    assert model.blocks[1].attn.k_proj.weight.shape == (4, 8)
    assert all(np.array_equal(p.data, base.state_dict()[name])
               for name, p in model.named_parameters() if name != "head.weight")  # fmt: skip
    save_model(model, tmp_path / "classifier")
    assert np.array_equal(load_model(tmp_path / "classifier")(IDS).data, model(IDS).data)


def test_a_bert_keeps_what_its_classifier_is_to_read(tmp_path):
    """An encoder without a classifier says how one is to pool; older files say nothing."""
    path = tmp_path / "m.safetensors"
    save_model(BERT(replace(BERT_CONFIG, pool="mean")), path)
    model = load_model(path, "linear", 3)
    assert model.config.pool == "mean" and not hasattr(model, "pooler") and model.head.new
    arrays, told = load_arrays(path)
    config = {k: v for k, v in json.loads(told["config"]).items() if k != "pool"}
    save_arrays(path, arrays, told | {"config": json.dumps(config)})
    assert load_model(path, "linear", 3).config.pool == "first"


def test_a_vit_gets_other_classes(tmp_path):
    base, path = ViT(VIT_CONFIG, seed=1), tmp_path / "m.safetensors"
    save_model(base, path)
    model = load_model(path, classes=5, dtype="float64")
    assert model(IMAGE).shape == (1, 5) and model(IMAGE).dtype == np.float64
    assert np.array_equal(model.emb.patch.weight.data, base.emb.patch.weight.data)
    with pytest.raises(ValueError, match="a ViT: head must be 'linear', got 'lm'"):
        load_model(path, "lm")


def test_a_body_that_lacks_an_array_is_refused_with_a_new_head_too(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(BERT(BERT_CONFIG), path)
    arrays, metadata = load_arrays(path)
    del arrays["emb.seg.weight"]
    save_arrays(path, arrays, metadata)
    with pytest.raises(CheckpointError, match=r"missing +emb\.seg\.weight"):
        load_model(path, "linear", 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no model of minipeft.*got format='other'"),
        ({"version": "2"}, "format version .2., this minipeft reads 1"),
        ({"version": "0"}, "format version .0., this minipeft reads 1"),
        ({"kind": "gtp"}, r"kind must be one of \['gpt', 'bert', 'vit', 'llama'\], got 'gtp'"),
        ({"kind": "bert"}, "wrong config: BERTConfig: head must be 'mlm' or 'linear', got 'lm'"),
        ({"kind": "vit"}, "wrong config: ViTConfig has no field 'vocab'"),
        ({"config": "{"}, "config is no JSON"),
        ({"config": "3"}, "config must be an object, got 3"),
        ({"config": json.dumps(CONFIG | {"depth": 3})}, "no field 'depth'"),
        ({"config": json.dumps(CONFIG | {"layers": 3})}, r"missing +blocks\.2"),
        ({"config": json.dumps(CONFIG | {"layers": 1})}, r"unexpected +blocks\.1"),
        ({"config": json.dumps(CONFIG | {"vocab": 31})}, r"emb\.tok\.weight: wanted \(31, 8\)"),
    ],
)
def test_lying_metadata_is_refused(change, message, tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(GPT(GPTConfig(**CONFIG)), path)
    arrays, metadata = load_arrays(path)
    save_arrays(path, arrays, metadata | change)
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


def test_numbers_in_another_shape_are_not_what_was_written(tmp_path):
    path = tmp_path / "a.safetensors"
    save_arrays(path, {"w": F32.reshape(3, 4)}, {})
    assert path.read_bytes().count(b"[3,4]") == 1
    path.write_bytes(path.read_bytes().replace(b"[3,4]", b"[4,3]"))
    with pytest.raises(CheckpointError, match="was damaged"):
        load_arrays(path)


@pytest.mark.parametrize("bit", range(8))
def test_one_flipped_bit_shows(tmp_path, bit):
    """In the numbers, the shapes or the metadata: nothing else than what was written loads."""
    path = tmp_path / "a.safetensors"
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "i": np.array([1, 2])}
    save_arrays(path, arrays, {"method": "lora", "alpha": "16"})
    whole, loaded = path.read_bytes(), 0
    for at in range(8, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
        try:
            found, facts = load_arrays(path)
        except (CheckpointError, FileNotFoundError):
            continue
        loaded += 1  # the flip was in white space, or in the name of the digest itself
        assert all((found[k] == a).all() and found[k].dtype == a.dtype for k, a in arrays.items())
        assert facts.items() >= {"method": "lora", "alpha": "16"}.items()
    assert loaded < 6


# --- a model that is not what its file would give back ---------------------------------------


@pytest.mark.parametrize("method", [Full(), LoRA(r=2), TopK(k=1), BitFit(), Quantize(), Subspace()])
def test_a_tuned_model_is_not_saved_as_its_untrained_base(method, tmp_path):
    model = GPT(GPTConfig(**CONFIG))
    at = attach(model, method)
    for _, p in at.trainable():
        p.data = p.data + 0.1
    message = rf"GPT has '{method.name}' attached.*merge\(\) it.*adapter.save\(path\)"
    with pytest.raises(CheckpointError, match=message):
        save_model(model, tmp_path / "m.safetensors", {"x": 1})
    assert not list(tmp_path.iterdir())
    with pytest.warns(UserWarning, match=rf"holds the base alone, without '{method.name}'.*merge"):
        state = model.state_dict()
    assert all(np.array_equal(a, model.base_arrays()[n]) for n, a in state.items())
    wanted = model(IDS).data
    at.merge()
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    np.testing.assert_allclose(again(IDS).data, wanted, atol=1e-5)
    assert np.array_equal(again(IDS).data, model(IDS).data)


def test_a_new_head_is_attached_too_and_what_was_merged_or_detached_is_saved(tmp_path):
    model, path = GPT(GPTConfig(**CONFIG, head="linear", classes=3)), tmp_path / "m.safetensors"
    base = model(IDS).data
    at = attach(model, Quantize())  # its only Parameter that trains is the head
    at.clones["head.weight"].data += 1
    with pytest.raises(CheckpointError, match="has 'quant' attached"):
        save_model(model, path)
    at.merge(keep=True)
    save_model(model, path)  # what is seen
    assert np.array_equal(load_model(path)(IDS).data, model(IDS).data)
    at.detach()
    save_model(model, path)
    assert np.array_equal(load_model(path)(IDS).data, base)


def test_a_part_has_no_file_and_a_handle_of_a_part_is_seen(tmp_path):
    model = GPT(GPTConfig(**CONFIG))
    with pytest.raises(CheckpointError, match="model kind must be one of .*, got 'block'"):
        save_model(model.blocks[0], tmp_path / "m")
    attach(model.blocks[1], BitFit())
    with pytest.raises(CheckpointError, match="this GPT has 'bitfit' attached"):
        save_model(model, tmp_path / "m")


class Doubled(Linear):
    def forward(self, x):
        return super().forward(x) * 2.0


def _own_linear(model):
    part = model.blocks[0].mlp.fc_in
    model.set("blocks.0.mlp.fc_in", Doubled.of(part.weight, part.bias))


def _put(path, name, value):
    """A change that sets an attribute of a part, to a value or to what a function of it gives."""

    def change(model):
        part = model.get(path)
        setattr(part, name, value(model) if callable(value) else value)

    return change


CHANGES = {
    "own linear": (_own_linear, "blocks.0.mlp.fc_in is Doubled, not what"),
    "own class": (_put("", "__class__", lambda m: type("GPT", (GPT,), {})), "not minipeft's own"),
    "own forward": (_put("blocks.0", "forward", lambda m: print), "forward is a new builtin_func"),
    "no bias": (_put("blocks.1.mlp.fc_in", "bias", None), "blocks.1.mlp.fc_in.bias is NoneType"),
    "an array": (_put("ln_f", "bias", np.zeros(8)), "ln_f.bias is ndarray"),
    "a Tensor": (_put("ln_f", "bias", Tensor(np.zeros(8))), "ln_f.bias is Tensor"),
    "a shape": (_put("ln_f", "bias", Parameter(np.zeros(9))), "ln_f.bias is Parameter"),
    "a clone": (_put("ln_f", "bias", lambda m: m.ln_f.bias.clone()), "ln_f.bias is a clone"),
    "a new part": (
        _put("blocks.0", "more", lambda m: Linear(8, 8)),
        "blocks.0.more is a new Linear",
    ),
    "a parameter": (_put("", "gate", Parameter(np.ones(2))), "gate is a new Parameter"),
    "a new array": (_put("emb", "mask", np.ones(2)), "emb.mask is a new ndarray"),
    "another block": (_put("blocks", "2", lambda m: m.blocks[1]), "blocks.2 is a new Block"),
    "a block less": (lambda m: delattr(m.blocks, "1"), "blocks.1 is NoneType"),
    "a block twice": (_put("blocks", "1", lambda m: m.blocks[0]), r"blocks\.1.*is shared with bl"),
    "heads": (_put("blocks.0.attn", "heads", 1), "blocks.0.attn.heads is 1, not what"),
    "activation": (_put("blocks.0.mlp", "activation", "relu"), "blocks.0.mlp.activation is 'relu'"),
    "dropout": (_put("blocks.0.drop", "p", 0.5), "blocks.0.drop.p is 0.5"),
    "eps": (_put("ln_f", "eps", 1e-3), "ln_f.eps is 0.001"),
    "config": (_put("", "config", lambda m: replace(m.config, context=6)), "emb.pos.weight is Par"),
    "a tie": (
        _put("blocks.1.mlp.fc_in", "weight", lambda m: m.blocks[0].mlp.fc_in.weight),
        "blocks.1.mlp.fc_in.weight is shared with blocks.0.mlp.fc_in.weight",
    ),
    "nan": (
        _put("ln_f", "bias", Parameter(np.full(8, np.nan))),
        "ln_f.bias cannot be saved: it must be finite, but 8 of its 8",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_file_would_not_give_back_is_refused_by_name(name, tmp_path):
    model = GPT(GPTConfig(**CONFIG))
    change, message = CHANGES[name]
    change(model)
    with pytest.raises(CheckpointError, match=message):
        save_model(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_no_file_has_to_keep_is_no_hindrance(tmp_path):
    model = GPT(GPTConfig(**CONFIG))
    model.note, model.card, model.ln_f.seen = "mine", {}, 3
    save_model(model, tmp_path / "m.safetensors")
    load_model(tmp_path / "m.safetensors")


def test_a_state_that_was_kept_does_not_change_as_the_model_trains():
    model = GPT(GPTConfig(**CONFIG))
    best, base = model.state_dict(), model(IDS).data
    for p in model.parameters():
        p.data -= 1.0  # in place, and as an optimizer does
        p.data = p.data * 2
    assert not np.array_equal(model(IDS).data, base)
    model.load_state_dict(best)
    assert np.array_equal(model(IDS).data, base)
    for p in model.parameters():
        p.data += 1.0
    model.load_state_dict(best)  # nor does loading hand it over
    assert np.array_equal(model(IDS).data, base)


@pytest.mark.parametrize("wrong", ["transposed", "text", "complex"])
def test_a_state_with_a_wrong_later_entry_changes_nothing(wrong):
    model = GPT(GPTConfig(**CONFIG))
    state = {n: a + 1 for n, a in model.state_dict().items()}
    name = list(state)[-4]
    state[name] = {"transposed": state[name].T[..., None], "text": state[name].astype(str),
                   "complex": state[name].astype(complex)}[wrong]  # fmt: skip
    before = {n: a.tobytes() for n, a in model.base_arrays().items()}
    with pytest.raises(ValueError, match=rf"wrong (shape|type) +{name}"):
        model.load_state_dict(state)
    assert {n: a.tobytes() for n, a in model.base_arrays().items()} == before


# --- hostile files -----------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE = {
    "config nested": {"config": '{"vocab":' + DEEP + "}"},
    "config cut": {"config": DEEP[:100_000]},
    "card nested": {"card": DEEP},
    "card no object": {"card": "[1]"},
    "card no JSON": {"card": "{x"},
    "ties": {"ties": "7"},
    "ties nested": {"ties": DEEP},
    "width": {"config": json.dumps(CONFIG | {"width": 10**9})},
    "width and heads": {"config": json.dumps(CONFIG | {"width": 10**9 + 7, "heads": 3})},
    "width of 400 digits": {"config": json.dumps(CONFIG | {"width": 10**400})},
    "layers": {"config": json.dumps(CONFIG | {"layers": 10**7})},
    "vocab": {"config": json.dumps(CONFIG | {"vocab": 2**31 - 1, "width": 2**30})},
    "context": {"config": json.dumps(CONFIG | {"context": 2**31})},
    "mlp": {"config": json.dumps(CONFIG | {"mlp": 10**12})},
    "a long name": {"config": json.dumps(CONFIG | {"x" * 100_000: 1})},
    "a long value": {"config": json.dumps(CONFIG | {"vocab": "x" * 100_000})},
    "kind": {"kind": "x" * 100_000},
    "version of digits": {"version": "²"},
    "version": {"version": "1" * 5000},
    "version none": {"version": ""},
}


@pytest.mark.parametrize("head", [None, "linear"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_at_once(case, head, tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(GPT(GPTConfig(**CONFIG)), path)
    arrays, metadata = load_arrays(path)
    save_arrays(path, arrays, metadata | HOSTILE[case])
    tracemalloc.start()
    try:
        with in_time(10), pytest.raises(CheckpointError) as caught:
            load_model(path, head, 3 if head else None)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 2000 and str(path) in str(caught.value)


@pytest.mark.parametrize("key", ["format", "version", "kind", "config", "ties", "card"])
def test_a_model_that_lacks_a_key_is_refused_or_whole(key, tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(GPT(GPTConfig(**CONFIG)), path)
    arrays, metadata = load_arrays(path)
    assert set(metadata) == {"format", "version", "kind", "config", "ties", "card"}
    del metadata[key]
    save_arrays(path, arrays, metadata)
    if key in ("ties", "card"):  # no word that the model is made of
        assert load_model(path).card == {}
        return
    with pytest.raises(CheckpointError, match=str(path)):
        load_model(path)


def test_a_data_folder_without_models_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}, which MINIPEFT_DATA names, has no"):
        load_model("tiny-gpt")
