"""A small disk of its own for a data directory, so that it can be full without harm to the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Optional

#: To begin with, and for what each second of runs leaves there, which is less than half of it.
SIZE_BYTES = 192 * 1024 * 1024
A_SECOND_BYTES = 512 * 1024


class SmallDisk:
    def __init__(self, image: Path, folder: Path, seconds: float) -> None:
        self.size_bytes = SIZE_BYTES + int(seconds) * A_SECOND_BYTES
        self.image = image
        self.folder = folder
        self.filler = folder / "filler"

    def mount(self) -> Optional[str]:
        """Why it cannot be had, if so."""
        if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
            return "a small disk needs root and mkfs.ext4"
        with open(self.image, "wb") as image:
            image.truncate(self.size_bytes)
        made = subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(self.image)], capture_output=True, text=True)
        if made.returncode == 0:
            made = subprocess.run(
                ["mount", "-o", "loop", str(self.image), str(self.folder)], capture_output=True, text=True
            )
        return None if made.returncode == 0 else f"a small disk cannot be mounted here: {made.stderr.strip()}"

    def fill(self) -> None:
        """To the last byte: first in large pieces, then in small ones."""
        with open(self.filler, "ab", buffering=0) as filler:
            for piece in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        filler.write(b"\0" * piece)
                except OSError:
                    continue

    def free(self) -> None:
        self.filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        for _ in range(20):
            if subprocess.run(["umount", str(self.folder)], capture_output=True).returncode == 0:
                return
            time.sleep(0.2)
        subprocess.run(["umount", "-l", str(self.folder)], capture_output=True)
