"""An adapters.py of attacks: each function is one, and its line above says what becomes of it.

A function gets x, whose right result is {"y": 2 x}, and the names of things of the grader: its
`secret` file, `other` (another submission), `new` (a file that is not there), `packages` (a folder
with a package torch), `library` (the installed minipeft).
"""

import atexit
import ctypes
import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import numpy as np
import safetensors.numpy

ATTACKS = {}  # name -> (verdicts, protection or "", its process is spoilt, text of the message)


def attack(verdicts, needs="", spoils=False, says=""):
    """What an attack must come to, and the protection without which it would not."""

    def add(function):
        ATTACKS[function.__name__] = (verdicts.split(" or "), needs, spoils, says)
        return function

    return add


# --- time ---------------------------------------------------------------------------------------


@attack("time")
def loops(x, **there):
    while True:
        pass


@attack("time")
def sleeps(x, **there):
    time.sleep(1000)


@attack("time")
def loops_inside_c(x, **there):
    sum(range(10**12))


@attack("time")
def ignores_signals_and_exceptions(x, **there):
    for one in range(1, 65):
        try:
            signal.signal(one, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        try:
            raise KeyboardInterrupt
        except BaseException:
            pass


@attack("time")
def an_exception_whose_text_never_ends(x, **there):
    class E(Exception):
        def __str__(self):
            while True:
                pass

    raise E


# --- processes ----------------------------------------------------------------------------------


@attack("error", "processes", says="PermissionError")
def forks(x, **there):
    os._exit(0) if os.fork() == 0 else os.wait()


@attack("right", "processes")
def fork_bomb(x, **there):
    for _ in range(2000):
        try:
            os.fork()
        except PermissionError:
            pass
    return {"y": 2 * x}


@attack("error", "processes")
def hands_the_pipe_on(x, **there):
    if os.fork() == 0:
        os.setsid()
        time.sleep(5)
    os._exit(0)


@attack("error", "processes")
def runs_a_program(x, **there):
    subprocess.run(["/bin/sh", "-c", "true"])


@attack("error", "processes")
def becomes_a_program(x, **there):
    os.execv("/bin/sh", ["sh"])


@attack("error", "processes", says="start new thread")
def leaves_a_thread_behind(x, **there):
    threading.Thread(target=loops, args=(x,)).start()


# --- memory -------------------------------------------------------------------------------------


@attack("memory", "memory")
def one_large_array(x, **there):
    return {"y": np.ones(10**9)}


@attack("memory", "memory")
def a_list_that_grows(x, **there):
    a = [0]
    while True:
        a += a


@attack("memory", "memory")
def a_text_that_grows(x, **there):
    a = "a"
    while True:
        a += a


@attack("error", "other processes")
def memory_of_no_process(x, **there):
    os.memfd_create("a")


# --- disk ---------------------------------------------------------------------------------------


@attack("error", "disk", says="File too large")
def one_large_file(x, **there):
    with open("a", "wb") as file:
        while True:
            file.write(bytes(1 << 20))


@attack("disk")
def many_files(x, **there):
    for n in range(10**6):
        with open(f"b{n}", "wb") as file:
            file.write(bytes(1 << 20))


@attack("disk")
def many_small_files(x, **there):
    for n in range(10**6):
        os.makedirs(f"{n % 100}/{n}/a")
        open(f"{n % 100}/{n}/c", "w").close()


@attack("disk")
def a_folder_that_nobody_opens(x, **there):
    os.umask(0o777)
    os.mkdir("h")
    for n in range(10**6):
        with open(f"c{n}", "wb") as file:
            file.write(bytes(100_000))


@attack("error", "reading")
def writes_elsewhere(x, **there):
    open(there["new"], "w").close()


@attack("error", "reading")
def writes_into_its_tree(x, **there):
    open(__file__, "a").close()


@attack("error", "reading")
def links_a_file_into_its_folder(x, **there):
    os.link(there["secret"], "l")


@attack("error", "other processes")
def changes_a_mode(x, **there):
    os.chmod(there["secret"], 0o777)


@attack("error", "reading")
def cuts_a_file(x, **there):
    os.truncate(there["secret"], 5)


@attack("error", "reading")
def removes_a_file(x, **there):
    os.remove(there["secret"])


# --- reading ------------------------------------------------------------------------------------


@attack("error", "reading", says="PermissionError")
def reads_the_tests(x, **there):
    return {"y": open(there["secret"]).read()}


@attack("error", "reading")
def reads_by_a_link(x, **there):
    os.symlink(there["secret"], "s")
    return {"y": open("s").read()}


@attack("error", "reading")
def lists_another_submission(x, **there):
    return {"y": len(os.listdir(there["other"]))}


@attack("error", "reading")
def reads_another_submission(x, **there):
    return {"y": open(there["other"] + "/adapters.py").read()}


@attack("error", "reading")
def reads_the_environment_of_the_grader(x, **there):
    return {"y": len(open(f"/proc/{os.getppid()}/environ", "rb").read())}


@attack("error", "reading")
def opens_the_memory_of_the_grader(x, **there):
    open(f"/proc/{os.getppid()}/mem", "rb").close()


@attack("error", "other processes")
def reads_the_memory_of_the_grader(x, **there):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0):
        raise OSError(ctypes.get_errno(), "no")


