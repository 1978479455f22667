"""Compare two texts by their longest common subsequence of words."""

from __future__ import annotations

import re


def rouge_l(gold: str, reply: str) -> float:
    """Return ROUGE-L's F1 (C.-Y. Lin, 2004; beta 1) over lower-case alphanumeric words, 0..1."""
    one, two = (re.findall(r"[^\W_]+", text.lower()) for text in (gold, reply))
    if not one or not two:
        return float(one == two)
    row = [0] * (len(two) + 1)
    for word in one:
        diagonal = 0
        for j, other in enumerate(two, start=1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return 2.0 * row[-1] / (len(one) + len(two))
