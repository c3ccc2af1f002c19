"""A class that nobody taught: hand-ins of every kind, and what each must get.

Every hand-in is a mixture: each hole is right, one of the usual mistakes, not done, or an attack.
What a hole behind a spoilt one gets is nobody's promise: it may use the earlier one.
"""

import ast
import random
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from minipeft.course.homework import cut, tree

CHECKOUT = Path(__file__).parents[3]
FULL, LESS, NONE, ANY = "full", "less", "none", "any"

SEND = """
import os, struct, sys
frame = sys._getframe()
while "nonce" not in frame.f_locals:
    frame = frame.f_back
nonce, out, kit = (frame.f_locals[name] for name in ("nonce", "answers", "kit"))
"""
ATTACKS = {  # what stands in a hole before `return`; it never computes what is right
    "exits": "import sys\nsys.exit(0)",
    "exits at once": "import os\nos._exit(0)",
    "crashes": "import ctypes\nctypes.string_at(0)",
    "aborts": "import os\nos.abort()",
    "recursion": "def again():\n    return again()\nreturn again()",
    "raises": "raise ValueError('no idea')",
    "forks": "import os\nos.fork()\nraise SystemExit",
    "fork bomb": "import os\nfor _ in range(10**4):\n    try:\n        os.fork()\n"
    "    except OSError:\n        pass\nraise SystemExit",
    "starts a program": "import subprocess\nsubprocess.run(['sh', '-c', 'true'])",
    "starts threads": "import threading\nthreading.Thread(target=print).start()\nraise SystemExit",
    "fills the disk": "for n in range(10**6):\n    with open(str(n), 'wb') as file:\n"
    "        file.write(bytes(1 << 20))",
    "fills memory": "a = [0]\nwhile True:\n    a += a",
    "fetches": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:1')",
    "kills the grader": "import os\nos.kill(os.getppid(), 9)",
    "reads the cases": "raise ValueError(open(CASES).read())",
    "reads the library": "raise ValueError(open(CHECKOUT + '/minipeft/__init__.py').read())",
    "reads the others": "import os\nraise ValueError(os.listdir(CLASS))",
    "reads the memory of the grader": "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')\n"
    "raise SystemExit",
    "forges results": SEND + "body = kit.pack({'passed': True, 'score': 100.0})\n"
    "os.write(out, nonce + b'd' + struct.pack('<Q', len(body)) + body)\nos._exit(0)",
    "prints a score": 'print(\'{"score": 100, "passed": true}\')\nreturn None',
    "writes on all descriptors": "import os\nfor n in range(3, 30):\n    try:\n"
    "        os.write(n, b'{\"score\": 100}' * 99)\n    except OSError:\n        pass\nos._exit(0)",
    "floods the pipe": SEND + "while True:\n    os.write(out, bytes(1 << 20))",
    "patches NumPy": "import numpy as np\nnp.allclose = np.array_equal = np.all = "
    "lambda *a, **b: True\nnp.abs = np.subtract = lambda *a, **b: 0.0\nreturn None",
    "patches the grader": SEND + "kit.compare = kit.differs = lambda *a, **b: ''\n"
    "sys.modules['__main__'].answer = lambda *a: ('done', kit.pack({'y': 0.0}))\nreturn None",
    "forwards": "import importlib, sys\n"
    "if hasattr(sys, 'asked'):\n    raise ImportError('my own again')\nsys.asked = True\n"
    "for name in [n for n in sys.modules if n.split('.')[0] == 'minipeft']:\n"
    "    del sys.modules[name]\nsys.path.insert(0, CHECKOUT)\n"
    "found = importlib.import_module(MODULE)\nfor name in FUNCTION.split('.'):\n"
    "    found = getattr(found, name)\nreturn found(*ARGUMENTS)",
    "asks torch": "import torch\nreturn torch.tensor(0.0)",
}
SLOW = {  # these cost their whole time
    "loops": "while True:\n    pass",
    "sleeps": "import time\ntime.sleep(10**6)",
    "ignores signals": "import signal\nsignal.signal(15, signal.SIG_IGN)\nwhile True:\n"
    "    try:\n        raise KeyboardInterrupt\n    except BaseException:\n        pass",
}
HARMLESS = {  # before a right answer
    "prints": "print('here I am' * 100)",
    "a file of its own": "with open('note.txt', 'a') as file:\n    file.write('called\\n')",
    "tries to fork, and goes on": "import os\ntry:\n    os.fork()\nexcept OSError:\n    pass",
    "warns": "import warnings\nwarnings.warn('careful')",
}
FILES = {  # what stands in a file that is no Python, and what its holes get
    "a syntax error": b"def (:\n",
    "no text": bytes(range(256)) * 9,
    "an empty file": b"",
    "exits at its import": b"import os\nos._exit(0)\n",
    "loops at its import": b"while True: pass\n",
}


@dataclass
class HandIn:
    """Files and, by hole, what it must get."""

    kind: str
    files: dict[str, bytes]
    wanted: dict[str, str] = field(default_factory=dict)
    message: str = ""  # that one of its results must have


