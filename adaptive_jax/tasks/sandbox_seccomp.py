"""The system calls a sandboxed program may make, as a classic BPF program for seccomp.

An allow list: what a single Python process needs to compute, read its files, and run threads. Everything else fails
with EPERM: processes, sockets, signals to others, tracing, mounts, namespaces, credentials. Formats: Linux
`Documentation/userspace-api/seccomp_filter.rst`, `linux/filter.h`, `linux/seccomp.h`.
"""

import errno
import platform
import struct

# name, then its number on x86_64 and on aarch64; - where the architecture has no such call
_ALLOWED = """
read 0 63            write 1 64           readv 19 65           writev 20 66         pread64 17 67
pwrite64 18 68       close 3 57           close_range 436 436
lseek 8 62           ftruncate 77 46      fstat 5 80            stat 4 -             lstat 6 -
newfstatat 262 79    statx 332 291        access 21 -           faccessat 269 48     faccessat2 439 439
readlink 89 -        readlinkat 267 78    getdents64 217 61     getcwd 79 17         dup 32 23
dup2 33 -            dup3 292 24          pipe 22 -             pipe2 293 59         poll 7 -
ppoll 271 73         select 23 -          pselect6 270 72       mmap 9 222           munmap 11 215
mprotect 10 226      mremap 25 216        madvise 28 233        brk 12 214           futex 202 98
set_robust_list 273 99   set_tid_address 218 96   rseq 334 293  sched_yield 24 124   sched_getaffinity 204 123
clock_gettime 228 113    clock_getres 229 114     clock_nanosleep 230 115            nanosleep 35 101
gettimeofday 96 169  time 201 -           times 100 153         getrandom 318 278    uname 63 160
sysinfo 99 179       getrusage 98 165     getpid 39 172         gettid 186 178       getppid 110 173
getuid 102 174       geteuid 107 175      getgid 104 176        getegid 108 177      rt_sigaction 13 134
rt_sigprocmask 14 135    rt_sigreturn 15 139      sigaltstack 131 132                restart_syscall 219 128
exit 60 93           exit_group 231 94    arch_prctl 158 -
"""
_CLONE, _CLONE3, _FCNTL, _IOCTL, _PRLIMIT = (56, 220), (435, 435), (72, 25), (16, 29), (302, 261)

_CLONE_THREAD = 0x00010000
_OPEN, _OPENAT = (2, None), (257, 56)
# O_ACCMODE | O_TRUNC, and what may be left of an open's flags under it: a file is emptied only by who opens it for writing.
# Linux empties one that is opened for reading, too, and knows a fourth mode, of neither: Landlock sees neither as a write
_OPEN_MASK, _OPEN_FLAGS = 0x203, (0, 1, 2, 0x201, 0x202)
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; not F_SETOWN, which can direct signals at others
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)
# TCGETS, TIOCGWINSZ, FIOCLEX: "is this a terminal?"
_IOCTL_COMMANDS = (0x5401, 0x5413, 0x5451)

# BPF_LD|W|ABS, BPF_ALU|AND, BPF_JMP|JEQ, BPF_JMP|JSET, BPF_RET
_LOAD, _AND, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_DENY, _UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*


def bpf_program() -> bytes:
    """The filter for this machine: an array of `struct sock_filter`.

    Raises:
      OSError: no table of system calls for this architecture.
    """
    if platform.machine() not in _MACHINES:
        raise OSError(f"no table of system calls for {platform.machine()}, only for {' and '.join(_MACHINES)}")
    column, architecture = _MACHINES[platform.machine()]
    words = _ALLOWED.split()
    allowed = [int(words[i + 1 + column]) for i in range(0, len(words), 3) if words[i + 1 + column] != "-"]

    lines = [_line(_LOAD, _ARCHITECTURE), _line(_EQUAL, architecture, 1, 0), _line(_RETURN, _KILL)]
    lines.append(_line(_LOAD, _NUMBER))
    for number in allowed:
        lines += [_line(_EQUAL, number, 0, 1), _line(_RETURN, _ALLOW)]
    # clone3 keeps its flags in memory, out of a filter's sight; told it is unknown, the C library falls back to clone
    lines += [_line(_EQUAL, _CLONE3[column], 0, 1), _line(_RETURN, _UNKNOWN)]
    lines += _on_argument(_CLONE[column], 0, _ANY_BIT, (_CLONE_THREAD,))
    for call, argument in ((_OPEN[column], 1), (_OPENAT[column], 2)):
        if call is not None:
            lines += _on_argument(call, argument, _EQUAL, _OPEN_FLAGS, mask=_OPEN_MASK)
    lines += _on_argument(_FCNTL[column], 1, _EQUAL, _FCNTL_COMMANDS)
    lines += _on_argument(_IOCTL[column], 1, _EQUAL, _IOCTL_COMMANDS)
    lines += _on_argument(_PRLIMIT[column], 0, _EQUAL, (0,))  # its own limits only
    lines.append(_line(_RETURN, _DENY))
    return b"".join(lines)


def _line(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, operand)


def _on_argument(number: int, argument: int, test: int, values: tuple[int, ...], mask: int = 0xFFFFFFFF) -> list[bytes]:
    """Allows system call `number` if its argument (the bits of `mask`) passes the test for one of the values."""
    checks = [_line(_LOAD, _ARGUMENTS + 8 * argument), _line(_AND, mask)]
    for value in values:
        checks += [_line(test, value, 0, 1), _line(_RETURN, _ALLOW)]
    checks.append(_line(_RETURN, _DENY))
    return [_line(_EQUAL, number, 0, len(checks)), *checks]