@attack("error", "other processes")
def traces_the_grader(x, **there):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(0x4206, os.getppid(), 0, 0):  # PTRACE_SEIZE
        raise OSError(ctypes.get_errno(), "no")


@attack("error", says="FileNotFoundError")
def reads_the_public_tests_of_its_tree(x, **there):
    return {"y": open(os.path.dirname(__file__) + "/tests/wanted").read()}


@attack("error", says="FileNotFoundError")
def follows_a_link_of_its_tree(x, **there):
    return {"y": open(os.path.dirname(__file__) + "/link").read()}


# --- forwarding to what is installed ------------------------------------------------------------


@attack("error", says="No module named 'matplotlib'")
def imports_what_is_installed(x, **there):
    import matplotlib

    return {"y": 2 * x + len(matplotlib.__all__) * 0}


@attack("error", "reading", says="No module named 'torch'")
def imports_it_from_its_folder(x, **there):
    sys.path.insert(0, there["packages"])
    import torch  # the right results are in there

    return {"y": torch.twice(x)}


@attack("error", "reading", says="No module named 'minipeft'")
def imports_the_library(x, **there):
    sys.path.insert(0, there["library"])
    import minipeft

    return {"y": 2 * x * len(minipeft.__name__) / 8}


@attack("error", "reading")
def runs_the_text_of_the_library(x, **there):
    exec(open(there["library"] + "/minipeft/__init__.py").read())
    return {"y": 2 * x}


# --- network and other processes ----------------------------------------------------------------


@attack("error", "network", says="PermissionError")
def opens_a_socket(x, **there):
    socket.socket()


@attack("error", "network", says="ermi")
def fetches_a_page(x, **there):
    urllib.request.urlopen("http://127.0.0.1:1")


@attack("error", "other processes", says="PermissionError")
def kills_the_grader(x, **there):
    os.kill(os.getppid(), signal.SIGKILL)


@attack("error", "other processes", says="PermissionError")
def kills_everybody(x, **there):
    os.kill(-1, signal.SIGKILL)


@attack("error", "other processes", says="PermissionError")
def slows_the_grader(x, **there):
    os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)


@attack("error", "other processes")
def makes_a_namespace(x, **there):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "no")


@attack("error", says="KeyError")
def reads_its_environment(x, **there):
    return {"y": os.environ["PATH"]}


# --- the end of the process ---------------------------------------------------------------------


@attack("error", says="SystemExit")
def exits(x, **there):
    sys.exit(0)


@attack("crash", says="exit status 0")
def exits_at_once(x, **there):
    os._exit(0)


@attack("crash", says="signal 6")
def aborts(x, **there):
    os.abort()


@attack("crash", says="signal 9")
def kills_itself(x, **there):
    os.kill(os.getpid(), signal.SIGKILL)


@attack("crash", says="Segmentation fault")
def segmentation_fault(x, **there):
    ctypes.string_at(0)


@attack("error", says="RecursionError")
def recursion(x, **there):
    return recursion(x, **there)


@attack("crash or memory or error")
def recursion_without_a_bound(x, **there):
    class A:
        def __getattr__(self, name):
            return getattr(self, name + "a")

    sys.setrecursionlimit(10**9)
    return recursion(x) if sys.version_info < (3, 11) else A().b


# --- the pipe -----------------------------------------------------------------------------------


def channel():
    """What the child's main() holds: the open question, where answers go, and the kit."""
    frame = sys._getframe()
    while "nonce" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["nonce"], frame.f_locals["answers"], frame.f_locals["kit"]


def pack(values):
    return channel()[2].pack(values)


def send(body, question=None, mark=b"d", length=None):
    right, out, _ = channel()
    head = (question or right) + mark + struct.pack("<Q", len(body) if length is None else length)
    os.write(out, head + body)


