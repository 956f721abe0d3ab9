"""Becomes a host of its own: a network namespace with one interface, whose packets go to a switch; then a program.

    unshare --user --map-root-user --net python -P -m chaos.host SWITCH ADDRESS PROGRAM ...

Run inside a fresh network namespace. Makes a TUN interface with `ADDRESS`/16, hands its other end to the switch that
listens on the Unix socket `SWITCH`, and turns into `PROGRAM`.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from typing import Final

TUN: Final = "/dev/net/tun"
INTERFACE: Final = b"net0"
MTU: Final = 1400
MASK: Final = "255.255.0.0"

# linux/if_tun.h, linux/sockios.h, linux/if.h
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x0001 | 0x1000
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCSIFADDR: Final = 0x8916
_SIOCSIFNETMASK: Final = 0x891C
_SIOCSIFMTU: Final = 0x8922
_IFF_UP_RUNNING: Final = 0x1 | 0x40


def make_interface(address: str) -> int:
    """Make the interface, bring it and the loopback up. Returns the descriptor of its other end. Raises `OSError`."""
    other_end = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(other_end, _TUNSETIFF, struct.pack("16sH22x", INTERFACE, _IFF_TUN_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, MASK)):
            family = struct.pack("HH", socket.AF_INET, 0)
            fcntl.ioctl(
                control, request, struct.pack("16s8s16x", INTERFACE, family[:4] + socket.inet_aton(value))
            )
        fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", INTERFACE, MTU))
        for interface in (INTERFACE, b"lo"):
            flags = struct.unpack(
                "16sH22x", fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH22x", interface, 0))
            )[1]
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", interface, flags | _IFF_UP_RUNNING))
    return other_end


def main() -> None:
    switch, address, *program = sys.argv[1:]
    other_end = make_interface(address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as towards:
        towards.connect(switch)
        socket.send_fds(towards, [socket.inet_aton(address)], [other_end])
        towards.recv(1)  # the switch has it
    os.close(other_end)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main()
