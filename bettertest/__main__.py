"""python -m bettertest [--data-dir DIR] [--artifacts DIR] [--list] PIPEDEF

Runs a pipedef from this machine, without a boss, and ends with its verdict:

  --list           only print its stages and tasks
  --artifacts DIR  files that run(..., artifacts=[...]) keeps are fetched into DIR/Stage.task, over nothing
  --data-dir DIR   where a worker's token (DIR/token, DIR/workers.toml) is looked for

exit 0 passed, 1 not passed, 2 set-up wrong, 3 errored, 130 cancelled
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Optional

_EXITS = {"passed": 0, "failed": 1, "timed_out": 1, "errored": 3, "cancelled": 130}
_SET_UP_WRONG = 2


def main(arguments: list[str]) -> int:
    from ._problem import Refusal

    try:
        pipedef, folders, only_list = _parsed(arguments)
        if pipedef is None:
            print(__doc__.strip())
            return 0
        return _act(pipedef, folders.get("--data-dir"), folders.get("--artifacts"), only_list)
    except Refusal as refusal:
        print(_told(refusal), file=sys.stderr)
        return _SET_UP_WRONG


def _act(pipedef: str, data_dir: Optional[str], artifacts: Optional[str], only_list: bool) -> int:
    # Only now: --help and a mistyped option need nothing of this.
    from ._laptop import LaptopRun, discover
    from ._screen import Screen
    from ._tokens import Tokens

    discovered = discover(pipedef)
    screen = Screen()
    if only_list:
        for stage in discovered["pipeline"]["stages"]:
            screen.say(stage["name"] + ("  (always)" if stage["always"] else ""))
            for task in stage["tasks"]:
                screen.say(f"  {task['name']}")
        return 0
    verdict = LaptopRun(pipedef, discovered, Tokens(data_dir), screen, artifacts).run()
    # Nothing could run here until that is mended.
    return _SET_UP_WRONG if verdict.reason == "token_refused" else _EXITS[verdict.outcome]


def _parsed(arguments: list[str]) -> tuple[Optional[str], dict[str, str], bool]:
    """The pipedef (None for --help), folders by their options, and whether only a list is asked for."""
    from ._problem import Refusal

    usage = "python -m bettertest [--data-dir DIR] [--artifacts DIR] [--list] PIPEDEF"
    pipedef, only_list = None, False
    folders: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument in ("-h", "--help"):
            return None, folders, False
        if argument == "--list":
            only_list = True
        elif argument.partition("=")[0] in ("--data-dir", "--artifacts"):
            option, equals, folder = argument.partition("=")
            folders[option] = folder if equals or not rest else rest.pop(0)
            if not folders[option]:
                raise Refusal(f"{option} needs a folder", usage)
        elif argument.startswith("-"):
            raise Refusal(f"there is no option {argument}", usage)
        elif pipedef is not None:
            raise Refusal(f"two pipedefs, {pipedef} and {argument}: one run is of one", usage)
        else:
            pipedef = argument
    if pipedef is None:
        raise Refusal("no pipedef was named", usage)
    return pipedef, folders, only_list


def _told(refusal: Exception) -> str:
    from ._laptop import Broken
    from ._problem import Refusal

    assert isinstance(refusal, Refusal)
    lines = [str(refusal), f"hint: {refusal.hint}"]
    if refusal.file and refusal.line:
        lines[0] = f"{os.path.relpath(refusal.file)}:{refusal.line}: {lines[0]}"
    if isinstance(refusal, Broken) and refusal.traceback:
        # Its own last line is what we say, with the place and the hint.
        lines[:0] = refusal.traceback.rstrip().split("\n")[:-1]
    return "\n".join(lines)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = _EXITS["cancelled"]
    # Threads that still wait for a worker after a second Ctrl-C are not waited for.
    sys.stdout.flush()
    os._exit(code)
