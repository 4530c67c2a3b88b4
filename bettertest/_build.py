"""`build(...)`: what the author of a pipedef calls to have an image made of the project's own Dockerfile.

It is a step as `run(...)` makes one, and goes the same way.
"""

from __future__ import annotations

from ._run import ask_for, patterns_of

TYPE_CHECKING = False  # see _errors.py
if TYPE_CHECKING:
    from typing import Any, Optional, Sequence

    from ._run import StepResult


def build(
    worker: str,
    image: str,
    dockerfile: str = "Dockerfile",
    context: str = ".",
    *,
    rebuild_on: Optional[Sequence[str]] = None,
    timeout_s: Optional[int] = None,
) -> StepResult:
    """Makes an image of the project's files, as they were when the run began, and raises unless that went well.

    What is as it was is not built again: the Dockerfile, the files that it sees and the images that it builds upon
    decide. For the rest of the run the name means what was made. It takes a stage of its own, before those that use it.

    worker      the worker's address, such as `http://localhost:9009`; its Docker builds, whatever else runs the steps
    image       the name that the image is to have there; one that somebody else's image has is refused
    dockerfile  path of the Dockerfile, from the project's folder
    context     the folder that the Dockerfile sees, from the project's folder; its `.dockerignore` is obeyed
    rebuild_on  patterns of the files that make a new image when they change, from the context's folder and as a `.dockerignore` has them; without it, every file does
    timeout_s   seconds from the start of the build, 1 to 604800; by default 3600

    With `rebuild_on` an edited file makes no new image; nor is one that is baked in ever tested: steps need `source_at`,
    with the folder into which the Dockerfile copies the project. A file that has gone makes a new image. What the
    Dockerfile makes of other files, such as code that is generated or installed by copy, is a matter of its author: name
    these files too, or leave `rebuild_on` out.

    Raises what `run(...)` raises: CommandFailed where the Dockerfile fails, with its line, and so on.

        from bettertest import Stage, build, run

        WORKER = "http://localhost:9009"
        IMAGE = "myproject-test"

        class Image(Stage):
            @staticmethod
            def task_build():
                build(WORKER, IMAGE, rebuild_on=["pyproject.toml", "requirements*.txt"])

        class TestUnit(Stage):
            @staticmethod
            def task_models():
                run(WORKER, IMAGE, "pytest -x test/test_models.py", source_at="/app")
    """
    for name, value in (("dockerfile", dockerfile), ("context", context)):
        if not isinstance(value, str):
            raise TypeError(f"{name} has to be a string, not {value!r}")
    # Of which files, the boss says, which has them.
    what: dict[str, Any] = {"dockerfile": dockerfile, "context": context}
    if rebuild_on is not None:
        # An empty one is refused by the worker: it would mean that nothing ever makes a new image.
        what["rebuild_on"] = patterns_of("rebuild_on", rebuild_on) or []
    spec: dict[str, Any] = {"image": image, "command": {"build": what}}
    if timeout_s is not None:
        spec["timeout_s"] = timeout_s
    return ask_for("build", worker, spec)
