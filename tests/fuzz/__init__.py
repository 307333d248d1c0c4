"""Inputs that nobody meant to write: mutated files of every kind that the library reads.

In: a seed and a number of inputs. Out: a table of what the library's entry points did with them.
"""
