"""A wire between boss and worker that can be cut, stalled, slowed, or made to carry one way only."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import List, Set, Tuple

UP, DOWN = "up", "down"
#: What bytes of one direction meet.
FLOWS, STALLS, SLOW = "flows", "stalls", "slow"


class Wire:
    """One connection: two sockets, and whether it was cut off for ever while the rest goes on."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near = near
        self.far = far
        self.dead = False
        self.over = False

    def reset(self) -> None:
        self.over = True
        for end in (self.near, self.far):
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Wakes the thread that reads it; the reset goes out when both are closed.
                end.shutdown(socket.SHUT_RD)
                end.close()
            except OSError:
                continue


class Proxy:
    def __init__(self, target: int) -> None:
        self.target = target
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(256)
        self.port: int = self.listener.getsockname()[1]
        self.change = threading.Condition()
        self.wires: Set[Wire] = set()
        self.refusing = False
        self.how = {UP: FLOWS, DOWN: FLOWS}
        self.closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Resets every connection, as a router does that has forgotten them; how many there were."""
        with self.change:
            wires = list(self.wires)
        for wire in wires:
            wire.reset()
        return len(wires)

    def refuse(self, refusing: bool) -> None:
        with self.change:
            self.refusing = refusing

    def set(self, how: str, directions: Tuple[str, ...] = (UP, DOWN)) -> None:
        with self.change:
            for direction in directions:
                self.how[direction] = how
            self.change.notify_all()

    def forget(self) -> int:
        """From now on not a byte comes through on the connections that there are, and none is told so."""
        with self.change:
            for wire in self.wires:
                wire.dead = True
            return len(self.wires)

    def mend(self) -> None:
        self.refuse(False)
        self.set(FLOWS)

    def close(self) -> None:
        self.closed = True
        self.mend()
        self.listener.close()
        self.cut()

    def _accept(self) -> None:
        while not self.closed:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.refusing:
                Wire(near, socket.socket()).reset()
                continue
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        far = socket.socket()
        wire = Wire(near, far)
        try:
            far.connect(("127.0.0.1", self.target))
        except OSError:
            wire.reset()
            return
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.change:
            self.wires.add(wire)
        pumps: List[threading.Thread] = [
            threading.Thread(target=self._pump, args=(wire, near, far, UP), daemon=True),
            threading.Thread(target=self._pump, args=(wire, far, near, DOWN), daemon=True),
        ]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        with self.change:
            self.wires.discard(wire)
        near.close()
        far.close()

    def _pump(self, wire: Wire, source: socket.socket, sink: socket.socket, direction: str) -> None:
        try:
            while True:
                data = source.recv(65536)
                with self.change:
                    while self.how[direction] == STALLS and not self.closed:
                        self.change.wait()
                    slow = self.how[direction] == SLOW
                if wire.dead and data:
                    continue
                if not data:
                    if wire.dead:
                        # One end has lost its patience by itself. The other one would feel now that nobody answers
                        # its packets, which this process cannot keep from being answered.
                        wire.reset()
                    elif not wire.over:
                        sink.shutdown(socket.SHUT_WR)
                    return
                if not slow:
                    sink.sendall(data)
                    continue
                for at in range(0, len(data), 700):
                    sink.sendall(data[at : at + 700])
                    time.sleep(0.02)
        except OSError:
            wire.reset()
