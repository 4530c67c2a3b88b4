"""The tasks of a stage's class: which attributes they are, and how each is called."""

from __future__ import annotations

from types import FunctionType

from ._problem import Refusal

TYPE_CHECKING = False  # see _errors.py
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any, Callable, Optional

    from ._stage import Stage

PREFIX = "task_"
LONGEST_NAME = 200
_GENERATOR, _COROUTINE, _ITERABLE_COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x100, 0x200
_VARIADIC = 0x04


def of(stage: type) -> dict[str, Any]:
    """Attributes by name, inherited ones first, each where it was first declared."""
    found: dict[str, Any] = {}
    for cls in reversed(stage.__mro__):
        for name, value in vars(cls).items():
            if not isinstance(name, str) or not name.startswith(PREFIX):
                continue
            if value is None and name in found:
                del found[name]
            else:
                found[name] = value
    return found


def one(stage: type, name: str) -> Any:
    """That of this name; None where there is none. It touches no other: in a fork, each touched is a page copied."""
    found = None
    for cls in reversed(stage.__mro__):
        found = vars(cls).get(name, found)
    return found


def bound(stage: type[Stage], attribute: Any) -> Callable[[], object]:
    """The task as something to call without arguments."""
    if isinstance(attribute, classmethod):
        method: Callable[[], object] = attribute.__get__(None, stage)
        return method
    if isinstance(attribute, staticmethod):
        function: Callable[[], object] = attribute.__func__
        return function
    if isinstance(attribute, FunctionType) and _wants_self(attribute):
        # A stage may have an __init__ of its own; what it raises is the task's error, so it is called with it.
        return lambda: attribute(stage())
    return attribute  # type: ignore[no-any-return]


def check(stage: type[Stage], name: str, attribute: Any) -> None:
    """Refuses what could not be called, and what would do nothing when called."""
    shown = f"{stage.__name__}.{shortened(name)}"
    place = place_of(attribute)
    rename = "name it so that Python could: letters, digits and _ after task_"
    if not name.isidentifier() or name == PREFIX:
        raise Refusal(f"{stage.__name__} has a task of the name {shortened(name)!r}", rename, *place)
    if len(name) > LONGEST_NAME:
        raise Refusal(f"the name of the task {shown} is longer than {LONGEST_NAME} characters", rename, *place)
    function = _function(attribute)
    if not callable(function) or isinstance(function, type):
        kind = type(attribute).__name__
        raise Refusal(f"{shown} is no method but of type {kind}", "make it a method: def task_...", *place)
    if not isinstance(function, FunctionType):
        return
    flags = function.__code__.co_flags
    if flags & (_GENERATOR | _COROUTINE | _ITERABLE_COROUTINE | _ASYNC_GENERATOR):
        kind = "is async" if flags & (_COROUTINE | _ASYNC_GENERATOR) else "has a yield in it"
        raise Refusal(
            f"{shown} {kind}, so that calling it would run nothing", "make it a plain method: def task_...", *place
        )
    given = 0 if isinstance(attribute, staticmethod) else 1
    required, by_name = _required(function)
    if required > given or by_name:
        gets = "only self" if given else "none"
        raise Refusal(
            f"{shown} needs arguments ({required + by_name}), and a task gets {gets}",
            "give its parameters default values: def task_x(self, name=name)",
            *place,
        )


def shortened(name: str) -> str:
    return name if len(name) <= 60 else name[:59] + "…"


def code_of(attribute: Any) -> Optional[CodeType]:
    function = _innermost(_function(attribute))
    return function.__code__ if isinstance(function, FunctionType) else None


def place_of(attribute: Any) -> tuple[Optional[str], Optional[int]]:
    """The file and the line where it begins; with decorators, the first of these."""
    code = code_of(attribute)
    return (code.co_filename, code.co_firstlineno) if code is not None else (None, None)


def _wants_self(function: FunctionType) -> bool:
    """Does it need an argument? `def task_x(n=n)`, the usual way to bind a loop's variable, does not."""
    innermost = _innermost(function)
    if not isinstance(innermost, FunctionType):
        return True
    if innermost is function and function.__code__.co_flags & _VARIADIC:
        # Some decorator's wrapper(*args), which does not say what it wraps: called as Python calls any method.
        return True
    return _required(function)[0] > 0


def _required(function: FunctionType) -> tuple[int, int]:
    """How many parameters without default: by place, and by name only."""
    innermost = _innermost(function)
    if not isinstance(innermost, FunctionType):
        return 0, 0
    by_place = innermost.__code__.co_argcount - len(innermost.__defaults__ or ())
    by_name = innermost.__code__.co_kwonlyargcount - len(innermost.__kwdefaults__ or ())
    return by_place, by_name


def _function(attribute: Any) -> Any:
    return attribute.__func__ if isinstance(attribute, (staticmethod, classmethod)) else attribute


def _innermost(function: Any) -> Any:
    """What decorators made by `functools.wraps` are wrapped around."""
    seen = set()
    while hasattr(function, "__wrapped__") and id(function) not in seen:
        seen.add(id(function))
        function = function.__wrapped__
    return function
