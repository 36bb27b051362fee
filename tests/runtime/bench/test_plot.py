from xml.etree import ElementTree

import pytest

from saymask.runtime.bench.plot import Curve, Level, Panel, svg_from_panels

SVG = "{http://www.w3.org/2000/svg}"


def _panel(ys=(1.0, 3.0, 2.0), **changed) -> Panel:
    curve = Curve(label="ages", xs=(0.0, 5.0, 10.0), ys=ys, color="blue", is_filled=False)
    wanted: dict = {
        "title": "age, ms",
        "curves": (curve,),
        "levels": (),
        "least_span": 0.1,
        "starts_at_zero": True,
    }
    return Panel(**(wanted | changed))


def _drawn(*panels: Panel) -> ElementTree.Element:
    return ElementTree.fromstring(svg_from_panels("a < b & c", "on this", panels))


def _points(root: ElementTree.Element) -> list[tuple[float, ...]]:
    (line,) = root.iter(f"{SVG}polyline")
    return [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]


def _words(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {text.text or "": text for text in root.iter(f"{SVG}text")}


def test_later_is_further_right_and_more_is_higher():
    points = _points(_drawn(_panel()))
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[1][1] < points[2][1] < points[0][1]
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)


def test_titles_are_escaped_and_ticks_are_round():
    words = _words(_drawn(_panel()))
    assert "a < b & c" in words
    assert {"0", "1", "2", "3", "age, ms", "seconds since the first masks"} <= set(words)
    assert {"2", "4", "6", "8", "10"} <= set(words)


def test_an_axis_may_begin_above_zero_and_does_not_magnify_noise():
    points = _points(_drawn(_panel(ys=(300.0, 300.1, 300.0), least_span=6, starts_at_zero=False)))
    assert abs(points[0][1] - points[1][1]) < 5
    assert "0" not in {
        word
        for word, text in _words(_drawn(_panel(ys=(300.0,) * 3, starts_at_zero=False))).items()
        if text.attrib["text-anchor"] == "end"
    }


def test_names_of_close_levels_do_not_overlap():
    levels = tuple(Level(label=f"p{y}", y=y, color="red") for y in (2.0, 2.01, 2.02))
    words = _words(_drawn(_panel(levels=levels)))
    heights = sorted(float(words[f"p{y}"].attrib["y"]) for y in (2.0, 2.01, 2.02))
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) >= 13


def test_panels_lie_below_each_other():
    words = _words(_drawn(_panel(), _panel(title="memory, MiB")))
    assert float(words["memory, MiB"].attrib["y"]) > float(words["age, ms"].attrib["y"]) + 200


@pytest.mark.parametrize("ys", [(5.0, 5.0, 5.0), (0.0, 0.0, 0.0)])
def test_a_level_line_can_be_drawn(ys):
    assert len({y for _, y in _points(_drawn(_panel(ys=ys)))}) == 1


def test_one_point_can_be_drawn():
    curve = Curve(label="one", xs=(3.0,), ys=(1.0,), color="blue", is_filled=True)
    assert len(_points(_drawn(_panel(curves=(curve,))))) == 1
