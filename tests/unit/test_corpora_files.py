import csv
import io
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoverse.corpora.files import BadRow, Problems, cleaned, decode, rows_of, seconds, unsafe, whole_number
from emoverse.errors import UserError


def test_a_byte_that_is_not_utf_8_is_named_with_its_offset_with_and_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + b"a,b\n1,\x92\n")
        with pytest.raises(UserError, match=rf"byte 0x92 at offset {len(mark) + 6} \(line 2\) is not UTF-8"):
            decode(path)


def test_mark_and_line_ends_change_nothing(tmp_path: Path) -> None:
    path, problems = tmp_path / "a.csv", Problems("a.csv")
    for raw in (b"a,b\n1,2\n3,4\n", b"\xef\xbb\xbfa,b\r\n1,2\r\n3,4", b"a,b\r1,2\r3,4\r"):
        path.write_bytes(raw)
        assert [(row.line, row.cells) for row in rows_of(path, ("b", "a"), problems)] == [
            (2, ("2", "1")),
            (3, ("4", "3")),
        ]
    assert not problems.bad_rows


def test_an_open_quote_and_a_ragged_row_are_found(tmp_path: Path) -> None:
    path, problems = tmp_path / "a.csv", Problems("a.csv")
    path.write_bytes(b'a,b\n1,"2\n3",4\n5,"6\n7,8"\n8,9\n')
    assert [row.cells for row in rows_of(path, ("a", "b"), problems)] == [("8", "9")]
    assert [(bad.source, bad.column, bad.reason) for bad in problems.bad_rows] == [
        ("a.csv:2", "", "line-break"),
        ("a.csv:4", "b", "line-break"),
    ]
    path.write_bytes(b'a,b\n1,2\n3,"4\n')
    with pytest.raises(UserError, match=r"a\.csv:3: not valid CSV"):
        list(rows_of(path, ("a", "b"), problems))
    path.write_bytes(b"a,b\n1\n")
    assert not list(rows_of(path, ("a", "b"), problems))
    assert problems.bad_rows[-1].reason == "ragged-row"


@pytest.mark.parametrize(("raw", "says"), [(b"", "no header"), (b"a,bb\n", "did you mean 'bb'"), (b"b,b,a\n", "twice")])
def test_a_file_without_its_columns_is_an_error(tmp_path: Path, raw: bytes, says: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=says):
        list(rows_of(path, ("a", "b"), Problems("a.csv")))


@given(st.lists(st.tuples(st.text(), st.text()), max_size=8))
def test_every_row_of_any_csv_comes_out_whole_or_is_listed(cells: list[tuple[str, str]]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *cells])
    raw = out.getvalue().encode("utf-8", "surrogatepass")
    path = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp") / "emoverse-any.csv"
    path.write_bytes(raw)
    problems = Problems("any.csv")
    try:
        good = [row.cells for row in rows_of(path, ("a", "b"), problems)]
    except UserError as error:
        assert "is not UTF-8" in str(error)  # noqa: PT017 (a lone surrogate cannot be UTF-8)
        return
    finally:
        path.unlink()
    assert good == [pair for pair in cells if not any("\0" in cell or is_two_rows(cell) for cell in pair)]
    assert len(good) + len(problems.bad_rows) == len(cells)


CP1252 = dict(zip("\x85\x91\x92\x93\x94\x95\x96\x97", "…‘’“”•–—", strict=True))


def is_two_rows(cell: str) -> bool:
    lines = cell.replace("\r", "\n").split("\n")
    return len(lines) > 1 and any("," in line for line in lines)


@given(st.text(max_size=9), st.sampled_from(sorted(CP1252)), st.text(max_size=9))
def test_punctuation_that_became_control_characters_is_mapped_and_counted(
    before: str, control: str, after: str
) -> None:
    notes: Counter[str] = Counter()
    text = f"{before}{control}{after}a"
    if any("\x80" <= char <= "\x9f" and char not in CP1252 for char in text):
        with pytest.raises(BadRow, match=r"U\+00[89][0-9A-F] at character \d+ is a control character"):
            cleaned("text", text, notes)
        assert not notes
        return
    assert cleaned("text", text, notes) == "".join(CP1252.get(char, char) for char in text)
    assert notes == {"cp1252-punctuation-mapped": 1}


INVISIBLE = " \t\n\u00a0\u00ad\u200b\u200d\u2028\u2060\ufeff\ufe0f\u3164\u2800\u115f\u034f\u3000"


@given(st.text(st.sampled_from(INVISIBLE), max_size=6), st.sampled_from("a.!…中é♪😀1"))
def test_a_text_of_invisible_characters_only_is_empty(blanks: str, visible: str) -> None:
    with pytest.raises(BadRow, match="has no visible character"):
        cleaned("text", blanks, Counter())
    assert cleaned("text", blanks + visible + blanks, Counter()) == blanks + visible + blanks


@given(
    st.integers(0, 99),
    st.integers(0, 59),
    st.integers(0, 59),
    st.integers(0, 999),
    st.sampled_from(",."),
    st.booleans(),
)
def test_both_ways_to_write_a_time_are_one_number(h: int, m: int, s: int, ms: int, mark: str, padded: bool) -> None:
    word = f"{h:02d}:{m:02d}:{s:02d}{mark}{ms:03d}" if padded else f"{h}:{m:02d}:{s:02d}{mark}{ms:03d}"
    assert seconds(word) == pytest.approx(h * 3600 + m * 60 + s + ms / 1000)


@given(st.text(max_size=12))
def test_numbers_and_times_are_read_or_refused_and_never_crash(word: str) -> None:
    value = whole_number(word)
    assert value is None or str(value) == word
    assert seconds(word) is None or ":" in word
    assert unsafe(word) is not None or ("/" not in word and word not in ("", ".", ".."))
