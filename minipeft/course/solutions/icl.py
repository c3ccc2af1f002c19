"""03_finetuning_and_icl: the likeliest option after solved examples, and Welch's t."""

import numpy as np

from minipeft.engine import no_grad


def likeliest(model, examples, asked):
    """The number of the option that a frozen GPT finds likeliest after solved examples.

    Each example is a line, prompt and target; the last line is the prompt of the question. An
    option's score is the sum of log p of its tokens, each after all that stands before it.
    """
    text = "\n".join([*(e.prompt + e.target for e in examples), asked.prompt])
    before, scores = model.tokenizer.encode(text), []
    for option in asked.options:
        said = model.tokenizer.encode(option)
        with no_grad():
            logits = model(np.array([before + said])).data[0, len(before) - 1 : -1]
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        scores.append(sum(logs[i, token] for i, token in enumerate(said)))
    return int(np.argmax(scores))


def welch_t(u, v):
    """Welch's t and its degrees of freedom nu, of two samples.  (n,), (m,) -> t, nu"""
    a, b = np.var(u, ddof=1) / len(u), np.var(v, ddof=1) / len(v)
    t = (np.mean(u) - np.mean(v)) / np.sqrt(a + b)
    return t, (a + b) ** 2 / (a**2 / (len(u) - 1) + b**2 / (len(v) - 1))
