"""Read models' replies: cut off reasoning, normalise text, and find the label that a reply gives.

The words that decide (synonyms, negation, announcements of an answer) are data: ``replies.json``. A word that is a
synonym of more than one label, such as "upset", is left out on purpose: such a reply is unparsable.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Final, NamedTuple

_TAG: Final = r"(?:think|thinking|thought|thoughts|reasoning)\b[^<>]*"
_BLOCK: Final = re.compile(rf"<\s*{_TAG}>(?:(?!<\s*{_TAG}>).)*?<\s*/\s*{_TAG}>", re.IGNORECASE | re.DOTALL)
_OPENED: Final = re.compile(rf"<\s*{_TAG}>.*", re.IGNORECASE | re.DOTALL)
_CLOSED: Final = re.compile(rf".*<\s*/\s*{_TAG}>", re.IGNORECASE | re.DOTALL)
_SPECIAL: Final = re.compile(r"<\|[^<>|]*\|>|</?s>", re.IGNORECASE)
_QUOTES: Final = str.maketrans(
    {**dict.fromkeys("‘’‛′ʼ`´＇", "'"), **dict.fromkeys("“”„‟«»＂", '"'), **dict.fromkeys("‐‑‒−", "-")}
)
_LATEX_TEXT: Final = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|emph)\s*\{([^{}]*)\}")
_CJK: Final = r"\u2e80-\u9fff\uac00-\ud7a3"
_SAYS: Final = r"(?::|=|\bis\b|\bwould be\b|(?<!不)是|为)"
_CJK_BORDER: Final = re.compile(rf"(?<=[{_CJK}])(?=[a-z])|(?<=[a-z])(?=[{_CJK}])")
_LIST_MARK: Final = re.compile(r"^[ \t]*(?:[-*•·>#]+|\(?[0-9a-z][.)])[ \t]+", re.MULTILINE)
_NOT: Final = re.compile(r".*n't|cannot|(?:is|are|was|were|do|does|did|ca|ai)nt")
_TOKEN: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+|[^\s\w]|\n")
_STOPS: Final = frozenset(".!?;:,\n()[]{}—–。、，；")
_SEPARATORS: Final = frozenset((*",/|;.()[]{}\"'-*+&\n、。", "or", "and", "或", "和"))
_ARTICLES: Final = frozenset(("a", "an", "the", "any", "even", "of", "some", "real"))
_JOINS: Final = frozenset(("or", "nor", "and", "/"))
_SKIPPED: Final = _JOINS | _ARTICLES | frozenset((",", '"', "'"))
_BE: Final = frozenset(("is", "are", "was", "were", "seems", "can", "could"))


class Reading(NamedTuple):
    """The label that a reply gives, None if it cannot be read.

    ``ambiguous``: the reply gives several labels, of which the first counts.
    """

    label: str | None
    ambiguous: bool = False


class _Mention(NamedTuple):
    position: int
    label: str


def final_text(reply: str) -> str | None:
    """Return a reply without its reasoning blocks, None if there is a reasoning block and no answer after it.

    A closing tag alone ends a block that began before the reply; an opening tag alone begins one that never ends.
    """
    if "<" not in reply:
        return reply
    text, count = reply, 1
    while count:  # innermost first, as blocks may be nested
        text, count = _BLOCK.subn("", text)
    text = _OPENED.sub("", _CLOSED.sub("", text))
    return text if text == reply or text.strip() else None


def normalise(text: str) -> str:
    """Return text in NFKC and lower case with plain quotes, and without invisible characters and special tokens."""
    text = unicodedata.normalize("NFKC", text.translate(_QUOTES))
    text = "".join(char for char in text if unicodedata.category(char) != "Cf").translate(_QUOTES)
    return _SPECIAL.sub(" ", text).lower()


@cache
def language() -> dict[str, Any]:
    """Return the data file ``replies.json``."""
    return dict(json.loads(resources.files(__package__).joinpath("replies.json").read_text("utf-8")))


@cache
def synonym_groups() -> dict[str, str]:
    """Map every word of the data file to the first word of its group: ``"happy"`` to ``"joy"``."""
    return {word: name for name, words in language()["synonyms"].items() for word in (name, *words)}


def word_of(label: str) -> str:
    """Return the bare word of an answer: ``"Joy."`` -> ``"joy"``."""
    return label.rstrip(".").lower()


@lru_cache(maxsize=64)
def _forms(labels: tuple[str, ...]) -> Mapping[str, str]:
    """Map every word that names a label to the label, both ways: "happy" names "Joy." and "joy" names "Happy."."""
    groups = synonym_groups()
    of_group = {groups.get(word_of(label), word_of(label)): label for label in reversed(labels)}
    forms = {word: of_group[group] for word, group in groups.items() if group in of_group}
    return {**forms, **{word_of(label): label for label in labels}}


@lru_cache(maxsize=1 << 14)  # files repeat few replies, and each is read for its counts, its label and its flaws
def read_label(reply: str, labels: tuple[str, ...], *, echoes: bool = True) -> Reading:
    r"""Return the label that a reply gives; ``echoes``: whether the question named the labels.

    The first of these rules that gives a label decides:

    1. A reply that equals a label is that label.
    2. An explicit answer: ``<answer>``, ``\boxed{}``, a JSON key, "final answer: X", "the label is X".
    3. The labels of the text that are neither negated nor part of a list of three or more of the question's own
       options (an echo of the question): the first, and ambiguous if there are several.
    """
    if reply in labels:
        return Reading(reply)
    text = _plain(reply)
    if text is None:
        return Reading(None)
    forms = _forms(labels)
    if label := forms.get(text.strip(" \n.!*`\"'")):
        return Reading(label)
    for span, binding in _explicit(text, "sentiment" if "positive" in forms else "emotion"):
        reading = _read(span, forms, echoes)
        if reading.label is not None or binding:
            return reading
    return _read(text, forms, echoes)


@lru_cache(maxsize=1 << 14)
def labels_in(reply: str, labels: tuple[str, ...]) -> frozenset[str]:
    """Return all labels that a reply gives, for questions that several answers are right to."""
    tokens = _TOKEN.findall(_plain(reply) or "")
    named = frozenset(mention.label for mention in _affirmed(tokens, _forms(labels)))
    return named if len(named) < len(labels) else frozenset()  # all of them are an echo of the question


def _plain(reply: str) -> str | None:
    """Return a reply's normalised text without reasoning, LaTeX, underscores and list marks, None without an answer."""
    text = final_text(reply)
    if text is None:
        return None
    text = _LATEX_TEXT.sub(r"\1", _LATEX_TEXT.sub(r"\1", normalise(text)))
    return _CJK_BORDER.sub(" ", _LIST_MARK.sub("", text.replace("_", " ")))


