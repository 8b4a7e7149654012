"""Hand values from worker processes to the main one in memory that both map, by file descriptor.

A worker pickles a value with its arrays apart (pickle's protocol 5), copies the arrays into an
anonymous file (memfd_create) and sends its descriptor through a Unix socket; the main process maps
the file, and unpickles the value onto it without a copy. Nothing has a name, so nothing is left
behind by a process that is killed: descriptors on their way are closed by the kernel, unlike blocks
of POSIX shared memory. Linux only; `is_available` tells.
"""

import contextlib
import functools
import mmap
import os
import pickle
import secrets
import socket
import struct
import sys
import threading
from typing import Any, NamedTuple

_ALIGNMENT = 64  # bytes: as JAX wants arrays that it takes over without a copy
_NUMBER = struct.Struct('<QQ')  # process, and number of its value
_PEER = struct.Struct('3i')  # pid, uid, gid: struct ucred of unix(7)
_LONGEST_WAIT = 60.0  # seconds for a descriptor that was sent before its value


class Sent(NamedTuple):
    """A value on its way: what `Receiver.take` needs besides the descriptor.

    Attributes:
      key: process, and number of its value.
      pickled: the value, without its arrays.
      sizes: bytes of each array.
    """

    key: tuple[int, int]
    pickled: bytes
    sizes: tuple[int, ...]


def is_available() -> bool:
    """Whether this system can hand over descriptors of anonymous files."""
    return sys.platform == 'linux' and hasattr(os, 'memfd_create')


class Receiver:
    """The main process's end. Values that were sent and not taken are freed by `close`."""

    def __init__(self) -> None:
        self.address = f'\0resnet_jax-{os.getpid()}-{secrets.token_hex(8)}'
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.address)
        self._listener.listen()
        self._arrived: dict[tuple[int, int], int] = {}
        self._connections: list[socket.socket] = []
        self._change = threading.Condition()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def take(self, sent: Sent) -> Any:
        """The value; its arrays lie in the memory that the worker filled.

        Raises:
          ChildProcessError: if the worker ended before it had sent it.
        """
        with self._change:
            there = self._change.wait_for(lambda: sent.key in self._arrived, _LONGEST_WAIT)
            if not there:
                raise ChildProcessError('a process that reads images ended before its batch came')
            descriptor = self._arrived.pop(sent.key)
        try:
            shared = mmap.mmap(descriptor, max(_end(sent.sizes), 1))
        finally:
            os.close(descriptor)
        whole, place, buffers = memoryview(shared), 0, []
        for size in sent.sizes:
            buffers.append(whole[place : place + size])
            place += _padded(size)
        return pickle.loads(sent.pickled, buffers=buffers)  # made by our own process

    def close(self) -> None:
        """Closes the socket and all descriptors that nobody took."""
        with self._change:
            self._closed = True
            for connection in (self._listener, *self._connections):
                with contextlib.suppress(OSError):  # the other end is gone
                    connection.shutdown(socket.SHUT_RDWR)  # ends the thread that waits at it
                connection.close()
            for descriptor in self._arrived.values():
                os.close(descriptor)
            self._arrived.clear()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            if _PEER.unpack(peer)[1] != os.getuid():
                connection.close()
                continue
            with self._change:
                self._connections.append(connection)
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(connection, _NUMBER.size, 1)
            except OSError:  # closed
                return
            if len(message) < _NUMBER.size or not descriptors:  # the worker has ended
                return
            with self._change:
                if self._closed:
                    os.close(descriptors[0])
                    return
                process, number = _NUMBER.unpack(message)
                self._arrived[process, number] = descriptors[0]
                self._change.notify_all()


class _Sender:
    """A worker's connection to a `Receiver`."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(address)
        self._lock = threading.Lock()
        self._count = 0

    def send(self, descriptor: int) -> tuple[int, int]:
        """Sends a descriptor; returns the key of its value."""
        with self._lock:
            key = os.getpid(), self._count
            self._count += 1
            socket.send_fds(self._socket, [_NUMBER.pack(*key)], [descriptor])
        return key


_sender = functools.cache(_Sender)


def send(address: str, value: Any) -> Sent:
    """Sends a value to the `Receiver` at an address, from a worker process.

    Raises:
      ConnectionError: if it is closed.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [buffer.raw() for buffer in buffers]
    sizes = tuple(part.nbytes for part in parts)
    descriptor = os.memfd_create('batch', os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, max(_end(sizes), 1))
        place = 0
        for part in parts:
            written = 0
            while written < part.nbytes:
                written += os.pwrite(descriptor, part[written:], place + written)
            place += _padded(part.nbytes)
        key = _sender(address).send(descriptor)
    finally:
        os.close(descriptor)
    return Sent(key, pickled, sizes)


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _end(sizes: tuple[int, ...]) -> int:
    return sum(map(_padded, sizes))
