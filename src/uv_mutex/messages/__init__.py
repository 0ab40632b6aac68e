"""What uv-mutex says to a user, all of it: a function for each message, which gets what is special to the case.

A module is imported only when something is to be said. Those of a guarded call do without `os`, as the call does.
"""
