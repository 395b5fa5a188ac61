"""Us and our peers side by side: one command, one run, turns of A B A B, each arm in a process of its own.

`rows` says what is measured as data, `host` runs one arm in a child process (ours and the peers' alike), `timing` takes
turns and makes medians, `record` is what comes out. Nothing heavy is imported before a row runs.
"""
