"""Names of files that a container chose."""

from __future__ import annotations

from typing import Any

import pytest

from bettertest._artifacts import files_of


def event(path: Any) -> dict[str, Any]:
    return {"event": "artifacts", "files": [{"path": path, "size_bytes": 1, "sha256": "0" * 64}], "problem": None}


@pytest.mark.parametrize("path", ["", "/", "//etc/x", "../x", "a/../../x", "a//b", "./a", "a\nb", "a/", 7, None])
def test_they_lead_nowhere_but_down(path: Any) -> None:
    with pytest.raises(ValueError):
        files_of(event(path))


def test_the_report_that_nobody_asked_for_is_none_of_them() -> None:
    files = files_of(event("a/b"))
    assert files == [(0, event("a/b")["files"][0])]
    assert files_of(event("/tmp/.bettertest/pytest.xml")) == []
    for broken in ({}, {"files": None}, {"files": [{"path": "x"}]}):
        with pytest.raises((KeyError, TypeError)):
            files_of(broken)
