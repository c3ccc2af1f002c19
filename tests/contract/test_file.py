"""Adapter files: what is in them, and that a wrong one is refused and changes no bit."""

import dataclasses
import json
import pickle
import subprocess
import sys
import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.contract import file as adapter_file
from minipeft.methods import BitFit, Full, LoftQ, LoRA, QLoRA, Quantize, TopK, VeRA, load_adapter
from minipeft.models import GPT
from minipeft.nn import Parameter, init
from minipeft.storage.checkpoint import CheckpointError, load_arrays, save_arrays, save_model
from tests import fuzz
from tests.contract.throwaway import THROWAWAY, Masked, Subspace
from tests.methods.contract import CASES, CONFIG, assert_restored, randomize, run, same, snapshot

CASE = CASES["lora"]
METHOD, IDS = CASE.method, CASE.inputs()


@pytest.fixture
def file(tmp_path):
    """A whole adapter file."""
    _, handle = CASE.attached()
    handle.save(tmp_path / "whole")
    return tmp_path / "whole"


def rewritten(file, change):
    """A copy of an adapter file whose arrays and metadata `change` has edited."""
    arrays, metadata = load_arrays(file)
    change(arrays, metadata)
    bad = file.with_name("bad")
    save_arrays(bad, arrays, metadata, allow_nonfinite=True)  # a foe may do so
    return bad


def assert_refused(file, message, method=METHOD, model=None, error=CheckpointError):
    """Neither load nor load_adapter takes the file, and both leave everything as it was."""
    fresh = model or CASE.model()
    before = snapshot(fresh)
    with pytest.raises(error, match=message):
        load_adapter(fresh, file, THROWAWAY | {"lora": LoRA, "bitfit": BitFit, "full": Full})
    assert_restored(fresh, before)
    assert not fresh.handles
    handle = attach(fresh, method)
    randomize(handle)
    before, y, own = snapshot(fresh), run(fresh, IDS), vars(handle).copy()
    with pytest.raises(error, match=message):
        handle.load(file)
    assert_restored(fresh, before)
    assert same(run(fresh, IDS), y) and fresh.handles == [handle]
    assert all(vars(handle)[k] is v for k, v in own.items() if k not in ("flags", "changes"))


# --- what is in a file -------------------------------------------------------------------------


def test_a_file_tells_what_it_is(file):
    arrays, metadata = load_arrays(file)
    assert set(arrays) == {
        f"blocks.{i}.attn.{x}_proj.{M}" for i in (0, 1) for x in "qv" for M in "AB"
    }
    assert metadata.keys() == {"format", "version", "method", "fields", "over", "base", "card"}
    assert (metadata["format"], metadata["method"]) == ("minipeft-adapter", "lora")
    assert LoRA.from_fields(json.loads(metadata["fields"])) == METHOD
    assert json.loads(metadata["over"]) == []


def test_a_card_is_kept_and_an_older_file_has_an_empty_one(file, tmp_path):
    _, handle = CASE.attached()
    handle.save(tmp_path / "told", {"task": "sounds", "options": [" moos"]})
    assert adapter_file.read(tmp_path / "told")[1]["card"] == {"task": "sounds",
                                                               "options": [" moos"]}  # fmt: skip
    older = rewritten(file, lambda arrays, metadata: metadata.pop("card"))
    assert adapter_file.read(older)[1]["card"] == {}


