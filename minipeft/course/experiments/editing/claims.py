"""What is claimed of task vectors and of editing facts: read off the results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from minipeft.course.experiments.claims import Claim, cannot, compared
from minipeft.course.experiments.editing.runs import SEEDS, WAYS
from minipeft.course.experiments.runner import results

LECTURE = "13b_editing"
ILHARCO, CS769, OWN = "Ilharco et al. 2022", "UW-Madison CS769", "the lecture's own question"
WHY, NOT = f"{CS769}, why edit", f"{CS769}, why not edit"
AS_GOOD = 5.0  # points that "as good as" may lack

Side = Callable[[], list[float]]


def vectors(part: str, what: str, kind: str = "full", **at: float) -> list[float]:
    """Scores, seed by seed, at the amount that is best on validation data; or at one `amount`."""
    found, totals = results("editing_vectors"), dict[float, float]()
    for run in found.runs:
        s, out = run["settings"], run["outcome"]
        wanted = at.get("amount", s["amount"] or None)  # the base, at 0, is not among the best
        if (s["what"], s["kind"], s["amount"]) == (what, kind, wanted):
            total = sum(v for k, v in out.items() if k.endswith("validation"))
            totals[s["amount"]] = totals.get(s["amount"], 0.0) + total
    best = max(totals, key=lambda amount: totals[amount])
    return found.where(part, what=what, kind=kind, amount=best) * (1 if best else len(SEEDS))


def facts(part: str, way: str, edits: int = 50, amount: float = 1.0) -> list[float]:
    """The same of a way to teach new facts, at the rate that all its seeds have."""
    lr = WAYS[way][1][0] if way in WAYS else 0.0
    found = results("editing_facts").where(part, way=way, lr=lr, edits=edits, amount=amount)
    return found * (1 if lr else len(SEEDS))  # one frozen base stands beside each seed


_v, _f = partial(partial, vectors), partial(partial, facts)
BASE: Side = _v("truth_test", "both", amount=0.0)
ROWS: tuple[tuple[str, str, str, Side, Side, float], ...] = (
    ("The myths' vector taken away: truth above the base", f"{ILHARCO}, section 3", "figure 4",
     _v("truth_test", "unlearn"), BASE, 0),
    ("It leaves a control task as good as before (5 points)", f"{ILHARCO}, section 3", "figure 4",
     _v("remap", "unlearn"), _v("remap", "both", amount=0.0), AS_GOOD),
    ("It is above a random vector of the same lengths", f"{ILHARCO}, section 3", "figure 4",
     _v("truth_test", "unlearn"), _v("truth_test", "null"), 0),
    ("Truth less myth is above truth alone", OWN, "figure 4", _v("truth_test", "instead"),
     _v("truth_test", "learn"), 0),
    ("LoRA's vectors are as good as full fine-tuning's (5 points)", OWN, "figure 4",
     _v("truth_test", "instead", kind="lora"), _v("truth_test", "instead"), AS_GOOD),
    ("Two vectors added: the first task above the base", f"{ILHARCO}, section 4", "figure 5",
     _v("truth_test", "both"), BASE, 0),
    ("The second task is as good as with its own vector alone (5 points)",
     f"{ILHARCO}, section 4", "figure 5", _v("route_test", "both"), _v("route_test", "route"),
     AS_GOOD),
    ("The best scale of a sum is above the scale 1", f"{ILHARCO}, section 4", "figure 5",
     _v("route_test", "both"), _v("route_test", "both", amount=1.0), 0),
    ("Vectors of like tasks are nearer than of unlike ones (cosine)", f"{ILHARCO}, figure 3",
     "section 5", lambda: [-c for c in vectors("cosine", "instead")], _v("cosine", "both"), 0),
    ("Fine-tuning teaches the questions asked", WHY, "figure 6", _f("edited", "full"),
     _f("edited", "base"), 0),
    ("Other wordings are as good as the one taught (5 points)", OWN, "figure 6",
     _f("paraphrased", "full"), _f("edited", "full"), AS_GOOD),
    ("An edit is local: unchanged neighbours are as good as before (5 points)", WHY, "figure 6",
     _f("near", "full"), _f("near", "base"), AS_GOOD),
    ("An edit is entangled with other facts: fewer neighbours are right", NOT, "figure 6",
     _f("near", "base"), _f("near", "full"), 0),
    ("LoRA leaves neighbours more alone than full fine-tuning", OWN, "figure 6",
     _f("near", "lora"), _f("near", "full"), 0),
    ("Unchanged facts among the new ones keep neighbours", OWN, "figure 6", _f("near", "replay"),
     _f("near", "full"), 0),
    ("A model trained to read context: other wordings above full fine-tuning", OWN, "figure 6",
     _f("paraphrased", "reader"), _f("paraphrased", "full"), 0),
    ("Half of the change leaves neighbours more alone than the whole", OWN, "section 8",
     _f("near", "full", amount=0.5), _f("near", "full"), 0),
    ("One new fact leaves neighbours more alone than fifty", OWN, "section 8",
     _f("near", "full", edits=1), _f("near", "full"), 0),
)  # fmt: skip
CLAIMS = (
    *(Claim(text, source, figure, partial(
        lambda a, b, margin: compared(a(), b(), margin=margin), a, b, margin), LECTURE)
      for text, source, figure, a, b, margin in ROWS),
    Claim("Locate-then-edit, memories and hypernetworks change single facts of GPT-J and T5",
          f"{CS769}, a survey's taxonomy", "section 9",
          cannot("ROME, MEMIT, MEND and SERAC are not built here"), LECTURE),
)  # fmt: skip
