"""07_prompt: a prompt before the text by hand, tasks mixed in a batch, and the words near a row."""

import numpy as np

from minipeft.engine import Tensor, no_grad


def with_prompt(model, P, ids):
    """Logits of a frozen GPT that reads [P; E(x)]: only those of the text's T positions.

    Shapes  P (n, d), ids (B, T) -> (B, T, V)
    """
    (B, T), n = ids.shape, len(P)
    E = model.emb.tok.weight.data[ids]  # (B, T, d)
    x = np.concatenate([np.broadcast_to(P, (B, *P.shape)), E], axis=1)  # (B, n + T, d)
    h = Tensor(x + model.emb.pos.weight.data[: n + T])
    with no_grad():
        for block in model.blocks:
            h = block(h)
        return model.head(model.ln_f(h)).data[:, n:]


def nearest(P, E):
    """The id of the row of E that is nearest to each row of P, by cosine, and that cosine.

    Shapes  P (n, d), E (V, d) -> (n,), (n,)
    """
    unit_P = P / np.linalg.norm(P, axis=1, keepdims=True)
    unit_E = E / np.linalg.norm(E, axis=1, keepdims=True)
    cosine = unit_P @ unit_E.T  # (n, V)
    return cosine.argmax(1), cosine.max(1)
