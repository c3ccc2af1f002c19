"""Deterministic weights and checksums, so that golden values need no other framework.

The k-th of the sorted names of a GPT-2, BERT or ViT file gets 0.3 sin(0.37 i + 1.1 k), i the
flat index; norms' weights are 1 higher. Names and shapes are those of the file: in GPT-2's,
c_attn is one matrix of q, k and v, and matrices are (in, out). `ours` turns them into the arrays
of a GPT, `renamed` those of the other two into ours.
"""

import re

import numpy as np

from minipeft.models import BERT, GPT, BERTConfig, GPTConfig, ViT, ViTConfig

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
        norm = name.endswith("weight") and re.search("ln_|LayerNorm|layernorm", name) is not None
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


# -- BERT and ViT ---------------------------------------------------------------------------------

BERT_CONFIG = BERTConfig(vocab=50, context=32, width=16, layers=2, heads=4, mlp=32)
VIT_CONFIG = ViTConfig(image=8, patch=4, channels=3, width=16, layers=2, heads=4, classes=3, mlp=32)
SEGMENTS = np.array([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
IMAGES = np.sin(0.2 * np.arange(2 * 3 * 8 * 8)).reshape(2, 3, 8, 8)

LINEARS = {  # of a block, in both kinds of file
    "attention.output.dense": "attn.o_proj",
    "intermediate.dense": "mlp.fc_in",
    "output.dense": "mlp.fc_out",
}
BERT_BLOCK = LINEARS | {
    "attention.self.query": "attn.q_proj",
    "attention.self.key": "attn.k_proj",
    "attention.self.value": "attn.v_proj",
    "attention.output.LayerNorm": "ln_1",
    "output.LayerNorm": "ln_2",
}
VIT_BLOCK = LINEARS | {
    "attention.attention.query": "attn.q_proj",
    "attention.attention.key": "attn.k_proj",
    "attention.attention.value": "attn.v_proj",
    "layernorm_before": "ln_1",
    "layernorm_after": "ln_2",
}
BERT_TOP = {
    "bert.embeddings.word_embeddings": "emb.tok",
    "bert.embeddings.position_embeddings": "emb.pos",
    "bert.embeddings.token_type_embeddings": "emb.seg",
    "bert.embeddings.LayerNorm": "emb.ln",
    "bert.pooler.dense": "pooler",
    "classifier": "head",
    "cls.predictions.transform.dense": "mlm.fc",
    "cls.predictions.transform.LayerNorm": "mlm.ln",
    "cls.predictions": "head",
}
VIT_TOP = {
    "vit.embeddings.cls_token": "emb.cls",
    "vit.embeddings.position_embeddings": "emb.pos",
    "vit.embeddings.patch_embeddings.projection": "emb.patch",
    "vit.layernorm": "ln_f",
    "classifier": "head",
}


def block_shapes(names, c):
    """Name -> shape of a block's arrays; `names` is one of the two tables above."""
    d, inner = c.width, c.mlp
    sizes = {"mlp.fc_in": (inner, d), "mlp.fc_out": (d, inner), "ln_1": (d,), "ln_2": (d,)}
    shapes = {}
    for theirs, part in names.items():
        weight = sizes.get(part, (d, d))
        shapes |= {f"{theirs}.weight": weight, f"{theirs}.bias": weight[:1]}
    return shapes


def _layers(lead, names, c):
    return {
        f"{lead}.encoder.layer.{i}.{name}": shape
        for i in range(c.layers)
        for name, shape in block_shapes(names, c).items()
    }


def _both(name, weight):
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def bert_shapes(c, classes=None):
    """Name -> shape of every array in a BERT file, with its pooler and classifier, or for MLM."""
    d, e = c.width, "bert.embeddings."
    shapes = {f"{e}word_embeddings.weight": (c.vocab, d)} | _both(f"{e}LayerNorm", (d,))
    shapes |= {f"{e}position_embeddings.weight": (c.context, d)}
    shapes |= {f"{e}token_type_embeddings.weight": (c.segments, d)}
    shapes |= _layers("bert", BERT_BLOCK, c)
    if classes:
        return shapes | _both("bert.pooler.dense", (d, d)) | _both("classifier", (classes, d))
    t = "cls.predictions.transform."
    shapes |= _both(f"{t}dense", (d, d)) | _both(f"{t}LayerNorm", (d,))
    return shapes | {"cls.predictions.bias": (c.vocab,)}


def vit_shapes(c):
    """Name -> shape of every array in a ViT file."""
    d, e = c.width, "vit.embeddings."
    shapes = {f"{e}cls_token": (1, 1, d), f"{e}position_embeddings": (1, 1 + c.patches, d)}
    patch = (d, c.channels, c.patch, c.patch)
    shapes |= _both(f"{e}patch_embeddings.projection", patch) | _layers("vit", VIT_BLOCK, c)
    return shapes | _both("vit.layernorm", (d,)) | _both("classifier", (c.classes, d))


def renamed(arrays, top, block):
    """The arrays of a BERT or ViT file by our paths."""
    state = {}
    for name, array in arrays.items():
        module, _, kind = name.rpartition(".")
        found = re.fullmatch(r"\w+\.encoder\.layer\.(\d+)\.(.+)", module)
        if name in top:
            path = top[name]
        else:
            path = (f"blocks.{found[1]}.{block[found[2]]}" if found else top[module]) + f".{kind}"
        state[path] = array.reshape(len(array), -1) if array.ndim == 4 else array
    return state


def golden_bert(classes=None, **changes):
    """The golden BERT in float64, with a classifier or for MLM."""
    head = {"head": "linear", "classes": classes} if classes else {}
    model = BERT(BERTConfig(**(BERT_CONFIG.to_dict() | head | changes)), dtype=np.float64)
    arrays = fill(bert_shapes(BERT_CONFIG, classes))
    model.load_state_dict(renamed(arrays, BERT_TOP, BERT_BLOCK))
    return model


def golden_vit(**changes):
    """The golden ViT in float64."""
    model = ViT(ViTConfig(**(VIT_CONFIG.to_dict() | changes)), dtype=np.float64)
    model.load_state_dict(renamed(fill(vit_shapes(VIT_CONFIG)), VIT_TOP, VIT_BLOCK))
    return model


def columns(y):
    """What a golden row prints: the first three values, the last, the sum, the checksum cos."""
    flat = np.asarray(y).reshape(-1)
    cos = flat @ np.cos(0.1 * np.arange(flat.size))
    return [*flat[:3], flat[-1], flat.sum(), cos]
