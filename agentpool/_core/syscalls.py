"""What no command in a sandbox asks of the kernel: what no namespace keeps apart.

The keys of the kernel (`keyctl`) and the sockets between a virtual machine and its host (`AF_VSOCK`) are the
same in every namespace. So a sandbox refuses the system calls for them, by a program of seccomp.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeAlias

import attrs

_Instruction: TypeAlias = tuple[int, int, int, int]

_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # where they stand; of an argument the lower half
_ALLOW = 0x7FFF0000
_ERROR = 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_AF_VSOCK = 40
_X32 = 0x40000000  # these numbers and above are of another table, on x86-64
_NEVER = 0xFFFFFFFF


@attrs.frozen
class _Architecture:
    """The numbers of system calls on one architecture.

    Attributes:
      audit: its own number.
      denied: those that nobody needs: `add_key`, `request_key`, `keyctl`, and `io_uring_setup`, by which
        sockets are made without asking for one.
      socket: that of `socket`.
      missing: those that are answered as if the kernel had none of them.
      most: numbers from here on are answered in the same way.
    """

    audit: int
    denied: Sequence[int]
    socket: int
    missing: Sequence[int] = ()
    most: int = _NEVER


_ARCHITECTURES = (
    _Architecture(0xC000003E, (248, 249, 250, 425), 41, most=_X32),  # x86-64
    _Architecture(0x40000003, (286, 287, 288, 425), 359, missing=(102,)),  # x86, with `socketcall`
    _Architecture(0xC00000B7, (217, 218, 219, 425), 198),  # 64-bit ARM
    _Architecture(0x40000028, (309, 310, 311, 425), 281),  # ARM
    _Architecture(0xC00000F3, (217, 218, 219, 425), 198),  # RISC-V
)  # each that runs programs of another one has both here


def system_call_filter() -> bytes:
    """Return the program that bubblewrap is given for a sandbox.

    It allows what it does not know: on other architectures everything. For machines that are little-endian.
    """
    program: list[_Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE)]
    for each in _ARCHITECTURES:
        block = _for_one(each)
        program += [(_IF_EQUAL, 0, len(block), each.audit), *block]
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *each) for each in program)


def _for_one(each: _Architecture) -> list[_Instruction]:
    block = [(_LOAD, 0, 0, _NUMBER)]
    block += _answered((_IF_AT_LEAST, each.most), _ENOSYS)
    for number in each.missing:
        block += _answered((_IF_EQUAL, number), _ENOSYS)
    for number in each.denied:
        block += _answered((_IF_EQUAL, number), _EPERM)
    inner = [(_LOAD, 0, 0, _FIRST_ARGUMENT), *_answered((_IF_EQUAL, _AF_VSOCK), _EAFNOSUPPORT)]
    return [*block, (_IF_EQUAL, 0, len(inner), each.socket), *inner, (_RETURN, 0, 0, _ALLOW)]


def _answered(test: tuple[int, int], error: int) -> list[_Instruction]:
    """Return what answers a call for which a test holds with an error."""
    return [(test[0], 0, 1, test[1]), (_RETURN, 0, 0, _ERROR | error)]
