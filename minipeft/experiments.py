"""python -m minipeft.experiments NAME: remake what the lectures show."""

if __name__ == "__main__":
    import runpy

    runpy.run_module("minipeft.course.experiments", run_name="__main__")
