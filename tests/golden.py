"""Deterministic weights and checksums, so that golden values need no other framework.

The k-th of the sorted names of a GPT-2 file gets 0.3 sin(0.37 i + 1.1 k), i the flat index;
norms' weights are 1 higher. Names and shapes are those of the file: c_attn is one matrix of
q, k and v, and matrices are (in, out). `ours` turns them into the arrays of a GPT.
"""

import numpy as np

from minipeft.models import GPT, GPTConfig

CONFIG = GPTConfig(vocab=50, context=32, width=16, layers=2, heads=4)
IDS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
CONV1D = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def conv1d_shapes(c):
    """(in, out) of the four matrices of a block."""
    d, inner = c.width, c.mlp or 4 * c.width
    return dict(zip(CONV1D, [(d, 3 * d), (d, d), (d, inner), (inner, d)], strict=True))


def gpt2_shapes(c):
    """Name -> shape of every array in a GPT-2 file."""
    d = c.width
    shapes = {"transformer.wte.weight": (c.vocab, d), "transformer.wpe.weight": (c.context, d)}
    for i in range(c.layers):
        block = f"transformer.h.{i}."
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{block}{norm}.weight": (d,), f"{block}{norm}.bias": (d,)}
        for name, (d_in, d_out) in conv1d_shapes(c).items():
            shapes |= {f"{block}{name}.weight": (d_in, d_out), f"{block}{name}.bias": (d_out,)}
    return shapes | {"transformer.ln_f.weight": (d,), "transformer.ln_f.bias": (d,)}


def lora_shapes(c, targets, r):
    """Name -> shape of every array in a PEFT LoRA file."""
    shapes = {}
    for i in range(c.layers):
        for name in targets:
            d_in, d_out = conv1d_shapes(c)[name]
            module = f"base_model.model.transformer.h.{i}.{name}"
            shapes[f"{module}.lora_A.weight"] = (r, d_in)
            shapes[f"{module}.lora_B.weight"] = (d_out, r)
    return shapes


def fill(shapes, start=0):
    """The rule: an array for each name, float64. Adapters start at 100."""
    arrays = {}
    for k, name in enumerate(sorted(shapes), start):
        i = np.arange(np.prod(shapes[name]), dtype=np.float64)
        norm = name.endswith("weight") and "ln_" in name
        arrays[name] = (0.3 * np.sin(0.37 * i + 1.1 * k) + norm).reshape(shapes[name])
    return arrays


def parts(module):
    """Our paths of a module of GPT-2: one, or the three of c_attn."""
    path = module.removeprefix("transformer.")
    for old, new in {"wte": "emb.tok", "wpe": "emb.pos", "h.": "blocks."}.items():
        path = new + path.removeprefix(old) if path.startswith(old) else path
    names = {"attn.c_proj": "attn.o_proj", "mlp.c_fc": "mlp.fc_in", "mlp.c_proj": "mlp.fc_out"}
    for old, new in names.items():
        path = path.replace(old, new)
    return [path.replace("c_attn", f"{x}_proj") for x in "qkv"] if "c_attn" in path else [path]


def ours(arrays):
    """The arrays of a GPT-2 file by the paths of a GPT: (out, in), q, k and v apart."""
    state = {}
    for name, array in arrays.items():
        module, _, kind = name.rpartition(".")
        paths = parts(module)
        rows = array.T if kind == "weight" and module.endswith(CONV1D) else array
        for path, part in zip(paths, np.split(rows, len(paths)), strict=True):
            state[f"{path}.{kind}"] = part
    return state


def our_lora(arrays):
    """The arrays of a PEFT LoRA file by the paths of our LoRA with q, k and v fused."""
    values = {}
    for name, array in arrays.items():
        module, _, kind = name.removeprefix("base_model.model.").partition(".lora_")
        paths = parts(module)
        if kind == "A.weight":
            values[f"{paths[0]}.A"] = array
        else:
            for path, rows in zip(paths, np.split(array, len(paths)), strict=True):
                values[f"{path}.B"] = rows
    return values


def golden_gpt(**changes):
    """The golden GPT in float64; `changes` are fields of its config."""
    model = GPT(GPTConfig(**(CONFIG.to_dict() | changes)), init="normal", dtype=np.float64)
    model.load_state_dict(ours(fill(gpt2_shapes(CONFIG))))
    return model


def columns(y):
    """What a golden row prints: the first three values, the last, the sum, the checksum cos."""
    flat = np.asarray(y).reshape(-1)
    cos = flat @ np.cos(0.1 * np.arange(flat.size))
    return [*flat[:3], flat[-1], flat.sum(), cos]
