"""What a device-hour, a kilowatt-hour, a token and a gram of CO2e cost, and when.

Comes in: price books, carbon files and list prices as people write them; usage rows. Goes out: charges in integer
nano-units of the currency, each naming the version of the book that it was rated by.

May import: core, config. Only the `*_file` modules read files.
"""