def test_a_fresh_process_gives_the_same_bits(tmp_path):
    model, handle = CASE.attached(np.float32)
    save_model(CASE.model(np.float32), tmp_path / "base.safetensors")
    handle.save(tmp_path / "adapter")
    code = f"""
import numpy as np
from minipeft import load_adapter, load_model
model = load_model({str(tmp_path / "base.safetensors")!r})
load_adapter(model, {str(tmp_path / "adapter")!r})
print(model(np.array({IDS.tolist()})).data.tobytes().hex())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert bytes.fromhex(done.stdout) == run(model, IDS).tobytes()


def test_the_base_is_the_same_in_another_dtype(tmp_path):
    model, handle = CASE.attached(np.float32)
    handle.save(tmp_path / "a")
    wide = GPT(CONFIG, dtype=np.float64)
    wide.load_state_dict(CASE.model(np.float32).state_dict())
    second = load_adapter(wide, tmp_path / "a")
    assert {p.dtype for _, p in second.trainable()} == {np.dtype(np.float64)}
    assert abs(run(wide, IDS) - run(model, IDS)).max() < 1e-4


def test_another_seed_draws_anew_what_is_not_saved(tmp_path):
    model, handle = CASES["throwaway_subspace"].attached()
    handle.save(tmp_path / "a")
    fresh = CASE.model()
    second = attach(fresh, Subspace(seed=5))
    second.load(tmp_path / "a")
    assert second.method == Subspace(seed=0) and same(run(fresh, IDS), run(model, IDS))
    second.detach()
    assert same(run(fresh, IDS), run(CASE.model(), IDS))


def test_drawing_anew_needs_the_top_of_the_stack(tmp_path):
    _, handle = CASES["throwaway_subspace"].attached()
    handle.save(tmp_path / "a")
    model = CASE.model()
    lower = attach(model, Subspace(seed=5))
    upper = attach(model, LoRA(r=2))
    with pytest.raises(RuntimeError, match="cannot be drawn anew: detach what was attached later"):
        lower.load(tmp_path / "a")
    upper.detach()
    lower.load(tmp_path / "a")


def classifier(seed):
    """The base with a new head of its own."""
    model = GPT(replace(CONFIG, head="linear", classes=3), dtype=np.float64)
    model.head.new = True
    model.head.weight.data = np.random.default_rng(seed).normal(size=(3, 8))
    return model


def test_a_new_head_is_no_part_of_the_base(tmp_path):
    model = classifier(0)
    handle = attach(model, METHOD)
    randomize(handle)
    handle.save(tmp_path / "a")
    fresh = classifier(1)
    load_adapter(fresh, tmp_path / "a")
    assert same(run(fresh, IDS), run(model, IDS))


def test_what_stands_at_two_places_is_looked_for_once(tmp_path):
    model = CASE.model()
    assert model.head.weight is model.emb.tok.weight
    handle = attach(model, Full())
    randomize(handle)
    handle.save(tmp_path / "a")
    assert "head.weight" not in load_arrays(tmp_path / "a")[0]
    fresh = CASE.model()
    load_adapter(fresh, tmp_path / "a")
    assert same(run(fresh, IDS), run(model, IDS))


def test_an_adapter_over_another_needs_it_again(tmp_path):
    model, lower = CASE.attached()
    upper = attach(model, BitFit())
    randomize(upper)
    upper.save(tmp_path / "upper")
    fresh = CASE.model()
    with pytest.raises(CheckpointError, match=r"over the methods \['lora'\], here they are \[\]"):
        load_adapter(fresh, tmp_path / "upper")
    randomize(attach(fresh, METHOD))
    load_adapter(fresh, tmp_path / "upper")
    assert same(run(fresh, IDS), run(model, IDS))


# --- what is refused ---------------------------------------------------------------------------


def test_a_file_cut_short_anywhere(file):
    raw = file.read_bytes()
    cuts = sorted({len(raw) * i // 40 for i in range(39)} | {len(raw) - 1})
    assert len(cuts) == 40
    bad = file.with_name("cut")
    fresh = CASE.model()
    handle = attach(fresh, METHOD)
    randomize(handle)
    before = snapshot(fresh)
    for cut in cuts:
        bad.write_bytes(raw[:cut])
        with pytest.raises(CheckpointError, match="cut is not a whole safetensors file"):
            load_adapter(fresh, bad)
        with pytest.raises(CheckpointError, match="cut is not a whole safetensors file"):
            handle.load(bad)
        assert_restored(fresh, before)


def first_a(arrays):
    return next(name for name in arrays if name.endswith(".A"))


def edit(kind):
    """A change of the arrays or the metadata, by name."""

    def change(arrays, metadata):
        fields = json.loads(metadata["fields"])
        name = first_a(arrays)
        match kind:
            case "shape":
                arrays[name] = arrays[name].T.copy()
            case "rank":
                arrays[name] = arrays[name][:1].copy()
            case "missing":
                del arrays[name]
            case "unexpected":
                arrays["blocks.2.attn.q_proj.A"] = arrays[name]
            case "state":
                arrays["state:mask"] = np.ones(3, np.float32)
            case "integers":
                arrays[name] = np.ones(arrays[name].shape, np.int64)
            case "base":
                metadata["base"] = "0" * 64
            case "format":
                metadata["format"] = "minipeft"
            case "version":
                metadata["version"] = "3"
            case "lacks":
                del metadata["fields"], metadata["base"]
            case "json":
                metadata["fields"] = "{r: 2"
            case "list":
                metadata["fields"] = "[2]"
            case "card":
                metadata["card"] = "[1]"
            case "method":
                metadata["method"] = "lorra"
            case "field":
                metadata["fields"] = json.dumps(fields | {"rank": 2})
            case "value":
                metadata["fields"] = json.dumps(fields | {"r": -1})
            case "type":
                metadata["fields"] = json.dumps(fields | {"r": "two"})
            case "targets":
                metadata["fields"] = json.dumps(fields | {"targets": 5})
        return arrays, metadata

    return change


EDITS = {
    "shape": r"q_proj.A must have shape \(2, 8\), has \(8, 2\)",
    "rank": r"q_proj.A must have shape \(2, 8\), has \(1, 8\)",
    "missing": "blocks.0.attn.q_proj.A is missing",
    "unexpected": "blocks.2.attn.q_proj.A is unexpected",
    "state": "state mask is unexpected",
    "integers": "q_proj.A must hold floats, has int64",
    "base": "was trained on another base model",
    "format": "is no adapter of minipeft: format='minipeft'. A model is read with load_model",
    "version": "has format version '3', this minipeft reads 1 to 2",
    "lacks": "lacks the metadata fields, base",
    "json": "fields is no JSON",
    "list": r"fields must be an object, got \[2\]",
    "card": "card must be an object",
    "method": "holds a 'lorra' adapter",
    "field": "settings that LoRA refuses: LoRA has no setting 'rank'; nearest is 'r",
    "value": "settings that LoRA refuses: LoRA: r must be a whole number >= 1, got -1",
    "type": "settings that LoRA refuses: LoRA: r must be int, got 'two'",
    "targets": "settings that LoRA refuses: LoRA: targets must be",
}


@pytest.mark.parametrize("kind", EDITS)
def test_a_lying_file(file, kind):
    assert_refused(rewritten(file, edit(kind)), EDITS[kind])


def test_much_that_is_wrong_fits_a_screen(file):
    def change(arrays, _):
        for i in range(40):
            arrays[f"new{i}"] = np.ones(1)

    assert_refused(rewritten(file, change), r"fit: new0 is unexp(.*;){6} and 34 more$")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite(file, value):
    def change(arrays, _):
        arrays[first_a(arrays)][0, 3] = value

    assert_refused(rewritten(file, change), "q_proj.A must be finite, but 1 of its 16 values")


def test_a_value_that_does_not_fit(tmp_path):
    model, handle = CASE.attached(np.float64)
    (_, p), *_ = handle.trainable()
    p.data[0, 0] = 1e300
    handle.save(tmp_path / "a")
    assert_refused(tmp_path / "a", "does not fit into float32: a value becomes infinite",
                   model=narrow(CASE.model()))  # fmt: skip


def narrow(model):
    """The same base in float32."""
    for p in model.parameters():
        p.data = p.data.astype(np.float32)
    return model


def test_another_base(file):
    assert_refused(file, "was trained on another base model", model=CASE.model(seed=1))
    one = CASE.model()
    one.ln_f.bias.data[3] += np.float32(1e-6)
    assert_refused(file, "was trained on another base model", model=one)
    shallow = GPT(replace(CONFIG, layers=1), dtype=np.float64)
    assert_refused(file, "was trained on another base model", model=shallow)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (BitFit(), "holds a 'lora' adapter, this handle is of 'bitfit'. load_adapter"),
        (replace(METHOD, alpha=4.0), "other settings: alpha is 4.0 here, 3.0 there"),
        (
            replace(METHOD, r=3, rslora=True),
            "r is 3 here, 2 there; rslora is True here, False there",
        ),
        (replace(METHOD, seed=9, dropout=0.5), "other settings: dropout is 0.5 here, 0.0 there"),
    ],
)
def test_other_settings(file, other, message):
    model = CASE.model()
    handle = attach(model, other)
    randomize(handle)
    before = snapshot(model)
    with pytest.raises(CheckpointError, match=message):
        handle.load(file)
    assert_restored(model, before)


def test_an_unknown_method_is_named_with_those_that_are_known(tmp_path):
    _, handle = CASES["throwaway_masked"].attached()
    handle.save(tmp_path / "a")
    with pytest.raises(
        CheckpointError, match="'throwaway_masked' adapter; known are full, topk, b"
    ):
        load_adapter(CASE.model(), tmp_path / "a")


def test_a_model_is_no_adapter(tmp_path):
    save_model(CASE.model(), tmp_path / "m.safetensors")
    assert_refused(tmp_path / "m.safetensors", "A model is read with load_model")


def test_other_kinds_of_file(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("a pickle was opened",)

    (tmp_path / "pickle").write_bytes(pickle.dumps({"A": Trap()}))
    np.savez(tmp_path / "zip.npz", A=np.ones(3))
    (tmp_path / "text").write_text("r = 2")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("pickle", "zip.npz", "text", "empty"):
        assert_refused(tmp_path / name, "is not a whole safetensors file")
    assert_refused(tmp_path / "none", "there is no file", error=FileNotFoundError)


# --- state that is saved though it does not train ----------------------------------------------


@pytest.fixture
def masked_file(tmp_path):
    _, handle = CASES["throwaway_masked"].attached()
    assert all(0 < mask.mean() < 1 for mask in handle.method.state(handle).values())
    handle.save(tmp_path / "masked")
    return tmp_path / "masked"


@pytest.mark.parametrize(
    ("value", "message", "error"),
    [
        (None, "state blocks.0.attn.o_proj is missing", CheckpointError),
        (np.ones((8, 4), bool), r"must be bool of shape \(8, 8\), is bool of", CheckpointError),
        (np.ones((8, 8)), r"must be bool of shape \(8, 8\), is float64 of", CheckpointError),
        (np.zeros((8, 8), bool), "a mask keeps less than half", ValueError),
    ],
)
def test_a_wrong_state(masked_file, value, message, error):
    def change(arrays, _):
        arrays["state:blocks.0.attn.o_proj"] = value
        if value is None:
            del arrays["state:blocks.0.attn.o_proj"]

    bad = rewritten(masked_file, change)
    model = CASE.model()
    handle = attach(model, Masked())
    randomize(handle, seed=3)
    before, y = snapshot(model), run(model, IDS)
    with pytest.raises(error, match=message):
        handle.load(bad)
    assert_restored(model, before)
    assert same(run(model, IDS), y)
    handle.detach()
    with pytest.raises(error, match=message):
        load_adapter(model, bad, THROWAWAY)
    assert not model.handles and same(run(model, IDS), run(CASE.model(), IDS))


def test_a_failure_after_drawing_anew_is_undone(masked_file, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Seeded(Masked):
        seed: int = 0

    model = CASE.model()
    handle = attach(model, Seeded(seed=1))
    randomize(handle)
    before, y = snapshot(model), run(model, IDS)
    arrays, metadata = load_arrays(masked_file)
    metadata["fields"] = json.dumps(json.loads(metadata["fields"]) | {"seed": 0})
    arrays["state:blocks.0.attn.o_proj"] = np.zeros((8, 8), bool)
    save_arrays(masked_file, arrays, metadata)
    with pytest.raises(ValueError, match="a mask keeps less than half"):
        handle.load(masked_file)
    assert_restored(model, before)
    assert same(run(model, IDS), y) and handle.method == Seeded(seed=1)
    assert dict(handle.trainable()).keys() == {path for path, p in model.named_parameters()
                                               if p.requires_grad}  # fmt: skip


def test_saving_is_whole_or_not_at_all(file):
    model, handle = CASE.attached()
    raw = file.read_bytes()
    (_, p), *_ = handle.trainable()
    p._data = init.zeros(p.shape, init.prototype(shape_only=True))
    with pytest.raises(CheckpointError, match="has a shape but no values"):
        handle.save(file)
    assert file.read_bytes() == raw and [f.name for f in file.parent.iterdir()] == ["whole"]


# --- what is saved can be loaded ---------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_not_saved(file, value):
    _, handle = CASE.attached()
    raw = file.read_bytes()
    (path, p), *_ = handle.trainable()
    p.data[0, 0] = value
    with pytest.raises(CheckpointError, match=f"{path} cannot be saved: it must be finite, but 1"):
        handle.save(file)
    assert file.read_bytes() == raw


def replace_by_hand(model, handle):
    handle.wrappers["blocks.0.attn.q_proj"].A = np.ones((2, 8))
    return "blocks.0.attn.q_proj.A was replaced by something that is not the adapter's"


def take_out(model, handle):
    model.set("blocks.1.attn.v_proj", model.blocks[0].attn.v_proj.base)
    return "blocks.1.attn.v_proj.A was replaced by something"


def unfreeze(model, handle):
    model.blocks[0].mlp.fc_in.weight.requires_grad = True
    return "blocks.0.mlp.fc_in.weight trains but is not part of the adapter"


def add_a_parameter(model, handle):
    model.blocks[1].gate = Parameter(np.ones(3))
    return "blocks.1.gate trains but is not part of the adapter"


def put_an_array_into_the_base(model, handle):
    model.ln_f.bias = np.zeros(8)
    return "ln_f.bias is no Parameter, not what the model's class and config put there"


def take_a_bias_out_of_the_base(model, handle):
    model.blocks[1].mlp.fc_in.bias = None
    return "blocks.1.mlp.fc_in.bias is no Parameter"


def add_what_does_not_train(model, handle):
    model.blocks[1].gate = Parameter(np.ones(3), requires_grad=False)
    return "blocks.1.gate is a new Parameter"


def grow_the_base(model, handle):
    model.ln_f.bias = Parameter(np.zeros(9), requires_grad=False)
    return r"ln_f.bias is of shape \(9,\)"


CHANGES = (replace_by_hand, take_out, unfreeze, add_a_parameter, put_an_array_into_the_base,
           take_a_bias_out_of_the_base, add_what_does_not_train, grow_the_base)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_file_would_not_give_back_is_refused_by_name(change, tmp_path):
    model, handle = CASE.attached()
    message = change(model, handle)
    with pytest.raises(CheckpointError, match=message):
        handle.save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_settings_that_would_not_come_back_are_refused(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Own(LoRA):
        name = "own"

        def __post_init__(self):
            """Forgets what all methods do."""

    handle = attach(CASE.model(), Own(r=2, alpha=np.float32(3)))
    with pytest.raises(CheckpointError, match=r"settings of .*Own\(r=2.* cannot be saved: .*super"):
        handle.save(tmp_path / "a")

    @dataclasses.dataclass(frozen=True)
    class Rounded(LoRA):
        name = "rounded"

        def __post_init__(self):
            super().__post_init__()
            object.__setattr__(self, "alpha", self.alpha / 2)  # once more at every reading

    handle = attach(CASE.model(), Rounded(r=2, alpha=3.0))
    with pytest.raises(CheckpointError, match="cannot be saved: they come back as others"):
        handle.save(tmp_path / "a")


@pytest.mark.parametrize("upper", [Full(), TopK(k=1), LoRA(r=1, seed=3)])
def test_a_lower_handle_is_saved_below_a_later_one(upper, tmp_path):
    model, handle = CASES["bitfit"].attached()
    wanted = run(model, IDS)
    later = attach(model, upper)
    handle.save(tmp_path / "a")
    later.save(tmp_path / "b")
    fresh = CASE.model()
    load_adapter(fresh, tmp_path / "a")
    assert same(run(fresh, IDS), wanted)


# --- what lies underneath ----------------------------------------------------------------------


def over(*methods, seed=1):
    """A model with methods attached, the last of them to be saved."""
    model = CASE.model()
    handles = [attach(model, method) for method in methods]
    for i, handle in enumerate(handles):
        randomize(handle, seed=seed + i)
    return model, handles


def test_what_lies_underneath_is_told_with_its_settings_and_compared(tmp_path):
    model, (lower, upper) = over(LoRA(r=2), LoRA(r=1, targets="fc_in"))
    upper.save(tmp_path / "upper")
    lower.save(tmp_path / "lower")
    told = json.loads(load_arrays(tmp_path / "upper")[1]["over"])
    assert [entry["method"] for entry in told] == ["lora"] and told[0]["fields"]["r"] == 2

    for other, message in (
        (LoRA(r=3, alpha=64), "over another 'lora': r is 3 here, 2 there; alpha is 64.0 here, 16"),
        (LoRA(r=2), "over a 'lora' with other weights than those"),  # not trained
    ):
        fresh, (here,) = over(other, seed=7)
        with pytest.raises(CheckpointError, match=message):
            load_adapter(fresh, tmp_path / "upper")
        assert fresh.handles == [here]
        second = attach(fresh, LoRA(r=1, targets="fc_in", seed=5))
        with pytest.raises(CheckpointError, match=message):
            second.load(tmp_path / "upper")
    fresh, (here,) = over(LoRA(r=2, seed=4), seed=7)  # another seed is none of its business
    here.load(tmp_path / "lower")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # to stack what was stacked is no mistake
        load_adapter(fresh, tmp_path / "upper")
    assert same(run(fresh, IDS), run(model, IDS))
    fresh, _ = over(LoRA(r=2, seed=4))  # its weights are the same, however they came about
    load_adapter(fresh, tmp_path / "upper")
    assert same(run(fresh, IDS), run(model, IDS))


def test_other_codes_underneath_are_refused(tmp_path):
    _, (_, upper) = over(Quantize("nf4"), LoRA(r=2, targets="all-linear"))
    upper.save(tmp_path / "a")
    fresh, _ = over(Quantize("int2"))
    with pytest.raises(CheckpointError, match="another 'quant': code is 'int2' here, 'nf4' there"):
        load_adapter(fresh, tmp_path / "a")
    fresh, _ = over(Quantize("nf4"))
    load_adapter(fresh, tmp_path / "a")


def test_the_state_of_what_lies_underneath_counts(tmp_path):
    _, (_, upper) = over(Masked(), BitFit())
    upper.save(tmp_path / "a")
    load_adapter(over(Masked())[0], tmp_path / "a")
    fresh, (here,) = over(Masked())
    wrapper = here.wrappers["blocks.0.attn.o_proj"]
    wrapper.mask = ~wrapper.mask
    with pytest.raises(CheckpointError, match="over a 'throwaway_masked' with other weights"):
        load_adapter(fresh, tmp_path / "a")


def test_another_seed_underneath_is_refused_only_where_something_was_drawn_from_it(tmp_path):
    for method, drawn in ((LoRA(r=2), False), (VeRA(r=2), True)):
        model, (lower, upper) = over(method, BitFit())
        upper.save(tmp_path / "a")
        fresh, (here,) = over(replace(method, seed=5))
        for (_, own), (_, p) in zip(here.trainable(), lower.trainable(), strict=True):
            own.data = p.data
        if drawn:
            with pytest.raises(CheckpointError, match="over a 'vera' with other weights"):
                load_adapter(fresh, tmp_path / "a")
        else:
            load_adapter(fresh, tmp_path / "a")
            assert same(run(fresh, IDS), run(model, IDS))


def test_the_order_of_what_lies_underneath_counts(tmp_path):
    _, (*_, upper) = over(LoRA(r=2), BitFit(), LoRA(r=1, targets="fc_in"))
    upper.save(tmp_path / "a")
    message = r"over the methods \['lora', 'bitfit'\], here they are \['bitfit', 'lora'\]"
    for file in (tmp_path / "a", version_1(tmp_path / "a")):
        with pytest.raises(CheckpointError, match=message):
            load_adapter(over(BitFit(), LoRA(r=2))[0], file)


@pytest.mark.parametrize("change", [{"fields": []}, {"fields": None}, {"arrays": 1}])
def test_lies_about_what_lies_underneath_are_refused(change, tmp_path):
    _, (_, upper) = over(LoRA(r=2), BitFit())
    upper.save(tmp_path / "a")

    def lie(arrays, metadata):
        (entry,) = json.loads(metadata["over"])
        metadata["over"] = json.dumps([entry | change])

    with pytest.raises(CheckpointError, match="over must tell method, fields, arrays of each"):
        load_adapter(over(LoRA(r=2))[0], rewritten(tmp_path / "a", lie))


def version_1(file):
    """The file as it was written before version 2."""

    def change(arrays, metadata):
        names = [entry["method"] for entry in json.loads(metadata["over"])]
        fields = json.loads(metadata["fields"])
        if "code" in fields:
            fields["code"] = fields["code"].removesuffix("-bnb")
        del metadata["card"]
        metadata |= {"version": "1", "over": json.dumps(names), "fields": json.dumps(fields)}
        return arrays, metadata

    return rewritten(file, change)


def test_an_older_file_loads_with_a_warning_of_what_it_does_not_tell(tmp_path):
    model, (_, upper) = over(LoRA(r=2), BitFit())
    upper.save(tmp_path / "a")
    old = version_1(tmp_path / "a")
    fresh, _ = over(LoRA(r=2))
    with pytest.warns(UserWarning, match=r"older version, which does not tell .* over \(lora\)"):
        load_adapter(fresh, old)
    assert same(run(fresh, IDS), run(model, IDS))
    with pytest.raises(CheckpointError, match=r"over the methods \['lora'\], here they are \[\]"):
        load_adapter(CASE.model(), old)
    _, (alone,) = over(BitFit())
    alone.save(tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_adapter(CASE.model(), version_1(tmp_path / "a"))


@pytest.mark.parametrize("method", [Quantize("fp4-bnb"), QLoRA(r=2, code="fp4-bnb"),
                                    LoftQ(r=2, code="fp4-bnb")])  # fmt: skip
def test_fp4_of_an_older_file_is_the_table_that_it_was(method, tmp_path):
    model, (handle,) = over(method)
    handle.save(tmp_path / "a")
    old = version_1(tmp_path / "a")
    assert json.loads(load_arrays(old)[1]["fields"])["code"] == "fp4"
    fresh = CASE.model()
    again = load_adapter(fresh, old)
    assert again.method.code == "fp4-bnb" and same(run(fresh, IDS), run(model, IDS))
    handle.save(tmp_path / "b")
    new = rewritten(tmp_path / "b", lambda arrays, metadata: metadata.update(
        fields=metadata["fields"].replace("fp4-bnb", "fp4")))  # fmt: skip
    assert load_adapter(CASE.model(), new).method.code == "fp4"


# --- hostile files -----------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE = {
    "fields nested": {"fields": '{"r":' + DEEP + "}"},
    "over nested": {"over": DEEP},
    "card nested": {"card": '{"x":' + DEEP + "}"},
    "fields cut": {"fields": DEEP[:100_000]},
    "targets no strings": {"fields": '{"targets": [1, 2]}'},
    "targets a list of lists": {"fields": '{"targets": [["q_proj"]]}'},
    "targets an object": {"fields": '{"targets": {"q_proj": 1}}'},
    "rank": {"fields": '{"r": 1000000000}'},
    "rank as a float": {"fields": '{"r": 1e300}'},
    "rank of vera": {"method": "vera", "fields": '{"r": 1000000000}'},
    "subspace": {"method": "subspace", "fields": '{"d": 1000000000}'},
    "dense subspace": {"method": "subspace", "fields": '{"d": 4000, "projection": "dense"}'},
    "turns of loftq": {"method": "loftq", "fields": '{"T": 1000000000}'},
    "block": {"method": "quant", "fields": '{"block": 1000000000000}'},
    "a long name": {"fields": json.dumps({"r" * 100_000: 1})},
    "a long value": {"fields": json.dumps({"init": "x" * 100_000})},
    "a long method": {"method": "x" * 100_000},
    "over of numbers": {"over": "[1]"},
    "over of objects": {"over": '[{"method": "lora"}]'},
    "over is a number": {"over": "7"},
    "version": {"version": "²"},
    "version none": {"version": ""},
    "version large": {"version": "1" * 5000},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_at_once(case, file):
    def change(arrays, metadata):
        metadata |= HOSTILE[case]
        return arrays, metadata

    bad, model = rewritten(file, change), CASE.model()
    before = snapshot(model)
    tracemalloc.start()
    try:
        with fuzz.in_time(10), pytest.raises(CheckpointError) as caught:
            load_adapter(model, bad)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 2000 and str(bad) in str(caught.value)
    assert_restored(model, before)
    assert not model.attached()


@pytest.mark.parametrize("key", ["format", "version", "method", "fields", "over", "base", "card"])
def test_a_file_that_lacks_a_key_is_refused_by_name(file, key):
    def change(arrays, metadata):
        del metadata[key]
        return arrays, metadata

    bad = rewritten(file, change)
    assert set(load_arrays(file)[1]) == {
        "format", "version", "method", "fields", "over", "base", "card"}  # fmt: skip
    if key == "card":
        load_adapter(CASE.model(), bad)  # what it was for may be left out
        return
    with pytest.raises(CheckpointError, match=f"{bad}.*({key}|format)"):
        load_adapter(CASE.model(), bad)


def test_a_load_that_fails_at_a_later_entry_changes_nothing(file):
    names = sorted(load_arrays(file)[0])
    for name in (names[0], names[-1]):

        def change(arrays, metadata, name=name):
            arrays[name] = arrays[name].T.copy()
            return arrays, metadata

        assert_refused(rewritten(file, change), f"{name} must have shape")


def test_a_state_that_does_not_fit_the_dtype_changes_nothing(tmp_path):
    _, handle = CASES["loftq"].attached(np.float64)
    handle.save(tmp_path / "a")

    def change(arrays, metadata):
        name = next(n for n in reversed(arrays) if n.startswith("state:"))
        arrays[name][0, 0] = 1e300
        return arrays, metadata

    model = narrow(CASES["loftq"].model(np.float64))
    handle = attach(model, CASES["loftq"].method)
    randomize(handle)
    before, y = snapshot(model), run(model, IDS)
    with pytest.raises(CheckpointError, match="state .* does not fit into float32"):
        handle.load(rewritten(tmp_path / "a", change))
    assert_restored(model, before)
    assert same(run(model, IDS), y)
