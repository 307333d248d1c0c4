"""The shared library of the suite: everything notebooks, the `cxr` command and the app have in common."""