def number_of(text: object) -> float | None:
    """Return the finite number that a reply or label is, None for other text."""
    try:
        value = float(str(text).strip())
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def label_for(answer: str, labels: tuple[str, ...]) -> str:
    """Return the label that another project's right answer means ("happy" is "Joy."), else the answer unchanged."""
    return _forms(labels).get(answer.strip().lower(), answer)


def is_loop(reply: str) -> bool:
    """Return whether a reply says the same again and again: at least three words, each three times on average."""
    words = re.findall(r"\w+", reply.lower())
    return len(words) >= 3 and 3 * len(set(words)) <= len(words)


def _explicit(text: str, kind: str) -> Iterator[tuple[str, bool]]:
    """Yield the spans of explicit answers, the most explicit first, and whether each decides even without a label."""
    answers = language()["answer"]
    tagged = [match[1] for match in re.finditer(r"<\s*answer\s*>(.*?)(?:<\s*/\s*answer\s*>|$)", text, re.DOTALL)]
    boxed = re.findall(r"\\boxed\s*\{([^{}]*)\}", text)
    for spans in (tagged, boxed):
        yield from ((span, True) for span in spans[-1:] if span.strip())
    names = "|".join((*answers["final"], *answers["plain"], *answers[kind]))
    values = re.findall(rf"[\"'][a-z ]*\b(?:{names})\b[a-z ]*[\"']\s*:\s*(\[[^\]]*\]|\"[^\"]*\"|'[^']*')", text)
    yield from ((value, True) for value in values[-1:])
    for words, binding in ((answers["final"], True), (answers["plain"], True), (answers[kind], False)):
        marker = rf"(?:{'|'.join(words)})(?:\b|(?<=[{_CJK}]))[^.:;,!?\n]{{0,60}}?{_SAYS}"
        ends = [match.end() for match in re.finditer(marker, text)]
        for end in reversed(ends):
            rest = text[end:].lstrip(" *\"'\n")
            if sentence := re.split(r"[.;!?\n。(]", rest, maxsplit=1)[0]:
                yield sentence, binding and len(sentence.split()) <= 3  # "final answer: contempt"
                yield rest, False
        if binding and ends and text[ends[-1] :].strip(" .*\"'\n"):
            yield text[ends[-1] :], True


