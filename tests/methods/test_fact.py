"""FacT: each piece of each weight against the formula, and what all of them share."""

import dataclasses

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.engine import grad_check
from minipeft.ledger.papers import count
from minipeft.methods import FacT
from tests.methods.contract import CASES, randomize, run

VIT = dataclasses.replace(CASES["fact"], kind="vit")
LLAMA = dataclasses.replace(CASES["fact"], kind="llama")


def attached(case=VIT, **fields):
    model = case.model()
    handle = attach(model, FacT(**{"r": 3, **fields}))
    randomize(handle)
    return model, handle


def part(handle, name):
    return handle.wrappers[f"blocks.1.{name}"]


@pytest.mark.parametrize(
    ("form", "r", "number"),
    [("tt", 4, 8_448), ("tt", 8, 21_504), ("tt", 16, 61_440),
     ("tk", 8, 13_952), ("tk", 16, 30_976), ("tk", 32, 86_528)],
)  # fmt: skip
def test_counts_of_vit_base(form, r, number):
    assert count("vit-base", FacT(r=r, form=form)) == number


@pytest.mark.parametrize("form", ["tt", "tk"])
def test_the_change_is_v_s_u_piece_by_piece(form):
    """Entry by entry in plain loops: piece (i, j) of fc_in and fc_out is s V S_ij U^T."""
    model, handle = attached(form=form, s=0.7)
    d, r = model.config.width, 3
    for name, (m, n) in {"attn.k_proj": (1, 1), "mlp.fc_in": (4, 1), "mlp.fc_out": (1, 4)}.items():
        w = part(handle, name)
        U, V = w.U.data, w.V.data
        for i in range(m):
            for j in range(n):
                if form == "tt":
                    S = w.S.data[i * r : (i + 1) * r, j * r : (j + 1) * r]
                else:
                    S = sum(w.P.data[i * n + j, c] * w.C.data[c] for c in range(r))
                wanted = w.base.weight.data[i * d : (i + 1) * d, j * d : (j + 1) * d].copy()
                for a in range(d):
                    for b in range(d):
                        wanted[a, b] += 0.7 * sum(
                            V[a, p] * S[p, q] * U[b, q] for p in range(r) for q in range(r)
                        )
                got = w.dense()[i * d : (i + 1) * d, j * d : (j + 1) * d]
                np.testing.assert_allclose(got, wanted, rtol=1e-12)


@pytest.mark.parametrize("form", ["tt", "tk"])
@pytest.mark.parametrize("case", [VIT, LLAMA], ids=["vit", "llama"])
def test_the_forward_pass_is_the_dense_weight_s(case, form):
    model, handle = attached(case, form=form)
    for path, w in handle.wrappers.items():
        x = np.random.default_rng(0).normal(size=(2, 3, w.base.weight.shape[1]))
        bias = 0 if w.base.bias is None else w.base.bias.data
        np.testing.assert_allclose(run(w, x), x @ w.dense().T + bias, rtol=1e-10, err_msg=path)
    params = [p for _, p in handle.trainable()]
    assert grad_check(lambda: model(case.inputs()), params=params) < 1e-8


def test_u_v_and_c_are_one_for_all():
    _, handle = attached(form="tk")
    first, *others = handle.wrappers.values()
    assert all(w.U is first.U and w.V is first.V and w.C is first.C for w in others)
    assert len({id(w.P) for w in handle.wrappers.values()}) == len(handle.wrappers)


def test_a_llama_s_narrow_parts_are_cut_out_of_pieces():
    """d = 24: keys of 8 read one piece, of which they keep 8 rows; an MLP of 32 reads two."""
    _, handle = attached(LLAMA)
    k, up, down = (part(handle, name) for name in ("attn.k_proj", "mlp.fc_in", "mlp.fc_out"))
    assert (k.pieces, up.pieces, down.pieces) == ((1, 1), (2, 1), (1, 2))
    change = k.V.data @ k.S.data @ k.U.data.T  # (24, 24)
    np.testing.assert_allclose(k.dense() - k.base.weight.data, change[:8], rtol=1e-10)
    change = down.V.data @ down.S.data[:, 3:] @ down.U.data.T  # the second piece
    np.testing.assert_allclose(
        down.dense()[:, 24:] - down.base.weight.data[:, 24:], change[:, :8], rtol=1e-10
    )


def test_the_start_is_that_of_the_authors_code():
    with attach(VIT.model(width=48), FacT(r=16)) as at:
        w = part(at, "mlp.fc_out")
        assert not w.V.data.any()
        for array, bound in ((w.U, 48**-0.5), (w.S, 64**-0.5)):
            assert 0.9 * bound < abs(array.data).max() <= bound
    with attach(VIT.model(width=48), FacT(r=16, form="tk")) as at:
        w = part(at, "mlp.fc_out")
        for array, bound in ((w.P, (6 / 40) ** 0.5), (w.C, 3**0.5 / 16)):
            assert 0.8 * bound < abs(array.data).max() <= bound


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"r": 9}, "r = 9 is above the model's width 8"), ({"form": "cp"}, "form"),
     ({"targets": "ln_1"}, "must be a Linear"), ({"r": 0}, "r")],
)  # fmt: skip
def test_refusals(fields, message):
    with pytest.raises(ValueError, match=message):
        attach(VIT.model(), FacT(**fields))
