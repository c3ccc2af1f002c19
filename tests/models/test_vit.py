"""ViT: golden values, a real model on real digits, config, images, heads, gradients."""

import dataclasses
import gzip

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import fused, grad_check, no_grad
from minipeft.models import ViT, ViTConfig
from minipeft.nn import LayerNorm, Module
from minipeft.nn.transformer import ACTIVATIONS
from tests.golden import IMAGES, VIT_CONFIG, columns, golden_vit, vit_shapes

SMALL = ViTConfig(image=6, patch=3, channels=2, width=8, layers=2, heads=2, classes=3, mlp=12)
PICTURES = Rng(0).normal((3, 2, 6, 6))


def large(config=SMALL, **settings):
    """A model in float64 with weights of O(0.3), so that every part matters."""
    model = ViT(config, dtype=np.float64, **settings)
    for i, p in enumerate(model.parameters()):
        p.data = p.data + 0.3 * Rng(9, i).normal(p.shape)
    return model


# -- golden values --------------------------------------------------------------------------------

WANTED = [0.30041949, -0.25789152, -0.78308798, -0.91271881, -1.3353063, -1.2137797]


def test_golden_classifier():
    assert len(vit_shapes(VIT_CONFIG)) == 40
    y = golden_vit()(IMAGES)
    assert y.shape == (2, 3) and y.dtype == np.float64
    assert np.abs(np.subtract(columns(y.data), WANTED)).max() < 1e-7, columns(y.data)


@pytest.mark.parametrize(
    "mistake", ["tanh gelu", "eps 1e-5", "rows before channels", "class token last"]
)
def test_golden_values_see_the_usual_mistakes(mistake, monkeypatch):
    model, images = golden_vit(), IMAGES
    if mistake == "eps 1e-5":
        model = golden_vit(eps=1e-5)
    if mistake == "tanh gelu":
        monkeypatch.setitem(ACTIVATIONS, "gelu_erf", fused.gelu)
    if mistake == "rows before channels":
        w = model.emb.patch.weight
        w.data = w.data.reshape(16, 3, 4, 4).transpose(0, 2, 3, 1).reshape(16, 48)
    if mistake == "class token last":
        model.emb.pos.data = np.roll(model.emb.pos.data, -1, axis=1)
    wrong = model(images).data
    assert np.abs(np.subtract(columns(wrong), WANTED)).max() > 2e-7


# -- a real model ---------------------------------------------------------------------------------

DIGITS = ViTConfig(image=28, patch=4, channels=1, width=64, layers=6, heads=4, classes=10, mlp=128,
                   head_width=64, qkv_bias=False, activation="relu", eps=1e-5)  # fmt: skip
THEIRS = {  # in a layer of their file: ours
    "0.norm": "ln_1",
    "0.fn.to_out.0": "attn.o_proj",
    "1.norm": "ln_2",
    "1.fn.net.0": "mlp.fc_in",
    "1.fn.net.3": "mlp.fc_out",
}


