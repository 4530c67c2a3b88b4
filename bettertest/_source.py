"""The texts of a pipedef and of the modules in its folder: read once and kept, or given and executed as they are.

A run stores what discovery read, and every process of that run executes those texts under the files' own names,
whatever lies on disk by then. A module of the folder that only a task imports is read from the disk; what was read is
told before it is executed, so that a run never executes two texts of one file.
"""

from __future__ import annotations

import os
import stat
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location

from ._problem import Refusal, is_ours

TYPE_CHECKING = False  # see _errors.py
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType, ModuleType
    from typing import Optional

LARGEST_BYTES = 16 * 1024 * 1024
_STANDARD_LIBRARY = os.path.dirname(os.path.realpath(os.__file__)) + os.sep


class BadText(SyntaxError):
    """A file of which no text can be made, so that `import` and its callers see a SyntaxError."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal), (refusal.file, refusal.line, None, None))
        self.refusal = refusal


class Texts:
    def __init__(
        self,
        pipedef: str,
        stored: Optional[dict[str, str]] = None,
        tell_import: Optional[Callable[[str, str], None]] = None,
    ) -> None:
        """`tell_import` is called with path and SHA-256 of what is not stored, before it is executed."""
        self.tell_import = tell_import
        self.pipedef = pipedef
        #: By absolute path.
        self.files: dict[str, str] = {} if stored is None else stored
        self.are_stored = stored is not None
        self._folder = os.path.join(os.path.realpath(os.path.dirname(pipedef)), "")

    def text(self, path: str) -> str:
        if path not in self.files:
            text = read(path)
            if self.tell_import is not None:
                from hashlib import sha256

                self.tell_import(path, sha256(text.encode("utf-8", "surrogatepass")).hexdigest())
            self.files[path] = text
        return self.files[path]

    def store(self) -> None:
        """From now on these are what a run has stored: what lies on disk by then is not looked at."""
        self.are_stored = True
        for path, text in self.files.items():
            prime_linecache(path, text)

    def is_users(self, path: str) -> bool:
        return path in self.files

    def lies_in_folder(self, path: str) -> bool:
        """Is this a file of the project? Installed packages are not, even where their folder lies within."""
        real = os.path.realpath(path)
        below = real[len(self._folder) :].split(os.sep) if real.startswith(self._folder) else []
        installed = "site-packages" in below or "dist-packages" in below or real.startswith(_STANDARD_LIBRARY)
        return bool(below) and not installed and not is_ours(os.path.abspath(path))

    def has_below(self, folder: str) -> bool:
        return any(path.startswith(folder + os.sep) for path in self.files)


def execute(texts: Texts) -> str:
    """Executes the pipedef as a script is executed, with its folder first on the path; returns its module's name."""
    path = texts.pipedef
    sys.argv = [path]
    sys.path.insert(0, os.path.dirname(path))
    sys.meta_path.insert(0, _Finder(texts))
    stem = os.path.splitext(os.path.basename(path))[0]
    # Its own name, so that a module that imports the pipedef gets this one; but never the name of another module.
    name = stem if stem.isidentifier() and stem not in sys.modules else "pipedef"
    spec = spec_from_file_location(name, path, loader=_Loader(name, path, texts))
    if spec is None or spec.loader is None:
        raise ImportError(f"Python makes no module of {path}")
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return name


class _Finder:
    """Finds the modules of the pipedef's folder, and leaves all others to Python."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    def find_spec(
        self, name: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        if self._texts.are_stored:
            stored = self._find_stored(name, sys.path if path is None else path)
            if stored is not None:
                return stored
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            file = os.path.abspath(spec.loader.path)
            if self._texts.lies_in_folder(file):
                spec.loader = _Loader(name, file, self._texts)
        return spec

    def _find_stored(self, name: str, path: Sequence[str]) -> Optional[ModuleSpec]:
        tail = name.rpartition(".")[2]
        for entry in path:
            place = os.path.join(os.path.abspath(entry), tail)
            package = os.path.join(place, "__init__.py")
            if package in self._texts.files:
                loader = _Loader(name, package, self._texts)
                return spec_from_file_location(
                    name, package, loader=loader, submodule_search_locations=[place]
                )
            module = place + ".py"
            if module in self._texts.files:
                return spec_from_file_location(
                    name, module, loader=_Loader(name, module, self._texts)
                )
            if self._texts.has_below(place) and not os.path.isdir(place):
                # A package without __init__.py, of which nothing is left on disk.
                spec = ModuleSpec(name, None, is_package=True)
                spec.submodule_search_locations = [place]
                return spec
        return None


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, texts: Texts) -> None:
        super().__init__(name, path)
        self._texts = texts

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self._text(), self.path, "exec", dont_inherit=True)
        return code

    def get_source(self, fullname: str) -> str:
        return self._text()

    def _text(self) -> str:
        text = self._texts.text(self.path)
        if self._texts.are_stored:
            prime_linecache(self.path, text)
        return text


def prime_linecache(path: str, text: str) -> None:
    """So that a traceback shows the text that was executed, not what lies on disk now."""
    import linecache

    # Without a time of change the entry is never compared with the disk.
    linecache.cache[path] = (len(text), None, text.splitlines(True), path)


def read(path: str) -> str:
    """The text of a user's Python file, or why there is none: a Refusal for no file, a BadText for no text."""
    name = os.path.basename(path) or path
    try:
        # A FIFO would keep `open` waiting.
        kind = os.stat(path)
        if stat.S_ISDIR(kind.st_mode):
            raise Refusal(f"{path} is a folder", "name the pipedef in it: a Python file", path)
        if not stat.S_ISREG(kind.st_mode):
            raise Refusal(f"{path} is no ordinary file", "a pipedef is a Python file", path)
        if kind.st_size > LARGEST_BYTES:
            raise Refusal(
                f"{name} is larger than 16 MiB", "a pipedef holds code only; keep data in other files", path
            )
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise Refusal(
            f"there is no pipedef at {path}", "mend the path, or write the file there", path
        ) from None
    except PermissionError:
        raise Refusal(f"{path} cannot be read", f"allow it: chmod a+r {path}", path) from None
    except OSError as error:
        raise Refusal(f"{path} cannot be read: {error.strerror}", "mend the path", path) from None
    try:
        return _decoded(data, name, path)
    except Refusal as refusal:
        raise BadText(refusal) from None


def _decoded(data: bytes, name: str, path: str) -> str:
    save = f"save {name} as UTF-8"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Refusal(f"{name} is UTF-16, which Python does not read", save, path, 1)
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise Refusal(f"line {line} of {name} holds a NUL character", f"remove it, or {save}", path, line)
    coding, coding_line = "utf-8", 1
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    else:
        coding, coding_line = _coding(data)
    try:
        return data.decode(coding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Refusal(
            f"line {line} of {name} is not {coding}: byte 0x{data[error.start]:02x}",
            f"{save}, or name its encoding in its first line: # -*- coding: latin-1 -*-",
            path,
            line,
        ) from None
    except LookupError:
        raise Refusal(
            f"line {coding_line} of {name} names the encoding {coding}, which Python does not know",
            f"{save}, and remove that line",
            path,
            coding_line,
        ) from None


def _coding(data: bytes) -> tuple[str, int]:
    """The encoding that one of the first two lines names, as PEP 263 has it; UTF-8 where none does."""
    import re

    for number, line in enumerate(data.split(b"\n", 2)[:2], start=1):
        found = re.match(rb"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", line)
        if found:
            return found.group(1).decode("ascii", "replace"), number
        if line.strip() and not line.lstrip().startswith(b"#"):
            break
    return "utf-8", 1
