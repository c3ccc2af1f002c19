"""Damaged files and settings: what a loader may be handed by a full disk, a bad cable or a foe.

A Target makes a whole file, and reads one back into something comparable. A case damages the
whole file in one way, drawn from its number. Reading it must give what was written, or raise
one of the errors that a caller expects; in the time of an ordinary read.
"""

import gzip
import json
import signal
import struct
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors import SafetensorError

from minipeft.backend import Rng
from minipeft.cli.inspection import FileReport
from minipeft.contract import attach
from minipeft.course.experiments.runner import Results
from minipeft.methods import METHODS, LoRA, load_adapter
from minipeft.models import MODELS
from minipeft.storage.checkpoint import load_arrays, load_model, save_arrays, save_model
from minipeft.storage.text import Tokenizer
from minipeft.tasks.e2e import E2E
from minipeft.tasks.mnist import read_idx
from minipeft.training.loop import fit
from tests.tiny import Rows, gpt, tokenizer

REFUSALS = (ValueError, FileNotFoundError)  # CheckpointError is a ValueError
SECONDS = 10
VALUES = (-1, 0, 1, 2, 7, 1e30, -1e-30, 2**63, 10**40, 0.5, True, False, None, "", "x", "lm", "\0",
          "linear", "q_proj", "re:(", "../..", [], {}, [1, 2], ["q_proj"], [[]], {"r": 1},
          [10**9, 10**9], "é\ud800", float("nan"), float("inf"), 10**7, 10**9, "9" * 5000,
          "fp4", "[" * 100_000, {"method": "lora", "fields": {}, "arrays": ""})  # fmt: skip


@contextmanager
def in_time(seconds=SECONDS):
    """A loader that hangs is an error."""

    def ring(*_):
        raise AssertionError(f"still reading after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# -- ways to damage a file ------------------------------------------------------------------------


def cut(rng, data):
    return data[: rng.integers(0, len(data))]


def flip(rng, data):
    at = rng.integers(0, len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.integers(0, 8))]) + data[at + 1 :]


def lose(rng, data):
    at = rng.integers(0, len(data))
    return data[:at] + data[at + rng.integers(1, 40) :]


def double(rng, data):
    at = rng.integers(0, len(data))
    return data[: at + rng.integers(1, 40)] + data[at:]


def blank(rng, data):
    at, n = rng.integers(0, len(data)), rng.integers(1, 600)
    return data[:at] + b"\0" * len(data[at : at + n]) + data[at + n :]


def noise(rng, data):
    at = rng.integers(0, len(data))
    return data[:at] + rng.raw(4).tobytes() + data[at:]


def other(rng, data):
    """Something else altogether."""
    return (b"", b"\0" * 64, b"{}", b"[]", b"\xff" * 16, b"\x08" + b"\0" * 7 + b"[[[[[[[[",
            rng.raw(32).tobytes(), b"[" * 100_000, b'{"a":' * 5000)[rng.integers(0, 9)]  # fmt: skip


