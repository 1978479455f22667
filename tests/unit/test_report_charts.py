"""Where the lines, points and boxes of the report go."""

import pytest

from emoverse.artifacts.lineage import Node
from emoverse.report.charts import BOX_HIGH, BOX_WIDE, HIGH, WIDE, curve, graph, nice_ticks
from emoverse.report.report import flatten


def node(name: str, *inputs: Node) -> Node:
    record = {"dvc_md5": "ab" * 16 + ".dir"} if name.startswith("raw") else {"code": "c0de"}
    step = "raw" if name.startswith("raw") else "train"
    return Node(name.ljust(64, "0"), step, name, record, {one.name: one for one in inputs})


def test_a_curve_fills_its_area_and_keeps_first_and_last_value() -> None:
    one = curve("stage1", [{"step": 1, "loss": 4.0}, {"step": 50, "loss": 2.0}, {"step": 100, "loss": 0.5}])
    points = [tuple(map(float, pair.split(","))) for pair in one.points.split()]
    assert points[-1][0] == WIDE
    assert min(y for _, y in points) == 0.0
    assert all(0 <= x <= WIDE and 0 <= y <= HIGH for x, y in points)
    assert (one.what, one.title, one.steps) == ("loss", "loss 4 to 0.5", 100)


def test_a_jumping_loss_is_summed_up_by_the_means_of_its_ends_and_smoothed() -> None:
    one = curve("stage1", [{"step": n, "loss": 3.0 if n % 2 else 1.0} for n in range(1, 401)])
    assert one.title == "loss 2 to 2"
    heights = [HIGH - float(pair.split(",")[1]) for pair in one.smooth.split()][20:-20]
    assert max(heights) - min(heights) < 0.2 * HIGH  # of 2/3 for the line itself


def test_any_number_of_the_log_can_be_drawn() -> None:
    log = [{"step": 1, "loss": 4.0, "learning_rate": 0.0}, {"step": 9, "loss": 2.0, "learning_rate": 0.0}]
    flat = curve("stage1", log, "learning_rate")
    assert (flat.what, flat.title, flat.smooth) == ("learning rate", "learning rate up to 0", "")
    assert {pair.split(",")[1] for pair in flat.points.split()} == {f"{HIGH:.1f}"}


def test_an_empty_log_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="the log of stage1 is empty"):
        curve("stage1", [])


@pytest.mark.parametrize(
    ("top", "ticks"), [(100, [0, 50, 100]), (7, [0, 2, 4, 6]), (0.3, [0, 0.1, 0.2, 0.3]), (1, [0, 0.5, 1])]
)
def test_ticks_are_round_numbers(top: float, ticks: list[float]) -> None:
    assert nice_ticks(top) == ticks


def test_inputs_lie_left_of_what_was_made_of_them_and_no_two_boxes_touch() -> None:
    raw = [node(f"raw{n}") for n in range(3)]
    middle = [node(f"mid{n}", one) for n, one in enumerate(raw)]
    base = node("base")
    top = node("top", *middle, base)
    drawn = graph([top, node("other", top, base)])
    place = {box.title.split()[-1]: (box.x, box.y) for box in drawn.boxes}
    assert len(drawn.boxes) == 9
    assert len(drawn.edges) == 3 + 4 + 2
    assert place["raw0"][0] < place["mid0"][0] < place["top"][0] < place["other"][0]
    boxes = list(place.values())
    apart = [abs(a[0] - b[0]) >= BOX_WIDE or abs(a[1] - b[1]) >= BOX_HIGH for a in boxes for b in boxes if a != b]
    assert all(apart)
    assert all(0 <= x <= drawn.width - BOX_WIDE and 0 <= y <= drawn.height - BOX_HIGH for x, y in boxes)


def test_a_json_tree_becomes_named_texts() -> None:
    tree = {"rows": {"in": 12345, "share": 0.123456}, "ok": True, "list": [1, 2], "deep": [{"a": 1}, {"a": 2}]}
    assert flatten(tree) == [
        ("rows › in", "12,345"),
        ("rows › share", "0.1235"),
        ("ok", "yes"),
        ("list", "1, 2"),
        ("deep", "2 entries"),
    ]
    assert flatten({str(n): n for n in range(9)}, limit=2) == [
        ("0", "0"),
        ("1", "1"),
        ("...", "7 more in the file itself"),
    ]