@attack("crash")
def closes_all_descriptors(x, **there):
    os.closerange(0, 64)
    return {"y": 2 * x}


@attack("crash", says="closed its connection")
def closes_them_and_stays(x, **there):
    os.closerange(0, 64)
    loops(x)


@attack("forged", spoils=True)
def writes_to_all_descriptors(x, **there):
    for n in range(64):
        try:
            os.write(n, b"12" * 1000)
        except OSError:
            pass
    return {"y": 2 * x}


@attack("forged")
def floods_the_pipe(x, **there):
    _, out, _ = channel()
    while True:
        os.write(out, bytes(1 << 20))


@attack("malformed")
def a_hostile_length(x, **there):
    send(b"", length=2**63)


@attack("time")
def a_length_without_a_body(x, **there):
    send(b"abc", length=1 << 20)
    loops(x)


@attack("crash")
def half_an_answer(x, **there):
    send(b"abc", length=100)
    os._exit(0)


@attack("malformed")
def an_unknown_kind(x, **there):
    send(b"", mark=b"z")


@attack("malformed")
def a_second_hello(x, **there):
    send(b"{}", mark=b"h")


@attack("malformed")
def no_arrays(x, **there):
    send(b"a" * 100)


@attack("malformed")
def no_answer(x, **there):
    send(b"")


@attack("malformed")
def a_kind_of_array_that_numpy_lacks(x, **there):
    head = b'{"=y":{"dtype":"F8_E5M2","shape":[2],"data_offsets":[0,2]}}'
    send(struct.pack("<Q", len(head)) + head + b"ab")


@attack("malformed")
def an_array_that_is_not_there(x, **there):
    head = b'{"=y":{"dtype":"F64","shape":[1099511627776],"data_offsets":[0,8796093022208]}}'
    send(struct.pack("<Q", len(head)) + head + b"ab")


@attack("malformed")
def a_hundred_thousand_arrays(x, **there):
    one = '"=%d":{"dtype":"F64","shape":[0],"data_offsets":[0,0]}'
    head = ("{" + ",".join(one % n for n in range(10**5)) + "}").encode()
    send(struct.pack("<Q", len(head)) + head)


@attack("malformed")
def a_long_name(x, **there):
    send(pack({"y" * 10**6: x}))


@attack("malformed")
def a_name_that_moves_the_cursor(x, **there):
    send(pack({"y\x1b[2J": x}))


@attack("malformed")
def lists(x, **there):
    send(pack({"y": [[1], [2, 3]]}))


@attack("malformed")
def a_text_nested_deeply(x, **there):
    send(safetensors.numpy.save({"plain": np.frombuffer(b"[" * 10**6, np.uint8)}))


@attack("malformed")
def a_text_that_is_none(x, **there):
    send(safetensors.numpy.save({"plain": np.frombuffer(b"\xff\xfe", np.uint8)}))


@attack("wrong")
def a_forged_result(x, **there):
    send(pack({"y": x, "passed": True, "score": 100}))
    os._exit(0)


@attack("right", spoils=True)
def a_second_answer(x, **there):
    send(pack({"y": 2 * x}))
    return {"y": x}  # comes to no question, and the process is asked no more


@attack("forged")
def an_answer_before_the_question(x, **there):
    send(pack({"y": x}), question=bytes(16))


@attack("error", spoils=True)
def an_error_of_another_kind(x, **there):
    send(b"all is well", mark=b"e")
    return {"y": 2 * x}


# --- the child's own functions, NumPy, the kit --------------------------------------------------


@attack("wrong", spoils=True)
def patches_numpy(x, **there):
    np.allclose = np.array_equal = np.all = np.isclose = lambda *args, **named: True
    np.testing.assert_allclose = np.testing.assert_array_equal = lambda *args, **named: None
    np.abs = np.subtract = lambda *args, **named: np.zeros(1)
    return {"y": x}


@attack("wrong", spoils=True)
def patches_the_kit(x, **there):
    _, _, kit = channel()
    kit.pack = lambda values, pack=kit.pack: pack({"y": x, "passed": True})
    kit.compare = kit.differs = lambda *args: ""
    return {"y": x}


@attack("wrong", spoils=True)
def patches_how_results_are_sent(x, **there):
    sys.modules["__main__"].plain = lambda value: np.zeros((2, 3))
    return {"y": 2 * x}


@attack("malformed", spoils=True)
def patches_the_kinds_of_answers(x, **there):
    sys.modules["__main__"].KINDS["done"] = b"x"
    return {"y": 2 * x}