def header(rng, data):
    """A safetensors file whose header says something else, and is as long as it says."""
    size = int.from_bytes(data[:8], "little")
    told = json.loads(data[8 : 8 + size])
    text = json.dumps(twist(rng, told)).encode("utf-8", "replace")
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def sealed(rng, data):
    """A safetensors file that a foe wrote: metadata that say something else, under a digest."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "sealed")
        path.write_bytes(data)
        arrays, facts = load_arrays(path)
        for _ in range(1 + rng.integers(0, 2)):
            told = twist(rng, facts)
            facts = {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in told.items()}
        if rng.uniform() < 0.2:
            name = rng.choice(sorted(arrays))
            arrays[name] = rng.choice((arrays[name].T, arrays[name][:1], arrays[name].astype(int)))
        try:
            save_arrays(path, arrays, facts)
        except (UnicodeEncodeError, SafetensorError):  # half a letter cannot be written
            return b""
        return path.read_bytes()


def words(rng, data):
    """A JSON file that says something else."""
    return json.dumps(twist(rng, json.loads(data))).encode("utf-8", "replace")


BYTES = (cut, flip, lose, double, blank, noise, other)


def twist(rng, value):
    """The value with one thing in it changed, left out, or added."""
    holders = []

    def walk(v):
        if isinstance(v, (dict, list)) and v:
            holders.append(v)
            for inner in v.values() if isinstance(v, dict) else v:
                walk(inner)

    value = json.loads(json.dumps(value))
    walk(value)
    if not holders:
        return rng.choice(VALUES)
    holder = rng.choice(holders)
    key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    what = rng.integers(0, 5)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[str(key) + "_"] = holder[key]
    elif what == 2 and isinstance(holder[key], str) and holder[key][:1] in ("{", "["):
        holder[key] = json.dumps(twist(rng, json.loads(holder[key])))  # JSON inside JSON
    else:
        holder[key] = rng.choice(VALUES)
    return value


# -- what is read ---------------------------------------------------------------------------------


@dataclass
class Target:
    """A kind of file: its bytes when whole, how it is read, and the ways to damage it."""

    name: str
    suffix: str
    whole: bytes
    read: Any  # path -> what it holds
    damage: tuple
    exact: bool = True  # what loads must be what was written


def made(path, write):
    write(path)
    return path.read_bytes()


def arrays_of(path):
    arrays, _ = load_arrays(path)  # without any metadata it is a file of others, and right
    return {k: (a.dtype.str, a.shape, a.tobytes()) for k, a in arrays.items()}


def any_arrays(path):
    for array in load_arrays(path)[0].values():
        assert array.dtype.kind != "f" or np.isfinite(array).all()


def model_of(path):
    return {k: a.tobytes() for k, a in load_model(path, dtype="float64").state_dict().items()}


def adapter_of(path):
    """What a base computes with the adapter; a refused one leaves no trace."""
    model, ids = gpt(), Rows(tokenizer().vocab_size).batch(0, 2, 0).ids
    before = {k: a.tobytes() for k, a in model.state_dict().items()}
    try:
        at = load_adapter(model, path)
    except REFUSALS:
        assert not model.handles
        assert {k: a.tobytes() for k, a in model.state_dict().items()} == before
        raise
    return repr(at.method), model(ids).data.tobytes()


def run_of(path):
    """The end of a run that goes on from the file; a refused one changes nothing."""
    model = gpt()
    at = attach(model, LoRA(r=2))
    before = [p.data.tobytes() for _, p in at.trainable()]
    try:
        fit(model, Rows(tokenizer().vocab_size), steps=3, lr=0.02, batch=2, quiet=True,
            checkpoint=path)  # fmt: skip
    except REFUSALS:
        assert [p.data.tobytes() for _, p in at.trainable()] == before
        raise
    return [p.data.tobytes() for _, p in at.trainable()]


def report_of(path):
    """What `minipeft inspect` prints."""
    assert str(FileReport(path)).startswith(str(path))


def tokens_of(path):
    """Any tokenizer may be read, but it must work."""
    read = Tokenizer.load(path)
    read.decode(read.encode("the cat meows. a dog?"))
    assert 0 <= read.pad_id < read.vocab_size


def rows_of(path):
    task = E2E(path.parent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tells how many rows were left out
        examples = task.load("validation")
    assert examples and all(e.prompt and e.target.strip() for e in examples)


def results_of(path):
    found = Results(path)
    assert found.label and all(isinstance(r["settings"], dict) for r in found.runs)


PICTURES = struct.pack(">4B3I", 0, 0, 8, 3, 6, 5, 4) + bytes(range(120))


def pictures_of(path):
    found = read_idx(path, (6, 5, 4))
    assert found.dtype == np.uint8 and found.shape == (6, 5, 4)
    return found.tobytes()


E2E_ROWS = "mr,ref\n" + "".join(
    f'"name[The {n}], eatType[pub], near[the ""Old"" {n}]","The {n} is a pub, near the {n}."\n'
    for n in ("Eagle", "Punter", "Wrestlers", "Bibimbap House")
)
RESULTS = {
    "name": "x", "question": "?", "command": "python -m minipeft.experiments x", "hours": 0.1,
    "bases": {"tiny-gpt": "ab"}, "seeds": [0, 1], "versions": {},
    "runs": [{"settings": {"seed": s, "r": 1}, "outcome": {"accuracy": 50.0 + s}} for s in (0, 1)],
}  # fmt: skip


def targets(folder: Path):
    """One Target for every loader."""
    arrays = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "n": np.array([1, 2])}
    model, state = gpt(), folder / "run.safetensors"
    at = attach(model, LoRA(r=2))
    fit(model, Rows(tokenizer().vocab_size), steps=2, lr=0.02, batch=2, quiet=True)
    adapter = made(folder / "adapter.safetensors", at.save)
    run_of(state)
    foreign = made(folder / "foreign.safetensors", lambda p: _without_digest(p, arrays))
    tensors = (*BYTES, header)
    return [
        Target("arrays", ".safetensors",
               made(folder / "a.safetensors", lambda p: save_arrays(p, arrays, {"k": "v"})),
               arrays_of, tensors),
        Target("arrays of others", ".safetensors", foreign, any_arrays, tensors, exact=False),
        Target("model", ".safetensors",
               made(folder / "m.safetensors", lambda p: save_model(gpt(), p, {"n": 1})),
               model_of, tensors),
        Target("adapter", ".safetensors", adapter, adapter_of, tensors),
        Target("training state", ".safetensors", state.read_bytes(), run_of, tensors),
        Target("sealed model", ".safetensors",
               made(folder / "m2.safetensors", lambda p: save_model(gpt(), p, {"n": 1})),
               model_of, (sealed,), exact=False),
        Target("sealed adapter", ".safetensors", adapter, adapter_of, (sealed,), exact=False),
        Target("sealed state", ".safetensors", state.read_bytes(), run_of, (sealed,), exact=False),
        Target("report of an adapter", ".safetensors", adapter, report_of, tensors, exact=False),
        Target("report of a state", ".safetensors", state.read_bytes(), report_of, tensors,
               exact=False),
        Target("tokenizer", ".json", made(folder / "t.json", tokenizer().save), tokens_of,
               (*BYTES, words), exact=False),
        Target("e2e", ".csv", E2E_ROWS.encode(), rows_of, BYTES, exact=False),
        Target("pictures", ".idx", PICTURES, pictures_of, BYTES, exact=False),
        Target("packed pictures", ".gz", gzip.compress(PICTURES, mtime=0), pictures_of, BYTES),
        Target("results", ".json", json.dumps(RESULTS).encode(), results_of, (*BYTES, words),
               exact=False),
    ]  # fmt: skip


def _without_digest(path, arrays):
    from safetensors.numpy import save_file

    save_file(arrays, path, {"made by": "others"})


def try_file(target: Target, number: int, folder: Path) -> str:
    """One case: "refused", "read", or an AssertionError that says what went wrong."""
    rng = Rng(number, "fuzz", target.name)
    damage = rng.choice(target.damage)
    data = damage(rng, target.whole)
    home = folder / "devset.csv" if target.name == "e2e" else folder / f"case{target.suffix}"
    home.write_bytes(data)
    wanted = target.read(_fresh(folder, target)) if target.exact else None
    try:
        with in_time():
            got = target.read(home)
    except REFUSALS as error:
        assert len(str(error)) < 2000, "an error should fit a screen"
        return "refused"
    assert not target.exact or got == wanted, f"{damage.__name__} was not noticed"
    return "read"


def _fresh(folder, target):
    path = folder / f"whole{target.suffix}"
    path.write_bytes(target.whole)
    return path


# -- settings -------------------------------------------------------------------------------------


def try_config(number: int) -> str:
    """A model's config with one value changed builds a model of shapes, or is refused."""
    rng = Rng(number, "fuzz", "config")
    model_class, config_class = MODELS[rng.choice(sorted(MODELS))]
    sizes = {"vocab": 50, "context": 16, "width": 8, "layers": 2, "heads": 2, "image": 8,
             "patch": 4, "channels": 1, "classes": 3, "head": "linear", "mlp": 16}  # fmt: skip
    known = set(config_class.__dataclass_fields__)
    told = twist(rng, {k: v for k, v in sizes.items() if k in known})
    try:
        with in_time():
            config = config_class.from_dict(told)
            assert config_class.from_dict(config.to_dict()) == config
            if config.layers <= 1000:
                model_class(config, init="shape").num_parameters()
    except REFUSALS as error:
        assert len(str(error)) < 2000
        return "refused"
    return "read"


def try_method(number: int) -> str:
    """A method with one setting changed attaches to a model and detaches, or is refused."""
    rng = Rng(number, "fuzz", "method")
    name = rng.choice(sorted(METHODS))
    kind, model = METHODS[name], gpt()
    fields = dict.fromkeys(kind.__dataclass_fields__)
    told = {rng.choice([*fields, "nonsense"]): rng.choice(VALUES) for _ in range(2)}
    before = {k: a.tobytes() for k, a in model.state_dict().items()}
    try:
        with in_time():
            method = kind.from_fields(told)
            attach(model, method).detach()
    except REFUSALS as error:
        assert len(str(error)) < 2000
        return "refused"
    finally:
        assert not model.handles
        assert {k: a.tobytes() for k, a in model.state_dict().items()} == before
    return "read"
