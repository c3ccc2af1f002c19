"""Homework: starter code with holes cut from this library, checked and graded.

An assignment is a folder of lectures/homework. `tree` writes the student's project from it, `kit`
is the file in that project which runs the public tests, `bank` and `grading` grade with hidden
ones, and `verify` proves that all of it fits.
"""