@attack("malformed or wrong or crash or error", spoils=True)
def patches_what_the_garbage_collector_knows(x, **there):
    for one in gc.get_objects():
        if getattr(one, "__name__", "") in ("answer", "last_line", "plain", "pack"):
            try:
                one.__code__ = (lambda *args: ("done", b"")).__code__
            except (AttributeError, ValueError):
                pass
    return {"y": x}


@attack("right", spoils=True)
def speaks_at_the_end(x, **there):
    _, out, _ = channel()
    atexit.register(lambda: os.write(out, b"a" * 100))
    sys.kept = Finalizer()
    return {"y": 2 * x}


class Finalizer:
    """Writes when it is removed."""

    def __del__(self):
        send(pack({"y": 2 * np.arange(6.0)}), question=bytes(16))


@attack("forged", spoils=True)
def a_finalizer_that_forges(x, **there):
    Finalizer()
    return {"y": 2 * x}


# --- results that lie ---------------------------------------------------------------------------


class Equal(np.ndarray):
    """Equals everything."""

    def __eq__(self, other):
        return True

    __ne__ = __sub__ = __rsub__ = lambda self, other: np.zeros(self.shape)


class Liar:
    """Another array each time."""

    shape, dtype, asked = (2, 3), np.dtype(float), 0

    def __array__(self, *args, **named):
        Liar.asked += 1
        return np.full((2, 3), float(Liar.asked))

    def __float__(self):
        return 2.0


class Number(float):
    """Says that it is another."""

    def __repr__(self):
        return "[]"


class Dict(dict):
    """Has other items than it holds."""

    def items(self):
        return iter([("y", np.zeros((2, 3))), ("passed", True)])


@attack("wrong")
def equals_everything(x, **there):
    return {"y": x.view(Equal)}


@attack("wrong")
def an_array_that_lies(x, **there):
    return {"y": Liar()}


@attack("wrong")
def a_number_that_lies(x, **there):
    return {"y": Number(2)}


@attack("wrong")
def a_dict_that_lies(x, **there):
    return Dict(y=2 * x)


@attack("wrong")
def another_name(x, **there):
    return {"z": 2 * x}


@attack("error", says="dict of arrays")
def a_generator(x, **there):
    yield 2 * x


@attack("error", says="object")
def an_array_of_a_generator(x, **there):
    return {"y": (2 * row for row in x)}


@attack("error", says="object")
def objects(x, **there):
    return {"y": np.array([None, recursion])}


@attack("wrong")
def not_a_number(x, **there):
    return {"y": 2 * x * np.nan}


@attack("error", says="dict of arrays")
def nothing(x, **there):
    pass


@attack("wrong")
def a_huge_number(x, **there):
    return {"y": 10**400}


@attack("error or malformed")
def a_number_too_long_to_be_read(x, **there):
    sys.set_int_max_str_digits(0)
    return {"y": 10**5000}


@attack("malformed")
def an_array_too_large_to_be_sent(x, **there):
    return {"y": np.zeros(10**7)}


@attack("error")
def an_exception_without_a_text(x, **there):
    class E(Exception):
        def __str__(self):
            raise self

    raise E


@attack("error", says="a [2J")
def control_characters(x, **there):
    raise ValueError("a\x1b[2J" * 10000)


# --- and what is no attack ----------------------------------------------------------------------


@attack("right")
def right(x, **there):
    return {"y": 2 * x}


@attack("right")
def prints_a_gigabyte(x, **there):
    for _ in range(1000):
        os.write(1, bytes(1 << 20))
    return {"y": 2 * x}


@attack("right")
def prints_and_asks(x, **there):
    print("a" * 10**6, file=sys.stderr)
    assert not sys.stdin.read()
    return {"y": 2 * x}


@attack("right")
def writes_files_of_its_own(x, **there):
    with tempfile.TemporaryFile() as file:
        file.write(b"a" * 10**6)
    np.save("note.npy", x)
    return {"y": 2 * np.load("note.npy")}


@attack("right")
def uses_the_library_of_python(x, **there):
    import csv  # noqa: F401
    import hashlib  # noqa: F401
    import lzma  # noqa: F401
    import unittest  # noqa: F401

    import numpy.polynomial  # noqa: F401
    import numpy.testing  # noqa: F401

    return {"y": np.einsum("ij,k->ij", x, np.random.default_rng(0).normal(size=1) * 0 + 2)}


@attack("not done", says="hw3.1: the forward pass")
def not_done(x, **there):
    raise NotImplementedError("hw3.1: the forward pass")
