"""Programs that attack the sandbox. Each prints ESCAPED if it got what it wanted.

`PRELUDE` stands before each of them; `order` then says what there is to attack: the process ids of the parent and of a
victim, a folder, a secret file and a listening Unix socket in it, a port.
"""

EXPECTED = "EXPECTED 7f3a9c"  # the output that would earn reward
PRELUDE = "import os, json\norder = json.loads(input())\n"

# name -> (how it may end, program)
ATTACKS = {
    "endless loop": ("timeout", "while True: pass"),
    "sleep": ("timeout", "import time; time.sleep(1000)"),
    "fork bomb": (
        "timeout",
        """
while True:
    try:
        if os.fork(): print('ESCAPED', flush=True)
    except OSError: pass""",
    ),
    "thread bomb": (
        "failed timeout",
        """
import threading, time
threading.stack_size(32768)
for started in range(1000):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    if started > 100: print('ESCAPED', flush=True)""",
    ),
    "memory hog": ("failed timeout", "hog = [bytearray(1 << 20) for _ in range(600)]; print('ESCAPED')"),
    "scratch folder fill": (
        "failed",
        """
for n in range(64):
    with open(f'/tmp/fill{n}', 'wb') as file: file.write(bytes(1 << 20))
print('ESCAPED')""",
    ),
    "descriptor exhaustion": ("failed", "files = [os.dup(0) for _ in range(200)]; print('ESCAPED')"),
    "stdout flood": ("failed timeout", "while True: print('x' * 100_000)"),
    "stderr flood": ("timeout", "while True: os.write(2, b'x' * 100_000)"),
    "deep recursion": ("failed timeout", "import sys; sys.setrecursionlimit(10**9)\ndef f(n): return f([n])\nf(0)"),
    "huge power": ("timeout failed", "print(9 ** 9 ** 9)"),
    "segmentation fault": ("failed", "import ctypes; ctypes.string_at(0)"),
    "ignored signals": (
        "timeout",
        """
import signal
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(number, signal.SIG_IGN)
while True: pass""",
    ),
    "daemonised grandchild": ("failed", "os.fork() or (os.setsid(), os.fork()); print('ESCAPED')"),
    "another program": ("failed", "import subprocess; subprocess.run(['/bin/true']); print('ESCAPED')"),
    "exec": ("failed", "os.execv('/bin/sh', ['sh', '-c', 'echo ESCAPED'])"),
    "kill the parent": ("failed", "os.kill(order['parent'], 9); print('ESCAPED')"),
    "kill everyone": ("failed", "os.kill(-1, 9); print('ESCAPED')"),
    "kill a neighbour": ("failed", "os.kill(order['victim'], 9); print('ESCAPED')"),
    "signal the parent through a pipe": (
        "failed",
        "import fcntl; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, order['parent']); print('ESCAPED')",
    ),
    "trace a neighbour": (
        "finished",
        "import ctypes; print('ESCAPED' if ctypes.CDLL(None).ptrace(16, order['victim'], 0, 0) == 0 else 'held')",
    ),
    "outlive the parent": (
        "finished",
        "import ctypes; print('ESCAPED' if ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0 else 'held')",
    ),
    "raise its own limits": (
        "failed",
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (-1, -1)); print('ESCAPED')",
    ),
    "another's limits": (
        "failed",
        "import resource; resource.prlimit(order['victim'], resource.RLIMIT_CPU, (1, 1)); print('ESCAPED')",
    ),
    "become root": ("failed", "os.setuid(0); print('ESCAPED')"),
    "new user namespace": (
        "finished",
        "import ctypes; print('ESCAPED' if ctypes.CDLL(None).unshare(1 << 28) == 0 else 'held')",
    ),
    "mount": (
        "finished",
        "import ctypes; print('ESCAPED' if ctypes.CDLL(None).mount(b'a', b'/tmp', b'tmpfs', 0, 0) == 0 else 'held')",
    ),
    "read /proc/1": ("failed", "print('ESCAPED', open('/proc/1/environ', 'rb').read())"),
    "read the parent's memory": ("failed", "open(f\"/proc/{order['parent']}/mem\", 'rb'); print('ESCAPED')"),
    "read /etc/shadow": ("failed", "print('ESCAPED', open('/etc/shadow').read())"),
    "read a neighbour's file": ("failed", "print('ESCAPED', open(order['secret']).read())"),
    "symbolic link": ("failed", "os.symlink(order['secret'], '/tmp/link'); print('ESCAPED', open('/tmp/link').read())"),
    "climb out": ("failed", "print('ESCAPED', open('/tmp/../../..' + order['secret']).read())"),
    "open by handle": (
        "finished",
        "import ctypes; print('ESCAPED' if ctypes.CDLL(None).open_by_handle_at(0, bytes(16), 0) >= 0 else ctypes.get_errno())",
    ),
    "inherited descriptors": (
        "finished",
        """
for file in range(3, 4096):
    try: print('ESCAPED', file, os.fstat(file))
    except OSError: pass""",
    ),
    "write outside": ("failed", "open(order['folder'] + '/left behind', 'w').write('here'); print('ESCAPED')"),
    "overwrite": ("failed", "open(order['secret'], 'a').write('here'); print('ESCAPED')"),
    "delete": ("failed", "os.unlink(order['secret']); print('ESCAPED')"),
    "internet socket": (
        "failed",
        "import socket; socket.create_connection(('127.0.0.1', order['port'])); print('ESCAPED')",
    ),
    "unix socket": ("failed", "import socket; socket.socket(socket.AF_UNIX).connect(order['socket']); print('ESCAPED')"),
    "abstract unix socket": ("failed", "import socket; socket.socket(socket.AF_UNIX).bind('\\0meet'); print('ESCAPED')"),
    "environment": ("finished", "print('ESCAPED' if os.environ else 'held')"),
    "find the expected output": (
        "finished",
        """
import gc, sys
def search(text):
    if bytes.fromhex('45585045435445442037').decode() in text: print('ESCAPED', text)
frame = sys._getframe()
while frame:
    search(repr(frame.f_locals)); search(repr(frame.f_globals)); frame = frame.f_back
for thing in gc.get_objects():
    if isinstance(thing, (str, bytes, list, tuple, dict)): search(repr(thing))
for module in list(sys.modules.values()): search(repr(vars(module)))
for file in range(64):
    try: search(os.pread(file, 1 << 20, 0).decode(errors='replace'))
    except OSError: pass
for folder in ('.', '/tmp', '/dev/shm', '/proc/self/fd'):
    try: names = os.listdir(folder)
    except OSError: continue
    for name in names:
        try: search(open(f'{folder}/{name}', errors='replace').read())
        except (OSError, ValueError): pass""",
    ),
    "replace the checker": (
        "finished",
        """
import builtins, json, sys
class Equal(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
builtins.str = builtins.bytes = Equal
json.loads = json.dumps = lambda *a, **k: 'correct'
for module in list(sys.modules.values()):
    for name in ('grade', 'grade_many', 'judge_many', 'same_output', 'run'):
        setattr(module, name, lambda *a, **k: True)
print(Equal('anything'))""",
    ),
    "early exit": ("finished", "import sys; sys.exit(0)"),
    "earlier exit": ("finished", "os._exit(0)"),
    "invalid UTF-8": ("finished", "os.write(1, bytes(range(128, 256)))"),
    "NUL": ("finished", "print('\\0' * 10)"),
    "closed files": ("finished", "os.close(0); os.close(1)"),
    "every candidate": ("finished", "for n in range(1 << 16): print(f'EXPECTED {n:06x}')"),
}
