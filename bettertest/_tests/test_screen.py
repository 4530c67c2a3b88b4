"""What of a test's output reaches the terminal."""

from __future__ import annotations

import pytest

from bettertest._screen import Lines, Screen, duration, shown


@pytest.mark.parametrize(
    "line, plain, coloured",
    [
        (b"plain \xc3\xa9\ttab", "plain é\ttab", "plain é\ttab"),
        (b"\x1b[1;31mred\x1b[0m", "red", "\x1b[1;31mred\x1b[0m\x1b[0m"),
        (b"\x1b[38:5:9mred", "red", "\x1b[38:5:9mred\x1b[0m"),
        (b"10%\r50%\r100%\r", "100%", "100%"),
        (b"a\x1b[2Jb\x1b[10;10Hc\x1b[?25l", "abc", "abc"),
        (b"a\x1b]0;title\x07b\x1b]52;c;c2VjcmV0\x1b\\c", "abc", "abc"),
        (b"a\x1b]0;without an end", "a", "a"),
        (b"a\x1bPdevice\x1b\\b\x1b^private\x1b\\c\x1b_app\x1b\\d\x1bXstart\x1b\\e", "abcde", "abcde"),
        (b"a\x1bc\x1b(B\x1b7b\x1b", "ab", "ab"),
        (b"a\x08\x0c\x0b\x07\0b\x7f", "ab", "ab"),
        ("a\u009b31mb\u202ec\u2028d\u0085e".encode(), "a31mbcde", "a31mbcde"),
        (b"\xff\xfe", "\ufffd\ufffd", "\ufffd\ufffd"),
    ],
)
def test_colours_stay_and_nothing_else(line: bytes, plain: str, coloured: str) -> None:
    assert shown(line, colours=False) == plain
    assert shown(line, colours=True) == coloured


def test_lines_come_whole_and_long_ones_in_pieces(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(Screen(), "[T.x] ", colours=False)
    for piece in (b"on", b"e\ntwo\nth", b"", b"ree", b"x" * 200_000):
        lines.feed(piece)
    lines.end()
    lines.end()
    out = capsys.readouterr().out.split("\n")
    assert out[:2] == ["[T.x] one", "[T.x] two"]
    rest = [line[len("[T.x] ") :] for line in out[2:-1]]
    assert "".join(rest) == "three" + "x" * 200_000
    assert max(map(len, rest)) <= 65_536


def test_durations() -> None:
    told = {449: "0.4s", 12_399: "12.3s", 125_000: "2m 05s", 3_725_000: "1h 02m"}
    assert {ms: duration(ms) for ms in told} == told
