"""13b_editing: sums of task vectors, and finding the sentence that answers a question."""

import re
from collections import Counter


def edited(weights, terms):
    """theta_0 + the sum of factor * vector; the weights given stay as they are.

    weights  {path: array}
    terms    [(factor, {path: change}), ...]: a factor of -1 negates, two terms add up
    Returns  {path: array}, with every path of the weights
    """
    moved = dict(weights)
    for factor, vector in terms:
        for path, change in vector.items():
            moved[path] = moved[path] + factor * change
    return moved


def retrieve(question, memory, least=0.8):
    """The sentence that shares most with the question, or "" if no one shares enough.

    A shared word counts 1 / (how many sentences of the memory have it), so that a name counts much
    and "the" nearly nothing.
    """

    def words(text):
        return set(re.findall(r"\w+", text.lower()))

    having = Counter(word for sentence in memory for word in words(sentence))

    def shared(sentence):
        return sum(1 / having[word] for word in words(question) & words(sentence))

    best = max(memory, key=shared)
    return best if shared(best) >= least else ""
