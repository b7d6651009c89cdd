"""What a pickle would do, found without doing it, so that the unpickler meets no file that misuses it.

However little an unpickler may call, it trusts a file in two things. A memo index and a length: memory is taken for it before
anything is read. The key of a dict: a tuple within a tuple and so on is hashed recursively in C, down to a crash, and where each
holds the one below twice in 2^depth steps.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from mmap import mmap
from pickle import UnpicklingError

from felid.errors import EmbeddingError

_PLAIN, _CONTAINER = 1, 2
"""What a value on the stack or in the memo is; 0 in the memo is none."""
_CONTAINERS = (pickletools.pytuple, pickletools.pylist, pickletools.pydict)
_PREFIX = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
"""Bytes of the length that begins an argument."""


@dataclass(frozen=True, slots=True)
class _Step:
    """An opcode.

    Attributes:
        name: as `pickletools` has it; of those that use the memo GET, PUT or MEMOIZE.
        width: bytes of the argument, or of its length where it is `counted`.
        counted: the argument begins with its length.
        lines: the argument is so many lines of text.
        pops: values taken from the stack, below the mark where it goes `to_mark`.
        to_mark: all values above the last mark are taken, and the mark.
        pushes: kinds of the values put onto the stack.
    """

    name: str
    width: int
    counted: bool
    lines: int
    pops: int
    to_mark: bool
    pushes: bytes

    @classmethod
    def of(cls, opcode: pickletools.OpcodeInfo) -> _Step:
        length = 0 if opcode.arg is None else opcode.arg.n
        lines = (length == pickletools.UP_TO_NEWLINE) * (2 if opcode.name in ("GLOBAL", "INST") else 1)
        before, to_mark = opcode.stack_before, pickletools.markobject in opcode.stack_before
        pops = before.index(pickletools.markobject) if to_mark else len(before)
        pushes = bytes(_CONTAINER if kind in _CONTAINERS else _PLAIN for kind in opcode.stack_after)
        name = opcode.name.removeprefix("LONG_").removeprefix("BIN") if opcode.name.endswith(("GET", "PUT")) else opcode.name
        return cls(name, _PREFIX.get(length, max(length, 0)), length in _PREFIX, lines, pops, to_mark, pushes)


_STEPS = {ord(opcode.code): _Step.of(opcode) for opcode in pickletools.opcodes}
_SIMPLE = {
    code: step.width + 1
    for code, step in _STEPS.items()
    if step.pushes == bytes([_PLAIN]) and not (step.pops or step.counted or step.lines or step.to_mark)
    if step.name not in ("MARK", "GET", "EMPTY_SET")
}
"""Opcodes that put a number or the like onto the stack -> their bytes."""
_STOP = ord(".")
_WITH_NUMBER = ("GET", "PUT")
_WITH_KEYS = ("SETITEMS", "DICT")


def check_opcodes(data: mmap | bytes) -> None:
    """Walk over the opcodes of a pickle with nothing but the kinds of its values, in time and memory linear in its size.

    Raises:
        EmbeddingError: a memo index beyond the bytes before it, a dict with a container for a key, or a set, whose elements are
            hashed too.
        UnpicklingError, ValueError: the file is no pickle.
    """
    values, place = _Values(), 0
    try:
        while (code := data[place]) != _STOP:
            if code in _SIMPLE:
                values.stack.append(_PLAIN)
                place += _SIMPLE[code]
            elif code in _STEPS:
                start, place = place + 1, _end(data, place + 1, _STEPS[code])
                values.apply(_STEPS[code], start, data[start:place] if _STEPS[code].name in _WITH_NUMBER else b"")
            else:
                raise UnpicklingError(f"byte {place} is no opcode")
    except IndexError as error:
        raise UnpicklingError(f"by byte {place} it ends too early, or takes what is not there") from error


class _Values:
    """The kinds of the values on the stack and in the memo, and where the marks are."""

    def __init__(self) -> None:
        self.stack, self.memo, self.memoized = bytearray(), bytearray(), 0
        self.marks: list[int] = []

    def apply(self, step: _Step, place: int, argument: bytes) -> None:
        """Do to the kinds what an opcode with an argument at `place` does to the values."""
        match step.name:
            case "GET":
                self.stack.append(self.memo[_number(step, argument)])
            case "MEMOIZE":
                self._keep(self.memoized, place)
            case "PUT":
                self._keep(_number(step, argument), place)
            case "MARK":
                self.marks.append(len(self.stack))
            case "POP" if self.marks and self.marks[-1] == len(self.stack):
                self.marks.pop()
            case "DUP":
                self.stack.append(self.stack[-1])
            case "BUILD":  # of what is below the state, which stays
                self.stack.pop()
            case "EMPTY_SET" | "ADDITEMS" | "FROZENSET":
                raise EmbeddingError(
                    "it holds a set, expected a matrix, a frame, or vectors in a list or dict, which have an order"
                )
            case _:
                self._replace(step, place)

    def _keep(self, index: int, place: int) -> None:
        if not 0 <= index <= place:
            raise EmbeddingError(f"it has the memo index {index} at byte {place}, expected at most one for every byte before it")
        self.memo.extend(bytes(max(0, index + 1 - len(self.memo))))
        self.memoized += not self.memo[index]
        self.memo[index] = self.stack[-1]

    def _replace(self, step: _Step, place: int) -> None:
        """Take values from the stack and put others there; containers are no keys."""
        top = self.marks.pop() if step.to_mark else len(self.stack)
        keys = self.stack[-2:-1] if step.name == "SETITEM" else self.stack[top::2] if step.name in _WITH_KEYS else b""
        if _CONTAINER in keys:
            raise EmbeddingError(f"before byte {place} a dict has a tuple, list or dict for a key, expected numbers or text")
        if top - step.pops < (self.marks[-1] if self.marks else 0):
            raise UnpicklingError(f"the opcode {step.name} before byte {place} takes more than there is")
        self.stack[top - step.pops :] = step.pushes


def _end(data: mmap | bytes, start: int, step: _Step) -> int:
    """Where the argument that begins at `start` ends; perhaps behind the file, where no opcode follows then."""
    place = start + step.width
    if step.counted:
        place += int.from_bytes(data[start:place], "little")
    if step.name == "FRAME" and int.from_bytes(data[start:place], "little") > len(data) - place:
        raise UnpicklingError(f"the frame at byte {start} is longer than the file")
    for _ in range(step.lines):
        place = data.find(b"\n", place) + 1
        if not place:
            raise UnpicklingError(f"the line at byte {start} has no end")
    return place


def _number(step: _Step, argument: bytes) -> int:
    return int(argument) if step.lines else int.from_bytes(argument, "little")
