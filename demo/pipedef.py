"""The demo's pipeline: the whole test suite of click, a real project, in 17 tasks and 4 stages.

A stage is a class, a task is a method, and a step is one `run(...)`: one command in one fresh container.
The tasks of a stage run at once. A stage whose tasks did not all pass ends the run: that is why the smoke
tests come first, and cost a broken change a second instead of the whole suite.

Change a line and start another run: the file is read afresh every time.
"""

from bettertest import Stage, run

WORKER = "http://localhost:9009"
IMAGE = "bettertest-demo:click"


def pytest(*modules: str) -> None:
    """Runs some of click's test modules, with colours and without a network, which a test should not need."""
    tests = " ".join(f"tests/{module}" for module in modules)
    run(WORKER, IMAGE, f"pytest -p no:cacheprovider --color=yes -v --tb=short {tests}", network="none")


class TestSmoke(Stage):
    """Does it import, and does the simplest program work?"""

    def task_imports(self) -> None:
        pytest("test_imports.py", "test_compat.py")

    def task_basics(self) -> None:
        pytest("test_basic.py", "test_exceptions")


class TestCommands(Stage):
    """Commands, groups of them, and what they know of each other."""

    def task_commands(self) -> None:
        pytest("test_commands.py", "test_command_decorators.py")

    def task_chains(self) -> None:
        pytest("test_chain.py", "test_context.py")

    def task_custom_classes(self) -> None:
        pytest("test_custom_classes.py", "test_info_dict.py")

    def task_interrupts(self) -> None:
        pytest("test_abort_interrupt.py", "test_deprecations.py")


class TestParameters(Stage):
    """What a user may write after a command's name."""

    def task_options(self) -> None:
        pytest("test_options.py")

    def task_arguments(self) -> None:
        pytest("test_arguments.py")

    def task_parser(self) -> None:
        pytest("test_parser.py", "test_normalization.py", "test_defaults.py")

    def task_types(self) -> None:
        pytest("test_types")

    def task_completion(self) -> None:
        pytest("test_shell_completion.py")


class TestTerminal(Stage):
    """What a user sees, and how it is tested."""

    def task_termui(self) -> None:
        pytest("test_termui.py", "test_utils/test_prompt.py", "test_utils/test_confirm.py")

    def task_formatting(self) -> None:
        pytest("test_formatting.py", "test_utils/test_make_default_short_help.py")

    def task_styles(self) -> None:
        pytest("test_utils/test_style.py")

    def task_paging(self) -> None:
        pytest("test_utils/test_echo.py", "test_utils/test_echo_via_pager.py")

    def task_files(self) -> None:
        pytest(
            "test_utils/test_open_file.py",
            "test_utils/test_KeepOpenFile.py",
            "test_utils/test_LazyFile.py",
            "test_utils/test_format_filename.py",
        )

    def task_testing(self) -> None:
        pytest(
            "test_testing.py",
            "test_stream_lifecycle.py",
            "test_utils/test_sentinel.py",
            "test_utils/test__detect_program_name.py",
            "test_utils/test__expand_args.py",
        )