def hand_ins(homework, count, folder, seed=0):
    """Yield `count` hand-ins, the same for a seed."""
    choose = random.Random(seed)
    sources = tree.reference(homework)
    empty = tree.holed(sources, homework.holes)
    holes = homework.holes
    plans = [[("right", "")] * len(holes) for _ in range(count // 10)]
    for i, hole in enumerate(holes):
        plans.append([("right", "")] * i + [("not done", "")] * (len(holes) - i))
        plans += [one(holes, i, ("mistake", m)) for m in fitting(homework, hole)]
        plans += [one(holes, i, ("harmless", name)) for name in HARMLESS]
    for name in (*SLOW, *SLOW):
        plans.append(one(holes, choose.randrange(len(holes)), ("slow", name)))
    for name in FILES:
        plans.append(one(holes, choose.randrange(len(holes)), ("file", name)))
    attacks = [(i, name) for name in ATTACKS for i in range(len(holes))]
    choose.shuffle(attacks)
    first = {name: (i, name) for i, name in attacks}  # each attack at least once
    attacks = [*first.values(), *(a for a in attacks if a not in first.values())]
    some = attacks[: max(0, count - len(plans) - 20)]
    plans += [one(holes, i, ("attack", name)) for i, name in some]
    while len(plans) < count:
        plans.append([mixed(choose, hole, homework) for hole in holes])
    choose.shuffle(plans)
    for number, plan in enumerate(plans[:count]):
        yield f"student{number:03}", made(homework, plan, sources, empty, folder)


def one(holes, i, what):
    """A plan in which one hole alone is not simply right."""
    return [what if j == i else ("right", "") for j in range(len(holes))]


def fitting(homework, hole):
    """The mistakes that can be made under the library's own conventions."""
    return [m for m in hole.mistakes if m.fits(homework.choices())]


def mixed(choose, hole, homework):
    """A hole of a student who tries."""
    mistake, attack = choose.choice(fitting(homework, hole)), choose.choice(list(ATTACKS))
    likely = [("right", "")] * 4
    return choose.choice([*likely, ("not done", ""), ("mistake", mistake), ("attack", attack)])


def made(homework, plan, sources, empty, folder):
    """The files of a plan, and what it must get."""
    found, wanted, good, message = dict(empty), {}, True, ""
    for hole, (kind, what) in zip(homework.holes, plan, strict=True):
        right = cut.body_of(sources[hole.file], hole.function, hole.keep)
        if kind in ("right", "harmless", "file"):
            body = HARMLESS.get(what, "") + "\n" + right
        elif kind == "mistake":
            spoilt = tree.mistaken(sources, hole, what)[hole.file]
            body = cut.body_of(spoilt, hole.function, hole.keep)
            message = message or what.message * good
        elif kind != "not done":
            body = filled({**ATTACKS, **SLOW}[what], homework, hole, folder)
        if kind != "not done":
            found[hole.file] = cut.fill(found[hole.file], hole.function, body, hole.keep)
        fine = kind in ("right", "harmless")
        wanted[hole.id] = (FULL if good else ANY) if fine else LESS if kind == "mistake" else NONE
        good = good and fine
    files = {hole.file: found[hole.file].encode() for hole in homework.holes}
    for hole, (kind, what) in zip(homework.holes, plan, strict=True):
        if kind == "file":  # who else imports it is not said
            files[hole.file] = FILES[what]
            wanted = {h.id: NONE if h.file == hole.file else ANY for h in homework.holes}
    return HandIn(", ".join(dict.fromkeys(f"{k} {getattr(w, 'message', w)[:20]}" for k, w in plan)),
                  files, wanted, message)  # fmt: skip


def filled(body, homework, hole, folder):
    """An attack, with the names of what it goes for."""
    node = ast.parse(cut.text_of((CHECKOUT / hole.file).read_text(), hole.function)).body[0]
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    told = {"CASES": repr(str(homework.folder / "cases.py")), "CHECKOUT": repr(str(CHECKOUT)),
            "CLASS": repr(str(folder)), "MODULE": repr(hole.file[:-3].replace("/", ".")),
            "FUNCTION": repr(hole.function), "ARGUMENTS": f"({', '.join(names)},)"}  # fmt: skip
    for name, text in told.items():
        body = body.replace(name, text)
    return body


def hand_in(folder, name, one, zipped):
    """Write a hand-in as a folder or as a zip."""
    if zipped:
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as file:
            for path, data in one.files.items():
                file.writestr(path, data)
    for path, data in () if zipped else one.files.items():
        (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / path).write_bytes(data)


def judged(one, report):
    """What a report has otherwise than it must be."""
    wrong = []
    for hole, (points, most) in report.by_hole().items():
        want = one.wanted[hole]
        right = {FULL: points == most, LESS: points < most, NONE: points == 0, ANY: True}[want]
        if not right:
            told = [r.message for r in report.results if r.hole == hole and r.message][:1]
            wrong.append(f"{one.kind}: {hole} must get {want}, got {points:g} of {most:g} {told}")
    if one.message and not any(r.message == one.message for r in report.results):
        wrong.append(f"{one.kind}: nobody is told {one.message!r}")
    return wrong
