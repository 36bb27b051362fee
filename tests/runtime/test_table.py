from saymask.runtime.table import table


def test_numbers_go_right_and_words_left():
    rows = [("a", 1, 0.12345, "12.0%", None), ("long name", 1000, 1234.5, "3.1%", 2)]
    assert table(("name", "count", "ms", "area", "p99"), rows).splitlines() == [
        "name       count     ms   area  p99",
        "a              1  0.123  12.0%    -",
        "long name   1000   1234   3.1%    2",
    ]


def test_no_line_ends_in_blanks():
    assert table(("a", "b"), [("x", ""), ("y", "long")]).splitlines() == ["a  b", "x", "y  long"]


def test_no_rows_leave_the_header():
    assert table(("a", "b"), []) == "a  b"
