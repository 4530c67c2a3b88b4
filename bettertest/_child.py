"""The pipedef's process: takes one order from a descriptor, acts on it, and says what came of it.

Whoever drives a pipedef, the boss or `python -m bettertest`, starts this with `BOOT` and two arguments: the folder
that holds this library, and the number of the descriptor. Each order gets a process of its own, so that what a
pipedef does, hang or crash included, harms nobody else. One that has discovered the pipeline may be told to stay, and
is forked for each task: see `_host.py`.
"""

from __future__ import annotations

import sys

from . import _channel, _problem, _run, _source, _stage, _threads

TYPE_CHECKING = False  # see _errors.py
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

# The working folder, which -c puts first on the path, makes way: nothing in it may pass for a module of Python's.
BOOT = (
    "import sys; sys.path[0] = sys.argv[1]; from bettertest._child import main; del sys.path[0]; "
    "main(int(sys.argv[2]))"
)


def main(fd: int) -> None:
    channel = _channel.Channel(fd)
    order = channel.order()
    if order["order"] == "discover" and order.get("stay"):
        _stay(channel, _source.Texts(order["pipedef"], order.get("files")))
    elif order["order"] == "discover":
        channel.listen()
        texts = _source.Texts(order["pipedef"], order.get("files"))
        answer, _ = _discovered(texts)
        channel.say_last(answer)
    elif order["order"] == "task":
        channel.listen()
        texts = _source.Texts(order["pipedef"], order["files"], channel.tell_import)
        _run_task(channel, texts, lambda: _source.execute(texts), order)
    else:
        sys.exit(f"bettertest: this library knows no order {order['order']!r}")


def _stay(control: _channel.Channel, texts: _source.Texts) -> None:
    """Discovers, and is then forked for each task, until it is told to end."""
    from . import _host, _leave

    before = _host.Before(control.fileno())
    answer, module = _discovered(texts)
    before.end()
    why = None if module is None else before.unforkable()
    if why is not None:
        answer["unforkable"] = why
    control.say(answer)
    # A fork is the slower the more there is to be shared with it.
    del answer
    if module is None or why is not None:
        return
    texts.store()
    leave = _leave.Leave()
    forked = _host.serve(control, before.random_state())
    if forked is not None:
        order = forked.order()
        forked.listen()
        texts.tell_import = forked.tell_import
        with leave:
            _run_task(forked, texts, lambda: module, order)


def _discovered(texts: _source.Texts) -> tuple[dict[str, Any], Optional[str]]:
    """What to say of the pipedef, and the name of its module once it is executed without an error."""
    from . import _discovery, _hints, _limits

    pipedef = texts.pipedef
    module = None
    try:
        texts.text(pipedef)
        reserve = _limits.hold_memory()
        try:
            module = _source.execute(texts)
            pipeline = _discovery.pipeline(module, texts)
        finally:
            reserve.clear()
            _limits.release_memory()
    except _problem.Refusal as refusal:
        answer: dict[str, Any] = {"say": "broken", "problem": refusal.problem()}
    except BaseException as error:
        answer = {"say": "broken", "problem": _hints.broken(error, texts)}
    else:
        answer = {
            "say": "discovered",
            "pipeline": pipeline,
            "files": texts.files,
            "python": sys.executable,
            "addresses": _addresses(vars(sys.modules[module])),
        }
        if len(_channel.encoded(answer)) > _channel.LONGEST_BYTES:
            too_long = _problem.Refusal(
                "the pipedef and the modules in its folder are larger than 16 MiB",
                "move what is no part of the pipeline out of that folder",
                pipedef,
            )
            answer = {"say": "broken", "problem": too_long.problem()}
    return answer, module if answer["say"] == "discovered" else None


def _addresses(names: dict[str, Any]) -> list[str]:
    """What looks like a worker's address among the pipedef's own names, in their order: scheme, host, port, no more."""
    values: list[Any] = []
    for value in list(names.values()):
        values += value if isinstance(value, (list, tuple)) else value.values() if isinstance(value, dict) else [value]
    texts = (value.rstrip("/") for value in values if isinstance(value, str) and value.startswith("http://"))
    return list(dict.fromkeys(text for text in texts if not set(text[7:]) & set("/?# \t\r\n")))


def _run_task(
    channel: _channel.Channel, texts: _source.Texts, execute: Callable[[], str], order: dict[str, Any]
) -> None:
    """`execute` gives the name of the pipedef's module."""
    # SystemExit and KeyboardInterrupt are no end of a task: Python ends without the last word, and that is seen.
    try:
        method = _method(execute(), order["stage"], order["task"])
        _threads.watch()
        _run.drive(channel.ask)
        method()
        _threads.join(channel)
        error: Optional[BaseException] = _threads.first_error()
    except (SystemExit, KeyboardInterrupt) as leaving:
        print(
            f"bettertest: {type(leaving).__name__} ended the task's Python; a task ends by returning or by an error",
            file=sys.stderr,
        )
        raise
    except BaseException as raised:
        error = raised
    if error is None:
        channel.say_last({"say": "returned"})
        return
    if isinstance(error, _problem.Refusal):
        problem = error.problem()
    else:
        problem = _problem.of_exception(error, texts.is_users)
    channel.say_last({"say": "raised", "call": _call_of(error), "problem": problem})


def _method(module: str, stage: str, task: str) -> Any:
    from . import _tasks

    for cls, _ in _stage.declared():
        if cls.__module__ == module and cls.__name__ == stage:
            found = _tasks.one(cls, f"task_{task}")
            if found is not None:
                return _tasks.bound(cls, found)
    raise _problem.Refusal(
        f"the pipedef no longer declares {stage}.{task}",
        "let it declare the same stages and tasks each time it is executed",
    )


def _call_of(error: BaseException) -> Optional[int]:
    """Which call of `run` this error comes from; of a group of errors, where all come from calls, the first."""
    members = getattr(error, "exceptions", None)
    if isinstance(members, tuple) and members:
        calls = [_call_of(member) for member in members]
        return None if None in calls else calls[0]
    call = getattr(error, "_call", None)
    return call if isinstance(call, int) else None