def _read(text: str, forms: Mapping[str, str], echoes: bool) -> Reading:
    tokens = _TOKEN.findall(text)
    mentions = _affirmed(tokens, forms)
    if echoes:
        mentions = _without_echoes(tokens, mentions, len(set(forms.values())))
    return Reading(mentions[0].label if mentions else None, len({mention.label for mention in mentions}) > 1)


def _affirmed(tokens: Sequence[str], forms: Mapping[str, str]) -> list[_Mention]:
    """Return where the text names labels without denying them."""
    negated: set[int] = set()
    for i in range(len(tokens)):
        if length := _negation(tokens, i):
            negated |= _scope(tokens, i + length, forms)
    return [
        _Mention(i, forms[token])
        for i, token in enumerate(tokens)
        if token in forms and i not in negated and not _denied_after(tokens, i + 1)
    ]


def _negation(tokens: Sequence[str], start: int) -> int:
    """Return how many tokens the negation that begins here has, 0 if none begins here."""
    before, affirmed = _negations()
    plain = tuple("not" if _NOT.fullmatch(token) else token for token in tokens[start : start + 4])
    if any(plain[: len(words)] == words for words in affirmed.get(plain[0], ())):
        return 0
    length = max((len(words) for words in before.get(plain[0], ()) if plain[: len(words)] == words), default=0)
    return length or int(plain[0].endswith(_cjk_negations()))


@cache
def _negations() -> tuple[dict[str, list[tuple[str, ...]]], dict[str, list[tuple[str, ...]]]]:
    """Return the words that negate what follows, and those that only seem to, by their first word."""
    tables: list[dict[str, list[tuple[str, ...]]]] = []
    for key in ("before", "affirmed"):
        table: dict[str, list[tuple[str, ...]]] = {}
        for words in map(str.split, language()["negation"][key]):
            table.setdefault(words[0], []).append(tuple(words))
        tables.append(table)
    return tables[0], tables[1]


@cache
def _cjk_negations() -> tuple[str, ...]:
    return tuple(word for word in language()["negation"]["before"] if not word.isascii())


def _scope(tokens: Sequence[str], start: int, forms: Mapping[str, str]) -> set[int]:
    """Return the indices of the labels that a negation before ``start`` denies: the next one, and its list."""
    words = language()["negation"]
    denied: set[int] = set()
    for i in range(start, min(len(tokens), start + words["window"] + 1)):
        if tokens[i] in forms:
            denied = {i}
            break
        if tokens[i] in _STOPS or tokens[i] in words["ends"]:
            return denied
    pending: set[int] = set()
    position = max(denied, default=len(tokens)) + 1
    while position < len(tokens):  # "joy, anger or fear": a comma alone joins only if "or" follows later
        joins = []
        while position < len(tokens) and tokens[position] in _SKIPPED:
            joins.append(tokens[position])
            position += 1
        if position == len(tokens) or tokens[position] not in forms or not joins:
            break
        pending.add(position)
        if _JOINS & set(joins):
            denied |= pending
        position += 1
    return denied


def _denied_after(tokens: Sequence[str], start: int) -> bool:
    """Return whether the label before ``start`` is denied after it: "joy is not ...", "anger isn't ..."."""
    one, two = (tokens[i] if i < len(tokens) else "" for i in (start, start + 1))
    verb = one.removesuffix("n't") if one.endswith("n't") else ""
    return verb in _BE | {"ca"} or (one in _BE and (two == "not" or two in language()["negation"]["after"]))


def _without_echoes(tokens: Sequence[str], mentions: Sequence[_Mention], options: int) -> list[_Mention]:
    """Leave out lists of three or more options in a row, or of both options of two."""
    kept: list[_Mention] = []
    run: list[_Mention] = []
    for mention in (*mentions, None):
        if mention and run and mention.label not in {named.label for named in run}:
            between = tokens[run[-1].position + 1 : mention.position]
            if all(token in _SEPARATORS or token.isdigit() for token in between):
                run.append(mention)
                continue
        either = options == 2 and len(run) == 2 and "or" in tokens[run[0].position : run[-1].position]
        if len(run) < (2 if either else 3):
            kept += run
        run = [mention] if mention else []
    return kept