@pytest.fixture
def digits(real_data):
    """A ViT that was trained on MNIST elsewhere, and a function to count its right answers."""
    file = np.load(real_data("vit_mnist") / "vit_mnist_gpu.npz")
    state = {"emb.pos": file["pos_embedding"], "emb.cls": file["cls_token"]}
    names = {"to_patch_embedding.1": "emb.patch", "mlp_head.0": "ln_f", "mlp_head.1": "head"}
    for i in range(DIGITS.layers):
        lead = f"transformer.layers.{i}."
        names |= {lead + theirs: f"blocks.{i}.{ours}" for theirs, ours in THEIRS.items()}
        rows = np.split(file[f"{lead}0.fn.to_qkv.weight"], 3)
        state |= {f"blocks.{i}.attn.{n}_proj.weight": w for n, w in zip("qkv", rows, strict=True)}
    for theirs, ours in names.items():
        state |= {f"{ours}.{kind}": file[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    model = ViT(DIGITS)
    model.load_state_dict(state)
    folder = real_data("mnist")
    pixels = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 1, 28, 28).astype(np.float32) / 255
    images, labels = (images - 0.1307) / 0.3081, np.frombuffer(labels, np.uint8)

    def right(start, stop):
        found = 0
        with no_grad():
            for i in range(start, stop, 250):
                found += int(
                    (model(images[i : i + 250]).data.argmax(1) == labels[i : i + 250]).sum()
                )
        return found

    return right


def test_a_real_vit_reads_500_digits(digits):
    assert digits(0, 500) == 480


@pytest.mark.full
def test_a_real_vit_reads_9721_of_10_000_digits(digits):
    assert digits(0, 10_000) == 9721


# -- config ---------------------------------------------------------------------------------------

SIZES = {"image": 6, "patch": 3, "channels": 2, "width": 8, "layers": 2, "heads": 2, "classes": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": 0}, "ViTConfig: image must be a whole number >= 1, got 0"),
        ({"patch": 4}, "patch 4 does not divide image 6"),
        ({"channels": 1.0}, "channels must be a whole number >= 1, got 1.0"),
        ({"heads": 3}, "width 8 does not divide into 3 heads; the nearest number that fits is 2"),
        ({"head_width": 0}, "head_width must be a whole number >= 1 or None, got 0"),
        ({"classes": 1}, "classes must be >= 2, got 1"),
        ({"qkv_bias": "no"}, "qkv_bias must be True or False, got 'no'"),
        ({"activation": "tanh"}, "activation must be 'gelu_erf', 'gelu' or 'relu', got 'tanh'"),
        ({"dropout": 1.0}, "dropout in"),
        ({"chanels": 2}, "no field 'chanels'; nearest is 'channels'"),
        ({"head": "linear"}, "no field 'head'"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig.from_dict(SIZES | change)


def test_config_goes_to_a_dict_and_back():
    config = ViTConfig(**SIZES | {"heads": 3}, head_width=5, qkv_bias=False, activation="relu")
    assert ViTConfig.from_dict(config.to_dict()) == config and config.patches == 4


# -- the model ------------------------------------------------------------------------------------


def test_paths_are_those_of_gpt():
    leaves = [path for path, part in ViT(SMALL).named_modules() if hasattr(part, "weight")]
    assert leaves[0] == "emb.patch" and leaves[-2:] == ["ln_f", "head"]
    block = [p.removeprefix("blocks.1.") for p in leaves if p.startswith("blocks.1.")]
    assert block == ["ln_1", "attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "ln_2",
                     "mlp.fc_in", "mlp.fc_out"]  # fmt: skip


def test_the_total_of_vit_base():
    config = ViTConfig(image=224, patch=16, channels=3, width=768, layers=12, heads=12, classes=2)
    model = ViT(config, init="shape")
    assert model.num_parameters() == 85_798_656 + 2 * 768 + 2
    with pytest.raises(RuntimeError, match="shapes but no values"):
        model(np.zeros((1, 3, 224, 224), np.float32))


def test_heads_may_be_wider_and_biases_left_out():
    model = large(dataclasses.replace(SMALL, head_width=5, heads=3, qkv_bias=False))
    attn = model.blocks[0].attn
    assert attn.q_proj.weight.shape == (15, 8) and attn.o_proj.weight.shape == (8, 15)
    assert attn.q_proj.bias is attn.k_proj.bias is attn.v_proj.bias is None
    assert attn.o_proj.bias is not None
    assert grad_check(lambda: model(PICTURES), params=model.parameters()) < 1e-8


def test_the_seed_decides_the_weights():
    same, other = ViT(SMALL, seed=1), ViT(SMALL, seed=2)
    y = ViT(SMALL, seed=1)(PICTURES).data
    assert np.array_equal(same(PICTURES).data, y) and not np.array_equal(other(PICTURES).data, y)
    with pytest.raises(ValueError, match="init must be 'normal' or 'shape', got 'zeros'"):
        ViT(SMALL, init="zeros")


def test_the_model_s_precision_holds():
    single = PICTURES.astype(np.float32)
    assert ViT(SMALL)(PICTURES).dtype == np.float32
    assert large()(single).dtype == np.float64


def test_eps_reaches_every_norm():
    model = ViT(dataclasses.replace(SMALL, eps=0.125))
    assert [m.eps for _, m in model.named_modules() if isinstance(m, LayerNorm)] == [0.125] * 5


def test_state_goes_out_and_in():
    source, target = large(), ViT(SMALL, init="shape", dtype=np.float64)
    state = source.state_dict()
    assert len(state) == len(source.parameters()) == 4 + 2 * 16 + 4
    target.load_state_dict(state)
    assert np.array_equal(source(PICTURES).data, target(PICTURES).data)
    with pytest.raises(ValueError, match=r"wrong shape +emb\.pos: wanted \(1, 5, 8\)"):
        target.load_state_dict(state | {"emb.pos": state["emb.pos"][:, :4]})


# -- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([[0.5]], TypeError, r"images must be a float array \(B, channels, image, image\)"),
        (np.ones((1, 2, 6, 6), np.uint8), TypeError, "must be a float array"),
        (
            np.ones((2, 6, 6)),
            ValueError,
            r"\(B, 2, 6, 6\) with B >= 1, got \(2, 6, 6\)",
        ),
        (np.ones((1, 1, 6, 6)), ValueError, r"got \(1, 1, 6, 6\)"),
        (np.ones((1, 2, 6, 9)), ValueError, r"got \(1, 2, 6, 9\)"),
        (np.ones((0, 2, 6, 6)), ValueError, r"got \(0, 2, 6, 6\)"),
    ],
)
def test_wrong_images_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        ViT(SMALL)(images)


def test_a_patch_is_a_square_of_the_image():
    model = large()
    before = model.emb(PICTURES).data  # (B, 1 + N, C)
    assert before.shape == (3, 5, 8)
    changed = PICTURES.copy()
    changed[:, :, :3, 3:] += 1.0  # the upper right one
    moved = np.abs(model.emb(changed).data - before).max(axis=(0, 2)) > 1e-6
    assert moved.tolist() == [False, False, True, False, False]
    with no_grad():
        assert (np.abs(model(changed).data - model(PICTURES).data) > 1e-6).all()


def test_a_masked_patch_is_not_seen():
    model = large()
    mask = np.ones((3, 5), bool)
    assert np.abs(model(PICTURES, mask=mask).data - model(PICTURES).data).max() < 1e-12
    mask[:, 2] = False
    changed = PICTURES.copy()
    changed[:, :, :3, 3:] += 1.0  # the upper right one
    y = model(PICTURES, mask=mask).data
    assert np.abs(model(changed, mask=mask).data - y).max() < 1e-12
    assert np.abs(model(PICTURES).data - y).max() > 1e-6
    with pytest.raises(ValueError, match=r"mask must be \(3, 5\), got \(3, 4\)"):
        model(PICTURES, mask=mask[:, 1:])


def test_patches_are_read_row_by_row_as_channel_y_x():
    """Into each patch a number of its own, and in one patch into each pixel."""
    model = ViT(ViTConfig(image=6, patch=2, channels=2, width=8, layers=1, heads=2, classes=2),
                dtype=np.float64)  # fmt: skip
    seen = []

    class Spy(Module):
        wraps = True

        def __init__(self, base):
            self.base = base

        def forward(self, x):
            seen.append(x)
            return self.base(x)

    model.set("emb.patch", Spy(model.emb.patch))
    k, y, x = np.mgrid[0:2, 0:6, 0:6]
    model((100 * k + 10 * y + x)[None] * 1.0)
    wanted = [
        [100 * k + 10 * (2 * row + y) + 2 * column + x
         for k in range(2) for y in range(2) for x in range(2)]
        for row in range(3) for column in range(3)
    ]  # fmt: skip
    assert seen[0][0].tolist() == wanted


class Prefix(Module):
    """A past before the class token."""

    wraps = True

    def __init__(self, base, past):
        self.base, self.past = base, past

    def forward(self, ids, mask):
        return ids, mask, self.past


def test_a_prefix_is_a_past_of_every_block():
    model, plain = large(), large()
    past = [tuple(0.3 * Rng(i, j).normal((1, 4, 8)) for j in "kv") for i in range(2)]
    model.set("start", Prefix(model.start, past))
    x = plain.emb(PICTURES)
    for block, pair in zip(plain.blocks, past, strict=True):
        x = block(x, past=pair)
    wanted = plain.head(plain.ln_f(x[:, 0])).data
    assert np.abs(model(PICTURES).data - wanted).max() < 1e-12
    assert np.abs(plain(PICTURES).data - wanted).max() > 1e-3
    mask = np.array([[True] * 5, [True] * 3 + [False] * 2, [True] * 5])  # of the image alone
    y = model(PICTURES, mask=mask).data
    assert np.abs(y[0] - wanted[0]).max() < 1e-12 and np.abs(y[1] - wanted[1]).max() > 1e-6


def test_the_activation_is_that_of_the_config():
    found = [large(dataclasses.replace(SMALL, activation=name))(PICTURES).data
             for name in ("gelu_erf", "gelu", "relu")]  # fmt: skip
    assert {large(dataclasses.replace(SMALL, activation=a)).blocks[1].mlp.activation
            for a in ACTIVATIONS} == set(ACTIVATIONS)  # fmt: skip
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(found[a] - found[b]).max() > 1e-6


def test_the_class_token_stands_first_and_every_position_has_its_own_vector():
    model = large()
    y = model.emb(PICTURES).data
    first = model.emb.cls.data[0, 0] + model.emb.pos.data[0, 0]
    assert np.abs(y[:, 0] - first).max() < 1e-12
    model.emb.pos.data = model.emb.pos.data * 0
    assert np.abs(y - model.emb(PICTURES).data - large().emb.pos.data).max() < 1e-12


def test_rows_do_not_see_each_other():
    model = large()
    whole = model(PICTURES).data
    for b in range(3):
        assert np.abs(model(PICTURES[b : b + 1]).data[0] - whole[b]).max() < 1e-12


def test_gradients_of_the_whole_model():
    model = large()

    def loss():
        return fused.cross_entropy(model(PICTURES), np.array([0, 2, 1]), smoothing=0.1)

    assert grad_check(loss, params=model.parameters()) < 1e-8
    loss().backward()
    for path, p in model.named_parameters():
        if not path.endswith("k_proj.bias"):  # softmax does not see it
            assert np.abs(p.grad).max() > 1e-6, path
