"""Events in, rows out: what each request, and nobody, used of each device.

Comes in: the events of the engines and sensors of one node (`core.events`), in the order they were recorded. Goes out:
postings, meter rows and usage records (`core.rows`) that add up to the meters. The way through it:

    time      who had a device when
    steps     what each step cost
    energy    which joules belong to it
    shares    who pays
    rows      what is booked
    engine    all of it for one engine
    pipeline  for all engines of a node

May import: core. Pure: no file, clock, thread or library but msgspec.
"""
