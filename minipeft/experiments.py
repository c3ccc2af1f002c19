"""python -m minipeft.experiments NAME: remake what the lectures show."""

from typing import NoReturn

__path__: list[str] = []  # an import of what was in a folder of this name is told where it is now


def __getattr__(name: str) -> NoReturn:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # an AttributeError's text would be lost in `from … import`
    raise ImportError(f"{name} has moved: from minipeft.course.experiments import {name}")


if __name__ == "__main__":
    import runpy

    runpy.run_module("minipeft.course.experiments", run_name="__main__")
