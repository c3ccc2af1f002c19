"""The commands around the course: is this machine ready, all methods on a page, the lectures."""

from __future__ import annotations

import argparse

from minipeft.cli.arguments import Command, Result, UsageError

# -- doctor ---------------------------------------------------------------------------------------


def add_doctor(command: Command) -> None:
    """minipeft doctor"""
    command("doctor", _doctor, "tell what this machine has and what would make it faster",
            "minipeft doctor")  # fmt: skip


def _doctor(args: argparse.Namespace) -> Result:
    from minipeft.course.diagnosis import as_text, doctor

    found = doctor(quiet=True)
    return found, as_text(found)


# -- methods --------------------------------------------------------------------------------------


def add_methods(command: Command) -> None:
    """minipeft methods"""
    new = command("methods", _methods, "tell all methods on one page: what each adds, and where",
                  "minipeft methods --markdown > lectures/METHODS.md")  # fmt: skip
    new.add_argument("--markdown", action="store_true", help="with links, as the lectures have it")


def _methods(args: argparse.Namespace) -> Result:
    from minipeft.cli.method_page import page
    from minipeft.course.method_map import method_map

    rows = method_map()
    return rows, page(rows, args.markdown)


# -- lectures -------------------------------------------------------------------------------------


def add_lectures(command: Command) -> None:
    """minipeft lectures"""
    new = command("lectures", _lectures, "list, open, run or print the lectures",
                  "minipeft lectures --open 08")  # fmt: skip
    what = new.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="the default")
    what.add_argument("--open", metavar="NUMBER", help="in Jupyter")
    what.add_argument("--run", dest="run_all", action="store_true", help="all, top to bottom")
    what.add_argument("--html", metavar="DIR", help="the course as a site, in this folder")
    new.add_argument(
        "--slides", action="store_true", help="with --html: slides of each lecture too"
    )


def _lectures(args: argparse.Namespace) -> Result:
    from minipeft.course import notebooks as lectures

    if args.slides and not args.html:
        raise UsageError("--slides needs --html DIR: the folder to write them to")
    if args.html:
        files = lectures.to_html(args.html, args.slides)
        return files, f"wrote {len(files)} pages; open {files[0]}"
    if args.open:
        file = lectures.open_one(args.open)
        return {"opened": file}, f"closed {file}"
    if args.run_all:
        done = lectures.run_all()
        return done, "\n".join(f"{one['lecture']:24} {one['seconds']:6.1f} s" for one in done)
    found = lectures.listed()
    lines = [f"{one['number']}  {one['title']}" for one in found]
    return found, "\n".join([*lines, "", "minipeft lectures --open NUMBER opens one"])
