"""What must be fast, in C: one library without dependencies that NumPy's arrays are handed to.

Each kernel is declared in the Python module that calls it, see `loader`; `build` compiles them.
"""
